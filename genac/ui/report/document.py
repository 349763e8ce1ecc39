"""`genac report RUN [RUN ...]`: one self-contained HTML file from nothing but the run folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from genac.runs.files import plain
from genac.runs.listing import list_runs
from genac.runs.numbers import number
from genac.runs.store import atomic_write
from genac.ui.examples import trajectories
from genac.ui.html import STACKED, clip, esc, note, page, section, table
from genac.ui.report import critic, curves, mistakes, results
from genac.ui.report.charts import grid
from genac.ui.report.folder import EXAMPLES, Folder, load
from genac.ui.report.groups import Group, differences, grouped

SCRIPTS = ("charts.js", "report.js")
VENDOR = resources.files("genac.ui") / "vendor" / "plot"
LIBRARY = ("d3.min.js", "plot.umd.min.js")  # Observable Plot and d3, both ISC


def report(paths: Sequence[str], out: str | None = None) -> str:
    """The command: writes the page, returns where it is, how large, and which run has not ended."""
    folders = [load(path) for path in _runs_in(list(paths))]
    path = _write(folders, out)
    unfinished = [f"{one.run.path}: {one.progress}" for one in folders if one.progress]
    return "\n".join([f"{path} ({path.stat().st_size / 1e6:.1f} MB)", *unfinished])


def write_report(paths: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Writes the report of one run, or of several in one page; a folder that holds runs stands for
    all of them. Without `out`: report.html in the run's folder, of several in the folder that they
    share.
    """
    runs = _runs_in([paths] if isinstance(paths, Path | str) else list(paths))
    return _write([load(path) for path in runs], out)


def _write(folders: Sequence[Folder], out: Path | str | None) -> Path:
    shared = os.path.commonpath([folder.run.path.resolve() for folder in folders])
    target = Path(out) if out else Path(shared) / "report.html"
    atomic_write(target, document(folders))
    return target


def _runs_in(paths: Sequence[Path | str]) -> list[Path]:
    """The run folders meant, each once."""
    if not paths:
        raise ValueError("no run to report on: name at least one run folder")
    result: dict[Path, None] = {}
    for path in map(Path, paths):
        inside = [] if (path / "config.json").exists() or not path.is_dir() else list_runs(path)
        result |= dict.fromkeys([one.path for one in inside if one.path != path] or [path])
    return list(result)


def document(folders: Sequence[Folder]) -> str:
    """The whole page."""
    groups = grouped(folders)
    title = f"{groups[0].name if len(groups) == 1 else f'{len(folders)} runs'}: report"
    parts = _one(groups[0]) if len(groups) == 1 else _several(groups)
    parts += _details(groups)
    links = "".join(f'<a href="#{at}">{esc(name)}</a>' for name, at, _ in parts if at)
    body = "".join(section(name, html, at=at) if name else html for name, at, html in parts)
    missing = "".join(_missing(folder, len(folders) > 1) for folder in folders)
    return _page(title, links, _header(groups) + missing + body)


Part = tuple[str, str, str]  # heading, address, markup


def _one(group: Group) -> list[Part]:
    """The report of one configuration."""
    summary = (
        f'<p class="verdict">{esc(results.sentence(group))}</p>{results.headline(group)}'
        f'<div class="lead">{curves.success([group])}{critic.error_chart([group])}</div>'
        f"{grid([critic.reliability([group]), *curves.chosen([group], curves.LEADING)])}"
    )
    return [
        ("What happened", "summary", summary + _alarms([group])),
        ("The critic", "critic", mistakes.verdicts([group]) + critic.page([group])),
        ("The actor", "actor", _actor([group])),
        ("Success against cost", "budgets", curves.budgets([group])),
        ("Cost by role", "cost", _costs([group])),
        ("Examples", "examples", _examples([group])),
    ]


def _several(groups: Sequence[Group]) -> list[Part]:
    """The report of several configurations, overlaid."""
    verdict = f'<p class="verdict">{esc(results.ranking(groups))}</p>'
    return [
        ("Runs compared", "summary", verdict + results.comparison(groups)),
        ("Success against cost", "budgets", curves.budgets(groups)),
        ("Differences", "differences", _differences(groups)),
        ("Alarms", "alarms", _alarms(groups)),
        ("The critic", "critic", mistakes.verdicts(groups) + critic.page(groups)),
        ("The actor", "actor", _actor(groups)),
        ("Cost by role", "cost", _costs(groups)),
        ("Examples", "examples", _examples(groups)),
    ]


def _header(groups: Sequence[Group]) -> str:
    if len(groups) > 1:
        runs = sum(len(group.folders) for group in groups)
        return f"<h1>{runs} runs of {len(groups)} configurations</h1>"
    group = groups[0]
    config, environment = group.folders[0].config, group.folders[0].environment
    facts = {
        "algorithm": config.get("algorithm"),
        "preset": config.get("preset") if config.get("algorithm") == "genac" else None,
        "task": _label(config.get("task")),
        "actor": _model(config.get("actor")),
        "critic": _label(config.get("critic")),
        "steps of each stage": ", ".join(
            f"{stage} {len(group.folders[0].lines(stage))}" for stage in group.stages
        ),
        "seeds" if len(group.folders) > 1 else "seed": ", ".join(
            str(f.config["seed"]) for f in group.folders if f.config.get("seed") is not None
        ),
        "hash of the config": environment.get("config_hash") if len(group.folders) == 1 else None,
        "started": _minute(environment.get("started")),
        "state": ", ".join(dict.fromkeys(f.status.state for f in group.folders)),
    }
    line = " · ".join(f"{esc(key)} <b>{esc(value)}</b>" for key, value in facts.items() if value)
    return f"<h1>{esc(group.title)}</h1><p>{line}</p>"


def _minute(time: Any) -> str | None:
    """2026-11-29T14:39:19+00:00 as 2026-11-29 14:39 UTC."""
    if not isinstance(time, str) or not time.endswith("+00:00"):
        return time
    return f"{time[:16].replace('T', ' ')} UTC"


def _missing(folder: Folder, named: bool) -> str:
    name = f"{folder.place}: " if named else ""
    return "".join(note(name + answer) for answer in dict.fromkeys(folder.missing))


def _alarms(groups: Sequence[Group]) -> str:
    result = [(f.place, alarm) for g in groups for f in g.folders for alarm in f.alarms]
    if not result:
        return '<p class="muted">No alarm was raised.</p>'
    keys = ("alarm", "stage", "step", "message", "remedy")
    rows = [[esc(place), *(esc(number(a.get(key))) for key in keys)] for place, a in result]
    if sum(len(group.folders) for group in groups) == 1:
        return table(keys, [row[1:] for row in rows])
    return table(("run", *keys), rows)


def _actor(groups: Sequence[Group]) -> str:
    if not any(group.stages for group in groups):
        return note("No curves: metrics.jsonl is missing or empty.")
    parts = []
    if any("joint" in group.stages for group in groups):
        drawn, missing = curves.drawn(groups, "joint", curves.ACTOR)
        text = curves.absent(missing, "joint")
        parts.append(curves.fold("Over joint training", drawn + text, groups))
    else:
        parts.append(note("Stage joint has logged no step yet."))
    return "".join([mistakes.first_mistakes(groups), *parts, curves.supervised(groups)])


def _costs(groups: Sequence[Group]) -> str:
    folders = [folder for group in groups for folder in group.folders]
    if len(folders) == 1:
        return results.cost(folders[0])
    return "".join(_fold(folder.place, results.cost(folder)) for folder in folders)


def _examples(groups: Sequence[Group]) -> str:
    """Of one run as they are; of several of the first of each configuration, to unfold."""
    if len(groups) == 1 and len(groups[0].folders) == 1:
        return _trajectories(groups[0].folders[0])
    return "".join(_fold(g.folders[0].place, _trajectories(g.folders[0])) for g in groups)


def _trajectories(folder: Folder) -> str:
    stored = folder.stored()
    if not stored:
        return note("None: the run stored no estimates (an algorithm without a critic has none).")
    stage, step = stored[-1]
    rows = folder.table("estimates", stored[-1], EXAMPLES)
    held = stored[-1] in folder.stored("rollouts")
    prompts = folder.table("rollouts", stored[-1], ("group", "member", "prompt")) if held else []
    where = f'<p class="muted">From stage {esc(stage)}, step {step}.</p>'
    shown = trajectories(rows, prompts) if rows else note("No row could be read.")
    return where + shown


def _differences(groups: Sequence[Group]) -> str:
    rows = differences([group.folders[0] for group in groups])
    if not rows:
        return note("The resolved configurations are equal, or none could be read.")
    cells = [[esc(key), *(esc(clip(v, 60)) for v in values)] for key, values in rows.items()]
    return table(("key", *(group.name for group in groups)), cells)


def _details(groups: Sequence[Group]) -> list[Part]:
    folders = [folder for group in groups for folder in group.folders]
    one = len(folders) == 1
    config = [_fold("show" if one else f.place, _json(f.config)) for f in folders]
    environment = [_fold("show" if one else f.place, _json(f.environment)) for f in folders]
    return [
        ("Configuration", "configuration", "".join(config)),
        ("Environment", "environment", "".join(environment)),
    ]


def _fold(name: str, inside: str) -> str:
    return f"<details><summary>{esc(name)}</summary>{inside}</details>"


def _json(obj: Mapping[str, Any]) -> str:
    if not obj:
        return note("Not in the run folder.")
    text = clip(json.dumps(plain(obj), indent=2, ensure_ascii=False), 100_000)
    return f'<pre tabindex="0">{esc(text)}</pre>'


def _model(actor: Any) -> str | None:
    """A model's name, or the shape of one that is built from a config."""
    shape = actor.get("tiny") if isinstance(actor, Mapping) else None
    if _label(actor) or not isinstance(shape, Mapping):
        return _label(actor)
    return f"tiny, {shape.get('layers')} layers of {shape.get('hidden_size')}"


def _label(value: Any) -> str | None:
    """A name for a part of the config: itself, or its own name, model or kind."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("model_name_or_path") or value.get("kind")
    if not isinstance(value, str):
        return None
    # Of a path of this machine its end: the page may be sent to others.
    return "/".join(value.split("/")[-2:]) if value.startswith(("/", "~")) else value


def _page(title: str, links: str, main: str) -> str:
    folder = resources.files("genac.ui.report") / "static"
    files = [*(VENDOR / name for name in LIBRARY), *(folder / name for name in SCRIPTS)]
    scripts = [file.read_text(encoding="utf-8") for file in files]
    style = (folder / "report.css").read_text(encoding="utf-8") + STACKED
    body = (
        f'<div class="bar-top"><nav aria-label="Sections">{links}</nav>'
        '<button type="button" id="theme" hidden>theme</button></div>'
        '<noscript><p class="note">The charts need scripts, which are off here; the tables do not.'
        f"</p></noscript><main>\n{main}\n</main>"
    )
    return page(title, body, style=style, scripts=scripts)
