"""Joint RL by every method in a regime where credit matters, at equal samples, tokens and seconds.

Plan: `methods` (name -> overrides with a `grid`; `like` takes another's tuned settings) and
`against` (the method whose final success is the mark to reach). All else may be left out:
`tuning_seeds` (each grid's best point by late success is taken; none: every grid has one point),
`bases` (seeds of base model and critic stages, taken in turn by the runs; none: every run makes its
own), `columns` (held-out tasks by name -> options), `ours`, `rivals` and `ppo_forms` (whom the
verdicts compare) and `pairs` (one variant against another). Exact values in place of a critic are a
method like the others here: nearly what a perfect critic would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from genac.config.algorithms import merge
from genac.config.run import RunConfig
from genac.critics import critic_class
from paper.downstream_report import report
from paper.plan import Findings, Plan, expand
from paper.runs import BUDGETS, COMPUTE, columns, difference, interval, joint_run, placed
from paper.staleness import highest, mean_known

COMMON = ("base", "warmup", "total")  # no stages of a critic
SHARED = 4  # runs that one critic's stages are counted over, amortised


def run(plan: Plan) -> Findings:
    values = plan.values
    named = {values["against"], *values.get("ppo_forms", []), *chain(*values.get("pairs", []))}
    named |= {*values.get("rivals", {}).values(), *([values["ours"]] if "ours" in values else [])}
    unknown = named - set(plan.values["methods"])
    if unknown:
        raise ValueError(
            f"the plan compares {', '.join(sorted(unknown))}, which is no method of it"
        )
    best, grid = tune(plan)
    configs = {
        (method, seed): run_config(plan, values, seed)
        for method, values in best.items()
        for seed in plan.seeds
    }
    result = plan.jobs.map(joint_run, [{"config": c} for c in configs.values()])
    results = dict(zip(configs, result, strict=True))
    tasks = plan.values.get("columns", {})
    scores = plan.jobs.map(
        columns,
        [
            {"config": config, "folder": results[key]["folder"], "tasks": tasks}
            for key, config in configs.items()
        ],
    )
    by_column = dict(zip(configs, scores, strict=True))
    table = {m: summary(plan, m, configs, results, by_column) for m in best}
    add_equal_budgets(plan, table, results)
    add_compute(table, plan.values["against"])
    add_stages(plan, table, results)
    return report(plan, table, grid, {m: settings_of(best[m], plan) for m in best})


def run_config(plan: Plan, values: dict[str, Any], seed: int) -> dict[str, Any]:
    """A run's config: joint training is the seed's own, base and critic are one of `bases`."""
    stages = {"stages": {"seed": base_of(plan, seed)}}
    return placed(plan.config(values, stages, seed=seed), plan.folder)


def base_of(plan: Plan, seed: int) -> int:
    """The seed of the stages before joint training in the run of this seed."""
    bases = plan.values.get("bases") or [seed]
    return bases[seed % len(bases)]


def grid_points(plan: Plan) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, name of the point) -> overrides, of the methods that have a grid of their own."""
    return {
        (method, name): values
        for method, variant in plan.values["methods"].items()
        if "like" not in variant
        for name, values in expand({method: variant}).items()
    }


def at_points(plan: Plan, points: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every method's overrides where those with a grid stand at these points."""
    result = {}
    for method, variant in plan.values["methods"].items():
        over = {k: v for k, v in variant.items() if k not in ("like", "grid")}
        result[method] = merge(points[variant.get("like", method)], over)
    return result


def tune(plan: Plan) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Each method's overrides at its best grid point, and the whole grid's final success."""
    jobs = grid_points(plan)
    seeds = plan.values.get("tuning_seeds", [])
    if not seeds and len(jobs) > len({method for method, _ in jobs}):
        raise ValueError("tuning_seeds is empty, so every method's grid must have one point")
    items = [
        {"config": run_config(plan, values, seed)} for values in jobs.values() for seed in seeds
    ]
    result = iter(plan.jobs.map(joint_run, items))
    # The end of training alone is one noisy number; the last two evaluations and the final one
    # together say where the method settles.
    grid = {
        key: float(np.mean([late_success(next(result)) for _ in seeds])) if seeds else 0.0
        for key in jobs
    }
    tops = {
        owner: max((k for k in grid if k[0] == owner), key=grid.__getitem__) for owner, _ in jobs
    }
    best = at_points(plan, {owner: jobs[top] for owner, top in tops.items()})
    return best, {name: value for (_, name), value in grid.items()} if seeds else {}


def late_success(result: dict[str, Any]) -> float:
    return float(np.mean([*result["curve"]["success"][-2:], result["final"]]))


def settings_of(values: dict[str, Any], plan: Plan) -> dict[str, Any]:
    cfg = plan.config(values)
    result: dict[str, Any] = {"lr": cfg.actor.optimizer.learning_rate}
    if cfg.credit.estimator == "gae":
        result["lambda"] = cfg.credit.lam
    return result


def summary(
    plan: Plan,
    method: str,
    configs: dict[Any, Any],
    results: dict[Any, Any],
    by_column: dict[Any, Any],
) -> dict[str, Any]:
    """One method over its seeds."""
    runs = [results[method, seed] for seed in plan.seeds]
    scores = [by_column[method, seed] for seed in plan.seeds]
    steps = len(runs[0]["critic"]["bias"]) or 1
    cfg = RunConfig(**configs[method, plan.seeds[0]])
    spent = {
        kind: [{k: v for k, v in r["cost"][kind].items() if k != "evaluation"} for r in runs]
        for kind in ("seconds", "tokens", "flops")
    }
    return {
        "final": interval([r["final"] for r in runs]),
        "mean_over_training": interval([float(np.mean(r["curve"]["success"])) for r in runs]),
        "responses_before": responses_before(cfg),
        "responses_per_step": cfg.rollout.num_prompts * cfg.rollout.num_generations,
        "columns": {c: interval([s[c] for s in scores]) for c in scores[0]},
        "column_mean": interval([float(np.mean(list(s.values()))) for s in scores])
        if scores[0]
        else None,
        "per_step": {
            kind: float(np.median([sum(s.values()) for s in result])) / steps
            for kind, result in spent.items()
        },
        "curve": {
            "samples": runs[0]["curve"]["samples"],
            "success": [
                interval(list(values))
                for values in zip(*(r["curve"]["success"] for r in runs), strict=True)
            ],
        },
        "critic": {
            key: [mean_known(step) for step in zip(*(r["critic"][key] for r in runs), strict=True)]
            for key in runs[0]["critic"]
        },
        # Per seed: where values stand far above returns, the actor may exploit them.
        "highest_bias": [highest(r["critic"]["bias"], max(5, steps // 8)) for r in runs],
    }


def responses_before(cfg: RunConfig) -> int:
    """Responses of the actor that the critic's own stages used."""
    made, stage = cfg.stages.synthesize, cfg.stages.critic_rl
    groups = (stage.num_prompts or cfg.rollout.num_prompts) * stage.steps
    rl = groups * (stage.num_generations or cfg.rollout.num_generations)
    kind = critic_class(cfg.critic.kind)
    traces = made.num_prompts * made.num_generations if kind.needs_traces else 0
    return rl + traces if kind.learns else 0


def add_equal_budgets(plan: Plan, table: dict[str, Any], results: dict[Any, Any]) -> None:
    """Success where the cheapest method's budget ends; samples needed to reach the mark."""
    against = plan.values["against"]
    budgets = {b: min(r["curve"][b][-1] for r in results.values()) for b in BUDGETS}
    for method, row in table.items():
        curves = [results[method, seed]["curve"] for seed in plan.seeds]
        row["at_equal"] = {
            b: interval([float(np.interp(budgets[b], c[b], c["success"])) for c in curves])
            for b in BUDGETS
        }
        marks = [results[against, seed]["curve"] for seed in plan.seeds]
        row["minus_against"] = difference(row["final"]["values"], table[against]["final"]["values"])
        row["samples_ratio"] = samples_ratio(curves, marks)
        row["samples_ratio_with_preparation"] = samples_ratio(
            curves, marks, row["responses_before"]
        )


def add_compute(table: dict[str, Any], against: str) -> None:
    """Of each method, as parts of those of `against`: the cost of a response, and the compute of
    joint training until its final success. The critic's own stages come on top of that. The
    intervals are those of the samples; a response costs what the run's cost on average.
    """

    def per_response(row: dict[str, Any], kind: str) -> float:
        return row["per_step"][kind] / row["responses_per_step"]

    for row in table.values():
        row["cost_ratio"] = {
            kind: per_response(row, kind) / per_response(table[against], kind) for kind in COMPUTE
        }
        row["compute_ratio"] = {
            kind: {k: None if x is None else x * cost for k, x in row["samples_ratio"].items()}
            for kind, cost in row["cost_ratio"].items()
        }


def add_stages(
    plan: Plan,
    table: dict[str, Any],
    results: dict[Any, Any],
    kinds: Sequence[str] = COMPUTE,
) -> None:
    """`compute_ratio` with the critic's own stages, counted whole and shared by SHARED runs: their
    mean over the runs, by the stages' own records, is spent ahead of the curve. Base model and
    warm-up are every method's. Rows whose runs did not all record it are left as they are.
    """
    marks = [results[plan.values["against"], seed]["curve"] for seed in plan.seeds]
    for method, row in table.items():
        runs = [results[method, seed] for seed in plan.seeds]
        spent = {kind: [critic_stages(run, kind) for run in runs] for kind in kinds}
        if any(None in column for column in spent.values()):
            continue
        curves = [run["curve"] for run in runs]
        row["critic_stages"] = {kind: mean_known(column) for kind, column in spent.items()}
        for name, parts in (("unamortised", 1), ("amortised", SHARED)):
            row[f"compute_ratio_{name}"] = {
                kind: with_stages(row, kind, curves, marks, parts) for kind in kinds
            }


def with_stages(
    row: dict[str, Any], kind: str, curves: list[Any], marks: list[Any], parts: int
) -> dict[str, float | None]:
    """The stages as responses of the same cost, spent before the first."""
    each = row["per_step"][kind] / row["responses_per_step"]
    ratio = samples_ratio(curves, marks, row["critic_stages"][kind] / parts / each)
    return {k: None if x is None else x * row["cost_ratio"][kind] for k, x in ratio.items()}


def critic_stages(run: dict[str, Any], kind: str) -> float | None:
    """What the stages of a run's critic cost; None where that is not recorded."""
    stages = run.get("stages_cost")
    if stages is None:
        return None
    own = [stage[kind] for name, stage in stages.items() if name not in COMMON]
    return None if None in own else float(sum(own))


def samples_ratio(
    curves: list[dict[str, list[float]]], marks: list[dict[str, list[float]]], before: float = 0.0
) -> dict[str, float | None]:
    """Samples after which the mean curve first reaches the last point of the mean of `marks`, as a
    part of those after which `marks` itself does; both anew in every draw of seeds (95 %).

    `before` are samples that the method spent ahead of its curve. None where it is not reached, or
    where `marks` end no higher than they started.
    """
    at, marked_at = (np.array(result[0]["samples"]) for result in (curves, marks))
    ours, theirs = (np.array([c["success"] for c in result]) for result in (curves, marks))

    def one(pick: Any) -> float:
        mark = theirs[pick].mean(0)
        needed = first(at, ours[pick].mean(0), mark[-1]) + before
        theirs_needed = first(marked_at, mark, mark[-1])
        return needed / theirs_needed if theirs_needed else float("inf")

    rng = np.random.default_rng(0)
    result = np.array([one(p) for p in rng.integers(len(curves), size=(2000, len(curves)))])
    low, high = np.quantile(result, (0.025, 0.975), method="inverted_cdf")
    ends = {"value": one(slice(None)), "low": low, "high": high}
    return {k: float(x) if np.isfinite(x) else None for k, x in ends.items()}


def first(samples: np.ndarray, success: np.ndarray, mark: float) -> float:
    """Where the piecewise linear curve first reaches `mark`; infinity where it never does."""
    reached = np.nonzero(success >= mark)[0]
    if not len(reached):
        return float("inf")
    i = int(reached[0])
    if i == 0:
        return float(samples[0])
    part = (mark - success[i - 1]) / (success[i] - success[i - 1])
    return float(samples[i - 1] + part * (samples[i] - samples[i - 1]))
