"""Charts as inline SVG whose colours are CSS variables, so that one page serves light and dark.

matplotlib draws with placeholder colours that `_inline` replaces by variables; it is imported
inside the functions and only `Figure` objects are used, never pyplot's global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

INK, GRID = "#010101", "#020202"
SERIES = ("#030101", "#030202", "#030303", "#030404")
VARIABLES = {INK: "var(--muted)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, start=1)
}
MAX_POINTS = 400  # per line: more cannot be seen and only makes the page heavy

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str, series: Mapping[str, Points], limits: tuple[float, float] | None = None
) -> str:
    """Lines over steps, one per named series; sparse series also show their points."""
    figure, axes = _axes()
    for colour, (name, points) in zip(SERIES, series.items(), strict=False):
        shown = points[:: max(1, len(points) // MAX_POINTS)]
        marker = "o" if len(shown) <= 12 else None
        xs, ys = zip(*shown, strict=True)
        axes.plot(xs, ys, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=name)
    if limits:
        axes.set_ylim(*limits)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set_xlabel("step", color=INK, fontsize=8)
    return _inline(figure, title)


def reliability_chart(title: str, bins: Sequence[Mapping[str, float]]) -> str:
    """Predicted against actual success, one point per bin, its area by how many states it holds."""
    figure, axes = _axes(height=2.6)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", label="perfect")
    xs, ys = [b["predicted"] for b in bins], [b["actual"] for b in bins]
    most = max(b["count"] for b in bins)
    sizes = [12 + 90 * b["count"] / most for b in bins]
    axes.plot(xs, ys, color=SERIES[0], linewidth=1)
    axes.scatter(xs, ys, s=sizes, color=SERIES[0], label="critic (area = states)")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_xlabel("predicted", color=INK, fontsize=8)
    axes.set_ylabel("actual", color=INK, fontsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    return _inline(figure, title)


def histogram(title: str, values: Sequence[float]) -> str:
    """How often each score 0..10 was given (values of other critics go to the nearest score)."""
    figure, axes = _axes(height=2.6)
    scores = [min(10, max(0, round(10 * value))) for value in values]
    axes.bar(range(11), [scores.count(i) for i in range(11)], width=0.8, color=SERIES[0])
    axes.set_xticks(range(11))
    axes.set_xlabel("score (value x 10)", color=INK, fontsize=8)
    axes.set_ylabel("states", color=INK, fontsize=8)
    return _inline(figure, title)


def _axes(height: float = 2.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, height))
    axes = figure.add_axes((0.13, 0.2, 0.84, 0.75))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.locator_params(nbins=5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    return figure, axes


def _inline(figure: Any, title: str) -> str:
    """The figure as an <svg> element: no header, no namespaces, no size, themed colours."""
    import matplotlib

    buffer = io.StringIO()
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,
    }  # text stays text; stable ids
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ?", "", svg)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|width|height)="[^"]*"', "", svg, count=4)
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    return svg.replace("<svg", '<svg role="img"', 1)
