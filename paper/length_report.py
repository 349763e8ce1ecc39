"""Figures, verdicts and tables of the length experiment.

A claim over several panels holds where each of them shows it: its p value is the largest of theirs
(two-sided t over trainings, of log ratios). Holm's correction is over the rivals of each kind of
claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genac.ops.stats import mean_interval
from paper.approximation_report import IN
from paper.claims import LEVEL, holm, p_value, ratio
from paper.critics import mean
from paper.pairs import compare
from paper.plan import Findings, Plan, Record
from paper.runs import interval, show
from paper.verdicts import above, below, brackets, verdict

SFT = " (SFT)"  # what an arm is called before RL
HALF = 0.5
Table = dict[tuple[str, str], list[dict[str, Any]]]  # (critic, shift) -> one judged job per seed
Panels = dict[tuple[int, str], dict[str, float]]
ByShift = dict[str, dict[str, Any]]


def report(plan: Plan, table: Table, panels: Panels, updates: dict[str, list[int]]) -> Findings:
    critics = list(dict.fromkeys(critic for critic, _ in table))
    shifts = list(dict.fromkeys(shift for _, shift in table))
    generative = [arm for arm in plan.values["arms"] if arm not in plan.values["heads"]]
    best = {s: min(plan.values["heads"], key=lambda h, s=s: error(table[h, s])) for s in shifts}
    points = {critic: point(table, critic, shifts) for critic in critics}
    figures = {
        "mse_ratio_by_shift": {
            arm: {s: versus(table[arm, s], table[best[s], s]) for s in shifts} for arm in generative
        },
        "error_per_token": points,
        "stage2_relative_gain": {
            arm: {s: gain(table[arm + SFT, s], table[arm, s]) for s in shifts} for arm in generative
        },
        "mse_ratio_of_pairs": {
            f"{a} / {b}": {s: versus(table[a, s], table[b, s]) for s in shifts}
            for a, b in plan.values["pairs"]
        },
        "rl_over_sft": {
            arm: {s: versus(table[arm, s], table[arm + SFT, s]) for s in shifts}
            for arm in generative
        },
        "best_head": best,
        "constant": {
            s: mean([panels[seed, s]["mse_constant"] for seed in plan.seeds]) for s in shifts
        },
        "panels": {f"seed {seed} | {s}": panel for (seed, s), panel in panels.items()},
        "by_problem": {
            f"{critic} | {s}": [sums(one) for one in results]
            for (critic, s), results in table.items()
        },
        "sft_updates": updates,
    }
    return Findings(figures, rows(plan, figures))


# --- figures --------------------------------------------------------------------------------------


def error(results: Sequence[dict[str, Any]]) -> float:
    return mean([one["mse"] for one in results])


def versus(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Error of a by that of b: pooled with its interval over problems, and over trainings."""
    result = compare(a, b, "mse", "ratio")
    centre, low, high = mean_interval(np.log(result["by_training"]))
    over = {"mean": float(np.exp(centre))}
    over |= {k: None if v is None else float(np.exp(v)) for k, v in (("low", low), ("high", high))}
    return result | {"over_trainings": over}


def gain(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The share of the error before that is gone after."""
    return interval([1 - x["mse"] / y["mse"] for x, y in zip(after, before, strict=True)])


def point(table: Table, critic: str, shifts: Sequence[str]) -> dict[str, Any]:
    """Where a critic stands between error and tokens, on every panel."""
    kinds = table[critic, IN][0]["tokens"]
    keys = {"error": "mse", "auc_within_problem": "auc_within_problem", "parse_rate": "parse_rate"}
    return {
        s: {name: interval([one[key] for one in table[critic, s]]) for name, key in keys.items()}
        | {
            "tokens_per_value": {
                k: interval([one["tokens"][k] for one in table[critic, s]]) for k in kinds
            }
        }
        for s in shifts
    }


def sums(result: dict[str, Any]) -> dict[str, list[float]]:
    """Problem -> its squared error and its states, from which any interval can be made again."""
    by_problem = result["by_problem"]["mse"]
    return {
        problem: [round(number, 6) for number in pair]
        for problem, pair in zip(result["problem_ids"], by_problem, strict=True)
    }


# --- verdicts -------------------------------------------------------------------------------------


def rows(plan: Plan, figures: dict[str, Any]) -> list[dict[str, str]]:
    """The aim for every critic, what more lengths and notes change, and what RL adds."""
    heads = {
        f"(aim) {arm}: at most half of the best head's error in distribution and at every shift": r
        for arm, r in figures["mse_ratio_by_shift"].items()
    }
    pairs = {
        f"(ours) {a}: error below that of {b} at 8 and 9 steps": {
            s: r for s, r in figures["mse_ratio_of_pairs"][f"{a} / {b}"].items() if "steps" in s
        }
        for a, b in plan.values["pairs"]
    }
    stages = {
        f"RL pretraining lowers the error of SFT in distribution and at every shift ({arm})": r
        for arm, r in figures["rl_over_sft"].items()
    }
    return judge(heads, HALF) + judge(pairs, 1.0) + judge(stages, 1.0)


def judge(claims: dict[str, ByShift], mark: float) -> list[dict[str, str]]:
    """A row for each claim that all of its ratios lie below the mark, corrected for all claims."""
    corrected = holm([p_of(ratios, mark) for ratios in claims.values()])
    return [
        {
            "claim": claim,
            "ours": "; ".join(f"{s} {brackets(r)}" for s, r in ratios.items()) + f"; p {p:.3f}",
            "verdict": verdict(
                p < LEVEL and all(below(r, mark) for r in ratios.values()),
                any(above(r, mark) for r in ratios.values()),
            ),
        }
        for (claim, ratios), p in zip(claims.items(), corrected, strict=True)
    ]


def p_of(ratios: ByShift, mark: float) -> float:
    """That all ratios lie below the mark: the largest p of theirs, 1 where one lies above."""
    logs = [np.log(r["by_training"]) - np.log(mark) for r in ratios.values()]
    return max(p_value(values) if np.mean(values) < 0 else 1.0 for values in logs)


# --- text -----------------------------------------------------------------------------------------


def text(plan: Plan, record: Record) -> str:
    points, best, shifts = record["error_per_token"], record["best_head"], [*record["constant"]]
    parts = [
        f"Squared error against Monte-Carlo values, seeds {plan.seeds}: mean [95 % t interval over "
        "trainings]. A row without (SFT) is after RL.",
        grid(
            "critic",
            {"best constant": {s: f"{record['constant'][s]:.4f}" for s in shifts}}
            | {c: {s: show(points[c][s]["error"], 4) for s in shifts} for c in points},
            shifts,
        ),
        "Error by that of the best head of each panel "
        f"({'; '.join(f'{s}: {head}' for s, head in best.items())}). The aim is 0.5. Pooled [95 % "
        "bootstrap interval over problems, trainings fixed]:",
        grid("critic", pooled(record["mse_ratio_by_shift"]), shifts),
        "The same as geometric mean [95 % t interval over trainings]:",
        grid("critic", by_training(record["mse_ratio_by_shift"]), shifts),
        "Error of one critic by another's, pooled:",
        grid("critics", pooled(record["mse_ratio_of_pairs"]), shifts),
        "The same as geometric mean:",
        grid("critics", by_training(record["mse_ratio_of_pairs"]), shifts),
        "Share of SFT's error that RL removed, mean [95 % t interval over trainings]:",
        grid(
            "critic",
            {
                arm: {s: show(g, 3) for s, g in gains.items()}
                for arm, gains in record["stage2_relative_gain"].items()
            },
            shifts,
        ),
        "AUC within a problem:",
        grid(
            "critic",
            {c: {s: show(points[c][s]["auc_within_problem"]) for s in shifts} for c in points},
            shifts,
        ),
        "Tokens per value, mean over trainings: written by the critic + read once, as an engine "
        "would that keeps all keys and values (read and written as the local engine does it).",
        grid(
            "critic",
            {c: {s: tokens(points[c][s]["tokens_per_value"]) for s in shifts} for c in points},
            shifts,
        ),
        "Updates of SFT by seed: "
        + "; ".join(f"{arm} {counts}" for arm, counts in record["sft_updates"].items())
        + ".",
        "A generative critic knows the actor's success on each panel, a head does not. "
        "Every value is the mean of two rationales, or of two passes with notes, and their tokens "
        "count twice. The local engine keeps no keys and values between the notes of a response. "
        "So it reads the text so far again for each note.",
    ]
    return "\n\n".join(parts)


def grid(corner: str, cells: dict[str, dict[str, str]], shifts: Sequence[str]) -> str:
    head = [f"| {corner} | {' | '.join(shifts)} |", "|---" * (len(shifts) + 1) + "|"]
    body = [f"| {name} | {' | '.join(row[s] for s in shifts)} |" for name, row in cells.items()]
    return "\n".join([*head, *body])


def pooled(ratios: dict[str, ByShift]) -> dict[str, dict[str, str]]:
    return {name: {s: brackets(r) for s, r in row.items()} for name, row in ratios.items()}


def by_training(ratios: dict[str, ByShift]) -> dict[str, dict[str, str]]:
    return {
        name: {s: ratio(r["by_training"]) for s, r in row.items()} for name, row in ratios.items()
    }


def tokens(kinds: dict[str, dict[str, Any]]) -> str:
    """12.3 + 4.5 (56.7)"""
    written, read, processed = (kinds[k]["mean"] for k in ("written", "read", "processed"))
    return f"{written:.1f} + {read:.1f} ({processed:.1f})"
