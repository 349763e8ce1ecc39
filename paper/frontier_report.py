"""The summary of the frontier experiment: figures, verdicts, text, drawings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paper.approximation_report import pooled
from paper.critics import mean
from paper.figures import lines
from paper.pairs import compare
from paper.plan import Findings, Plan, Record
from paper.runs import interval, over_trainings, show
from paper.verdicts import above, below, brackets, shown, verdict

COSTS = {"tokens": "tokens_per_value", "flops": "flops_per_value"}
Table = Mapping[str, list[dict[str, Any]]]


def monte_carlo(count: int) -> str:
    return f"Monte Carlo, {count} continuation{'s' if count > 1 else ''}"


def report(
    plan: Plan, table: Table, counts: dict[str, int], panels: Sequence[Mapping[str, float]]
) -> Findings:
    points = [point(name, results) for name, results in table.items()]
    steps = {
        f"{b} less {a}": compare(table[b], table[a], "mse", "difference")
        for a, b in itertools.pairwise(counts)
    }
    figures = {
        "error_per_token": points,
        "by_size": {n: {"parameters": c, "mse": errors(table[n])} for n, c in counts.items()},
        "by_size_steps": steps,
        "log_ratio_to_monte_carlo": {
            cost: {n: to_monte_carlo(plan, table, n, key) for n in plan.values["critics"]}
            for cost, key in COSTS.items()
        },
        "thought": thought(plan, table),
    }
    title = "Squared error against {} per value"
    drawings = {
        "" if cost == "tokens" else cost: lines(
            title.format(cost), series(plan, points, cost), f"{cost} per value", "MSE", log_x=True
        )
        for cost in COSTS
    }
    baselines = {k: interval([p[k] for p in panels]) for k in ("mse_constant", "noise")}
    sums = {
        f"{name} | seed {seed}": dict(
            zip(result["problem_ids"], result["by_problem"]["mse"], strict=True)
        )
        for name, results in table.items()
        for seed, result in zip(plan.seeds, results, strict=True)
    }
    return Findings(
        figures,
        rows(plan, figures),
        drawings,
        {"baselines": baselines, "sums_by_problem": sums},
    )


def errors(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return interval([result["mse"] for result in results])


def point(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry of the frontier: means over trainings, the error with its 95 % t interval."""
    error = errors(results)
    return {
        "name": name,
        **{cost: mean([r[key] for r in results]) for cost, key in COSTS.items()},
        "seconds": mean([r["seconds_per_value"] for r in results]),
        "mse": error["mean"],
        "low": error["low"],
        "high": error["high"],
        "values": error["values"],
        "auc": pooled(results, "auc_within_problem"),
        "parse_rate": mean([r["parse_rate"] for r in results]),
        "seeds": len(results),
    }


def to_monte_carlo(plan: Plan, table: Table, name: str, key: str) -> dict[str, Any]:
    """log(error / Monte Carlo's error at the same cost), by training.

    Monte Carlo's error is read between its K by log-log lines, and beyond them at the nearest K.
    """
    draws = [table[monte_carlo(k)] for k in plan.values["continuations"]]
    ratios = []
    for index, own in enumerate(table[name]):
        costs = np.log([results[index][key] for results in draws])
        values = np.log([results[index]["mse"] for results in draws])
        ratios.append(float(np.log(own["mse"]) - np.interp(np.log(own[key]), costs, values)))
    return interval(ratios)


def thought(plan: Plan, table: Table) -> dict[str, Any]:
    """What the reasoning is worth: the error without it less the error with it."""
    return compare(
        table[plan.values["thoughtless"]], table[plan.values["ours"]], "mse", "difference"
    )


def series(
    plan: Plan, points: Sequence[Mapping[str, Any]], cost: str
) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """The lines of the drawing: what differs in one thing is joined, the rest stands alone."""
    values = {p["name"]: (p[cost], {**p, "mean": p["mse"]}) for p in points}
    draws = [monte_carlo(k) for k in plan.values["continuations"]]
    again = [*plan.values["again"]]
    joined = {
        f"Monte Carlo, K = {plan.values['continuations'][0]} to "
        f"{plan.values['continuations'][-1]}": draws,
        "generative, by size": plan.values["by_size"],
        "generative, by rationales": again,
    }
    alone = [n for n in plan.values["critics"] if n not in plan.values["by_size"]]
    named = joined | {name: [name] for name in alone}
    return {n: [values[m] for m in members] for n, members in named.items() if members}


def rows(plan: Plan, figures: Mapping[str, Any]) -> list[dict[str, str]]:
    steps, ours = figures["by_size_steps"], plan.values["ours"]
    against = {
        cost: over_trainings(values[ours])
        for cost, values in figures["log_ratio_to_monte_carlo"].items()
    }
    sizes = ", ".join(
        f"{row['parameters']:,}: {row['mse']['mean']:.4f}" for row in figures["by_size"].values()
    )
    return [
        {
            "claim": "the generative error falls steadily with the critic's size",
            "ours": sizes,
            "verdict": verdict(
                all(below(s, 0) for s in steps.values()), any(above(s, 0) for s in steps.values())
            ),
        },
        *(
            {
                "claim": f"(ours) at equal {cost} the generative critic's error is below Monte "
                "Carlo's",
                "ours": f"log ratio {brackets(result)}",
                "verdict": verdict(below(result, 0), above(result, 0)),
            }
            for cost, result in against.items()
        ),
        {
            "claim": "(ours) a critic that writes its reasoning errs less than one that writes a "
            "score alone",
            "ours": f"error without less error with {brackets(figures['thought'], 4)}",
            "verdict": verdict(above(figures["thought"], 0), below(figures["thought"], 0)),
        },
    ]


def text(plan: Plan, record: Record) -> str:
    logs, baselines = record["log_ratio_to_monte_carlo"], record["baselines"]
    paragraphs = [
        f"Error in distribution and cost of a value, seeds {plan.seeds}: mean [95 % t interval "
        f"over seeds]. The best constant has {show(baselines['mse_constant'], 4)}. Every error "
        f"contains the panel's own noise, {show(baselines['noise'], 4)}. FLOPs are twice the "
        "parameters for each token that was read or written.",
        "",
        "| what gives the value | tokens | MFLOPs | ms | MSE | AUC in problem | parsed |",
        "|---" * 7 + "|",
        *(
            f"| {p['name']} | {p['tokens']:.1f} | {p['flops'] / 1e6:.0f} | "
            f"{1000 * p['seconds']:.2f} | {error_text(p)} | {shown(p['auc'])} | "
            f"{p['parse_rate']:.3f} |"
            for p in record["error_per_token"]
        ),
        "",
        "Logarithm of the error over Monte Carlo's at equal cost, [95 % t interval over seeds]. "
        "Monte Carlo's error is read between its K by log-log lines, beyond them at the nearest K.",
        "",
        "| critic | at equal tokens | at equal FLOPs |",
        "|---|---|---|",
        *(
            f"| {name} | {show(logs['tokens'][name], 2)} | {show(logs['flops'][name], 2)} |"
            for name in plan.values["critics"]
        ),
        "",
        "Each size less the one before (MSE, [95 % bootstrap interval over problems]): "
        + "; ".join(f"{n} {brackets(s, 4)}" for n, s in record["by_size_steps"].items())
        + f". A score alone less reasoning: {brackets(record['thought'], 4)}.",
    ]
    return "\n".join(paragraphs)


def error_text(one: Mapping[str, Any]) -> str:
    return show({"mean": one["mse"], "low": one["low"], "high": one["high"]}, 4)
