"""The statistics of a critic on other people's solutions, against values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from genac.evals.solution_files import Solution
from genac.evals.solutions import (
    Judged,
    first_error_f1,
    first_error_sums,
    measure,
    predicted_error,
)
from genac.ops import stats


def judged(problem: str, values: list[float | None], **labels) -> Judged:
    """A solution of segments of one length, judged after each."""
    segments = tuple("ab\n" for _ in values[1:])
    solution = Solution(1, problem, segments, **labels)
    return Judged(solution, tuple(range(len(values))), tuple(values))


def test_the_value_at_a_part_is_that_of_the_longest_prefix_within_it():
    one = judged("p", [0.1, 0.2, 0.3, 0.4], correct=True)  # judged at 0, 1/3, 2/3 and 1
    assert [one.at(f) for f in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.1, 0.1, 0.2, 0.3, 0.4]


def test_auc_by_part_pooled_and_within_a_problem():
    rows = [
        judged("p", [0.5, 0.9], correct=True),
        judged("p", [0.5, 0.2], correct=False),
        judged("q", [0.1, 0.1], correct=True),
        judged("r", [0.6, 0.3], correct=False),
    ]
    result = measure(rows, None)["outcome"]
    first, last = result["by_fraction"][0], result["by_fraction"][-1]
    # Right 0.5 and 0.1, wrong 0.5 and 0.6: one of four pairs is a tie, none is won.
    assert first["auc"] == pytest.approx(0.5 / 4) and first["auc_within_problem"] == 0.5
    # Right 0.9 and 0.1, wrong 0.2 and 0.3: two of four.
    assert last["auc"] == 0.5 and last["auc_within_problem"] == 1.0
    assert result["problems_with_both"] == 1 and result["correct_rate"] == 0.5
    low, high = last["auc_interval"]
    assert 0 <= low <= 0.5 <= high <= 1


def test_a_missing_score_is_a_guess_where_pairs_are_ranked_and_an_error_of_one():
    rows = [judged("p", [0.5, None], correct=True), judged("p", [0.5, 0.2], correct=False)]
    result = measure(rows, None)
    assert result["missing"] == 1 and result["outcome"]["by_fraction"][-1]["auc"] == 0.5
    assert result["outcome"]["by_fraction"][-1]["missing"] == 1
    # Errors 0.25, 1, 0.25 and 0.04.
    assert result["calibration"]["brier"] == pytest.approx(1.54 / 4)
    assert result["calibration"]["brier_constant"] == 0.25
    silent = measure([judged("p", [None, None], correct=True)], None)
    assert silent["calibration"]["expected_calibration_error"] is None
    assert silent["outcome"]["by_fraction"][0]["auc"] is None


def test_the_first_error_is_the_first_step_below_the_threshold():
    nan = float("nan")
    for values, result in (
        ([0.9, 0.4, 0.1], 1),
        ([0.9, 0.5, 0.6], -1),
        ([0.9, nan, 0.1], None),
        ([0.1, nan, 0.1], 0),
    ):
        assert predicted_error(np.array(values), 0.5) == result


def test_first_error_f1_is_the_harmonic_mean_of_both_accuracies():
    rows = [
        judged("a", [0.5, 0.9, 0.1], first_error=1),  # found
        judged("b", [0.5, 0.1, 0.1], first_error=1),  # named too early
        judged("c", [0.5, 0.9, 0.9], first_error=-1),  # right
        judged("d", [0.5, 0.9, None], first_error=-1),  # a missing score decides nothing
        judged("d", [0.5, 0.6, 0.7], first_error=-1),  # right
    ]
    result = measure(rows, 0.5)["first_error"]
    assert result["accuracy_error"] == 1 / 2 and result["accuracy_correct"] == 2 / 3
    assert result["f1"] == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert result["threshold_chosen_on"] == "the command line" and result["solutions"] == 5
    assert first_error_f1(np.array([0.0, 3.0, 0.0, 2.0])) == 0
    assert np.isnan(first_error_f1(np.array([0.0, 0.0, 1.0, 2.0])))  # no solution has an error
    assert first_error_sums(rows, 0.5).sum(0).tolist() == [1, 2, 2, 3]


def test_a_threshold_is_chosen_on_one_half_and_measured_on_the_other():
    rows = []
    for number in range(60):  # values of 0.3 after a wrong step, else 0.7
        wrong = number % 2
        values = [0.5, 0.7, 0.3 if wrong else 0.7]
        rows.append(judged(f"p{number}", values, first_error=1 if wrong else -1))
    result = measure(rows, None)["first_error"]
    assert 0.3 < result["threshold"] <= 0.7 and result["f1"] == 1.0
    assert (
        result["solutions"] < 60 and "of 60 solutions, by a hash" in result["threshold_chosen_on"]
    )
    assert measure(rows[:1], None)["first_error"]["f1"] is None


def test_step_labels_by_hand_without_the_neutral_ones():
    rows = [
        judged("a", [0.5, 0.9, 0.2, 0.8], labels=(True, False, None)),
        judged("b", [0.5, 0.1, None], labels=(True, False)),
    ]
    result = measure(rows, 0.5)["step_labels"]
    assert (result["steps"], result["wrong_steps"], result["missing"]) == (4, 2, 1)
    # Right 0.9 and 0.1, wrong 0.2 and a guess: one won, one lost, two halves.
    assert result["auc"] == 0.5
    # Below 0.5 are a wrong one (0.2) and a right one (0.1); the missing one is not found.
    assert result["f1"] == pytest.approx(2 / 4)


def test_labels_that_a_file_lacks_are_measured_by_nothing():
    result = measure([judged("a", [0.5, 0.9], labels=(True,))], None)
    assert "outcome" not in result and "first_error" not in result
    assert result["step_labels"]["f1"] is None and result["step_labels"]["auc"] is None


def test_draws_without_the_statistic_leave_an_interval():
    clusters = [np.array([[0.1, 0.0]]), np.array([[0.9, 1.0]])]
    low, high = stats.bootstrap_interval(
        clusters, lambda rows: x if (x := stats.auc(rows[:, 0], rows[:, 1])) is not None else np.nan
    )
    assert (low, high) == (1.0, 1.0)
