"""Statistics: values worked by hand, brute force for what has a definition one can count."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.ops import stats

quick = settings(max_examples=30, deadline=None)
approx = pytest.approx
tenths = st.integers(0, 10).map(lambda i: i / 10)


# --- errors -------------------------------------------------------------------------------------


def test_errors_by_hand():
    # Differences -.5, .5, 1: squares .25 + .25 + 1 = 1.5, absolute 2, over 3.
    predicted, actual = [0.5, 0.5, 1.0], [1.0, 0.0, 0.0]
    assert stats.mse(predicted, actual) == approx(0.5)
    assert stats.mae(predicted, actual) == approx(2 / 3)


def test_errors_refuse_different_lengths_and_nothing():
    with pytest.raises(AssertionError, match="differ"):
        stats.mse([1.0], [1.0, 2.0])
    with pytest.raises(AssertionError, match="no observations"):
        stats.mae([], [])


def test_explained_variance_by_hand():
    # y = 0 0 1 1, variance 1/4.  p = 0 0 .5 .5: y - p = 0 0 .5 .5, variance 1/16 -> 1 - 1/4
    y = [0, 0, 1, 1]
    assert stats.explained_variance([0, 0, 0.5, 0.5], y) == approx(0.75)
    assert stats.explained_variance(y, y) == 1
    assert stats.explained_variance([0.5] * 4, y) == 0
    assert stats.explained_variance([1, 1, 0, 0], y) == approx(-3)  # y - p = -+1, variance 1
    assert stats.explained_variance([0.1, 0.2], [1, 1]) is None


# --- ordering -----------------------------------------------------------------------------------


def test_pearson_by_hand():
    # a - mean = -1 0 1, b - mean = (1, 2, 6) - 3 = -2 -1 3: dot 5, norms sqrt 2, sqrt 14
    assert stats.pearson([1, 2, 3], [1, 2, 6]) == approx(5 / math.sqrt(28))
    assert stats.pearson([1, 2], [5, 5]) is None


def test_spearman_by_hand():
    # Ranks of (10, 20, 20, 30): 1 2.5 2.5 4; of (1, 3, 2, 4): 1 3 2 4.  Mean 2.5 both.
    # -1.5 0 0 1.5 and -1.5 .5 -.5 1.5: dot 4.5, norms sqrt 4.5 and sqrt 5
    assert stats.spearman([10, 20, 20, 30], [1, 3, 2, 4]) == approx(4.5 / math.sqrt(4.5 * 5))
    assert stats.spearman([1, 2, 3], [1, 8, 27]) == approx(1)  # monotone, not linear
    assert stats.pearson([1, 2, 3], [1, 8, 27]) < 0.99
    assert stats.spearman([1, 1], [1, 2]) is None


def test_auc_by_hand():
    # Positives .9 .5, negatives .5 .1: .9>.5, .9>.1, .5=.5 (half), .5>.1 -> 3.5 of 4
    assert stats.auc([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0]) == approx(3.5 / 4)
    assert stats.auc([0.1, 0.9], [True, False]) == 0
    assert stats.auc([0.1, 0.9], [1, 1]) is None
    with pytest.raises(AssertionError, match="0 or 1"):
        stats.auc([0.1, 0.9], [0.3, 1])


@quick
@given(st.lists(st.tuples(tenths, st.booleans()), min_size=1, max_size=15))
def test_auc_counts_pairs(pairs):
    scores, labels = zip(*pairs, strict=True)
    positive = [s for s, y in pairs if y]
    negative = [s for s, y in pairs if not y]
    wins = [(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)]
    assert stats.auc(scores, labels) == (approx(np.mean(wins)) if wins else None)


def test_auc_within_by_hand():
    # a: positives .2, negatives .1 .3 -> 1 of 2.  b: positives .9, negatives .8 -> 1 of 1.
    # c has one class.  (2 * 1/2 + 1 * 1) / 3 = 2/3
    scores = [0.2, 0.1, 0.3, 0.9, 0.8, 0.5]
    labels = [1, 0, 0, 1, 0, 1]
    assert stats.auc_within(scores, labels, list("aaabbc")) == approx(2 / 3)
    assert stats.auc_within([0.1, 0.2], [0, 1], ["a", "b"]) is None


def test_auc_within_is_not_fooled_by_knowing_the_problem_only():
    # Problem a is solved 3 times of 4, b once; the score is the problem's success rate.
    labels = [1, 1, 1, 0, 1, 0, 0, 0]
    scores = [0.75] * 4 + [0.25] * 4
    assert stats.auc_within(scores, labels, ["a"] * 4 + ["b"] * 4) == 0.5
    assert stats.auc(scores, labels) == approx(0.75)  # 9 wins, 6 ties, 1 loss: (9 + 3) / 16


# --- top-1 --------------------------------------------------------------------------------------


def top1(groups, pool_size, draws=50, **options):
    """(accuracy, chance) over the pools of all groups."""
    rng = np.random.default_rng(0)
    results = [stats.pool_hits(s, v, pool_size, draws, rng, **options) for s, v in groups]
    hits, chance, pools = (sum(column) for column in zip(*results, strict=True))
    return (hits / pools, chance / pools) if pools else (None, None)


def test_top1_by_hand():
    # Pools of all three: best value 1.  Group 0's top score is the .96, within .05: a hit, 2 of 3
    # are good.  Group 1's top score is the worst: a miss, 1 of 3 is good.
    groups = [([0.1, 0.9, 0.2], [1.0, 0.96, 0.0]), ([0.1, 0.2, 0.9], [1.0, 0.5, 0.0])]
    assert top1(groups, 3) == (approx(1 / 2), approx(1 / 2))
    # Without tolerance group 0 misses too and only one of its three is good.
    assert top1(groups, 3, tolerance=0.0) == (approx(0), approx(1 / 3))


def test_top1_ties_count_by_the_fraction_that_is_good():
    # Three share the top score, one of them is good; two of the four are good.
    assert top1([([5, 5, 5, 1], [1, 0, 0, 1])], 4) == (approx(1 / 3), approx(1 / 2))


def test_top1_boundary_of_the_tolerance_is_good():
    # .4 - .05 is .35000000000000003 in floating point, yet .35 is within .05 of .4
    assert top1([([0, 1, 0], [0.4, 0.35, 0.1])], 3) == (1, approx(2 / 3))


def test_top1_drops_pools_that_say_nothing_and_groups_that_are_too_small():
    flat, small = ([1, 2, 3], [0.5, 0.5, 0.52]), ([1, 2], [0, 1])
    assert top1([flat, small], 3) == (None, None)
    assert top1([flat, small, ([1, 2, 3], [0, 0, 1])], 3) == (1, approx(1 / 3))


def test_top1_of_a_perfect_and_a_constant_critic_on_drawn_pools():
    values = np.arange(8) / 8
    for size in (2, 4):
        accuracy, chance = top1([(values, values)], size, draws=200)
        assert (accuracy, chance) == (1, approx(1 / size))
        accuracy, chance = top1([(np.zeros(8), values)], size, draws=200)
        assert accuracy == approx(chance)


# --- calibration --------------------------------------------------------------------------------


def test_calibration_by_hand():
    # Two bins: [0, .5) holds .2, .4 (mean .3) with outcomes 0, 1 (mean .5);
    # [.5, 1] holds .5, 1 (mean .75) with outcomes 1, 1.  ECE = (2*.2 + 2*.25) / 4 = .225
    predicted, actual = [0.2, 0.4, 0.5, 1.0], [0, 1, 1, 1]
    low, high = stats.calibration_bins(predicted, actual, bins=2)
    assert low == {"low": 0, "high": 0.5, "count": 2, "predicted": approx(0.3), "actual": 0.5}
    assert high == {"low": 0.5, "high": 1, "count": 2, "predicted": 0.75, "actual": 1}
    assert stats.expected_calibration_error(predicted, actual, bins=2) == approx(0.225)


def test_calibration_puts_each_score_of_the_critic_in_its_own_bin():
    # float32 .7 is .69999999 and still belongs to [.7, .8); the last bin also holds 1.
    scores = np.arange(11, dtype=np.float32) / np.float32(10)
    table = stats.calibration_bins(scores, scores)
    assert [row["count"] for row in table] == [1] * 9 + [2]


def test_calibration_has_rows_for_empty_bins():
    table = stats.calibration_bins([0.05], [1.0])
    assert len(table) == 10
    assert table[3] == {"low": 0.3, "high": 0.4, "count": 0, "predicted": None, "actual": None}


@quick
@given(st.lists(st.tuples(tenths, st.booleans()), min_size=1, max_size=20))
def test_calibration_bins_hold_everything_once(pairs):
    predicted, actual = zip(*pairs, strict=True)
    table = [row for row in stats.calibration_bins(predicted, actual) if row["count"]]
    assert sum(row["count"] for row in table) == len(pairs)
    total = sum(row["count"] * row["actual"] for row in table)
    assert total == approx(sum(actual))
    assert all(row["low"] - 1e-6 <= row["predicted"] <= row["high"] + 1e-6 for row in table)


# --- uncertainty --------------------------------------------------------------------------------


def test_pass_at_k_by_hand():
    # 1 right of 4, k = 2: C(3,2)/C(4,2) = 3/6 -> 1/2
    assert stats.pass_at_k(4, 1, 2) == approx(0.5)
    with pytest.raises(AssertionError):
        stats.pass_at_k(4, 1, 5)


@quick
@given(st.integers(1, 60), st.data())
def test_pass_at_k_limits(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert stats.pass_at_k(n, c, 1) == approx(c / n)
    assert stats.pass_at_k(n, 0, k) == 0
    assert stats.pass_at_k(n, n, k) == 1
    assert stats.pass_at_k(n, c, n) == (1 if c else 0)
    if k < n:
        assert stats.pass_at_k(n, c, k) <= stats.pass_at_k(n, c, k + 1)


def test_bootstrap_of_one_cluster_is_its_statistic():
    assert stats.bootstrap_interval([[1.0, 2.0, 6.0]]) == (3, 3)
    assert stats.bootstrap_interval([[1.0, 2.0, 6.0], []], statistic=np.median) == (2, 2)
    with pytest.raises(AssertionError, match="no observations"):
        stats.bootstrap_interval([[]])


def test_bootstrap_resamples_clusters_not_entries():
    # Two clusters, all 0 and all 1: means 0, 1/2, 1 with probability 1/4, 1/2, 1/4, so the 95 %
    # interval is all of [0, 1] however long the clusters are.  Entries alone would be 1/2 -+ .07.
    assert stats.bootstrap_interval([np.zeros(100), np.ones(100)]) == (0, 1)
    low, high = stats.bootstrap_interval(list(np.r_[np.zeros((100, 1)), np.ones((100, 1))]))
    assert 0.4 < low < 0.47 and 0.53 < high < 0.6


def test_bootstrap_of_means_draws_as_that_of_any_statistic():
    clusters = [np.linspace(0, i, i + 1) for i in range(9)]
    other = stats.bootstrap_interval(clusters, lambda x: float(np.mean(x)))
    assert stats.bootstrap_interval(clusters) == approx(other, rel=1e-12)


def test_bootstrap_is_seeded_widens_with_the_level_and_takes_columns():
    clusters = [np.array([i, i + 1.0]) for i in range(10)]
    assert stats.bootstrap_interval(clusters) == stats.bootstrap_interval(clusters)
    assert stats.bootstrap_interval(clusters, seed=1) != stats.bootstrap_interval(clusters)
    wide, narrow = (stats.bootstrap_interval(clusters, level=level) for level in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    columns = [np.array([[0.5, 1.0]]), np.array([[0.5, 0.0]])]
    interval = stats.bootstrap_interval(columns, lambda x: stats.mse(x[:, 0], x[:, 1]))
    assert interval == (0.25, 0.25)


def test_mean_interval_by_hand():
    # 1 2 3: mean 2, s = 1, t_2 = 4.303, half = 4.303 / sqrt 3 = 2.484338
    assert stats.mean_interval([1, 2, 3]) == (2, approx(-0.484338), approx(4.484338))
    # 32 values, half 0 and half 2: 31 degrees of freedom, 1.96; s = sqrt(32/31), half 1.96/sqrt 31
    half = 1.96 / math.sqrt(31)
    assert stats.mean_interval([0, 2] * 16) == (1, approx(1 - half), approx(1 + half))
    assert stats.mean_interval([0.3]) == (0.3, None, None)


def test_t_quantiles_fall_from_1_degree_of_freedom_to_30():
    table = stats.T_QUANTILES
    assert len(table) == 30 and table[0] == 12.706 and table[9] == 2.228 and table[29] == 2.042
    assert list(table) == sorted(table, reverse=True) and table[-1] > stats.NORMAL_QUANTILE


# --- running mean -------------------------------------------------------------------------------


def test_running_mean_by_hand():
    # First batch exactly .6, then .9 * .6 + .1 * .1 = .55
    mean = stats.RunningMean()
    assert mean.value is None
    assert mean.update([0.5, 0.7]) == approx(0.6)
    assert mean.update(0.1) == approx(0.55)
    assert mean.update([]) == approx(0.55)
    with pytest.raises(AssertionError, match="not finite"):
        mean.update(float("nan"))


def test_running_mean_of_an_empty_first_batch_stays_unknown():
    mean = stats.RunningMean(momentum=0.5)
    assert mean.update([]) is None
    assert mean.update(0.0) == 0.0  # a success rate of 0 is known, not missing
    assert mean.update(1.0) == 0.5


@quick
@given(st.lists(tenths, max_size=5), st.lists(tenths, min_size=1, max_size=5), tenths)
def test_running_mean_resumes_from_json(before, after, momentum):
    straight = stats.RunningMean(momentum * 0.99)
    for x in before:
        straight.update(x)
    resumed = stats.RunningMean.from_state(json.loads(json.dumps(straight.state())))
    for x in after:
        assert resumed.update(x) == straight.update(x)
