"""Statistics of predictions against outcomes, in numpy only.

Arrays are 1-D of one length _N unless stated otherwise. What is undefined (a correlation with a
constant, an AUC of one class) is None, never 0 and never NaN, so that it survives JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Two values that differ by rounding only are equal: float32 0.7 is not below a bin's edge at 0.7.
ROUNDING = 1e-6

# 97.5 % quantiles of Student's t with 1..30 degrees of freedom, the normal's beyond.
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL_QUANTILE = 1.96


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Two non-empty 1-D float64 arrays of one length."""
    a_N, b_N = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a_N.ndim == 1 and a_N.shape == b_N.shape, f"shapes {a_N.shape} and {b_N.shape} differ"
    assert len(a_N) > 0, "no observations"
    return a_N, b_N


# --- errors -------------------------------------------------------------------------------------


def mse(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean squared error, mean (p - y)^2. Two (N,) -> float."""
    p_N, y_N = _pair(predicted, actual)
    return float(np.mean((p_N - y_N) ** 2))


def mae(predicted: ArrayLike, actual: ArrayLike) -> float:
    """Mean absolute error, mean |p - y|. Two (N,) -> float."""
    p_N, y_N = _pair(predicted, actual)
    return float(np.mean(np.abs(p_N - y_N)))


def explained_variance(predicted: ArrayLike, actual: ArrayLike) -> float | None:
    """1 - Var(y - p) / Var(y): 1 is perfect, 0 no better than a constant, below 0 worse.

    Blind to a constant offset of p. None when y is constant. Two (N,) -> float.
    """
    p_N, y_N = _pair(predicted, actual)
    if np.ptp(y_N) == 0:
        return None
    return float(1 - np.var(y_N - p_N) / np.var(y_N))


# --- ordering -----------------------------------------------------------------------------------


def pearson(a: ArrayLike, b: ArrayLike) -> float | None:
    """Cov(a, b) / (std a std b). None when either is constant. Two (N,) -> float in [-1, 1]."""
    a_N, b_N = _pair(a, b)
    if np.ptp(a_N) == 0 or np.ptp(b_N) == 0:
        return None
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    correlation = a_N @ b_N / (np.linalg.norm(a_N) * np.linalg.norm(b_N))
    return float(np.clip(correlation, -1, 1))


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Pearson's correlation of the ranks; tied entries share their average rank."""
    a_N, b_N = _pair(a, b)
    return pearson(_ranks(a_N), _ranks(b_N))


def _ranks(x_N: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties averaged: c copies that end at rank e all get e - (c - 1) / 2."""
    _, inverse_N, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse_N]


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2, by Mann-Whitney's U.

        AUC = (sum of the positives' ranks - n1 (n1 + 1) / 2) / (n1 n0)

    None when only one class is there. scores (N,), labels (N,) of 0/1 -> float.
    """
    scores_N, labels_N = _pair(scores, labels)
    assert np.isin(labels_N, (0, 1)).all(), "labels must be 0 or 1"
    positive_N = labels_N == 1
    n1 = int(positive_N.sum())
    n0 = len(labels_N) - n1
    if n1 == 0 or n0 == 0:
        return None
    u = _ranks(scores_N)[positive_N].sum() - n1 * (n1 + 1) / 2
    return float(u / (n1 * n0))


def auc_within(scores: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> float | None:
    """AUC inside a group: the mean over groups with both classes, weighted by their n1 n0 pairs.

    A predictor that knows only which group is easy gets 0.5, however good its pooled AUC.
    None when no group has both classes, as with N = 0 (no response has a second state).
    scores, labels, groups (N,) -> float.
    """
    if len(np.asarray(scores)) == 0:
        return None
    scores_N, labels_N = _pair(scores, labels)
    groups_N = np.asarray(groups)
    assert groups_N.shape == scores_N.shape
    total, pairs = 0.0, 0
    for group in np.unique(groups_N):
        inside_N = groups_N == group
        score = auc(scores_N[inside_N], labels_N[inside_N])
        if score is not None:
            n1 = int(labels_N[inside_N].sum())
            weight = n1 * (int(inside_N.sum()) - n1)
            total, pairs = total + weight * score, pairs + weight
    return total / pairs if pairs else None


def auc_pairs(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """(pairs ranked rightly, pairs) of one group, ties counting half: their ratio is its AUC.

    Sums over groups of both give `auc_within`. scores (N,), labels (N,) of 0/1, N may be 0.
    """
    labels_N = np.asarray(labels).astype(bool)
    pairs = float(labels_N.sum() * (~labels_N).sum())
    score = auc(scores, labels_N.astype(int)) if pairs else None
    return (pairs * score, pairs) if score is not None else (0.0, 0.0)


def pool_hits(
    scores: ArrayLike,
    values: ArrayLike,
    pool_size: int,
    draws: int,
    rng: np.random.Generator,
    tolerance: float = 0.05,
) -> tuple[float, float, int]:
    """How often the candidate of highest score is among the best, and what chance would give.

    Draws `draws` pools of `pool_size` candidates without replacement. A candidate is good if its
    value >= best of the pool - tolerance; a pool where all are good says nothing and is dropped.
    -> (sum over pools of the fraction of good ones among those that share the top score, sum of the
    fraction of good ones in the pool, pools kept); (0, 0, 0) with fewer candidates than a pool.
    """
    assert pool_size >= 2 and draws >= 1
    scores_N, values_N = np.asarray(scores, np.float64), np.asarray(values, np.float64)
    assert scores_N.shape == values_N.shape
    hits, chance, pools = 0.0, 0.0, 0
    for _ in range(draws if len(scores_N) >= pool_size else 0):
        pool = rng.choice(len(scores_N), size=pool_size, replace=False)
        good = values_N[pool] >= values_N[pool].max() - tolerance - ROUNDING
        if good.all():
            continue
        hits += float(good[scores_N[pool] == scores_N[pool].max()].mean())
        chance, pools = chance + float(good.mean()), pools + 1
    return hits, chance, pools


# --- calibration --------------------------------------------------------------------------------


def calibration_bins(
    predicted: ArrayLike, actual: ArrayLike, bins: int = 10
) -> list[dict[str, Any]]:
    """Reliability diagram: predictions in [0, 1] by bins of one width, with the means in each.

    Bin k holds low <= p < high, the last one also p = 1. -> `bins` dicts with low, high, count,
    predicted (mean) and actual (mean); the means are None in an empty bin. Two (N,) -> list.
    """
    p_N, y_N = _pair(predicted, actual)
    assert p_N.min() >= -ROUNDING and p_N.max() <= 1 + ROUNDING, "predictions must lie in [0, 1]"
    index_N = np.clip(np.floor(p_N * bins + ROUNDING), 0, bins - 1).astype(int)
    table = []
    for k in range(bins):
        inside_N = index_N == k
        row = {"low": k / bins, "high": (k + 1) / bins, "count": int(inside_N.sum())}
        row["predicted"] = float(p_N[inside_N].mean()) if row["count"] else None
        row["actual"] = float(y_N[inside_N].mean()) if row["count"] else None
        table.append(row)
    return table


def expected_calibration_error(predicted: ArrayLike, actual: ArrayLike, bins: int = 10) -> float:
    """ECE = sum_k (n_k / N) |mean predicted_k - mean actual_k| (Naeini et al. 2015)."""
    filled = [row for row in calibration_bins(predicted, actual, bins) if row["count"]]
    gap = sum(row["count"] * abs(row["predicted"] - row["actual"]) for row in filled)
    return gap / sum(row["count"] for row in filled)


# --- uncertainty --------------------------------------------------------------------------------


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased probability that one of k samples is right, c of n being right (2107.03374).

    pass@k = 1 - C(n - c, k) / C(n, k)
    """
    assert 0 <= c <= n and 1 <= k <= n, f"pass@{k} needs at least {k} samples and c <= n"
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap_interval(
    values_by_cluster: Sequence[ArrayLike],
    statistic: Callable[[np.ndarray], float] = np.mean,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap that resamples whole clusters (Efron & Tibshirani 1993, ch. 8).

    States of one problem are not independent: resampling them singly gives intervals far too
    narrow. Each draw takes as many clusters as there are, with replacement, and applies `statistic`
    to their concatenation. Clusters: arrays (N_c,), or (N_c, D) for a statistic of D columns; empty
    ones are left out, and so are draws in which the statistic is not a number.
    """
    clusters = [x for x in map(np.asarray, values_by_cluster) if len(x)]
    assert clusters, "no observations"
    assert draws >= 1 and 0 < level < 1
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(clusters), size=(draws, len(clusters)))
    if statistic is np.mean and clusters[0].ndim == 1:  # needs no concatenation
        sums, counts = np.array([(x.sum(), len(x)) for x in clusters], dtype=np.float64).T
        results = sums[picks].sum(1) / counts[picks].sum(1)
    else:
        results = [float(statistic(np.concatenate([clusters[i] for i in pick]))) for pick in picks]
    low, high = np.nanquantile(results, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def bootstrap_sums(
    sums: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float | None, float | None]:
    """`bootstrap_interval` for statistics of sums over clusters, which needs no concatenation.

    sums (P, D): what each of P clusters adds to D sums. `statistic` maps (draws, D) to (draws,).
    Draws in which it is not a number are left out; (None, None) where it never is one.
    """
    sums_PD = np.asarray(sums, dtype=np.float64)
    assert sums_PD.ndim == 2 and len(sums_PD), "no observations"
    rng = np.random.default_rng(seed)
    size = len(sums_PD)
    counts = rng.multinomial(size, np.full(size, 1 / size), size=draws)
    result = np.asarray(statistic(counts @ sums_PD))
    result = result[np.isfinite(result)]
    if not len(result):
        return None, None
    low, high = np.quantile(result, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def mean_interval(values: ArrayLike) -> tuple[float, float | None, float | None]:
    """Mean over seeds and its 95 % interval, mean -+ t_{n-1} s / sqrt(n) (Student 1908).

    s is the sample's std (divides by n - 1). One seed has no interval: (mean, None, None).
    values (N,) -> (mean, low, high).
    """
    values_N, _ = _pair(values, values)
    n, mean = len(values_N), float(values_N.mean())
    if n == 1:
        return mean, None, None
    t = T_QUANTILES[n - 2] if n - 1 <= len(T_QUANTILES) else NORMAL_QUANTILE
    half = t * float(values_N.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


# --- running ------------------------------------------------------------------------------------


class RunningMean:
    """Exponential average: m <- momentum m + (1 - momentum) x, and m = x at the first batch.

    `value` is None before the first batch; a start at 0 would understate the actor's success rate
    tenfold at first.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        assert 0 <= momentum < 1, f"momentum {momentum} must lie in [0, 1)"
        self.momentum = momentum
        self.value: float | None = None

    def update(self, x: ArrayLike) -> float | None:
        """Take in one batch, a number or an array whose mean counts; an empty one says nothing."""
        batch = np.asarray(x, dtype=np.float64)
        assert np.isfinite(batch).all(), f"a batch holds a value that is not finite: {x}"
        if batch.size:
            new, old, m = float(batch.mean()), self.value, self.momentum
            self.value = new if old is None else m * old + (1 - m) * new
        return self.value

    def state(self) -> dict[str, float | None]:
        """All there is, fit for JSON."""
        return {"momentum": self.momentum, "value": self.value}

    @classmethod
    def from_state(cls, state: dict[str, float | None]) -> RunningMean:
        """The RunningMean that `state()` described."""
        assert state["momentum"] is not None
        mean = cls(state["momentum"])
        mean.value = state["value"]
        return mean
