"""Figures of the results pages: SVG, one series per method, intervals as bars."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

# Okabe and Ito's palette, which colour-blind people can distinguish, then two for large figures.
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999"),
    *("#7b3294", "#8c510a"),
)
MARKERS = "osD^vPX*hp<>"
DASHES = ("solid", "dashed", "dotted", "dashdot")


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a series: no two of a figure are alike, also without colour."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index // 8 % len(DASHES)],
    }


def reliability(title: str, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Predicted against actual value by decile, the diagonal being perfect."""
    figure, axes = canvas(title, "predicted value", "Monte-Carlo value")
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for index, (name, bins) in enumerate(series.items()):
        known = [b for b in bins if b["count"]]
        axes.plot(
            [b["predicted"] for b in known], [b["actual"] for b in known], label=name,
            markersize=4, **look(index),
        )  # fmt: skip
    legend(axes)
    return as_svg(figure, title)


def canvas(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.grid(axis="y", alpha=0.25)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def as_svg(figure: Any, title: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": title}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
