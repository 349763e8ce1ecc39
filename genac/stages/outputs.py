"""Stage outputs by content: a stage with the same inputs is done once and shared between runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genac.runs.files import alone
from genac.runs.store import Run, atomic_write, environment, stable_hash

DONE = "done.json"


def ensure(root: str | Path, stage: str, key: dict[str, Any], build: Callable[[Run], None]) -> Path:
    """The folder root/stage-HASH; `build` fills it unless it is finished already.

    A half-built folder is handed to `build` again, which resumes from its own checkpoints. Where
    two processes want the same stage, the second waits and finds it done.
    """
    folder = Path(root) / f"{stage}-{stable_hash(key)}"
    if (folder / DONE).exists():
        return folder
    with alone(folder):
        if not (folder / DONE).exists():
            run = Run.open(folder) if Run.exists(folder) else Run.create(folder, key, environment())
            build(run)
            note = {"stage": stage, "key": key}
            atomic_write(folder / DONE, json.dumps(note, indent=1, default=str))
    return folder


def adopt(run: Run, stage_folder: Path) -> None:
    """Copies a stage's metrics and alarms into the run that uses it, once and with their times."""
    source = Run.open(stage_folder)
    rows = source.metrics()
    for stage in {row["stage"] for row in rows}:
        mine = [row for row in rows if row["stage"] == stage]
        if len(run.metrics(stage)) == len(mine):
            continue
        run.truncate_after(stage, -1)  # an interrupted copy starts again
        for row in mine:
            run.log(
                stage, row["step"], {k: v for k, v in row.items() if k not in ("stage", "step")}
            )
    known = {(e.get("stage"), e.get("alarm")) for e in run.events("alarm")}
    for event in source.events("alarm"):
        if (event.get("stage"), event.get("alarm")) not in known:
            run.event("alarm", **{k: v for k, v in event.items() if k != "kind"})
