"""`genac report RUN`: one self-contained report.html from nothing but the run folder.

A missing, truncated or foreign folder gives a page that says what is missing and shows the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genac.runs import results
from genac.runs.curves import STAGES, curves, stages
from genac.runs.examples import trajectories
from genac.runs.files import plain
from genac.runs.page import (
    clip,
    esc,
    estimate,
    is_number,
    note,
    number,
    page,
    seconds,
    section,
    table,
)
from genac.runs.store import Run, atomic_write

VALUE_COLUMNS = ("problem_id", "group", "member", "start", "end", "step_text", "value", "reward")
EXAMPLE_COLUMNS = (*VALUE_COLUMNS, "advantage", "rationale")


@dataclass
class Folder:
    """What could be read of a run, and what could not."""

    run: Run
    missing: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    estimates: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    estimated_at: str = ""

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.run.path.resolve().name)


def write_report(paths: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Writes the report of one run, or of several under a table that compares them."""
    many = [paths] if isinstance(paths, Path | str) else list(paths)
    if not many:
        raise ValueError("no run to report on: name at least one run folder")
    folders = [load(path) for path in many]
    body = _comparison(folders) if len(folders) > 1 else ""
    body += "".join(_article(folder) for folder in folders)
    target = Path(out) if out else Path(many[0]) / "report.html"
    atomic_write(target, page(f"{folders[0].name}: report", body))
    return target


def load(path: Path | str) -> Folder:
    """Everything the report reads; each part that cannot be read becomes a line of `missing`."""
    if not Path(path).is_dir():
        raise ValueError(f"{path} is not a folder: name a folder that a run wrote")
    folder = Folder(Run(path))
    run = folder.run
    for name, read in (
        ("config", run.config),
        ("environment", run.environment),
        ("summary", run.summary),
        ("metrics", run.metrics),
        ("events", run.events),
    ):
        setattr(folder, name, _try(folder, name, read, getattr(folder, name)))
    _load_tables(folder)
    return folder


def _load_tables(folder: Folder) -> None:
    """The last stage's last estimates, and the rollouts they speak of."""
    order = {stage: place for place, stage in enumerate(STAGES)}
    keys = sorted(folder.run.tables("estimates"), key=lambda key: (order.get(key[0], -1), key[1]))
    if not keys:
        return
    stage, step = keys[-1]
    folder.estimated_at = f"stage {stage}, step {step}"
    read = folder.run.table
    folder.estimates = _try(
        folder, "estimates", lambda: read("estimates", stage, step, EXAMPLE_COLUMNS), []
    )
    if (stage, step) in folder.run.tables("rollouts"):
        wanted = ("group", "member", "prompt")
        folder.rollouts = _try(
            folder, "rollouts", lambda: read("rollouts", stage, step, wanted), []
        )


def _try(folder: Folder, name: str, read: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return read()
    except FileNotFoundError:
        folder.missing.append(f"{name}.json is missing: this folder may not be a run.")
    except (ValueError, OSError) as error:
        told = str(error).replace(f"{folder.run.path}/", "")
        folder.missing.append(f"{name} could not be read: {clip(told, 300)}")
    return otherwise


def _article(folder: Folder) -> str:
    values = [row["value"] for row in folder.estimates if is_number(row.get("value"))]
    return "".join(
        (
            _header(folder),
            section("Success", results.success(folder.summary)),
            section("Curves", curves(folder.metrics)),
            section("Critic", results.critic_error(folder.summary)),
            section(
                "Calibration", results.calibration(folder.summary, values, folder.estimated_at)
            ),
            section("Cost by role", results.cost(folder.summary)),
            section("Alarms", _alarms(folder.events)),
            section("Example trajectories", _examples(folder)),
            section("Configuration", _json(folder.config)),
            section("Environment", _json(folder.environment)),
        )
    )


def _header(folder: Folder) -> str:
    config, environment = folder.config, folder.environment
    facts = {
        "algorithm": config.get("algorithm"),
        "preset": config.get("preset") if config.get("algorithm") == "genac" else None,
        "task": _label(config.get("task")),
        "actor": _label(config.get("actor")),
        "critic": _label(config.get("critic")),
        "config hash": environment.get("config_hash") or folder.summary.get("config_hash"),
        "started": environment.get("started"),
    }
    line = " · ".join(f"{esc(k)} <b>{esc(v)}</b>" for k, v in facts.items() if v)
    return (
        f"<header><h1>{esc(folder.name)}</h1><p>{line}</p></header>"
        + "".join(map(note, folder.missing))
        + results.headline(folder.summary)
        + section("What was trained", _stages(folder.metrics))
    )


def _stages(metrics: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for stage in stages(metrics):
        lines = [line for line in metrics if str(line.get("stage")) == stage]
        times = [line["time"] for line in lines if is_number(line.get("time"))]
        steps = [line["step"] for line in lines if is_number(line.get("step"))]
        span = seconds(max(times) - min(times)) if times else "?"
        rows.append((esc(stage), esc(len(lines)), esc(number(max(steps, default=None))), span))
    if not rows:
        return note("No stage has logged a step yet.")
    return table(("stage", "lines logged", "last step", "from first to last line"), rows)


def _alarms(events: Sequence[Mapping[str, Any]]) -> str:
    alarms = [event for event in events if event.get("kind") == "alarm"]
    if not alarms:
        return '<p class="muted">None was raised.</p>'
    keys = ("alarm", "stage", "step", "message", "remedy")
    return table(keys, [[esc(number(alarm.get(key))) for key in keys] for alarm in alarms])


def _examples(folder: Folder) -> str:
    if not folder.estimates:
        return note("None: the run wrote no estimates (an algorithm without a critic writes none).")
    where = f'<p class="muted">From {esc(folder.estimated_at)}.</p>'
    return where + trajectories(folder.estimates, folder.rollouts)


def _comparison(folders: Sequence[Folder]) -> str:
    rows = []
    for folder in folders:
        critic = results.part(folder.summary, "critic")
        spent = [v for v in results.part(folder.summary, "seconds").values() if is_number(v)]
        cells = (
            folder.name,
            number(folder.config.get("algorithm")),
            estimate(folder.summary.get("success_before")),
            estimate(folder.summary.get("success_after")),
            estimate(critic.get("mse")),
            seconds(sum(spent)) if spent else "-",
        )
        rows.append([esc(cell) for cell in cells])
    head = ("run", "algorithm", "success before", "success after", "critic MSE", "time")
    return section("Runs compared", table(head, rows))


def _label(value: Any) -> str | None:
    """A name for a part of the config: itself, or its own name, model or kind."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("model_name_or_path") or value.get("kind")
    return value if isinstance(value, str) else None


def _json(obj: Mapping[str, Any]) -> str:
    if not obj:
        return note("Not in the run folder.")
    text = clip(json.dumps(plain(obj), indent=2, ensure_ascii=False), 100_000)
    return f"<details><summary>show</summary><pre>{esc(text)}</pre></details>"
