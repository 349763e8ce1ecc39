"""Error against the cost of a value: value heads, generative critics and Monte Carlo.

For each seed a base model and all critics are made anew and judged on one panel. Plan: `critics`
(name -> overrides of a critic that is trained), of which `size` names the model that it starts from
(`sizes`, name -> shape; without it the actor's base model) and `thoughts` what of the oracle's
reasoning its traces keep (a regular expression); `again` (name -> a trained `critic` and another
number of rationales per state, `num_samples`); `continuations` (K of Monte Carlo, whose draws are
not the panel's). `ours` is the critic that the others are compared with, `thoughtless` the one that
writes a score alone, `by_size` are generative critics, smallest first.
"""

from __future__ import annotations

from typing import Any

from genac.models.loading import load_model, parameter_count
from paper.approximation import actor_config, actors, made
from paper.approximation_report import IN
from paper.critics import bring_up, judged
from paper.frontier_report import monte_carlo, report
from paper.plan import Findings, Plan
from paper.taught import taught

NOT_OVERRIDES = ("size", "thoughts")
Folders = dict[tuple[str, int], str]  # (critic, seed) -> folder


def run(plan: Plan) -> Findings:
    bases = actors(plan, plan.seeds)
    panels = made(plan, bases, {IN: {}})
    rates = {seed: panels[seed, IN]["rate"] for seed in plan.seeds}
    folders = trained(plan, bases, rates)
    table = judge(plan, bases, rates, folders)
    first = plan.seeds[0]
    counts = {n: parameter_count(load_model(folders[n, first])) for n in plan.values["by_size"]}
    return report(plan, table, counts, [panels[seed, IN] for seed in plan.seeds])


def start_models(plan: Plan) -> dict[tuple[str, int], str]:
    """(size, seed) -> a base model of this shape, trained on the same examples as the actor's."""
    jobs = [(size, seed) for seed in plan.seeds for size in plan.values["sizes"]]
    configs = [
        plan.config(
            {"algorithm": "grpo", "actor": {"tiny": plan.values["sizes"][size]}}, seed=seed
        ).model_dump()
        for size, seed in jobs
    ]
    result = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    return {job: f["actor"] for job, f in zip(jobs, result, strict=True)}


def trained(plan: Plan, bases: dict[int, str], rates: dict[int, float]) -> Folders:
    """Every critic after its last stage."""
    starts, variants = start_models(plan), plan.values["critics"]
    jobs = [(name, seed) for seed in plan.seeds for name in variants]
    configs = {
        (name, seed): plan.config(
            {k: v for k, v in variants[name].items() if k not in NOT_OVERRIDES},
            {
                "actor": {"model_name_or_path": bases[seed]},
                "critic": {
                    "model_name_or_path": starts.get((variants[name].get("size"), seed))
                    or bases[seed]
                },
            },
            seed=seed,
        ).model_dump()
        for name, seed in jobs
    }
    short = [(name, seed) for name, seed in jobs if "thoughts" in variants[name]]
    whole = [job for job in jobs if job not in short]
    results = plan.jobs.map(bring_up, [{"config": configs[job]} for job in whole])
    items = [
        {"configs": [configs[n, s]], "rates": [rates[s]], "thoughts": variants[n]["thoughts"]}
        for n, s in short
    ]
    results += plan.jobs.map(taught, items)
    return {job: result["rl"] for job, result in zip([*whole, *short], results, strict=True)}


def judge(
    plan: Plan, bases: dict[int, str], rates: dict[int, float], folders: Folders
) -> dict[str, list[dict[str, Any]]]:
    """name -> one judged job per seed."""
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in plan.seeds:
        item = {
            "config": actor_config(plan, seed),
            "actor": bases[seed],
            "options": {},
            "rate": rates[seed],
        }
        for name in plan.values["critics"]:
            items[name, seed] = item | {"critic": folders[name, seed]}
        for name, other in plan.values["again"].items():
            folder, count = folders[other["critic"], seed], other["num_samples"]
            items[name, seed] = item | {"critic": folder, "num_samples": count}
        for count in plan.values["continuations"]:
            vineppo = {"algorithm": "vineppo", "critic": {"num_continuations": count}}
            own = {"config": plan.config(vineppo, seed=seed).model_dump()}
            items[monte_carlo(count), seed] = item | own | {"critic": "monte_carlo"}
    table: dict[str, list[dict[str, Any]]] = {}
    for (name, _), result in zip(items, plan.jobs.map(judged, list(items.values())), strict=True):
        table.setdefault(name, []).append(result)
    return table
