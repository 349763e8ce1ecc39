"""Which runs a folder holds, and how far each has come."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from genac.runs.guard import refuse_special
from genac.runs.manifest import DONE, is_finished, suspects
from genac.runs.numbers import is_number, mean, percent
from genac.runs.store import Run

STAGES = ("base", "warmup", "synthesize", "critic_sft", "critic_rl", "joint")  # in their order
READ = ("config.json", "metrics.jsonl", "summary.json")
# A stage's folder has what a run has, and is none: its name is the stage and a hash of its inputs.
STAGE = re.compile(
    r"(data|loaded|gguf|base|warmup|candidates|traces|critic_sft|critic_rl|panel)-[0-9a-f]{12}"
)
QUIET = 300.0  # seconds without a line after which a run may count as interrupted
PAUSES = 3.0  # times its longest recent pause, where that is longer


@dataclass(frozen=True)
class Status:
    """How far a run has come. `state` is "finished", "running", "interrupted" or "unreadable"."""

    path: Path
    state: str
    algorithm: str = ""
    stage: str = ""
    step: int | None = None
    steps: int | None = None  # that the stage will have
    result: str = ""
    updated: float | None = None  # time of the last logged line


def list_runs(folder: Path | str, depth: int = 3) -> list[Status]:
    """The runs in a folder and below it, by path; ValueError where there is no such folder."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder} is not a folder: name one that holds runs, for example runs")
    return [status(Run(path)) for path in sorted(_folders(root, depth))]


def _folders(root: Path, depth: int) -> Iterator[Path]:
    # A stage folder has a config.json too, and so has a saved model: only runs log metrics.
    marks = [(root / name).exists() for name in ("environment.json", "rollouts", "metrics.jsonl")]
    if (Run.exists(root) and any(marks[:2])) or all(marks):
        yield root
    elif depth:
        with os.scandir(root) as entries:
            below = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False)]
        for path in below:
            if not path.name.startswith(".") and not STAGE.fullmatch(path.name):
                yield from _folders(path, depth - 1)


def status(run: Run, now: float | None = None) -> Status:
    """What the folder holds; a folder that cannot be read is "unreadable" with the reason."""
    try:
        for name in ("config.json", "summary.json", "metrics.jsonl"):
            if (run.path / name).exists():
                refuse_special(run.path / name, run.path)
        config, summary, lines = run.config(), run.summary(), run.last_metrics()
    except FileNotFoundError:
        return Status(run.path, "unreadable", result="config.json is missing: not a whole run")
    except (ValueError, OSError) as error:
        return Status(run.path, "unreadable", result=str(error).replace(f"{run.path}/", ""))
    for name, reason in suspects(run.path, READ).items():
        if name != DONE or (run.path / DONE).exists():
            return Status(run.path, "unreadable", result=f"{name} {reason}")
    last: Mapping[str, Any] = lines[-1] if lines else {}
    stage, step = str(last.get("stage", "")), last.get("step")
    times = [line["time"] for line in lines if is_number(line.get("time"))]
    return Status(
        path=run.path,
        state=_state(run, times, time.time() if now is None else now),
        algorithm=str(summary.get("algorithm") or config.get("algorithm") or ""),
        stage=stage,
        step=step if is_number(step) and isinstance(step, int) else None,
        steps=configured_steps(config, stage),
        result=_result(run, summary, last),
        updated=times[-1] if times else None,
    )


def _state(run: Run, times: list[float], now: float) -> str:
    if is_finished(run.path):
        return "finished"
    pauses = [b - a for a, b in pairwise(times)]
    patience = max(QUIET, PAUSES * max(pauses, default=0.0))
    started = (run.path / "config.json").stat().st_mtime  # or given another number of steps
    return "running" if now - max([started, *times[-1:]]) < patience else "interrupted"


def configured_steps(config: Mapping[str, Any], stage: str) -> int | None:
    """How many steps a config gives to a stage."""
    stages = config.get("stages")
    result = stages.get(stage) if isinstance(stages, Mapping) else None
    steps = result.get("steps") if isinstance(result, Mapping) else None
    return steps if is_number(steps) and isinstance(steps, int) else None


def _result(run: Run, summary: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Held-out success, before and after; until then the last reward in training."""
    if summary and not is_finished(run.path):
        return f"{DONE} is missing: run 'genac train' again"
    before, after = mean(summary.get("success_before")), mean(summary.get("success_after"))
    if after is not None:
        return f"success {percent(before)} → {percent(after)}"
    reward = last.get("reward")
    return f"reward {reward:.3f}" if is_number(reward) else ""
