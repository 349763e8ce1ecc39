"""Stage outputs by content: a stage whose inputs hash the same is done once and shared between runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genac.runs.store import Run, atomic_write, environment, stable_hash

DONE = "done.json"


def ensure(root: str | Path, stage: str, key: dict[str, Any], build: Callable[[Run], None]) -> Path:
    """The folder root/stage-HASH; `build` fills it unless it is finished already.

    A half-built folder is handed to `build` again, which resumes from its own checkpoints.
    """
    folder = Path(root) / f"{stage}-{stable_hash(key)}"
    if not (folder / DONE).exists():
        run = Run.open(folder) if Run.exists(folder) else Run.create(folder, key, environment())
        build(run)
        atomic_write(folder / DONE, json.dumps({"stage": stage, "key": key}, indent=1, default=str))
    return folder


def adopt(run: Run, stage_folder: Path) -> None:
    """Copies a stage's metrics and events into the run that uses it, once."""
    source = Run.open(stage_folder)
    present = {row["stage"] for row in run.metrics()}
    for row in source.metrics():
        if row["stage"] not in present:
            fields = {k: v for k, v in row.items() if k not in ("stage", "step", "time")}
            run.log(row["stage"], row["step"], fields)
