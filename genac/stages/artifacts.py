"""Stage outputs by content: a stage with the same inputs is done once and shared between runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.runs.files import alone, plain, sweep, sync, sync_below, write_json
from genac.runs.manifest import DONE, require, write_done
from genac.runs.store import Run, environment, stable_hash


def build_once(
    root: str | Path, stage: str, key: dict[str, Any], build: Callable[[Run], None]
) -> Path:
    """The folder root/stage-HASH; `build` fills it unless it is finished already.

    A half-built folder is handed to `build` again, which resumes from its own checkpoints; a
    finished one has none. Where two processes want the same stage, the second waits and finds it
    done. ValueError where a file of a finished folder is not as it was written.
    """
    folder = folder_of(root, stage, key)
    if not (folder / DONE).exists():
        with alone(folder):
            if not (folder / DONE).exists():
                sweep(folder)
                build(open_stage(folder, key))
                sync_below(folder)  # from here on there is nothing to make it again from
                write_done(folder, {"stage": stage, "key": key})
                sync(folder)
                drop_checkpoints(folder)
                return folder
    require_stage(folder)
    drop_checkpoints(folder)  # a process that was killed behind done.json left them
    return folder


def folder_of(root: str | Path, stage: str, key: dict[str, Any]) -> Path:
    return Path(root) / f"{stage}-{stable_hash(key)}"


def is_built(root: str | Path, stage: str, key: dict[str, Any]) -> bool:
    """Whether `build_once` would build nothing."""
    return (folder_of(root, stage, key) / DONE).exists()


def open_stage(folder: Path, key: dict[str, Any]) -> Run:
    """A new stage's folder, or a half-built one to go on with, whose config.json says its key."""
    if not Run.exists(folder):
        return Run.create(folder, key, environment())
    run = Run(folder)
    try:
        same = run.config() == plain(key)
    except ValueError:
        same = False
    if not same:
        write_json(folder / "config.json", key)
    return run


def require_stage(folder: Path) -> None:
    """ValueError where a file of a finished stage is not as it was written."""
    require(folder, ("",), f"delete the folder {folder}: the same command makes it again")


def drop_checkpoints(folder: Path) -> None:
    """Deletes a finished stage's checkpoints, which nobody resumes from. Where that fails, as in a
    folder that may only be read, they stay and do no harm.
    """
    with suppress(OSError):
        for root in (folder / "checkpoints").glob("*"):
            checkpoint.drop(root)


def import_metrics(run: Run, stage_folder: Path) -> None:
    """Copies a stage's metrics and alarms into the run that uses it, once and with their times."""
    source = Run.open(stage_folder)
    rows = source.metrics()
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        if as_text(run.metrics(stage)) == as_text(own):
            continue
        run.truncate_after(stage, -1)  # an interrupted copy starts again
        for row in own:
            run.log(
                stage, row["step"], {k: v for k, v in row.items() if k not in ("stage", "step")}
            )
    known = {(e.get("stage"), e.get("alarm")) for e in run.events("alarm")}
    for event in source.events("alarm"):
        if (event.get("stage"), event.get("alarm")) not in known:
            run.event("alarm", **{k: v for k, v in event.items() if k != "kind"})


def as_text(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as they compare: not a number equals itself, and a stage that was deleted and made again
    differs in its times and its costs alone.
    """
    return [
        json.dumps(plain({k: v for k, v in row.items() if k != "time" and k[:5] != "cost/"}))
        for row in rows
    ]
