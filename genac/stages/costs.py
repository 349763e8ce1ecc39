"""What the stages before joint training cost, by the records in their own folders.

    {"base": {"seconds": 61.0, "tokens": 5e6, "flops": 3e13, "reused": True}, ..., "total": {...}}

A record is the last line of the stage's metrics. It is the same for every run that uses the folder;
of a stage that was interrupted it has what the steps in its metrics cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from genac.runs.store import Run

KINDS = ("seconds", "tokens", "flops")


def stages_cost(folders: Sequence[Path], started: str) -> dict[str, dict[str, Any]]:
    """The record of each stage and their `total`; {} without stages.

    started: when the run began (ISO 8601); `reused` are stages that had ended by then. None where a
    folder does not record its cost, because an older version made it or it was deleted since.
    """
    begin = datetime.fromisoformat(started).timestamp()
    result = dict(record(folder, begin) for folder in folders)
    if not result:
        return {}
    columns = {kind: [stage[kind] for stage in result.values()] for kind in KINDS}
    total = {kind: None if None in column else sum(column) for kind, column in columns.items()}
    return {**result, "total": total}


def record(folder: Path, begin: float) -> tuple[str, dict[str, Any]]:
    """A stage's name and its record."""
    lines = Run(folder).metrics()
    if not lines:
        return folder.name.rpartition("-")[0], dict.fromkeys(KINDS) | {"reused": True}
    columns = {kind: [line.get(f"cost/{kind}") for line in lines] for kind in KINDS}
    # Where the first lines have none, they are of an older version, and the last ones lack theirs.
    costs = {kind: None if None in column else column[-1] for kind, column in columns.items()}
    return lines[-1]["stage"], costs | {"reused": lines[-1]["time"] < begin}
