"""The report's page: escaped text, tables, numbers in words, and the style sheet."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from genac.runs.files import encodable

CSS = """
:root{color-scheme:light dark;--bg:#fff;--card:#f6f7f9;--ink:#1b1f24;--muted:#59636e;--grid:#d9dee3;
--series-1:#0072b2;--series-2:#c65100;--series-3:#008763;--series-4:#a34f86;--warn:#8a4b00;
--warn-bg:#fff4e0}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1d2127;--ink:#e4e8ec;--muted:#9aa5b1;
--grid:#353c45;--series-1:#56b4e9;--series-2:#e69f00;--series-3:#2bbf94;--series-4:#e39cc6;
--warn:#ffc87a;--warn-bg:#33280f}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:1.5rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
h3{font-size:.95rem;margin:1.2rem 0 .4rem;color:var(--muted)}
p{margin:.4rem 0}.muted,figcaption,th{color:var(--muted)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--grid);
vertical-align:top}th{font-weight:500;font-size:.85rem}
.wide{overflow-x:auto}.trajectory table{width:100%}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.tile{background:var(--card);border-radius:8px;padding:.6rem 1rem;min-width:11rem}
.tile b{display:block;font-size:1.35rem;font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:.7rem}
figure{margin:0;background:var(--card);border-radius:8px;padding:.5rem .6rem 0}
figcaption{font-size:.85rem}svg{width:100%;height:auto;display:block}
svg *{stroke-linejoin:round}svg text{font-family:system-ui,sans-serif}
.note{color:var(--warn);background:var(--warn-bg);border-radius:6px;padding:.3rem .7rem;
margin:.4rem 0}
.bar{display:inline-block;height:.7em;background:var(--series-1);border-radius:2px}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace}
details pre{background:var(--card);padding:.6rem;border-radius:6px}summary{cursor:pointer}
.trajectory{border:1px solid var(--grid);border-radius:8px;padding:.6rem .9rem;margin:.8rem 0}
.chip{display:inline-block;min-width:3rem;text-align:center;border-radius:4px;padding:0 .4rem;
border:1px solid var(--grid)}
.scale{display:inline-block;width:9rem;height:.7em;border-radius:2px;vertical-align:middle}
"""
# the browser itself is told to fetch nothing and to run nothing
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def esc(value: Any) -> str:
    """The value as text that cannot become markup, whatever an actor wrote."""
    text = encodable(str(value)).replace("\0", "\ufffd")
    return html.escape(text, quote=True)


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"


def page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body>\n{body}\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{esc(title)}</h2>{''.join(parts)}</section>\n"


def note(text: str) -> str:
    """Says what is missing."""
    return f'<p class="note">{esc(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of ready markup: callers escape their cells."""
    top = "".join(f"<th>{esc(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{esc(caption)}</figcaption>{svg}</figure>"


def tiles(pairs: Iterable[tuple[str, str, str]]) -> str:
    """(label, number, remark) in large print."""
    cells = (
        f'<div class="tile"><span class="muted">{esc(label)}</span><b>{esc(value)}</b>'
        f'<span class="muted">{esc(remark)}</span></div>'
        for label, value, remark in pairs
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def number(value: Any) -> str:
    """A number in few characters: 0.123, 4,096, 1.23 M; other values as they are."""
    if value is None:
        return "-"
    if not is_number(value):
        return str(value)
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if is_number(value) else "?"


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


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
