"""The table of the results page, made from the experiments' JSON files.

docs/results/README.md keeps its prose; what stands between the two marks is written here after
every experiment, so that the table cannot say anything else than the files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genac.runs.store import atomic_write

BEGIN, END = "<!-- table: written by python -m paper -->", "<!-- end of table -->"
HEAD = "| claim | ours | verdict | seeds | command (commit) |\n|---|---|---|---|---|\n"


def update_page(folder: Path, order: Sequence[str]) -> bool:
    """Rewrites the table in folder/README.md, experiments in the given order.

    False where there is no such page, or no marks in it.
    """
    page = folder / "README.md"
    text = page.read_text() if page.exists() else ""
    if BEGIN not in text or END not in text:
        return False
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    atomic_write(page, f"{before}{BEGIN}\n{table(folder, order)}{END}{after}")
    return True


def table(folder: Path, order: Sequence[str]) -> str:
    """One row per claim, in the order of the experiments."""
    result: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        if "rows" in record and "plan" in record:
            result[file.stem] = record["plan"]["experiment"], record
    names = sorted(result, key=lambda name: (order.index(result[name][0]), name))
    rows = [
        row_text(name, result[name][1], row) for name in names for row in result[name][1]["rows"]
    ]
    return HEAD + "".join(rows)


def row_text(name: str, record: dict[str, Any], row: dict[str, str]) -> str:
    command = f"`{record['command']}` ({record['commit']})"
    seeds = ", ".join(map(str, record["seeds"]))
    return (
        f"| {row['claim']} | {row['ours']} | {row['verdict']} | {seeds} | [{name}]({name}.md): "
        f"{command} |\n"
    )
