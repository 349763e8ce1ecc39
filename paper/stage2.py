"""What RL pretraining (stage 2) adds to the critic after SFT (stage 1), in distribution and under
shift.

Plan: `grid` (dotted key -> values) is tuned on `tuning_seeds` by the error in distribution after
RL, meaned over them; `critic` (overrides of every critic); `shifts` (panel name -> task options).
Then each of `seeds` makes its base model and critic anew, and both stages are judged on the same
panels.
"""

from __future__ import annotations

from typing import Any

from paper.approximation import actor_config, actors, made, trained_and_judged
from paper.approximation_report import IN
from paper.critics import bring_up, judged, mean
from paper.pairs import compare
from paper.plan import Findings, Plan, Record, expand
from paper.runs import interval, show
from paper.verdicts import above, below, brackets, verdict

STAGES = ("sft", "rl")
Table = dict[tuple[str, str], list[dict[str, Any]]]  # (stage, shift) -> one judged job per seed


def run(plan: Plan) -> Findings:
    tuned = tune(plan)
    shifts = {IN: {}, **plan.values["shifts"]}
    bases = actors(plan, plan.seeds)
    panels = made(plan, bases, shifts)
    best = settings(plan)[min(tuned, key=lambda s: tuned[s])]
    configs = [plan.config(best, seed=seed).model_dump() for seed in plan.seeds]
    brought = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    jobs = [(stage, shift, i) for stage in STAGES for shift in shifts for i in range(len(configs))]
    items = [
        {
            "config": actor_config(plan, seed),
            "actor": bases[seed],
            "critic": brought[i][stage],
            "options": shifts[shift],
            "rate": panels[seed, shift]["rate"],
        }
        for stage, shift, i in jobs
        for seed in (plan.seeds[i],)
    ]
    table: Table = {}
    for (stage, shift, _), result in zip(jobs, plan.jobs.map(judged, items), strict=True):
        table.setdefault((stage, shift), []).append(result)
    constants = {s: mean([panels[seed, s]["mse_constant"] for seed in plan.seeds]) for s in shifts}
    return report(plan, table, constants, tuned)


def settings(plan: Plan) -> dict[str, dict[str, Any]]:
    """Name -> overrides of every point of the grid."""
    return expand(
        {"genac": {"algorithm": "genac", **plan.values["critic"], "grid": plan.values["grid"]}}
    )


def tune(plan: Plan) -> dict[str, float]:
    """Each setting's error after RL, the mean over the tuning seeds."""
    seeds, options = plan.values["tuning_seeds"], settings(plan)
    bases = actors(plan, seeds)
    panels = made(plan, bases, {IN: {}})
    jobs = [(name, seed) for name in options for seed in seeds]
    configs = [plan.config(options[name], seed=seed).model_dump() for name, seed in jobs]
    results = trained_and_judged(plan, bases, panels, configs, ["rl"] * len(jobs))
    errors: dict[str, list[float]] = {}
    for (name, _), result in zip(jobs, results, strict=True):
        errors.setdefault(name, []).append(result["mse"])
    return {name: mean(values) for name, values in errors.items()}


def report(
    plan: Plan, table: Table, constants: dict[str, float], tuned: dict[str, float]
) -> Findings:
    shifts = list(constants)
    errors = {
        stage: {shift: interval([r["mse"] for r in table[stage, shift]]) for shift in shifts}
        for stage in STAGES
    }
    differences = {s: compare(table["rl", s], table["sft", s], "mse", "difference") for s in shifts}
    gains = {
        s: interval(
            [1 - r["mse"] / f["mse"] for r, f in zip(table["rl", s], table["sft", s], strict=True)]
        )
        for s in shifts
    }
    figures = {
        "stage2_relative_gain": gains[IN],
        "stage2_relative_gain_by_shift": gains,
        "rl_minus_sft_by_shift": differences,
        "errors": errors,
        "constant": constants,
        "tuning": tuned,
    }
    rows = [
        {
            "claim": f"RL pretraining lowers the error of SFT ({shift})",
            "ours": f"{brackets(differences[shift], 4)}; by training {show(gains[shift])} of it",
            "verdict": verdict(below(differences[shift], 0), above(differences[shift], 0)),
        }
        for shift in shifts
    ]
    return Findings(figures, rows)


def text(plan: Plan, record: Record) -> str:
    errors, gains = record["errors"], record["stage2_relative_gain_by_shift"]
    head = [
        f"Squared error after SFT and after RL, seeds {plan.seeds}: mean [95 % t interval over "
        "trainings]. The difference has a 95 % bootstrap interval over problems.",
        "",
        "| panel | best constant | SFT | SFT + RL | RL minus SFT | share of SFT's error removed |",
        "|---|---|---|---|---|---|",
    ]
    body = [
        f"| {shift} | {constant:.4f} | {show(errors['sft'][shift], 4)} | "
        f"{show(errors['rl'][shift], 4)} | {brackets(record['rl_minus_sft_by_shift'][shift], 4)} "
        f"| {show(gains[shift])} |"
        for shift, constant in record["constant"].items()
    ]
    tail = [
        "",
        f"Tuned on seeds {plan.values['tuning_seeds']} by the error in distribution after RL:",
        "",
        "| setting | error |",
        "|---|---|",
        *(
            f"| {name.removeprefix('genac,')} | {error:.4f} |"
            for name, error in record["tuning"].items()
        ),
    ]
    return "\n".join([*head, *body, *tail])
