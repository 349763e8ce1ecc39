"""How far a critic's values lie from the returns as its actor improves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from paper.figures import lines


def staleness_drawing(table: dict[str, Any]) -> str:
    """The critic's bias (its value less the return) as its actor improves."""
    series = {}
    for method, row in table.items():
        bias = smooth(row["critic"]["bias"])
        if bias:
            series[method] = [(float(i + 1), {"mean": b, "low": None}) for i, b in bias]
    return lines("Value less return, five steps averaged", series, "step", "bias")


def highest(values: Sequence[float | None], width: int) -> float | None:
    """The largest mean over a window of `width` steps, one window after the other."""
    return max((mean for _, mean in smooth(values, width)), default=None)


def smooth(values: Sequence[float | None], width: int = 5) -> list[tuple[int, float]]:
    """(last step, mean) of each full window of known values."""
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    windows = [known[i : i + width] for i in range(0, len(known) - width + 1, width)]
    return [(w[-1][0], float(np.mean([v for _, v in w]))) for w in windows]


def staleness(table: dict[str, Any]) -> list[str]:
    """Bias and error against returns by quarter of training."""
    rows = []
    for method, row in table.items():
        bias, error = row["critic"]["bias"], row["critic"]["mse"]
        if all(b is None for b in bias):
            continue
        cells = [
            "-" if mean_known(b) is None else f"{mean_known(b):+.2f}, {mean_known(e):.2f}"
            for b, e in zip(quarters(bias), quarters(error), strict=True)
        ]
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return rows


def quarters(values: Sequence[float | None]) -> list[Sequence[float | None]]:
    edges = np.linspace(0, len(values), 5).astype(int)
    return [values[a:b] for a, b in itertools.pairwise(edges)]


def mean_known(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
