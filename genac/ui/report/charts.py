"""Charts as data: what static/charts.js draws with Observable Plot, written into the page as JSON.

Series differ by `style`: an index of a colour, a dash pattern and a symbol, so that nothing
depends on colour alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from genac.runs.files import encodable
from genac.ui.html import esc

MAX_POINTS = 400  # per line: more cannot be seen and only makes the page heavy


@dataclass(frozen=True)
class Series:
    """`points` of lines are (x, y, low, high, n), of a reliability diagram (predicted, actual,
    count), of dots (category, mean, low, high), of bars (score, share).
    """

    name: str
    points: Sequence[Sequence[Any]]
    style: int = 0


@dataclass(frozen=True)
class Chart:
    kind: str  # "lines" | "reliability" | "dots" | "bars"
    title: str
    series: Sequence[Series]
    x: str = "step"
    y: str = ""
    says: str = ""  # how to read it, in a line
    limits: tuple[float, float] | None = None  # of y (of x where categories are on y)
    zero: float | None = None  # a horizontal line of reference
    band: str = ""  # what low..high is, for the tooltip
    alarms: Sequence[tuple[float, str]] = field(default=())  # (x, what fired)


def figure(chart: Chart, wide: bool = False) -> str:
    """The chart's place in the page; nothing where it has no point."""
    series = [one for one in chart.series if len(one.points)]
    if not series:
        return ""
    data = asdict(chart)
    if chart.kind == "lines":
        series = [Series(one.name, thinned(one.points), one.style) for one in series]
    data["alarms"] = [[x, text] for x, text in chart.alarms]
    data["series"] = [
        {
            "name": one.name,
            "style": one.style,
            "points": [[_short(v) for v in p] for p in one.points],
        }
        for one in series
    ]
    says = f'<span class="says">{esc(chart.says)}</span>' if chart.says else ""
    return (
        f'<figure class="chart{" wide" if wide else ""}"><figcaption><b>{esc(chart.title)}</b>'
        f'{says}</figcaption><script type="application/json">{embedded(data)}</script></figure>'
    )


def grid(figures: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def embedded(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = encodable(text).replace("\0", "\ufffd")
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def thinned(points: Sequence[Sequence[Any]], most: int = MAX_POINTS) -> Sequence[Sequence[Any]]:
    """At most `most` points: of every stretch the lowest and the highest, so that no spike is lost;
    the first and the last always.
    """
    if len(points) <= most:
        return points
    each = math.ceil((len(points) - 2) / ((most - 2) // 2))
    inner, kept = points[1:-1], [points[0]]
    for start in range(0, len(inner), each):
        stretch = inner[start : start + each]
        chosen = {min(stretch, key=lambda p: p[1])[0], max(stretch, key=lambda p: p[1])[0]}
        kept += [p for p in stretch if p[0] in chosen]
    return [*kept, points[-1]]


def _short(value: Any) -> Any:
    """Five significant digits, which no chart shows in full; None for what no chart can show."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
