"""The tables of the results pages, made from the experiments' JSON files.

docs/results/README.md (the short one) and all-claims.md keep their prose; what stands between the
two marks is written here after every experiment, so that no table says anything else than the
files.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genac.runs.store import atomic_write
from paper.claims import claims_table
from paper.headline import headline

BEGIN, END = "<!-- table: written by python -m paper -->", "<!-- end of table -->"
HEAD = "| claim | ours | verdict |\n|---|---|---|\n"
LONGEST = 200  # characters of a table's row
WIDTH = 100  # of a line of prose

# Choices were made on the seeds of these pages, so their rows are no evidence.
EXPLORATORY = ("downstream", "regime")


def update_pages(folder: Path, order: Sequence[str]) -> None:
    """Rewrites the tables of both pages and the figure, experiments in the given order."""
    replace_table(folder / "all-claims.md", lambda: table(folder, order))
    short = replace_table(folder / "README.md", lambda: claims_table(folder))
    if short and (drawing := headline(folder)):
        atomic_write(folder / "headline.svg", drawing)


def replace_table(page: Path, rows: Callable[[], str]) -> bool:
    """What stands between the marks of a page; False where there is no page, or no marks in it."""
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text or END not in text:
        return False
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    atomic_write(page, f"{before}{BEGIN}\n{rows()}{END}{after}")
    return True


def table(folder: Path, order: Sequence[str]) -> str:
    """A table per experiment, in the order of the experiments."""
    result: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        if "plan" in record and record.get("rows"):
            result[file.stem] = record["plan"]["experiment"], record
    names = sorted(result, key=lambda name: (order.index(result[name][0]), name))
    return "".join(section(name, result[name][1]) for name in names)


def section(name: str, record: dict[str, Any]) -> str:
    """The claims of one experiment, under the command that made them. Figures that are too long
    for a row, as those by shift, stand in a list below the table."""
    seeds = ", ".join(map(str, record["seeds"]))
    note = "exploratory: " if name in EXPLORATORY else ""
    rows, below = [], []
    for r in record["rows"]:
        row = f"| {r['claim']} | {r['ours']} | {note}{r['verdict']} |"
        if len(row) > LONGEST:
            below.append(r["ours"])
            row = f"| {r['claim']} | see {len(below)} | {note}{r['verdict']} |"
        rows.append(f"{row}\n")
    return (
        f"\n## {name}\n\n[Figures]({name}.md). Seeds {seeds}.\n`{record['command']}` "
        f"({record['commit']}).\n\n{HEAD}{''.join(rows)}{numbered(below)}"
    )


def numbered(items: Sequence[str]) -> str:
    """A list under a table; nothing without items."""
    lines = [
        textwrap.fill(
            f"{number}. {item}",
            WIDTH,
            subsequent_indent="   ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for number, item in enumerate(items, 1)
    ]
    return "".join(f"{line}\n" for line in ["", *lines]) if lines else ""
