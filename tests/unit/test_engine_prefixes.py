"""Shared prefixes are detected from the tokens, and every prompt can be put together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genac.prefixes import Suffix, Tree, balanced, common_prefix, prefix_groups, trees

# Few tokens, so that prompts drawn at random often begin alike.
PROMPT = st.lists(st.integers(2, 4), min_size=1, max_size=12).map(tuple)
PROMPTS = st.lists(PROMPT, min_size=1, max_size=24)
ROWS = st.integers(1, 8)
MANY = 10_000
QUESTION = 9  # begins a question; no response holds it


def tokens(results: list[Tree]) -> int:
    """Prompt tokens read when every shared prefix and every distinct suffix is read once."""
    return sum(len(tree.prefix) + sum(len(b.tail) for b in tree.suffixes) for tree in results)


def prompts_of(results: list[Tree]) -> dict[int, tuple[int, ...]]:
    """Request -> the prompt that its tree spells."""
    return {
        m: tree.prefix[: b.shared] + b.tail
        for tree in results
        for b in tree.suffixes
        for m in b.members
    }


def prefix_of(results: list[Tree]) -> dict[int, int]:
    """Request -> the place of its tree."""
    return {m: i for i, tree in enumerate(results) for b in tree.suffixes for m in b.members}


def numbered(first: int, count: int) -> tuple[int, ...]:
    """Tokens that no other call with another hundred holds."""
    return tuple(range(first, first + count))


# --- every prompt survives ----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(PROMPTS, ROWS)
def test_every_request_finds_its_prompt_exactly_once(prompts, max_rows):
    result = trees(prompts, max_rows)
    members = [m for tree in result for b in tree.suffixes for m in b.members]
    assert sorted(members) == list(range(len(prompts)))
    assert [prompts_of(result)[i] for i in range(len(prompts))] == prompts


@settings(max_examples=200, deadline=None)
@given(PROMPTS, ROWS)
def test_trees_can_be_read(prompts, max_rows):
    result = trees(prompts, max_rows)
    assert all(1 <= tree.rows <= max_rows for tree in result)
    suffixes = [(tree, b) for tree in result for b in tree.suffixes]
    assert all(b.tail and b.members for _, b in suffixes)
    assert all(0 <= b.shared <= len(tree.prefix) for tree, b in suffixes)
    lengths = [len(tree.prefix) for tree in result]
    assert lengths == sorted(lengths, reverse=True)


@settings(max_examples=200, deadline=None)
@given(PROMPTS)
def test_sharing_never_reads_more(prompts):
    result = trees(prompts, MANY)
    assert tokens(result) <= sum(map(len, set(prompts)))
    # One prompt is one suffix, and no shared prefix is longer than what some suffix sees of it.
    assert len({prompts_of([tree])[b.members[0]] for tree in result for b in tree.suffixes}) == sum(
        len(tree.suffixes) for tree in result
    )
    assert all(len(tree.prefix) == max(b.shared for b in tree.suffixes) for tree in result)


@settings(max_examples=100, deadline=None)
@given(PROMPTS)
def test_the_order_of_requests_plays_no_part(prompts):
    def shape(results: list[Tree]) -> set[Any]:
        return {(t.prefix, b.shared, b.tail, len(b.members)) for t in results for b in t.suffixes}

    assert shape(trees(prompts, MANY)) == shape(trees(prompts[::-1], MANY))


@settings(max_examples=200, deadline=None)
@given(PROMPTS)
def test_prefix_groups_hold_every_sequence_once(sequences):
    result = prefix_groups(sequences)
    assert sorted(m for group in result for m in group.members) == list(range(len(sequences)))
    for group in result:
        longest = group.sequences[0].ids
        assert group.sequences[0].shared == len(longest)
        for sequence in group.sequences:
            assert {sequences[m] for m in sequence.members} == {sequence.ids}
            assert sequence.ids[: sequence.shared] == longest[: sequence.shared]
    assert sum(f.tokens for f in result) <= sum(map(len, set(sequences)))


# --- who shares with whom -----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_states_of_a_response_share_one_prefix(data):
    """Reading them costs the longest state and a question for each of the others."""
    question = (QUESTION, *numbered(900, data.draw(st.integers(0, 9))))
    response = numbered(100, 60)
    cuts = data.draw(st.sets(st.integers(len(question), 60), min_size=1, max_size=12))
    rationales = data.draw(st.integers(1, 4))
    prompts = [response[:cut] + question for cut in sorted(cuts)] * rationales
    (tree,) = trees(prompts, MANY)
    assert tree.rows == len(prompts) and len(tree.suffixes) == len(cuts)
    assert tokens([tree]) == max(cuts) + len(question) * len(cuts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 30))
def test_a_group_shares_its_prompt(sizes, length):
    prompts = [numbered(100 * p, length) for p, size in enumerate(sizes) for _ in range(size)]
    result = trees(prompts, MANY)
    assert len(result) == len(sizes)
    assert all(len(tree.suffixes) == 1 and len(tree.prefix) == length - 1 for tree in result)
    assert tokens(result) == length * len(sizes)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_siblings_with_a_short_common_prompt_have_prefixes_of_their_own(data):
    """Responses to one problem: a state joins its own response, not its siblings'."""
    problem, siblings = numbered(50, 4), data.draw(st.integers(2, 5))
    cut = st.sets(st.integers(20, 60), min_size=2, max_size=5)
    cuts = [sorted(data.draw(cut)) for _ in range(siblings)]
    prompts = [
        problem + numbered(100 * (s + 1), at) + (QUESTION,)
        for s in range(siblings)
        for at in cuts[s]
    ]
    result = trees(prompts, MANY)
    assert len(result) == siblings
    place, sibling = prefix_of(result), [s for s in range(siblings) for _ in cuts[s]]
    assert len({(place[i], s) for i, s in enumerate(sibling)}) == siblings


def test_states_by_hand():
    problem, answer, question = (5, 6), (7, 8, 9, 10, 11), (3, 4)
    states = [problem + answer[:n] + question for n in (1, 3, 5)]
    (tree,) = trees([states[2], states[0], states[1], states[0]], 8)
    # The longest prompt's tail is no longer than the others': two tokens, the question.
    assert tree.prefix == (5, 6, 7, 8, 9, 10, 11)
    assert set(tree.suffixes) == {
        Suffix(7, (3, 4), (0,)),
        Suffix(5, (3, 4), (2,)),
        Suffix(3, (3, 4), (1, 3)),
    }
    assert tokens([tree]) == 7 + 2 + 2 + 2


def test_continuations_by_hand():
    """Prefixes without a question: each keeps its own last token to predict from."""
    (tree,) = trees([(5, 6, 7, 8), (5, 6), (5, 6, 7, 8), (5, 6, 7)], 8)
    assert tree.prefix == (5, 6, 7)
    suffixes = {Suffix(3, (8,), (0, 2)), Suffix(2, (7,), (3,)), Suffix(1, (6,), (1,))}
    assert set(tree.suffixes) == suffixes


def test_large_trees_are_balanced():
    """A state that all responses share does not widen the grid of everybody else's rows."""
    responses = [numbered(100 * r, 40) for r in range(1, 6)]
    prompts = [(5, 6, 7, QUESTION)] * 30
    prompts += [(5, 6, 7, *r[:cut], QUESTION) for r in responses for cut in (20, 30, 40)]
    result = balanced(trees(prompts, MANY))
    assert max(tree.rows for tree in result) <= 5
    assert prompts_of(result) == dict(enumerate(prompts))
    # The shared state reads its own three tokens again and again, not a response.
    assert sum(len(tree.prefix) for tree in result) <= 6 * 43 + 8 * 3


def test_one_prompt_alone():
    assert trees([(5, 6, 7)], 1) == [Tree((5, 6), (Suffix(2, (7,), (0,)),))]
    assert trees([(5,)], 1) == [Tree((), (Suffix(0, (5,), (0,)),))]
    assert trees([], 4) == []


def test_prompts_that_share_nothing_stay_apart():
    result = trees([(5, 6, 7), (6, 5, 7, 8), (7, 6, 5)], 8)
    assert [tree.prefix for tree in result] == [(6, 5, 7), (5, 6), (7, 6)]


def test_more_requests_than_rows_are_split_over_trees_of_one_prefix():
    result = trees([(5, 6, 7)] * 7, 3)
    assert sorted(tree.rows for tree in result) == [1, 3, 3]
    assert {tree.prefix for tree in result} == {(5, 6)}
    assert tokens(result) == 3 * 3  # each part reads its prompt


def test_a_split_may_cut_through_the_requests_of_a_suffix():
    prompts = [(5, 6, 7, 8, 9), (5, 6, 7, 3), (5, 6, 7, 3), (5, 6, 7, 3)]
    result = trees(prompts, 2)
    assert [tree.rows for tree in result] == [2, 2]
    assert prompts_of(result) == dict(enumerate(prompts))


# --- common_prefix ------------------------------------------------------------------------------


def naive(one: Any, other: Any) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 1), max_size=40), st.data())
def test_common_prefix(ids, data):
    # Half of the other follows the first, so that long common prefixes are drawn too.
    kept = data.draw(st.integers(0, len(ids)))
    other = ids[:kept] + data.draw(st.lists(st.integers(0, 1), max_size=20))
    assert common_prefix(tuple(ids), tuple(other)) == naive(ids, other)
    assert common_prefix(tuple(other), tuple(ids)) == naive(ids, other)


@pytest.mark.parametrize("length", [1, 2, 3, 64, 65])
def test_common_prefix_finds_every_place_of_the_first_difference(length):
    one = tuple(range(length))
    for at in range(length):
        assert common_prefix(one, (*one[:at], -1, *one[at + 1 :])) == at
    assert common_prefix(one, one) == length
    assert common_prefix(one, ()) == 0
