"""python -m paper FILE: one experiment of recipes/paper as a command.

A plan is YAML: `experiment` names the module, `recipe` the runs' recipe, `results` the files to
write (NAME.json, NAME.md, NAME.svg), `folder` where jobs and runs are kept, `seeds`, `processes`,
`overrides` for every run, and the experiment's own keys (see its module). --render: see `render`.
--stages: see paper/stages.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import platform
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genac.config.algorithms import merge
from genac.config.recipes import read_recipe, resolve
from genac.config.run import RunConfig
from genac.runs.store import atomic_write
from paper.jobs import Jobs
from paper.page import WIDTH, update_pages

REQUIRED = ("experiment", "recipe", "results", "folder", "seeds")
OPTIONAL = ("processes", "overrides")
# The keys that each experiment needs, and those that its plan may leave out.
EXPERIMENTS: dict[str, tuple[str, str]] = {
    "regime": ("regimes methods", ""),
    "approximation": (
        "critics tuning_seed best_of judged shifts generative generative_sft",
        "regression predictors longest",
    ),
    "stage2": ("critic grid tuning_seeds shifts", ""),
    "length": ("arms heads pairs shifts", ""),
    "frontier": ("sizes critics again continuations ours thoughtless by_size", ""),
    "transfer": ("met unmet training critic", "policy"),
    "downstream": (
        "methods against",
        "tuning_seeds bases columns ours rivals ppo_forms pairs",
    ),
    "compute": ("arguments recipes", ""),
    "representation": (
        "tasks controls depths width steps batch lengths problems learning_rates tuning_seed",
        "",
    ),
    "ablation": ("variants whole", ""),
}
# The drawings on an experiment's page; on every other there is one.
DRAWINGS: dict[str, tuple[str, ...]] = {
    "approximation": ("", "pools", "reliability"),
    "downstream": ("", "staleness"),
    "frontier": ("", "flops"),
    "length": (),
    "stage2": (),
}
Record = Mapping[str, Any]  # what the JSON of a page holds


@dataclass(frozen=True)
class Plan:
    """A plan that was read and checked; `values` holds all keys of the file."""

    values: Mapping[str, Any]
    recipe: Mapping[str, Any]
    jobs: Jobs

    def config(self, *overrides: Mapping[str, Any], **last: Any) -> RunConfig:
        """The recipe under the plan's overrides and then these, left to right."""
        values: dict[str, Any] = dict(self.values.get("overrides", {}))
        for over in (*overrides, last):
            values = merge(values, dict(over))
        folder = {"stages": {"folder": f"{self.values['folder']}/stages"}}
        return resolve(dict(self.recipe), merge(folder, values))

    @property
    def seeds(self) -> list[int]:
        return self.values["seeds"]

    @property
    def folder(self) -> Path:
        return Path(self.values["folder"])


@dataclass(frozen=True)
class Findings:
    """An experiment's results: `figures` and `extra` at the top level of its JSON, rows for the
    results page, and drawings by name ("" for the main one)."""

    figures: dict[str, Any]
    rows: list[dict[str, str]]  # claim, ours, verdict
    drawings: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def read_plan(file: str | Path) -> Plan:
    """ValueError where a key is missing or unknown, or the experiment is."""
    values = read_recipe(file)
    name = values.get("experiment", "")
    if name and name not in EXPERIMENTS:
        raise ValueError(f"{file}: experiment is {name!r}; use one of {', '.join(EXPERIMENTS)}")
    own, optional = (keys.split() for keys in EXPERIMENTS.get(name, ("", "")))
    needed = (*REQUIRED, *own)
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; see paper/{name or 'plan'}.py")
    if unknown := sorted(set(values) - {*needed, *OPTIONAL, *optional}):
        raise ValueError(
            f"{file}: {', '.join(unknown)} is no key of experiment {name}; use "
            f"{', '.join((*own, *optional, *OPTIONAL))}"
        )
    if not values["seeds"]:
        raise ValueError(f"{file}: seeds is empty; give at least one, and several for an interval")
    jobs = Jobs(Path(values["folder"]) / "jobs", values.get("processes", 1))
    return Plan(values, read_recipe(values["recipe"]), jobs)


def expand(variants: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Variants with a `grid` (dotted key -> values): every combination under its own name."""
    out: dict[str, dict[str, Any]] = {}
    for name, variant in variants.items():
        grid = variant.get("grid", {})
        plain = {k: v for k, v in variant.items() if k != "grid"}
        for values in itertools.product(*grid.values()):
            chosen = plain
            for key, value in zip(grid, values, strict=True):
                nested: Any = value
                for part in reversed(key.split(".")):
                    nested = {part: nested}
                chosen = merge(chosen, nested)
            label = ",".join(f"{k.split('.')[-1]}={v}" for k, v in zip(grid, values, strict=True))
            out[f"{name},{label}" if label else name] = chosen
    return out


def run_experiment(file: str | Path) -> str:
    """Runs what is not finished yet and writes the results; returns the paragraph."""
    plan = read_plan(file)
    module = importlib.import_module(f"paper.{plan.values['experiment']}")
    findings: Findings = module.run(plan)
    record = {
        **findings.figures,
        "rows": findings.rows,
        "seeds": plan.seeds,
        "command": f"python -m paper {file}",
        "commit": ", ".join(sorted(plan.jobs.commits)),
        "machine": machine(),
        "processes": plan.jobs.processes,
        **findings.extra,
        "plan": dict(plan.values),
    }
    return publish(findings, record, Path(plan.values["results"]))


def render(file: str | Path) -> str:
    """Writes a plan's page, and the tables made of all pages, anew from the published JSON. Figures
    and drawings stay as they are."""
    results = Path(read_plan(file).values["results"])
    source = results.with_suffix(".json")
    if not source.exists():
        raise ValueError(
            f"--render reads {source}, which does not exist; python -m paper {file} measures it"
        )
    record = json.loads(source.read_text())
    atomic_write(results.with_suffix(".md"), markdown(record, results.name))
    update_pages(results.parent, list(EXPERIMENTS))
    return paragraph(record)


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPUs"


def publish(findings: Findings, record: Record, results: Path) -> str:
    """Writes the record, its page and drawings, and the tables that are made of all records.
    Returns the page's paragraph."""
    assert tuple(findings.drawings) == drawings_of(record), "see DRAWINGS"
    results.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps(record, indent=1, allow_nan=False)
    record = json.loads(written)  # the page is made of what can be read again
    atomic_write(results.with_suffix(".json"), written)
    atomic_write(results.with_suffix(".md"), markdown(record, results.name))
    for name, svg in findings.drawings.items():
        atomic_write(results.with_name(drawing_file(results.name, name)), svg)
    update_pages(results.parent, list(EXPERIMENTS))
    return paragraph(record)


def drawings_of(record: Record) -> tuple[str, ...]:
    return DRAWINGS.get(record["plan"]["experiment"], ("",))


def paragraph(record: Record) -> str:
    """What a page says, made of its JSON by the experiment's `text(plan, record)`, which stands in
    paper/NAME_report.py where there is one."""
    values = record["plan"]
    report = f"paper.{values['experiment']}_report"
    module = report if importlib.util.find_spec(report) else f"paper.{values['experiment']}"
    plan = Plan(values, {}, Jobs(Path(values["folder"]) / "jobs"))
    return importlib.import_module(module).text(plan, record)


def drawing_file(name: str, drawing: str) -> str:
    return f"{name}-{drawing}.svg" if drawing else f"{name}.svg"


def markdown(record: Record, name: str) -> str:
    """The paragraph under its command, with the drawings."""
    files = [drawing_file(name, drawing) for drawing in drawings_of(record)]
    drawing = "".join(f"![{file}]({file})\n\n" for file in files)
    source = (
        f"`{record['command']}`, commit {record['commit']}; data in [{name}.json]({name}.json)."
    )
    return wrapped(f"{source}\n\n{drawing}{paragraph(record).rstrip()}\n")


def wrapped(page: str) -> str:
    """Its prose in lines of at most WIDTH characters; tables, pictures and lists as they are."""
    wrap = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in page.split("\n"):
        prose = len(line) > WIDTH and not line.startswith(("|", "!", "#", "-", " "))
        lines += wrap.wrap(line) if prose else [line]
    return "\n".join(lines)
