"""What could be read of a run folder, and what could not: nothing here fails on a damaged run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genac.runs.checked import read_checked, step_files
from genac.runs.guard import refuse_special
from genac.runs.lines import read_log
from genac.runs.listing import STAGES, Status, status
from genac.runs.manifest import DONE, TABLES, suspects
from genac.runs.numbers import is_number, seconds
from genac.runs.store import Run
from genac.ui.html import clip

FILES = ("config.json", "environment.json", "metrics.jsonl", "events.jsonl", "summary.json")
REMEDY = "name a folder that 'genac train' wrote; 'genac ls FOLDER' lists those in a folder"
OF_A_RUN = {"name", "algorithm", "task", "stages"}  # keys of a run's config
VALUES = ("group", "member", "value")
EXAMPLES = (
    *("problem_id", "group", "member", "start", "end", "step_text", "value", "reward"),
    *("advantage", "rationale"),
)


@dataclass
class Folder:
    """One run. `missing` says in words what the page cannot show, and why."""

    run: Run
    status: Status
    missing: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.run.path.resolve().name)

    @property
    def place(self) -> str:
        """The folder's own name, which distinguishes runs of one config."""
        return self.run.path.resolve().name

    @property
    def alarms(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("kind") == "alarm"]

    @property
    def progress(self) -> str:
        """What a reader must know of a run that has not ended."""
        return _progress(self.status)

    def lines(self, stage: str) -> list[dict[str, Any]]:
        return [line for line in self.metrics if line.get("stage") == stage]

    def stored(self, folder: str = "estimates") -> list[tuple[str, int]]:
        """(stage, step) of its tables, in the order in which they were written."""
        order = {stage: place for place, stage in enumerate(STAGES)}
        return sorted(self.run.tables(folder), key=lambda key: (order.get(key[0], -1), key[1]))

    def table(self, folder: str, key: tuple[str, int], columns: tuple[str, ...]) -> list[dict]:
        """Some columns of one table; what cannot be read is reported, and left out."""
        try:
            rows, problems = read_checked(self.run.path, folder, key, columns)
        except ValueError as error:
            self.missing.append(str(error))
            return []
        self.missing += problems
        return rows.to_pylist()


def load(path: Path | str) -> Folder:
    """Everything small that a run holds; ValueError where the folder holds nothing of a run."""
    run = Run(path)
    if not run.path.is_dir():
        raise ValueError(f"{path} is not a folder: name a folder that a run wrote")
    if not any((run.path / name).exists() for name in FILES):
        raise ValueError(f"{path} holds no run: none of {', '.join(FILES)} is in it; {REMEDY}")
    folder = Folder(run, status(run))
    for name, read in (
        ("config", run.config),
        ("environment", run.environment),
        ("summary", run.summary),
    ):
        setattr(folder, name, _try(folder, name, read, {}))
    folder.metrics = _lines(folder, "metrics.jsonl")
    folder.events = _lines(folder, "events.jsonl")
    for name in ("rollouts", "estimates"):
        folder.missing += step_files(run.path, name)[1]
    for name, reason in suspects(run.path, (*FILES, *TABLES, DONE)).items():
        folder.missing.append(f"{name} {reason}.")
    others = any((run.path / name).exists() for name in FILES if name != "config.json")
    if not others and folder.config and not OF_A_RUN & folder.config.keys():
        text = f"{path} holds no run: its config.json is no run's (a model's, perhaps); {REMEDY}"
        raise ValueError(text)
    progress = folder.progress
    folder.missing = ([progress] if progress else []) + folder.missing
    return folder


def _progress(result: Status) -> str:
    if result.state not in ("running", "interrupted"):
        return ""
    if result.step is None:
        where = "it has logged no step yet"
    else:
        of = f" of {result.steps}" if result.steps else ""
        ago = f", {seconds(max(0.0, time.time() - result.updated))} ago" if result.updated else ""
        where = f"its last line is stage {result.stage}, step {result.step + 1}{of}{ago}"
    if result.state == "running":
        return f"This run is still being written: {where}. What follows is of that moment."
    return f"This run did not finish: {where}. The command that started it resumes it."


def _try(folder: Folder, name: str, read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        path = folder.run.path / f"{name}.json"
        if path.exists() or path.is_symlink():
            refuse_special(path, folder.run.path)
        return read()
    except FileNotFoundError:
        folder.missing.append(f"{name}.json is missing: this folder may not be a whole run.")
    except (ValueError, OSError) as error:
        folder.missing.append(_unread(folder, f"{name}.json", error))
    return otherwise


def _lines(folder: Folder, name: str) -> list[dict[str, Any]]:
    """The lines of a log; where some are wrong, the others."""
    try:
        log = read_log(folder.run.path, name)
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        folder.missing.append(_unread(folder, name, error))
        return []
    folder.missing += log.problems()
    return log.lines


def _unread(folder: Folder, name: str, error: Exception) -> str:
    reason = str(error).replace(f"{folder.run.path}/", "")
    return f"{name} could not be read: {clip(reason, 300)}"


def steps(lines: list[dict[str, Any]], key: str) -> dict[int, float]:
    """step -> value wherever the metric is a number."""
    return {int(line["step"]): line[key] for line in lines if is_number(line.get(key))}


def part(summary: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A nested object of the summary, empty where it is absent or something else."""
    value = summary.get(key)
    return value if isinstance(value, Mapping) else {}
