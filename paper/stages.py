"""python -m paper FILE --stages: what the critic's own stages cost, added to a page without it.

Runs of older versions did not record the cost of their stages. This repeats only the stages before
joint training, once for each method and base model of the page, counts their FLOPs, and writes the
JSON and the page again with `compute_to_..._final_unamortised` and `_amortised`. Everything else on
the page is as it was published. Of an experiment `downstream` only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genac.config.run import RunConfig
from paper.downstream import add_stages, at_points, base_of, grid_points, run_config, settings_of
from paper.downstream_report import report
from paper.plan import Plan, machine, publish, read_plan

KINDS = ("flops",)  # the same on any processor and under any load
EARLY = "1970-01-01T00:00:00+00:00"  # nothing was made before: `reused` says nothing here


def add_to_page(file: str | Path) -> str:
    """Measures what is not measured yet and writes the page; returns its paragraph."""
    plan = read_plan(file)
    page = Path(plan.values["results"])
    record = published(file, plan, page.with_suffix(".json"))
    best = at_points(plan, published_points(file, plan, record["settings"]))
    first_seeds = {base_of(plan, seed): seed for seed in reversed(plan.seeds)}
    keys = [(method, base) for method in best for base in first_seeds]
    items = [{"config": run_config(plan, best[m], first_seeds[base])} for m, base in keys]
    costs = dict(zip(keys, plan.jobs.map(stages_run, items), strict=True))
    table = record["methods"]
    results = {
        (method, seed): {
            "curve": seed_curve(table[method]["curve"], index),
            "stages_cost": costs[method, base_of(plan, seed)],
        }
        for method in best
        for index, seed in enumerate(plan.seeds)
    }
    add_stages(plan, table, results, KINDS)
    measured = {
        "command": f"python -m paper {file} --stages",
        "commit": ", ".join(sorted(plan.jobs.commits)),
        "machine": machine(),
        "cost": {f"{method}, base {base}": cost for (method, base), cost in costs.items()},
    }
    findings = report(plan, table, record["tuning_grid"], record["settings"])
    new = {**findings.figures, "rows": findings.rows, **findings.extra}
    return publish(findings, {**record, **new, "stages_measured": measured}, page)


def published(file: str | Path, plan: Plan, page: Path) -> dict[str, Any]:
    """The page's JSON. ValueError where it is not that of the plan."""
    if plan.values["experiment"] != "downstream":
        raise ValueError(
            f"{file}: --stages is for the experiment downstream and this is one of "
            f"{plan.values['experiment']}; leave it out"
        )
    again = f"run python -m paper {file}, whose runs record their stages"
    if not page.exists():
        raise ValueError(f"--stages adds to {page}, which does not exist; {again}")
    record = json.loads(page.read_text())
    methods, seeds = record["methods"], record["seeds"]
    if set(methods) != set(plan.values["methods"]) or seeds != plan.seeds:
        raise ValueError(
            f"{page} is of the methods {', '.join(methods)} and the seeds {seeds}, {file} of "
            f"others; {again}"
        )
    return record


def published_points(
    file: str | Path, plan: Plan, settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The overrides of each grid's point that the page was measured at."""
    points = {
        method: values
        for (method, _), values in grid_points(plan).items()
        if settings_of(values, plan) == settings[method]
    }
    if missing := {method for method, _ in grid_points(plan)} - set(points):
        name = min(missing)
        raise ValueError(
            f"the page has {name} at {settings[name]}, which is no point of its grid in {file}; "
            "add it"
        )
    return points


def stages_run(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A job: the stages before joint training of a run. -> the cost of each."""
    from genac.stages.costs import stages_cost
    from genac.stages.pipeline import prepare
    from genac.stages.setup import Setup, prepared_config

    ready = prepare(Setup.of(prepared_config(RunConfig(**config))))
    return stages_cost(ready.folders, EARLY)


def seed_curve(curve: Mapping[str, Any], index: int) -> dict[str, list[float]]:
    """The curve of one seed out of a page's."""
    values = [point["values"][index] for point in curve["success"]]
    return {"samples": curve["samples"], "success": values}
