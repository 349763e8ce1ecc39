"""Where values are read: always before the segment they baseline, for every way to cut a
response.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from fakes import byte_tokenizer, make_rollout
from hypothesis import given
from hypothesis import strategies as st

from genac.config.run import StatesConfig
from genac.critics.base import pooled_returns, unique_states
from genac.states import every_token, split, thin

SPLITTERS = ("newline", "window", "low_probability")


def starts(states) -> list[int]:
    return [s.start for s in states]


def cut(tokenizer, text: str, **cfg) -> list[str]:
    """The text's segments."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    states = split([make_rollout(ids)], StatesConfig(**cfg), tokenizer)
    return [tokenizer.decode(s.rollout.response_ids[s.start : s.end]) for s in states]


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a=1\nb=2\nans=3", ["a=1\n", "b=2\n", "ans=3"]),
        ("a=1\nb=2\n", ["a=1\n", "b=2\n"]),
        ("a=1\n\n\nb=2", ["a=1\n\n\n", "b=2"]),
        ("\na", ["\n", "a"]),
        ("abc", ["abc"]),
        ("\n\n", ["\n\n"]),
        ("", [""]),
    ],
)
def test_newlines_end_segments_and_blank_lines_open_none(tokenizer, text, segments):
    assert cut(tokenizer, text) == segments
    assert cut(byte_tokenizer(), text) == segments


def test_windows(tokenizer):
    assert cut(tokenizer, "abcdefg", splitter="window", window=3) == ["abc", "def", "g"]
    assert cut(tokenizer, "abc", splitter="window", window=3) == ["abc"]
    assert cut(tokenizer, "", splitter="window", window=3) == [""]


def test_low_probability_tokens_open_segments(tokenizer):
    rollout = make_rollout((5, 6, 7, 8, 9), logprobs=np.log([0.01, 0.9, 0.19, 0.2001, 0.1]))
    states = split([rollout], StatesConfig(splitter="low_probability"), tokenizer)
    assert [(s.start, s.end) for s in states] == [(0, 2), (2, 4), (4, 5)]
    empty = split([make_rollout(())], StatesConfig(splitter="low_probability"), tokenizer)
    assert [(s.start, s.end) for s in empty] == [(0, 0)]


@pytest.mark.parametrize("splitter", SPLITTERS)
@given(data=st.data())
def test_segments_tile_the_response_and_no_state_sees_its_own(tokenizer, splitter, data):
    ids = data.draw(st.lists(st.integers(0, 40), max_size=30))
    logprobs = data.draw(st.lists(st.floats(-5, 0), min_size=len(ids), max_size=len(ids)))
    limit = data.draw(st.integers(1, 6))
    rollout = make_rollout(ids, logprobs=logprobs)
    cfg = StatesConfig(splitter=splitter, max_states=limit, window=3)
    states = split([rollout], cfg, tokenizer)
    assert 1 <= len(states) <= limit
    assert states[0].start == 0 and states[-1].end == len(ids)
    for before, after in pairwise(states):
        assert before.end == after.start > before.start
    for state in states:
        assert state.prefix_ids == rollout.prompt_ids + tuple(ids[: state.start])


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_a_state_does_not_depend_on_what_comes_after_it(tokenizer, splitter):
    """The same prefix followed by two different endings is one state."""
    cfg = StatesConfig(splitter=splitter, window=4, max_states=16)
    head = tokenizer.encode("a=1\nb=2\n", add_special_tokens=False)
    logprobs = np.tile([-0.1, -0.1, -0.1, -3.0], 4)
    one, other = (
        make_rollout([*head, *tail], logprobs=logprobs[: len(head) + 4])
        for tail in ((20, 21, 22, 23), (30, 31, 32, 33))
    )
    own, theirs = (
        {s.key for s in split([r], cfg, tokenizer) if s.start <= len(head)} for r in (one, other)
    )
    assert own == theirs and len(own) >= 2


def test_thin():
    assert thin([0, 3, 5], 3) == [0, 3, 5]
    assert thin([0, 3, 5], 1) == [0]
    assert thin(list(range(0, 90, 10)), 3) == [0, 40, 80]


@given(st.lists(st.integers(1, 500), unique=True, max_size=60), st.integers(1, 20))
def test_thin_keeps_the_first_and_an_even_spread(result, limit):
    given_starts = [0, *sorted(result)]
    kept = thin(given_starts, limit)
    assert kept[0] == 0 and len(kept) == min(limit, len(given_starts))
    assert kept == sorted(set(kept)) and set(kept) <= set(given_starts)


def test_every_token_has_a_state():
    states = every_token([make_rollout((5, 6, 7)), make_rollout(())])
    (state,) = states  # one object, whatever the length; an empty response has no token
    assert (state.start, state.end, state.dense) == (0, 3, True)


def test_equal_prefixes_are_one_state_and_pool_their_returns(tokenizer):
    """Two responses share the empty prefix and the first line; a third is not scored."""
    ids = [tokenizer.encode(t, add_special_tokens=False) for t in ("a\nb", "a\nc", "z\nb")]
    rewards = (1.0, 0.0, None)
    rollouts = [
        make_rollout(i, r, member=m) for m, (i, r) in enumerate(zip(ids, rewards, strict=True))
    ]
    states = split(rollouts, StatesConfig(), tokenizer)
    unique, index = unique_states(states)
    assert index == [0, 1, 0, 1, 0, 2] and len(unique) == 3
    assert pooled_returns(states) == [0.5, 0.5, 0.5, 0.5, 0.5, None]


def test_problems_with_other_prompts_do_not_pool():
    states = every_token([make_rollout((5,), 1.0, (3,)), make_rollout((5,), 0.0, (4,))])
    assert unique_states(states)[1] == [0, 1] and pooled_returns(states) == [1.0, 0.0]


def test_splitting_writes_nothing_on_the_tokenizer(tokenizer):
    before = set(vars(tokenizer))
    assert cut(tokenizer, "1\n2\n") == ["1\n", "2\n"]
    assert set(vars(tokenizer)) == before
