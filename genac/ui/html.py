"""HTML of reports and pages: escaped text, tables, and the style of a plain page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from genac.runs.files import encodable

CSS = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--muted:#59636e}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--ink:#e4e8ec;--muted:#9aa5b1}}
body{margin:0 auto;max-width:1120px;padding:1.5rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2rem 0}th{color:var(--muted);font-weight:500;font-size:.85rem}
"""
# the browser itself is instructed to fetch nothing and to run nothing
NOWHERE = "default-src 'none'; base-uri 'none'; form-action 'none'"
POLICY = f"{NOWHERE}; style-src 'unsafe-inline'"


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


def section(title: str, *parts: str, at: str = "") -> str:
    """A part of a page under its heading; `at` is the address that links lead to."""
    place = f' id="{esc(at)}"' if at else ""
    return f"<section{place}><h2>{esc(title)}</h2>{''.join(parts)}</section>\n"


def note(text: str) -> str:
    """Says what is missing."""
    return f'<p class="note">{esc(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of ready markup: callers escape their cells."""
    top = "".join(f'<th scope="col">{esc(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def tiles(pairs: Iterable[tuple[str, str, str]]) -> str:
    """(label, number, remark) in large print."""
    cells = (
        f'<div class="tile"><span class="muted">{esc(label)}</span><b>{esc(value)}</b>'
        f'<span class="muted">{esc(remark)}</span></div>'
        for label, value, remark in pairs
    )
    return f'<div class="tiles">{"".join(cells)}</div>'
