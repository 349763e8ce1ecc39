"""Approximation error and ranking of critics, in distribution and under shift.

For each seed a base model, a generative critic (SFT, then RL) and value heads are made anew, and
all are judged on the same panels. Plan: `critics` (name -> overrides, the `stage` to judge, and a
`grid` tuned on `tuning_seed` by the error in distribution; `like` takes another's tuned settings
and puts its own overrides on top),
`best_of` (which critics stand for "discriminative": the best of them on the tuning seed), `judged`
(which others are made anew for every seed), `regression` (value heads on labels without noise),
`predictors` (critics without a model), `shifts` (panel name -> task options).
"""

from __future__ import annotations

from typing import Any

from genac.config.algorithms import merge
from paper.approximation_report import IN, UNSHIFTED_RATE, report
from paper.critics import bring_up, judged, panel_made, value_regression
from paper.plan import Findings, Plan, expand

NOT_OVERRIDES = ("like", "stage", "grid")


def run(plan: Plan) -> Findings:
    chosen = tune(plan)
    seeds, shifts = plan.seeds, {IN: {}, **plan.values["shifts"]}
    bases = actors(plan, seeds)
    critics = folders(plan, chosen, seeds) | regressions(plan, bases)
    panels = made(plan, bases, shifts)
    table = judge_all(plan, bases, critics, panels, shifts)
    best = chosen["best discriminative"]
    return report(plan, table, panels, best, chosen)


# --- the parts ------------------------------------------------------------------------------------


def actors(plan: Plan, seeds: list[int]) -> dict[int, str]:
    """The base model of each seed."""
    configs = [actor_config(plan, seed) for seed in seeds]
    result = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    return {seed: f["actor"] for seed, f in zip(seeds, result, strict=True)}


def actor_config(plan: Plan, seed: int) -> dict[str, Any]:
    return plan.config({"algorithm": "grpo"}, seed=seed).model_dump()


def variants_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """critic -> setting -> overrides, of the critics that have settings of their own."""
    return {
        name: expand({name: {k: v for k, v in variant.items() if k != "stage"}})
        for name, variant in plan.values["critics"].items()
        if "like" not in variant
    }


def tune(plan: Plan) -> dict[str, Any]:
    """Each critic's best setting by its error in distribution on the tuning seed."""
    seed, settings = plan.values["tuning_seed"], variants_of(plan)
    base = actors(plan, [seed])[seed]
    jobs = [(critic, s, v) for critic, options in settings.items() for s, v in options.items()]
    configs = [plan.config(values, seed=seed).model_dump() for _, _, values in jobs]
    stages = [plan.values["critics"][critic]["stage"] for critic, _, _ in jobs]
    panels = made(plan, {seed: base}, {IN: {}})
    results = trained_and_judged(plan, {seed: base}, panels, configs, stages)
    errors = [result["mse"] for result in results]
    grid = {(c, s): e for (c, s, _), e in zip(jobs, errors, strict=True)}
    best = {c: min(options, key=lambda s, c=c: grid[c, s]) for c, options in settings.items()}
    heads = plan.values["best_of"]
    return {
        "settings": best,
        "grid": {f"{s}": e for (_, s), e in grid.items()},
        "best discriminative": min(heads, key=lambda c: grid[c, best[c]]),
    }


def trained_and_judged(
    plan: Plan,
    bases: dict[int, str],
    panels: dict[tuple[int, str], dict[str, float]],
    configs: list[dict[str, Any]],
    stages: list[str],
) -> list[dict[str, Any]]:
    """Brings a critic up from each config and judges it, after its stage, in distribution."""
    brought = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    items = [
        {
            "config": actor_config(plan, config["seed"]),
            "actor": bases[config["seed"]],
            "critic": result[stage],
            "options": {},
            "rate": panels[config["seed"], IN]["rate"],
        }
        for config, result, stage in zip(configs, brought, stages, strict=True)
    ]
    return plan.jobs.map(judged, items)


def folders(plan: Plan, chosen: dict[str, Any], seeds: list[int]) -> dict[tuple[str, int], str]:
    """(critic, seed) -> folder, each critic at its tuned setting."""
    expected, settings = plan.values["critics"], variants_of(plan)
    named = dict.fromkeys([*plan.values["judged"], chosen["best discriminative"]])
    expected = {c: expected[c] for c in named}
    jobs = [(c, seed) for c in expected for seed in seeds]
    owner = {c: expected[c].get("like", c) for c in expected}
    own = {c: {k: v for k, v in expected[c].items() if k not in NOT_OVERRIDES} for c in expected}
    tuned = {c: merge(settings[o][chosen["settings"][o]], own[c]) for c, o in owner.items()}
    configs = [plan.config(tuned[c], seed=seed).model_dump() for c, seed in jobs]
    brought = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    return {(c, s): b[expected[c]["stage"]] for (c, s), b in zip(jobs, brought, strict=True)}


def regressions(plan: Plan, bases: dict[int, str]) -> dict[tuple[str, int], str]:
    """Value heads on labels without noise: (name, seed) -> folder."""
    expected = plan.values.get("regression", {})
    jobs = [(name, seed) for name in expected for seed in bases]
    items = [
        {
            "config": plan.config(expected[n]["overrides"], seed=seed).model_dump(),
            "actor": bases[seed],
            "targets": expected[n]["targets"],
            "learning_rate": expected[n]["learning_rate"],
        }
        for n, seed in jobs
    ]
    return dict(zip(jobs, plan.jobs.map(value_regression, items), strict=True))


def made(
    plan: Plan, bases: dict[int, str], shifts: dict[str, dict[str, Any]]
) -> dict[tuple[int, str], dict[str, float]]:
    """(seed, shift) -> the actor's success and the trivial baselines."""
    jobs = [(seed, shift) for seed in bases for shift in shifts]
    items = [
        {"config": actor_config(plan, seed), "actor": bases[seed], "options": shifts[shift]}
        for seed, shift in jobs
    ]
    return dict(zip(jobs, plan.jobs.map(panel_made, items), strict=True))


def judge_all(
    plan: Plan,
    bases: dict[int, str],
    critics: dict[tuple[str, int], str],
    panels: dict[tuple[int, str], dict[str, float]],
    shifts: dict[str, dict[str, Any]],
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(critic, shift) -> one judged job per seed; trivial baselines are critics too."""
    names = list(dict.fromkeys(c for c, _ in critics))
    # A generative critic is conditioned on the success rate under the shift, a value head is not:
    # one row shows what it knows without.
    unshifted = plan.values["generative"] + UNSHIFTED_RATE
    jobs = [
        (c, shift, seed)
        for c in [*names, unshifted, *plan.values.get("predictors", ())]
        for shift in shifts
        for seed in bases
    ]
    items = [
        {
            "config": actor_config(plan, seed),
            "actor": bases[seed],
            "critic": critics.get((c.removesuffix(UNSHIFTED_RATE), seed), c),
            "options": shifts[shift],
            "rate": panels[seed, IN if c == unshifted else shift]["rate"],
        }
        for c, shift, seed in jobs
    ]
    results = plan.jobs.map(judged, items)
    table: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (critic, shift, _), result in zip(jobs, results, strict=True):
        table.setdefault((critic, shift), []).append(result)
    return table
