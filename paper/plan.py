"""python -m paper FILE: one experiment of recipes/paper as a command.

A plan is YAML: `experiment` names the module, `recipe` the runs' recipe, `results` the files to
write (NAME.json, NAME.md, NAME.svg), `folder` where jobs and runs are kept, `seeds`, `processes`,
`overrides` for every run, and the experiment's own keys (see its module). With --stages: see
paper/stages.py.
"""

from __future__ import annotations

import importlib
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
    """An experiment's results: `figures` at the top level of its JSON, rows for the results page,
    a paragraph, and drawings by name ("" for the main one)."""

    figures: dict[str, Any]
    rows: list[dict[str, str]]  # claim, ours, verdict
    text: str
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
    publish(findings, record, Path(plan.values["results"]))
    return findings.text


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPUs"


def publish(findings: Findings, record: dict[str, Any], results: Path) -> None:
    """Writes the record, its page and drawings, and the tables that are made of all records."""
    results.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(results.with_suffix(".json"), json.dumps(record, indent=1, allow_nan=False))
    atomic_write(results.with_suffix(".md"), markdown(findings, record, results.name))
    for name, svg in findings.drawings.items():
        atomic_write(results.with_name(drawing_file(results.name, name)), svg)
    update_pages(results.parent, list(EXPERIMENTS))


def drawing_file(name: str, drawing: str) -> str:
    return f"{name}-{drawing}.svg" if drawing else f"{name}.svg"


def markdown(findings: Findings, record: dict[str, Any], name: str) -> str:
    """The paragraph under its command, with the drawing."""
    files = [drawing_file(name, drawing) for drawing in findings.drawings]
    drawing = "".join(f"![{file}]({file})\n\n" for file in files)
    source = (
        f"`{record['command']}`, commit {record['commit']}; data in [{name}.json]({name}.json)."
    )
    return wrapped(f"{source}\n\n{drawing}{findings.text.rstrip()}\n")


def wrapped(page: str) -> str:
    """Its prose in lines of at most WIDTH characters; tables, pictures and lists as they are."""
    wrap = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in page.split("\n"):
        prose = len(line) > WIDTH and not line.startswith(("|", "!", "#", "-", " "))
        lines += wrap.wrap(line) if prose else [line]
    return "\n".join(lines)
