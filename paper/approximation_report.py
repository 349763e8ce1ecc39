"""The summary of the approximation experiment: figures, verdicts, text, drawings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from genac.evals.critic import POOLS
from genac.ui.figures import reliability
from paper.critics import mean, plain
from paper.figures import dots, lines
from paper.pairs import compare
from paper.plan import Findings, Plan, Record
from paper.runs import interval, show
from paper.verdicts import above, below, brackets, shown, verdict

IN = "none"  # the panel without shift
UNSHIFTED_RATE = (
    " (with the rate in distribution)"  # the generative critic's row that is conditioned on no more
)


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
    summary = {
        critic: {shift: across(table[critic, shift]) for shift in shifts} for critic in critics
    }
    figures = comparisons(table, shifts, gen, sft, best)
    pools = figures["top1_by_pool"]
    baseline = float(np.mean([p["mse_constant"] for (_, s), p in panels.items() if s == IN]))
    return Findings(
        figures,
        rows(figures, pools, Heads.of(plan, chosen, summary[best][IN]["mse"]["mean"], baseline)),
        {
            "": drawing(summary, shifts, [gen, sft, best]),
            "pools": pool_drawing(pools),
            "reliability": reliability(
                "Reliability in distribution (first seed)",
                {c: table[c, IN][0].get("calibration", []) for c in (gen, best)},
            ),
        },
        {
            "critics": summary,
            "cells": {
                f"{c} | {s}": [plain(x) for x in results] for (c, s), results in table.items()
            },
            "panels": {f"seed {seed} | {s}": p for (seed, s), p in panels.items()},
            "tuning": chosen,
        },
    )


def comparisons(
    table: dict[tuple[str, str], list[dict[str, Any]]],
    shifts: list[str],
    gen: str,
    sft: str,
    best: str,
) -> dict[str, Any]:
    """The generative critic against the best head and against its own SFT, by shift."""

    def by_shift(a: str, b: str, key: str, how: str) -> dict[str, Any]:
        return {s: compare(table[a, s], table[b, s], key, how) for s in shifts}

    return {
        "mse_ratio_by_shift": by_shift(gen, best, "mse", "ratio"),
        "mse_ratio_without_shifted_rate": by_shift(gen + UNSHIFTED_RATE, best, "mse", "ratio"),
        "auc_gap_by_shift": by_shift(gen, best, "auc_within_problem", "difference"),
        "top1_by_pool": {s: top1_by_pool(table[gen, s], table[best, s]) for s in shifts},
        "rl_minus_sft_by_shift": by_shift(gen, sft, "mse", "difference"),
    }


def top1_by_pool(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Pool size -> the accuracies, chance, and the difference with its interval."""
    return {
        str(k): {
            **compare(ours, theirs, f"top1_{k}", "difference"),
            "generative": pooled(ours, f"top1_{k}"),
            "discriminative": pooled(theirs, f"top1_{k}"),
            "chance": pooled(ours, f"chance_{k}"),
        }
        for k in POOLS
    }


def pooled(results: list[dict[str, Any]], key: str) -> float | None:
    """A ratio of sums over the problems of all seeds."""
    total = np.concatenate([c["by_problem"][key] for c in results]).sum(0)
    return float(total[0] / total[1]) if total[1] else None


def across(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with t intervals."""
    keys = ("mse", "mse_corrected", "auc_within_problem", "auc_ceiling", "parse_rate", "mse_noise")
    out = {
        k: interval([c[k] for c in results]) for k in keys if None not in [c[k] for c in results]
    }
    parts = results[0]["mse_by_fraction"]
    out["mse_by_fraction"] = {p: pooled(results, f"mse, {p}") for p in parts}
    return out


@dataclass(frozen=True)
class Heads:
    """Whether the best value head speaks for value heads: one that is no better than a constant may
    only have been trained too little, unless the longest training of the grid was no better."""

    best: str
    remark: str
    enough: bool

    @classmethod
    def of(cls, plan: Plan, chosen: dict[str, Any], error: float, baseline: float) -> Heads:
        best, longest = chosen["best discriminative"], plan.values.get("longest")
        if error < baseline:
            return cls(best, "", True)
        flat = "no better than the best constant in hindsight"
        if longest is None or longest == best:
            return cls(best, f"; {flat}, perhaps trained too little", False)
        tried = min(e for s, e in chosen["grid"].items() if s.startswith(longest))
        own = min(e for s, e in chosen["grid"].items() if s.startswith(best))
        return cls(best, f"; {flat}; {longest}: {tried:.4f} against {own:.4f} when tuned", True)


def rows(figures: dict[str, Any], pools: Any, heads: Heads) -> list[dict[str, str]]:
    """Verdicts on heads stay undecided where the heads' training may simply be too short."""
    compared = error_rows(figures, heads) + ranking_rows(figures, pools)
    if not heads.enough:
        compared = [row | {"verdict": "undecided"} for row in compared]
    stage2 = figures["rl_minus_sft_by_shift"]
    return [
        *compared,
        {
            "claim": "RL pretraining lowers the error of SFT",
            "ours": each(stage2, 4),
            "verdict": verdict(below(stage2[IN], 0), above(stage2[IN], 0)),
        },
    ]


def error_rows(figures: dict[str, Any], heads: Heads) -> list[dict[str, str]]:
    ratios, without = figures["mse_ratio_by_shift"], figures["mse_ratio_without_shifted_rate"]
    last = list(ratios)[-1]
    return [
        {
            "claim": "generative error below discriminative in distribution",
            "ours": f"ratio {brackets(ratios[IN])} ({heads.best}{heads.remark})",
            "verdict": verdict(below(ratios[IN], 1), above(ratios[IN], 1)),
        },
        {
            "claim": "(aim) at most a quarter of it",
            "ours": f"ratio {brackets(ratios[IN])}",
            "verdict": verdict(below(ratios[IN], 0.25), above(ratios[IN], 0.25)),
        },
        {
            "claim": "generative error below discriminative under every shift",
            "ours": each(ratios) + "; with the rate in distribution only: " + each(without),
            "verdict": verdict(
                all(below(r, 1) for r in [*ratios.values(), *without.values()]),
                any(above(r, 1) for r in ratios.values()),
            ),
        },
        {
            "claim": "(aim) at most half of it under every shift",
            "ours": each(ratios),
            "verdict": verdict(
                all(below(r, 0.5) for r in ratios.values()),
                any(above(r, 0.5) for r in ratios.values()),
            ),
        },
        {
            "claim": "the gap widens with the shift",
            "ours": f"ratio {brackets(ratios[IN])} without, {brackets(ratios[last])} at {last}",
            "verdict": verdict(
                ratios[last]["high"] < ratios[IN]["low"], ratios[last]["low"] > ratios[IN]["high"]
            ),
        },
    ]


def ranking_rows(figures: dict[str, Any], pools: Any) -> list[dict[str, str]]:
    aucs = figures["auc_gap_by_shift"]
    sized = [p for shift in pools.values() for p in shift.values() if p["value"] is not None]
    return [
        {
            "claim": "generative ahead in top-1 ranking at every pool size",
            "ours": "in distribution " + each(pools[IN]),
            "verdict": verdict(
                bool(sized) and all(above(p, 0) for p in sized), any(below(p, 0) for p in sized)
            ),
        },
        {
            "claim": "(aim) AUC within a problem at least 0.2 higher",
            "ours": each(aucs),
            "verdict": verdict(
                all(above(a, 0.2) for a in aucs.values()), any(below(a, 0.2) for a in aucs.values())
            ),
        },
    ]


def each(result: dict[str, Any], digits: int = 2) -> str:
    return "; ".join(f"{name} {brackets(row, digits)}" for name, row in result.items())


def text(plan: Plan, record: Record) -> str:
    summary, chosen = record["critics"], record["tuning"]
    shifts = list(record["mse_ratio_by_shift"])
    panels = {
        s: [p for name, p in record["panels"].items() if name.endswith(f" | {s}")] for s in shifts
    }
    titles = [f"{s} (actor {mean([p['rate'] for p in panels[s]]):.2f})" for s in shifts]
    constant = [mean([p["mse_constant"] for p in panels[s]]) for s in shifts]
    ceilings = [
        optional(summary[chosen["best discriminative"]][s], "auc_ceiling", 2) for s in shifts
    ]
    return "\n".join(
        [
            f"Squared error against Monte-Carlo values, seeds {plan.seeds} (base model and critics "
            "made anew for each): mean [95 % t interval over seeds]. Ratios and gaps below: pooled "
            "over the seeds' panels, [95 % bootstrap interval over problems, trainings fixed].",
            "",
            *header("critic", titles),
            "| best constant | " + " | ".join(f"{c:.4f}" for c in constant) + " |",
            *by_critic(summary, shifts, "mse", 4),
            "",
            "AUC within a problem (ceiling: that of the Monte-Carlo values themselves, "
            + ", ".join(ceilings)
            + "):",
            "",
            *header("critic", shifts),
            *by_critic(summary, shifts, "auc_within_problem", 3),
            "",
            comparison(record, chosen["best discriminative"]),
            "",
            details(summary, record),
            "",
            f"Settings tuned on seed {plan.values['tuning_seed']} (error in distribution): "
            + "; ".join(f"{s} {e:.4f}" for s, e in chosen["grid"].items())
            + ".",
        ]
    )


def header(first: str, names: list[str]) -> list[str]:
    return [f"| {first} | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]


def by_critic(summary: Any, shifts: list[str], key: str, digits: int) -> list[str]:
    return [
        f"| {name} | " + " | ".join(optional(row[s], key, digits) for s in shifts) + " |"
        for name, row in summary.items()
    ]


def optional(row: dict[str, Any], key: str, digits: int) -> str:
    return show(row[key], digits) if key in row else "-"


def comparison(figures: Record, best: str) -> str:
    return (
        f"Generative (SFT + RL) to the best value head ({best}): MSE ratio "
        + each(figures["mse_ratio_by_shift"])
        + ". The same, with the rate in distribution under every shift: "
        + each(figures["mse_ratio_without_shifted_rate"])
        + ". AUC gap "
        + each(figures["auc_gap_by_shift"])
        + ". RL minus SFT (MSE) "
        + each(figures["rl_minus_sft_by_shift"], 4)
        + "."
    )


def details(summary: Any, figures: Record) -> str:
    """Ranking by pool size, error by part of the response."""
    return (
        "Top-1 ranking in distribution (value heads' accuracy, chance): "
        + "; ".join(
            f"pool of {k}: {shown(p['generative'], 2)} ({shown(p['discriminative'], 2)}, "
            f"{shown(p['chance'], 2)})"
            for k, p in figures["top1_by_pool"][IN].items()
        )
        + ". Error by part of the response (start, thirds), in distribution: "
        + "; ".join(
            f"{c} " + ", ".join(shown(v) for v in row[IN]["mse_by_fraction"].values())
            for c, row in summary.items()
        )
        + "."
    )


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
