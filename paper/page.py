"""The tables of the results pages, made from the experiments' JSON files.

docs/results/README.md (the short one) and all-claims.md keep their prose; what stands between the
two marks is written here after every experiment, so that no table says anything else than the
files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genac.runs.store import atomic_write
from paper.claims import claims_table
from paper.headline import headline

BEGIN, END = "<!-- table: written by python -m paper -->", "<!-- end of table -->"
HEAD = "| claim | ours | verdict |\n|---|---|---|\n"

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
    """The claims of one experiment, under the command that made them."""
    seeds = ", ".join(map(str, record["seeds"]))
    note = "exploratory: " if name in EXPLORATORY else ""
    rows = [f"| {r['claim']} | {r['ours']} | {note}{r['verdict']} |\n" for r in record["rows"]]
    return (
        f"\n## {name}\n\n[Figures]({name}.md). Seeds {seeds}.\n`{record['command']}` "
        f"({record['commit']}).\n\n{HEAD}{''.join(rows)}"
    )
