"""A run that is killed behind any of its writes, and what its folder holds in the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from micro import results, weights

from genac import checkpoint
from genac.runs import store
from genac.runs.listing import status
from genac.runs.manifest import TABLES, read_done
from genac.runs.store import Run
from genac.runtime import Runtime

DEADLINE = 200.0  # seconds until a process has come as far as it is to be killed
CLOCKS = ("seconds", "wall_seconds", "versions", "stages_cost")


class Killed(BaseException):
    """As no handler expects it."""


@contextmanager
def killed_after(write: int, patched: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Raises behind the write of that number; yields the names of all that were written."""
    done: list[str] = []

    def counted(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            done.append(name(*args))
            if len(done) == write:
                raise Killed(done[-1])
            return result

        return call

    with patched.context() as patch:
        patch.setattr(os, "replace", counted(os.replace, lambda _, to: str(to)))
        patch.setattr(os, "rename", counted(os.rename, lambda _, to: str(to)))
        patch.setattr(store, "append_line", counted(store.append_line, lambda to, _: str(to)))
        patch.setattr(Runtime, "save_model", counted(Runtime.save_model, lambda _, to: str(to)))
        yield done


def syncs_and_drops(patched: pytest.MonkeyPatch, there: str = "") -> list[str]:
    """From now on, in their order: what is synchronised with the disk, and "drop" where checkpoints
    are deleted, in whose folder `there` must stand by then."""
    order: list[str] = []
    sync, drop = os.fsync, checkpoint.drop

    def synced(descriptor: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def dropped(root: Path, keep: int = 0) -> None:
        assert (root / there).is_dir()
        order.append("drop")
        drop(root, keep)

    patched.setattr(os, "fsync", synced)
    patched.setattr(checkpoint, "drop", dropped)
    return order


def holds(folder: Path) -> dict[str, Any]:
    """Everything that a rerun must bring back, without clocks."""
    run = Run.open(folder)
    below = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
    names = [p for p in below if p.parts[0] not in ("checkpoints", "evaluation.json")]
    summary = {k: v for k, v in run.summary().items() if k not in CLOCKS}
    cards = {role: (folder / role / "README.md").read_text() for role in ("actor", "critic")}
    page = re.sub(r"[0-9.]+", "", (folder / "report.html").read_text())  # clocks are all over it
    return {
        "files": sorted(str(name) for name in names),
        "metrics": results(run),
        "weights": weights(run),
        "tables": [repr(run.table(f, *k)) for f in TABLES for k in run.tables(f)],
        "summary": summary,
        "cards": cards,
        "page": len(page) > 10_000 and "state finished" in re.sub("<[^>]*>", "", page),
        "config": run.config(),
        "listed": sorted(read_done(folder)),
        "state": status(run).state,
    }


def kill_when_logged(file: str, stage: str, step: int, folder: Path, metrics: str) -> int:
    """Starts `genac train FILE` and sends SIGKILL once that step stands in folder/metrics."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genac.cli", "train", file]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    end, line = time.monotonic() + DEADLINE, f'"stage": "{stage}", "step": {step},'
    try:
        while process.poll() is None and time.monotonic() < end:
            if any(line in path.read_text() for path in folder.glob(metrics)):
                break
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
    return process.wait()
