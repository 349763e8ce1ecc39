"""Approximation error by size of the critic: the actor, the data and the steps stay the same.

Plan: `sizes` (name -> shape of the critic's model, smallest first), `critics` (kind -> overrides).
Each size gets a base model of its own, trained on the same examples as the actor's; from there a
generative critic and a value head are trained as in the approximation experiment.
"""

from __future__ import annotations

import itertools
from typing import Any

from genac.models.loading import load_model, parameter_count
from paper.approximation import actors, made, trained_and_judged
from paper.approximation_report import IN, pooled
from paper.critics import bring_up
from paper.figures import lines
from paper.pairs import compare
from paper.plan import Findings, Plan
from paper.runs import interval, show
from paper.verdicts import above, below, brackets, shown, verdict


def run(plan: Plan) -> Findings:
    bases = actors(plan, plan.seeds)
    panels = made(plan, bases, {IN: {}})
    sizes, kinds = plan.values["sizes"], plan.values["critics"]
    starts = start_models(plan)
    jobs = [(kind, size, seed) for kind in kinds for size in sizes for seed in plan.seeds]
    configs = [
        plan.config(
            kinds[kind],
            {
                "actor": {"model_name_or_path": bases[seed]},
                "critic": {"model_name_or_path": starts[size, seed]},
            },
            seed=seed,
        ).model_dump()
        for kind, size, seed in jobs
    ]
    results = trained_and_judged(plan, bases, panels, configs, ["rl"] * len(jobs))
    table: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (kind, size, _), result in zip(jobs, results, strict=True):
        table.setdefault((kind, size), []).append(result)
    counts = {s: parameter_count(load_model(starts[s, plan.seeds[0]])) for s in sizes}
    baseline = interval([panels[seed, IN]["mse_constant"] for seed in plan.seeds])
    return report(plan, table, counts, baseline)


def start_models(plan: Plan) -> dict[tuple[str, int], str]:
    """(size, seed) -> the base model that a critic of this size starts from."""
    jobs = [(size, seed) for size in plan.values["sizes"] for seed in plan.seeds]
    configs = [
        plan.config(
            {"algorithm": "grpo", "actor": {"tiny": plan.values["sizes"][size]}}, seed=seed
        ).model_dump()
        for size, seed in jobs
    ]
    result = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    return {job: f["actor"] for job, f in zip(jobs, result, strict=True)}


def report(
    plan: Plan, table: dict[tuple[str, str], Any], counts: dict[str, int], baseline: dict[str, Any]
) -> Findings:
    sizes, kinds = list(counts), list(plan.values["critics"])
    by_size = {
        kind: {
            size: {
                "parameters": counts[size],
                "mse": interval([c["mse"] for c in table[kind, size]]),
                "auc": pooled(table[kind, size], "auc_within_problem"),
                "parse_rate": interval([c["parse_rate"] for c in table[kind, size]]),
            }
            for size in sizes
        }
        for kind in kinds
    }
    steps = {
        kind: {
            f"{b} minus {a}": compare(table[kind, b], table[kind, a], "mse", "difference")
            for a, b in itertools.pairwise(sizes)
        }
        for kind in kinds
    }
    figures = {"by_size": by_size, "by_size_steps": steps}
    svg = lines(
        "Squared error by size of the critic",
        {k: [(float(counts[s]), by_size[k][s]["mse"]) for s in sizes] for k in kinds},
        "parameters",
        "MSE",
        log_x=True,
    )
    text = summary(plan, by_size, steps, baseline)
    return Findings(figures, rows(plan, table, by_size, steps, baseline), text, {"": svg})


def rows(
    plan: Plan,
    table: dict[tuple[str, str], Any],
    by_size: Any,
    steps: Any,
    baseline: dict[str, Any],
) -> list[dict[str, str]]:
    sizes = list(plan.values["sizes"])
    ours, theirs = list(plan.values["critics"])[:2]
    falls = lambda kind: all(below(d, 0) for d in steps[kind].values())  # noqa: E731
    rises = lambda kind: any(above(d, 0) for d in steps[kind].values())  # noqa: E731
    # Heads that are no better than a constant at any size say nothing of what size does to heads.
    learnt = any(row["mse"]["mean"] < baseline["mean"] for row in by_size[theirs].values())
    ends = compare(table[theirs, sizes[-1]], table[theirs, sizes[0]], "mse", "ratio")
    return [
        {
            "claim": "the generative error falls steadily with the critic's size",
            "ours": errors_of(by_size[ours]),
            "verdict": verdict(falls(ours), rises(ours)),
        },
        {
            "claim": "the discriminative error does not",
            "ours": f"{errors_of(by_size[theirs])}; largest to smallest {brackets(ends)}",
            "verdict": verdict(learnt and above(ends, 0.8), falls(theirs)),
        },
    ]


def summary(plan: Plan, by_size: Any, steps: Any, baseline: dict[str, Any]) -> str:
    kinds = list(by_size)
    counts = {size: row["parameters"] for size, row in by_size[kinds[0]].items()}
    head = [
        f"Error in distribution by size of the critic, seeds {plan.seeds}: mean [95 % t interval "
        f"over seeds]; the best constant has {show(baseline, 4)}. Same actor, data and steps for "
        f"all.",
        "",
        "| parameters | " + " | ".join(f"{k}: MSE | AUC in problem" for k in kinds) + " |",
        "|---" * (1 + 2 * len(kinds)) + "|",
    ]
    body = [
        f"| {counts[size]:,} | "
        + " | ".join(
            f"{show(by_size[k][size]['mse'], 4)} | {shown(by_size[k][size]['auc'])}" for k in kinds
        )
        + " |"
        for size in counts
    ]
    tail = [
        "",
        "Each size against the one before (MSE, [95 % bootstrap interval over problems]): "
        + "; ".join(
            f"{kind}: " + ", ".join(f"{n} {brackets(d, 4)}" for n, d in steps[kind].items())
            for kind in kinds
        )
        + ".",
    ]
    return "\n".join([*head, *body, *tail])


def errors_of(result: dict[str, Any]) -> str:
    return ", ".join(f"{row['parameters']:,}: {row['mse']['mean']:.4f}" for row in result.values())
