"""HTML of reports and pages: heads, escaped text, tables, and the style of a plain page.

A page holds all that it shows and fetches nothing. The browser gets the hashes of its scripts, so
that text of a model could not run even as markup.
"""

from __future__ import annotations

import base64
import hashlib
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
# On a telephone a row of such a table is a line of its numbers with their names, then its texts.
STACKED = """
@media (max-width:700px){.stacked,.stacked tbody{display:block}.stacked th{display:none}
.stacked tr{display:flex;flex-wrap:wrap;align-items:baseline;gap:.1rem .9rem;padding:.35rem 0;
border-bottom:1px solid #8884}
.stacked td{border:0!important;padding:.1rem .4rem!important;order:1}
.stacked td[data-name]:before{content:attr(data-name) " ";color:var(--muted);font-size:.85rem}
.stacked .text{flex:1 0 100%;order:2;min-width:0}}
"""
# Fetch nothing and run nothing, but for what stands in the page itself.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:"
)


def esc(value: Any) -> str:
    """The value as text that cannot become markup, whatever an actor wrote."""
    text = encodable(str(value)).replace("\0", "\ufffd")
    return html.escape(text, quote=True)


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"


def page(
    title: str, body: str, *, style: str = CSS, scripts: Sequence[str] = (), kind: str = ""
) -> str:
    """A document: `body` is HTML, `kind` its class, `scripts` the only ones that may run."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(["; script-src", *(f"'sha256-{x}'" for x in hashes)]) if hashes else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}{allowed}">'
        f"<title>{esc(title)}</title><style>{style}</style></head>"
        f'<body class="{kind}">\n{body}\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body></html>\n"
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
