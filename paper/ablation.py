"""What each item of the `improved` preset does to the critic: one item taken away at a time.

Plan: `variants` (name -> overrides of the improved preset; `whole` names the one with all of them).
Each variant's critic goes through SFT and critic RL and is judged on the same panel as the others.
The gate acts in joint training only: the downstream experiment has a run without it.
"""

from __future__ import annotations

from typing import Any

from paper.approximation import actors, made, trained_and_judged
from paper.approximation_report import IN, pooled
from paper.critics import mean
from paper.figures import dots
from paper.pairs import compare
from paper.plan import Findings, Plan, Record
from paper.runs import interval, show
from paper.verdicts import above, below, brackets, shown, verdict


def run(plan: Plan) -> Findings:
    bases = actors(plan, plan.seeds)
    panels = made(plan, bases, {IN: {}})
    variants = plan.values["variants"]
    jobs = [(name, seed) for name in variants for seed in plan.seeds]
    configs = [
        plan.config({"algorithm": "genac"}, variants[name], seed=seed).model_dump()
        for name, seed in jobs
    ]
    results = trained_and_judged(plan, bases, panels, configs, ["rl"] * len(jobs))
    table: dict[str, list[dict[str, Any]]] = {}
    for (name, _), result in zip(jobs, results, strict=True):
        table.setdefault(name, []).append(result)
    return report(plan, table)


def report(plan: Plan, table: dict[str, list[dict[str, Any]]]) -> Findings:
    whole = plan.values["whole"]
    result = {
        name: {
            "mse": interval([c["mse"] for c in results]),
            "auc": pooled(results, "auc_within_problem"),
            "parse_rate": mean([c["parse_rate"] for c in results]),
            "tokens_per_value": mean([c["tokens_per_value"] for c in results]),
            "mse_minus_whole": compare(results, table[whole], "mse", "difference"),
        }
        for name, results in table.items()
    }
    rows = [
        {
            "claim": f"(ours) {name}: the error rises",
            "ours": f"MSE {brackets(row['mse_minus_whole'], 4)}, "
            f"{row['tokens_per_value'] / result[whole]['tokens_per_value']:.2f} x the tokens",
            "verdict": verdict(above(row["mse_minus_whole"], 0), below(row["mse_minus_whole"], 0)),
        }
        for name, row in result.items()
        if name != whole
    ]
    drawn = {"MSE": {name: row["mse"] for name, row in result.items()}}
    svg = dots("Squared error with one item taken away", drawn, "MSE")
    return Findings({"ablation": result}, rows, {"": svg})


def text(plan: Plan, record: Record) -> str:
    lines = [
        f"Critics after SFT and critic RL, seeds {plan.seeds}: MSE as mean [95 % t interval over "
        "seeds]; difference to the whole preset with a [95 % bootstrap interval over problems].",
        "",
        "| variant | MSE | minus the whole | AUC in problem | parsed | tokens per value |",
        "|---" * 6 + "|",
        *(
            f"| {name} | {show(row['mse'], 4)} | {brackets(row['mse_minus_whole'], 4)} "
            f"| {shown(row['auc'])} | {row['parse_rate']:.3f} | {row['tokens_per_value']:.1f} |"
            for name, row in record["ablation"].items()
        ),
    ]
    return "\n".join(lines)
