"""When an experiment may say "agrees".

An interval over problems holds the trainings fixed, so it says nothing of their luck: a verdict
also needs that every training (seed) lies on the same side. Anything else is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Comparison = Mapping[str, Any]  # value, low, high, by_training


def below(result: Comparison, mark: float) -> bool:
    """The interval and every training lie below the mark."""
    return surely([result["high"], *result.get("by_training", ())], lambda x: x < mark)


def above(result: Comparison, mark: float) -> bool:
    """The interval and every training lie above the mark."""
    return surely([result["low"], *result.get("by_training", ())], lambda x: x > mark)


def surely(values: list[float | None], holds: Any) -> bool:
    return all(v is not None and holds(v) for v in values)


def verdict(agrees: bool, disagrees: bool) -> str:
    return "agrees" if agrees else "disagrees" if disagrees else "undecided"


def brackets(result: Comparison, digits: int = 2) -> str:
    """0.21 [0.15, 0.30], or a dash where nothing was counted."""
    if result["value"] is None or result["low"] is None:
        return "-"
    return f"{result['value']:.{digits}f} [{result['low']:.{digits}f}, {result['high']:.{digits}f}]"


def shown(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
