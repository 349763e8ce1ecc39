"""The figures of the experiments: lines with bands, and dots with error bars, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genac.ui.figures import as_svg, canvas, legend, look


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]],
    x: str,
    y: str,
    log_x: bool = False,
) -> str:
    """One line per series of (x, interval), its 95 % interval as a band."""
    figure, axes = canvas(title, x, y)
    tint = 0.12 if len(series) <= 4 else 0.06  # many bands lie over each other
    for index, (name, points) in enumerate(series.items()):
        style = look(index)
        xs, means = [p[0] for p in points], [p[1]["mean"] for p in points]
        every = max(1, len(points) // 10)  # enough markers to follow a line without its colour
        axes.plot(xs, means, markersize=4, markevery=every, label=name, linewidth=1.5, **style)
        band = [(a, p["low"], p["high"]) for a, p in points if p.get("low") is not None]
        if band:
            axes.fill_between(
                *zip(*band, strict=True), color=style["color"], alpha=tint, linewidth=0
            )
    if log_x:
        axes.set_xscale("log")
    legend(axes)
    return as_svg(figure, title)


def dots(title: str, series: Mapping[str, Mapping[str, Mapping[str, Any]]], y: str = "") -> str:
    """Categories along x, one dot with an error bar per series."""
    figure, axes = canvas(title, "", y)
    categories = list(dict.fromkeys(c for points in series.values() for c in points))
    for index, (name, points) in enumerate(series.items()):
        shift = 0.12 * (index - (len(series) - 1) / 2)
        xs = [categories.index(c) + shift for c in points]
        means = [p["mean"] for p in points.values()]
        errors = [
            [p["mean"] - p["low"] if p.get("low") is not None else 0 for p in points.values()],
            [p["high"] - p["mean"] if p.get("high") is not None else 0 for p in points.values()],
        ]
        axes.errorbar(
            xs, means, yerr=errors, markersize=5, label=name, capsize=2, linewidth=1,
            **look(index) | {"linestyle": "none"},
        )  # fmt: skip
    axes.set_xticks(range(len(categories)), categories, fontsize=8, rotation=20, ha="right")
    legend(axes)
    return as_svg(figure, title)
