"""Numbers as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard


def number(value: Any) -> str:
    """A number in few characters: 0.123, 4,096, 1.23 M; other values as they are."""
    if value is None:
        return "-"
    if not is_number(value):
        return str(value)
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    whole = isinstance(value, int) or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def signed(value: Any) -> str:
    """Two digits and the sign, which what rounds to zero has none of; "-" for what is no number."""
    if not is_number(value):
        return "-"
    return f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"


def percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if is_number(value) else "?"


def mean(value: Any) -> float | None:
    """The mean of an estimate with an interval, or the bare number."""
    value = value.get("mean") if isinstance(value, Mapping) else value
    return value if is_number(value) else None


def estimate(value: Any) -> str:
    """A mean with its interval, given as {mean, low, high}; a bare number as it is."""
    if not isinstance(value, Mapping):
        return number(value)
    if not is_number(value.get("low")) or not is_number(value.get("high")):
        return number(value.get("mean"))
    return f"{number(value.get('mean'))} [{number(value['low'])}, {number(value['high'])}]"


def seconds(value: float) -> str:
    """A duration as a person says it."""
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


LARGEST = 1e300  # of a number: products with small factors are still finite


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number that can be computed with; foreign JSON holds others too."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and -LARGEST < value < LARGEST
