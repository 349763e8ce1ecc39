"""Approximation error and ranking of critics, in distribution and under shift.

For each seed a base model, a generative critic (SFT, then RL) and value heads are made anew, and
all are judged on the same panels. Plan: `critics` (name -> overrides, the `stage` to judge, and a
`grid` tuned on `tuning_seed` by the error in distribution; `like` takes another's tuned settings),
`regression` (value heads on labels without noise), `predictors` (critics without a model),
`shifts` (panel name -> task options), `best_of` (which critics stand for "discriminative": the best
of them on the tuning seed).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from genac.evals.critic import POOLS, compare
from genac.experiments.critics import (
    bring_up,
    judged,
    panel_made,
    plain,
    value_regression,
)
from genac.experiments.plan import Findings, Plan
from genac.experiments.runs import interval, show
from genac.recipes import expand
from genac.runs.figures import dots, lines, reliability

IN = "none"  # the panel without shift


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
    found = plan.cells.map(bring_up, [{"config": c} for c in configs])
    return {seed: f["actor"] for seed, f in zip(seeds, found, strict=True)}


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
    brought = plan.cells.map(bring_up, [{"config": c} for c in configs])
    panel = made(plan, {seed: base}, {IN: {}})[seed, IN]
    items = [
        {
            "config": actor_config(plan, seed),
            "actor": base,
            "critic": found[plan.values["critics"][critic]["stage"]],
            "options": {},
            "rate": panel["rate"],
        }
        for (critic, _, _), found in zip(jobs, brought, strict=True)
    ]
    errors = [found["mse"] for found in plan.cells.map(judged, items)]
    grid = {(c, s): e for (c, s, _), e in zip(jobs, errors, strict=True)}
    best = {c: min(options, key=lambda s, c=c: grid[c, s]) for c, options in settings.items()}
    heads = plan.values["best_of"]
    return {
        "settings": best,
        "grid": {f"{s}": e for (_, s), e in grid.items()},
        "best discriminative": min(heads, key=lambda c: grid[c, best[c]]),
    }


def folders(plan: Plan, chosen: dict[str, Any], seeds: list[int]) -> dict[tuple[str, int], str]:
    """(critic, seed) -> folder, each critic at its tuned setting."""
    wanted, settings = plan.values["critics"], variants_of(plan)
    jobs = [(c, seed) for c in wanted for seed in seeds]
    owner = {c: wanted[c].get("like", c) for c in wanted}
    tuned = {c: settings[o][chosen["settings"][o]] for c, o in owner.items()}
    configs = [plan.config(tuned[c], seed=seed).model_dump() for c, seed in jobs]
    brought = plan.cells.map(bring_up, [{"config": c} for c in configs])
    return {(c, s): b[wanted[c]["stage"]] for (c, s), b in zip(jobs, brought, strict=True)}


def regressions(plan: Plan, bases: dict[int, str]) -> dict[tuple[str, int], str]:
    """Value heads on labels without noise: (name, seed) -> folder."""
    wanted = plan.values.get("regression", {})
    jobs = [(name, seed) for name in wanted for seed in bases]
    items = [
        {
            "config": plan.config(wanted[n]["overrides"], seed=seed).model_dump(),
            "actor": bases[seed],
            "targets": wanted[n]["targets"],
            "learning_rate": wanted[n]["learning_rate"],
        }
        for n, seed in jobs
    ]
    return dict(zip(jobs, plan.cells.map(value_regression, items), strict=True))


def made(
    plan: Plan, bases: dict[int, str], shifts: dict[str, dict[str, Any]]
) -> dict[tuple[int, str], dict[str, float]]:
    """(seed, shift) -> the actor's success and the floors."""
    jobs = [(seed, shift) for seed in bases for shift in shifts]
    items = [
        {"config": actor_config(plan, seed), "actor": bases[seed], "options": shifts[shift]}
        for seed, shift in jobs
    ]
    return dict(zip(jobs, plan.cells.map(panel_made, items), strict=True))


def judge_all(
    plan: Plan,
    bases: dict[int, str],
    critics: dict[tuple[str, int], str],
    panels: dict[tuple[int, str], dict[str, float]],
    shifts: dict[str, dict[str, Any]],
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(critic, shift) -> one judged cell per seed; floors are critics too."""
    names = list(dict.fromkeys(c for c, _ in critics))
    jobs = [
        (c, shift, seed)
        for c in [*names, *plan.values.get("predictors", ())]
        for shift in shifts
        for seed in bases
    ]
    items = [
        {
            "config": actor_config(plan, seed),
            "actor": bases[seed],
            "critic": critics.get((c, seed), c),
            "options": shifts[shift],
            "rate": panels[seed, shift]["rate"],
        }
        for c, shift, seed in jobs
    ]
    found = plan.cells.map(judged, items)
    table: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (critic, shift, _), cell in zip(jobs, found, strict=True):
        table.setdefault((critic, shift), []).append(cell)
    return table


# --- the account ----------------------------------------------------------------------------------


def report(
    plan: Plan,
    table: dict[tuple[str, str], list[dict[str, Any]]],
    panels: dict[tuple[int, str], dict[str, float]],
    best: str,
    chosen: dict[str, Any],
) -> Findings:
    shifts = list(dict.fromkeys(shift for _, shift in table))
    critics = list(dict.fromkeys(critic for critic, _ in table))
    gen, sft = plan.values["generative"], plan.values["generative_sft"]
    ratios = {s: compare(table[gen, s], table[best, s], "mse", "ratio") for s in shifts}
    aucs = {
        s: compare(table[gen, s], table[best, s], "auc_within_problem", "difference")
        for s in shifts
    }
    stage2 = {s: compare(table[gen, s], table[sft, s], "mse", "difference") for s in shifts}
    pools = {
        s: {
            str(k): {
                **compare(table[gen, s], table[best, s], f"top1_{k}", "difference"),
                "generative": pooled(table[gen, s], f"top1_{k}"),
                "discriminative": pooled(table[best, s], f"top1_{k}"),
                "chance": pooled(table[gen, s], f"chance_{k}"),
            }
            for k in POOLS
        }
        for s in shifts
    }
    summary = {
        critic: {shift: across(table[critic, shift]) for shift in shifts} for critic in critics
    }
    figures = {
        "mse_ratio_by_shift": ratios,
        "auc_gap_by_shift": aucs,
        "top1_by_pool": pools,
        "rl_minus_sft_by_shift": stage2,
    }
    return Findings(
        figures,
        rows(ratios, aucs, pools, stage2, best),
        text(plan, summary, panels, ratios, aucs, stage2, best, chosen),
        {
            "": drawing(summary, shifts, [gen, sft, best]),
            "pools": pool_drawing(pools),
            "reliability": reliability(
                "Reliability in distribution (first seed)",
                {c: table[c, IN][0]["calibration"] for c in (gen, best)},
            ),
        },
        {
            "critics": summary,
            "cells": {f"{c} | {s}": [plain(x) for x in cells] for (c, s), cells in table.items()},
            "panels": {f"seed {seed} | {s}": p for (seed, s), p in panels.items()},
            "tuning": chosen,
        },
    )


def pooled(cells: list[dict[str, Any]], key: str) -> float | None:
    """A ratio of sums over the problems of all seeds."""
    total = np.concatenate([c["by_problem"][key] for c in cells]).sum(0)
    return float(total[0] / total[1]) if total[1] else None


def across(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with t intervals."""
    keys = ("mse", "mse_corrected", "auc_within_problem", "auc_ceiling", "parse_rate", "mse_noise")
    out = {k: interval([c[k] for c in cells]) for k in keys if None not in [c[k] for c in cells]}
    parts = cells[0]["mse_by_fraction"]
    out["mse_by_fraction"] = {p: pooled(cells, f"mse, {p}") for p in parts}
    return out


def rows(ratios: Any, aucs: Any, pools: Any, stage2: Any, best: str) -> list[dict[str, str]]:
    inside = ratios[IN]
    worst = max(ratios.values(), key=lambda r: r["high"])
    # A pool size that no problem can fill has no value (not a number).
    sized = [p for shift in pools.values() for p in shift.values() if p["value"] == p["value"]]
    order = [ratios[s]["value"] for s in ratios]
    return [
        {
            "claim": "generative error below discriminative in distribution (aim: ratio <= 0.25)",
            "ours": f"ratio {brackets(inside)} (best value head: {best})",
            "verdict": verdict(inside["high"] < 1, inside["low"] > 1),
        },
        {
            "claim": "... and at every shift (aim: ratio at most 0.5)",
            "ours": "; ".join(f"{s} {brackets(r)}" for s, r in ratios.items()),
            "verdict": verdict(worst["high"] < 1, any(r["low"] > 1 for r in ratios.values())),
        },
        {
            "claim": "the gap widens with the shift",
            "ours": "ratios " + ", ".join(f"{v:.2f}" for v in order),
            "verdict": verdict(order == sorted(order, reverse=True), order == sorted(order)),
        },
        {
            "claim": "generative ahead in top-1 ranking at every pool size",
            "ours": "; ".join(
                f"{k}: {brackets(p, 2)}" for k, p in pools[IN].items() if p["value"] == p["value"]
            )
            + " in distribution",
            "verdict": verdict(all(p["low"] > 0 for p in sized), any(p["high"] < 0 for p in sized)),
        },
        {
            "claim": "(ours) AUC within a problem at least 0.2 higher",
            "ours": "; ".join(f"{s} {brackets(a, 2)}" for s, a in aucs.items()),
            "verdict": verdict(
                all(a["low"] >= 0.2 for a in aucs.values()),
                any(a["high"] < 0.2 for a in aucs.values()),
            ),
        },
        {
            "claim": "RL pretraining lowers the error of SFT",
            "ours": "; ".join(f"{s} {brackets(d, 4)}" for s, d in stage2.items()),
            "verdict": verdict(stage2[IN]["high"] < 0, stage2[IN]["low"] > 0),
        },
    ]  # fmt: skip


def verdict(agrees: bool, disagrees: bool) -> str:
    return "agrees" if agrees else "disagrees" if disagrees else "undecided"


def brackets(found: dict[str, float], digits: int = 2) -> str:
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def text(plan, summary, panels, ratios, aucs, stage2, best, chosen) -> str:
    shifts = list(ratios)
    rates = {s: interval([p["rate"] for (_, x), p in panels.items() if x == s]) for s in shifts}
    floor = {
        s: interval([p["mse_constant"] for (_, x), p in panels.items() if x == s]) for s in shifts
    }
    head = [
        f"Squared error against Monte-Carlo values, seeds {plan.seeds} (base model and critics "
        "made anew for each): mean [95 % t interval over seeds]. Ratios and gaps below: pooled "
        "over the seeds' panels, [95 % bootstrap interval over problems, trainings fixed].",
        "",
        "| critic | " + " | ".join(f"{s} (actor {rates[s]['mean']:.2f})" for s in shifts) + " |",
        "|---" * (1 + len(shifts)) + "|",
        "| best constant | " + " | ".join(f"{floor[s]['mean']:.4f}" for s in shifts) + " |",
    ]
    body = [
        f"| {name} | " + " | ".join(show(row[s]["mse"], 4) for s in shifts) + " |"
        for name, row in summary.items()
    ]
    aucs_by = [
        f"| {name} | " + " | ".join(
            show(row[s]["auc_within_problem"], 3) if "auc_within_problem" in row[s] else "-"
            for s in shifts
        ) + " |"
        for name, row in summary.items()
    ]  # fmt: skip
    tail = [
        "",
        "AUC within a problem (ceiling: that of the Monte-Carlo values themselves, "
        + ", ".join(f"{show(summary[best][s]['auc_ceiling'], 2)}" for s in shifts)
        + "):",
        "",
        "| critic | " + " | ".join(shifts) + " |",
        "|---" * (1 + len(shifts)) + "|",
        *aucs_by,
        "",
        f"Generative (SFT + RL) to the best value head ({best}): MSE ratio "
        + "; ".join(f"{s} {brackets(ratios[s])}" for s in shifts)
        + ". AUC gap "
        + "; ".join(f"{s} {brackets(aucs[s])}" for s in shifts)
        + ". RL minus SFT (MSE) "
        + "; ".join(f"{s} {brackets(stage2[s], 4)}" for s in shifts)
        + ".",
        "",
        f"Settings tuned on seed {plan.values['tuning_seed']} (error in distribution): "
        + "; ".join(f"{s} {e:.4f}" for s, e in chosen["grid"].items())
        + ".",
    ]
    return "\n".join([*head, *body, *tail])


def drawing(summary: Any, shifts: list[str], names: list[str]) -> str:
    return dots(
        "Squared error against Monte-Carlo values, by distribution shift",
        {name: {s: summary[name][s]["mse"] for s in shifts} for name in names},
        "MSE",
    )


def pool_drawing(pools: dict[str, Any]) -> str:
    """Top-1 accuracy by pool size, in distribution, with the chance line."""
    series = {
        name: [
            (float(k), {"mean": p[name], "low": None})
            for k, p in pools[IN].items()
            if p[name] is not None
        ]
        for name in ("generative", "discriminative", "chance")
    }
    return lines("Top-1 ranking accuracy", series, "pool size", "accuracy", log_x=True)
