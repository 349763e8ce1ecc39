"""How well a critic judges solutions that others wrote: ranking, calibration, first errors.

Intervals are 95 % bootstrap intervals over problems. A pair with a missing score counts as half
won, like a guess, and a missing score is a squared error of 1.

Shapes: _N solution or state, _P problem.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genac.evals.critic import ratio, safe_ratio
from genac.evals.solution_files import Solution
from genac.ops import stats
from genac.tasks.files import hash_fraction

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
THRESHOLDS = 101  # quantiles of the scores that are tried
Row = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """A solution with its values: `values[i]` after `counts[i]` segments; None = missing."""

    solution: Solution
    counts: tuple[int, ...]  # ascending, from 0 (nothing) to all segments
    values: tuple[float | None, ...]

    def at(self, fraction: float) -> float:
        """The value of the longest judged prefix of at most this part of the text."""
        known = [i for i, c in enumerate(self.counts) if self.solution.fraction(c) <= fraction]
        return number(self.values[known[-1]])

    def after_steps(self) -> np.ndarray:
        """(S,) the value after each segment; NaN = missing."""
        of = dict(zip(self.counts, self.values, strict=True))
        return np.array([number(of.get(i + 1)) for i in range(len(self.solution.segments))])


def number(value: float | None) -> float:
    return float("nan") if value is None else value


def measure(judged: Sequence[Judged], threshold: float | None) -> Row:
    """All that the file's labels allow. `threshold`: below it a step counts as wrong; None = chosen
    on one half of the problems and measured on the other.
    """
    values = [v for j in judged for v in j.values]
    result: Row = {
        "solutions": len(judged),
        "problems": len({j.solution.problem for j in judged}),
        "states": len(values),
        "missing": sum(v is None for v in values),
    }
    if outcomes := [j for j in judged if j.solution.correct is not None]:
        result["outcome"] = outcome(outcomes)
        result["calibration"] = calibration(outcomes)
    if located := [j for j in judged if j.solution.first_error is not None]:
        result["first_error"] = thresholded(located, threshold, first_error_sums, first_error_f1)
    if stepwise := [j for j in judged if j.solution.labels is not None]:
        result["step_labels"] = step_labels(stepwise, threshold)
    return result


# --- the outcome ----------------------------------------------------------------------------------


def outcome(judged: Sequence[Judged]) -> Row:
    """AUC of the outcome by the part of the solution that was read, pooled and within problems."""
    right_N = np.array([j.solution.correct for j in judged])
    problems = [j.solution.problem for j in judged]
    rows = []
    for fraction in FRACTIONS:
        score_N = np.array([j.at(fraction) for j in judged])
        pairs_P2 = np.array([pairs(s, y) for s, y in by_problem(problems, score_N, right_N)])
        rows.append(
            {
                "fraction": fraction,
                "missing": int(np.isnan(score_N).sum()),
                "auc": pooled_auc(score_N, right_N),
                "auc_interval": auc_interval(problems, score_N, right_N),
                "auc_within_problem": ratio(pairs_P2.sum(0)),
                "auc_within_problem_interval": sums_interval(pairs_P2, safe_ratio),
            }
        )
    mixed = sum(bool(0 < y.sum() < len(y)) for (y,) in by_problem(problems, right_N))
    return {
        "correct_rate": float(right_N.mean()),
        "problems_with_both": mixed,
        "by_fraction": rows,
    }


def pairs(score_N: np.ndarray, right_N: np.ndarray) -> tuple[float, float]:
    """(pairs of right and wrong ranked rightly, pairs); half of a pair with a missing score."""
    known_N = np.isfinite(score_N)
    won, known = stats.auc_pairs(score_N[known_N], right_N[known_N])
    every = float(right_N.sum()) * float((~right_N).sum())
    return won + (every - known) / 2, every


def pooled_auc(score_N: np.ndarray, right_N: np.ndarray) -> float | None:
    return ratio(pairs(score_N, right_N))


def auc_interval(
    problems: Sequence[str], score_N: np.ndarray, right_N: np.ndarray
) -> list[float] | None:
    """Whole problems are drawn; draws of one class only are left out."""
    if pooled_auc(score_N, right_N) is None:
        return None
    clusters = [np.stack([s, y], -1) for s, y in by_problem(problems, score_N, right_N)]
    return list(
        stats.bootstrap_interval(
            clusters, lambda rows: number(pooled_auc(rows[:, 0], rows[:, 1].astype(bool)))
        )
    )


def calibration(judged: Sequence[Judged]) -> Row:
    """Values of all states against the outcome, where a value is read as a probability."""
    problems = [j.solution.problem for j in judged for _ in j.values]
    right_N = np.array([float(bool(j.solution.correct)) for j in judged for _ in j.values])
    value_N = np.array([number(v) for j in judged for v in j.values]).clip(0, 1)
    error_N = np.where(np.isnan(value_N), 1.0, (value_N - right_N) ** 2)
    sums_P2 = np.array([(e.sum(), len(e)) for (e,) in by_problem(problems, error_N)])
    known_N = np.isfinite(value_N)
    result: Row = {
        "brier": ratio(sums_P2.sum(0)),
        "brier_interval": sums_interval(sums_P2, safe_ratio),
        "brier_constant": float(right_N.var()),
        "expected_calibration_error": None,
        "reliability": [],
    }
    if known_N.any():
        pair = value_N[known_N], right_N[known_N]
        result["expected_calibration_error"] = stats.expected_calibration_error(*pair)
        result["reliability"] = stats.calibration_bins(*pair)
    return result


# --- steps ----------------------------------------------------------------------------------------


def predicted_error(value_S: np.ndarray, threshold: float) -> int | None:
    """Index of the first step after which the value is below the threshold, -1 = none; None where
    a missing score before it leaves that open.
    """
    for index, value in enumerate(value_S.tolist()):
        if value != value:
            return None
        if value < threshold:
            return index
    return -1


def first_error_sums(judged: Sequence[Judged], threshold: float) -> np.ndarray:
    """(P, 4) hits and solutions with an error, hits and solutions without one, by problem."""
    rows = np.zeros((len(judged), 4))
    for row, one in zip(rows, judged, strict=True):
        at = 2 if one.solution.first_error == -1 else 0
        hit = predicted_error(one.after_steps(), threshold) == one.solution.first_error
        row[at : at + 2] = hit, 1
    return sums_of(judged, rows)


def first_error_f1(sums: np.ndarray) -> np.ndarray:
    """ProcessBench's F1 of sums (..., 4): the harmonic mean of the accuracies on solutions with
    and without an error (Zheng et al. 2412.06559).
    """
    wrong, right = safe_ratio(sums[..., :2]), safe_ratio(sums[..., 2:])
    both = wrong + right
    return np.divide(2 * wrong * right, both, out=np.zeros_like(both), where=both != 0)


def step_labels(judged: Sequence[Judged], threshold: float | None) -> Row:
    """AUC of right against wrong steps by the value after each, and F1 of finding the wrong ones.

    Neutral steps are left out.
    """
    problems = [j.solution.problem for j in judged for y in labels_of(j) if y is not None]
    right_N = np.array([y for j in judged for y in labels_of(j) if y is not None], bool)
    score_N = np.array(
        [
            v
            for j in judged
            for v, y in zip(j.after_steps(), labels_of(j), strict=True)
            if y is not None
        ]
    )
    return {
        "steps": len(right_N),
        "wrong_steps": int((~right_N).sum()),
        "missing": int(np.isnan(score_N).sum()),
        "auc": pooled_auc(score_N, right_N),
        "auc_interval": auc_interval(problems, score_N, right_N),
    } | thresholded(judged, threshold, wrong_step_sums, wrong_step_f1)


def labels_of(judged: Judged) -> tuple[bool | None, ...]:
    assert judged.solution.labels is not None
    return judged.solution.labels


def wrong_step_sums(judged: Sequence[Judged], threshold: float) -> np.ndarray:
    """(P, 3) true positives, false positives, false negatives of wrong steps; a missing score is
    no positive.
    """
    rows = np.zeros((len(judged), 3))
    for row, one in zip(rows, judged, strict=True):
        for value, label in zip(one.after_steps().tolist(), labels_of(one), strict=True):
            if label is not None:
                row += (
                    not label and value < threshold,
                    label and value < threshold,
                    not label and not value < threshold,
                )
    return sums_of(judged, rows)


def wrong_step_f1(sums: np.ndarray) -> np.ndarray:
    """2 tp / (2 tp + fp + fn) of sums (..., 3); not a number where no step is wrong."""
    tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
    total = 2 * tp + fp + fn
    return np.divide(2 * tp, total, out=np.full(total.shape, np.nan), where=tp + fn > 0)


Sums = Callable[[Sequence[Judged], float], np.ndarray]
Score = Callable[[np.ndarray], np.ndarray]


def thresholded(
    judged: Sequence[Judged], threshold: float | None, sums_at: Sums, score: Score
) -> Row:
    """An F1 with its threshold: that of the command line on everything, or the best one on half of
    the problems, by their hash, measured on the other half.
    """
    chosen_on = "the command line"
    measured: Sequence[Judged] = judged
    if threshold is None:
        first = [j for j in judged if hash_fraction(j.solution.problem) < 0.5]
        measured = [j for j in judged if hash_fraction(j.solution.problem) >= 0.5]
        threshold = best_threshold(first, sums_at, score)
        chosen_on = f"{len(first)} of {len(judged)} solutions, by a hash of the problem"
    empty: Row = {"threshold": threshold, "threshold_chosen_on": chosen_on, "f1": None}
    if threshold is None or not measured:
        return empty | {"f1_interval": None, "solutions": len(measured)}
    sums_PD = sums_at(measured, threshold)
    result = float(score(sums_PD.sum(0)))
    detail = empty | {
        "f1": result if np.isfinite(result) else None,
        "f1_interval": sums_interval(sums_PD, score),
        "solutions": len(measured),
    }
    if sums_at is first_error_sums:
        total = sums_PD.sum(0)
        detail |= {"accuracy_error": ratio(total[:2]), "accuracy_correct": ratio(total[2:])}
    return detail


def best_threshold(judged: Sequence[Judged], sums_at: Sums, score: Score) -> float | None:
    """The quantile of the scores with the highest F1; None where no threshold has one."""
    scores = np.concatenate([j.after_steps() for j in judged]) if judged else np.zeros(0)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return None
    tried = np.unique(np.quantile(scores, np.linspace(0, 1, THRESHOLDS), method="nearest"))
    # A value below the threshold is wrong, so the highest one needs a threshold above it.
    tried = np.append(tried, tried[-1] + stats.ROUNDING)
    results = np.array([float(score(sums_at(judged, float(t)).sum(0))) for t in tried])
    if not np.isfinite(results).any():
        return None
    return float(tried[int(np.nanargmax(results))])


# --- by problem -----------------------------------------------------------------------------------


def by_problem(problems: Sequence[str], *columns_N: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """The columns cut by problem, in the order of the problems."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, problem in enumerate(problems):
        places[problem].append(index)
    return [tuple(column[rows] for column in columns_N) for rows in places.values()]


def sums_of(judged: Sequence[Judged], rows_ND: np.ndarray) -> np.ndarray:
    """(P, D) sums by problem."""
    return np.array(
        [rows.sum(0) for (rows,) in by_problem([j.solution.problem for j in judged], rows_ND)]
    )


def sums_interval(sums_PD: np.ndarray, statistic: Score) -> list[float] | None:
    low, high = stats.bootstrap_sums(sums_PD, statistic)
    return None if low is None or high is None else [low, high]
