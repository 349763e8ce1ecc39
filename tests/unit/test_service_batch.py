"""Requests as the joint stage's objects, and lessons on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import CHAT, byte_tokenizer, fallback_tokenizer, make_rollout

from genac.client.messages import ChatMessage, Response
from genac.config.run import StatesConfig
from genac.models.chat import encode_prompt
from genac.service.batch import BatchReader
from genac.service.journal import Journal, Lesson
from genac.types import Estimate, Problem, Rationale, State

TEXT = "a+3=9\nü*7=4\nans=4"


def starts(reader: BatchReader, *responses: Response) -> list[list[int]]:
    batch = reader.read(responses)
    states = reader.states(batch)
    return [[s.start for s in states if s.rollout is row.rollout] for row in batch.rows]


# --- responses -----------------------------------------------------------------------------------


def test_a_text_is_cut_where_its_tokens_would_be() -> None:
    tokenizer = byte_tokenizer()
    reader = BatchReader(tokenizer, StatesConfig())
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    by_text, by_tokens = Response(problem="p", text=TEXT), Response(problem="p", tokens=ids)
    assert starts(reader, by_text, by_tokens) == [[0, 6, 13], [0, 6, 13]]
    rows = reader.read([by_text, by_tokens]).rows
    assert rows[0].rollout.response_ids == rows[1].rollout.response_ids
    assert rows[0].characters is not None
    assert [rows[0].characters[i] for i in (0, 6, 13)] == [0, 6, 12]  # ü is two tokens


@pytest.mark.parametrize("make", [byte_tokenizer, fallback_tokenizer])
def test_boundaries_in_characters_never_let_a_state_see_what_is_behind_them(make: Any) -> None:
    tokenizer = make()
    reader = BatchReader(tokenizer, StatesConfig())
    for at in range(1, len(TEXT) + 1):
        row = reader.read([Response(problem="p", text=TEXT, boundaries=(0, at))]).rows[0]
        assert row.starts is not None
        seen = tokenizer.decode(row.rollout.response_ids[: row.starts[1]])
        assert TEXT[:at].startswith(seen)
        assert len(seen) >= at - 1  # a token is at most one character here


def test_boundaries_inside_one_token_share_its_state(tokenizer: Any) -> None:
    reader = BatchReader(tokenizer, StatesConfig())
    response = Response(problem="p", text="aans=7", boundaries=(0, 1, 2, 3, 5))
    batch = reader.read([response])
    assert batch.rows[0].starts == (0, 1, 1, 1, 2)  # "ans=" is one token
    assert [(s.start, s.end) for s in reader.states(batch)] == [(0, 1), (1, 2), (2, 3)]


def test_boundaries_take_the_place_of_the_splitter_for_the_responses_that_have_them() -> None:
    reader = BatchReader(byte_tokenizer(), StatesConfig(splitter="window", window=2))
    ids = (6, 7, 8, 9, 10)
    own = Response(problem="p", tokens=ids, boundaries=(0, 1, 5))
    assert starts(reader, own, Response(problem="p", tokens=ids)) == [[0, 1, 5], [0, 2, 4]]


def test_groups_are_whole_whatever_the_order_of_the_responses() -> None:
    reader = BatchReader(byte_tokenizer(), StatesConfig())
    names = [("p", "x"), ("q", None), ("p", "x"), ("q", None), ("p", "y")]
    responses = [Response(problem=p, tokens=(6, 7 + i), group=g) for i, (p, g) in enumerate(names)]
    batch = reader.read(responses)
    assert [[r.response_ids[1] for r in group] for group in batch.groups] == [
        [7, 9],
        [8, 10],
        [11],
    ]
    assert [(r.group, r.member) for r in batch.rollouts] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [row.rollout.response_ids[1] for row in batch.rows] == [7, 8, 9, 10, 11]


def test_a_prompt_is_what_the_actor_reads_unless_its_tokens_are_sent() -> None:
    tokenizer = byte_tokenizer(CHAT)
    reader = BatchReader(tokenizer, StatesConfig())
    chat = (ChatMessage(role="user", content="hi"),)
    rows = reader.read(
        [
            Response(problem=chat, tokens=(6,)),
            Response(problem="hi", tokens=(6,)),
            Response(problem="hi", tokens=(6,), prompt_tokens=(7, 8)),
        ]
    ).rows
    expected = encode_prompt(tokenizer, Problem("", "hi", ""))
    assert [row.rollout.prompt_ids for row in rows] == [expected, expected, (7, 8)]
    assert rows[0].rollout.problem.prompt == [{"role": "user", "content": "hi"}]


def test_a_splitter_by_probability_needs_the_log_probabilities() -> None:
    reader = BatchReader(byte_tokenizer(), StatesConfig(splitter="low_probability"))
    known = Response(problem="p", tokens=(6, 7, 8), logprobs=(-0.1, -0.1, -3.0))
    assert starts(reader, known) == [[0, 2]]
    with pytest.raises(ValueError, match=r"has no logprobs, by which states\.splitter"):
        reader.read([Response(problem="p", tokens=(6, 7, 8))])


# --- lessons -------------------------------------------------------------------------------------


def lesson() -> Lesson:
    """States that share rationales, scores that are missing, unknown, or written as two tokens."""
    probs = np.linspace(0, 1, 11, dtype=np.float32)
    first = Rationale(
        (3, 4), (5, 6, 7), np.float32([-0.1, -0.2, -1 / 3]), "", 0.3, 1, probs, np.array([0.1, 0.7])
    )
    second = Rationale((3,), (), np.zeros(0, np.float32), "", None)
    one, two = make_rollout((5, 6), 1.0), make_rollout((5, 7, 8), None, member=1)
    shared = (first, second)
    estimates = [
        Estimate(State(one, 0, 2), 0.3, shared, 4),
        Estimate(State(two, 0, 1), 0.3, shared, 4),
        Estimate(State(two, 1, 3, trains=False), None, (), 4),
    ]
    return Lesson("request", "digest", 7, {"momentum": 0.9, "value": None}, estimates)


def test_a_lesson_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal, own = Journal(tmp_path), lesson()
    journal.write(3, own)
    read = journal.read(3)
    assert read is not None and journal.read(4) is None
    assert replace(read, estimates=[]) == replace(own, estimates=[])
    for a, b in zip(read.estimates, own.estimates, strict=True):
        assert (a.value, a.version, a.state.trains) == (b.value, b.version, b.state.trains)
        assert (a.state.key, a.state.start, a.state.end) == (
            b.state.key,
            b.state.start,
            b.state.end,
        )
        assert a.state.rollout.reward == b.state.rollout.reward
        for t, u in zip(a.rationales, b.rationales, strict=True):
            assert (t.prompt_ids, t.completion_ids) == (u.prompt_ids, u.completion_ids)
            assert (t.value, t.score_at) == (u.value, u.score_at)
            assert t.logprobs.dtype == np.float32 and np.array_equal(t.logprobs, u.logprobs)
            assert t.expected == u.expected  # in the same precision
            assert (t.after_one is None) == (u.after_one is None)
    # What is shared stays shared: copies would count as other rationales.
    assert read.estimates[0].rationales is read.estimates[1].rationales
    assert read.estimates[1].state.rollout is read.estimates[2].state.rollout


def test_a_damaged_lesson_is_refused_with_its_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(3, lesson())
    file = tmp_path / "learnt/000003.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"000003\.npz cannot be read .* go on from step 3"):
        journal.read(3)
