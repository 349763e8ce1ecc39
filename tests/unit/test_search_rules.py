"""Choosing among candidates: every rule by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genac.search.rules import RULES, best, majority, top, weighted


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        (["1", "2", "2"], 1),  # the first candidate that gives the winning answer
        (["1", "2"], 0),  # a tie goes to the answer that came first
        (["2", "1", "1", "2"], 0),
        ([None, None, "7"], 2),  # what cannot be read has no vote, however many there are
        ([None, None], 0),
    ],
)
def test_majority(answers, chosen):
    assert majority(answers) == chosen


@pytest.mark.parametrize(
    ("answers", "values", "chosen"),
    [
        (["1", "1", "2"], [0.3, 0.3, 0.5], 0),  # 0.6 against 0.5
        (["1", "1", "2"], [0.2, 0.2, 0.5], 2),  # 0.4 against 0.5
        (["1", "1", "2"], [None, 0.4, 0.3], 0),  # missing adds nothing, 0.4 against 0.3
        (["1", "2", "2"], [0.0, 0.0, None], 1),  # no weight at all: the votes
        ([None, "2", "2"], [0.9, None, None], 1),  # weight on what cannot be read is no weight
    ],
)
def test_weighted(answers, values, chosen):
    assert weighted(answers, values) == chosen


@pytest.mark.parametrize(
    ("answers", "values", "chosen"),
    [
        (["1", "2", "2"], [0.9, 0.8, 0.8], 0),
        (["1", "2", "2"], [0.8, 0.8, 0.8], 1),  # equal values: the more frequent answer
        (["1", "2"], [0.5, 0.5], 0),  # and then the earliest
        (["1", "2"], [None, 0.0], 1),  # a missing value loses to every value
        (["1", "2", "2"], [None, None, None], 1),  # nothing but missing ones: majority
        ([None, "2"], [0.9, 0.1], 0),  # best-of-n trusts the value alone
    ],
)
def test_best(answers, values, chosen):
    assert best(answers, values) == chosen


def test_top_keeps_the_highest_and_drops_missing_first():
    assert top([0.1, None, 0.9, 0.9], 3) == [2, 3, 0]
    assert top([None, None], 1) == [0]


LISTS = st.lists(
    st.tuples(st.sampled_from([None, "1", "2", "3"]), st.sampled_from([None, 0.0, 0.5, 1.0])),
    min_size=1,
    max_size=6,
)


@given(LISTS)
def test_a_unanimous_group_is_answered_alike_by_every_rule(pairs):
    answers, values = zip(*pairs, strict=True)
    for rule in RULES.values():
        assert 0 <= rule(list(answers), list(values)) < len(pairs)
        assert rule(["4"] * len(pairs), list(values)) in range(len(pairs))
    if len({v for v in values if v}) == 1 and all(values):
        # Equal weights: the weighted vote is the majority vote.
        assert weighted(list(answers), list(values)) == majority(list(answers))
