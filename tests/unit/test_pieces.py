"""Text comes back from tokens as it was written, and each token gets its part of it."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from fakes import byte_tokenizer, fallback_tokenizer, make_rollout, says
from hypothesis import given
from hypothesis import strategies as st
from test_score_tokens import critic_of

from genac.critics.scores import ScoreReader, score_tokens
from genac.pieces import Pieces
from genac.runs.store import Run
from genac.stages.sft import completion_ids
from genac.stages.traces.endpoint import best_reasoning
from genac.stages.traces.states import Candidate
from genac.types import Estimate, State

WORDS = "3 × 4 = 12 ✓ 第二步\n  we  go 👩‍👩‍👧 on,\té."
TOKENIZERS = {"bytes": byte_tokenizer(bos=True), "fallback": fallback_tokenizer()}


def encoded(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def token_of(tokenizer: Any, ids: list[int], place: int) -> int:
    """The first token with which the character at `place` is whole, by decoding every prefix."""
    for index in range(len(ids)):
        text = tokenizer.decode(ids[: index + 1])
        if len(text) > place and (not text.endswith("\ufffd") or index == len(ids) - 1):
            return index
    raise AssertionError(f"{place} is beyond the text")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_join_to_the_text_and_none_holds_half_a_character(name):
    tokenizer = TOKENIZERS[name]
    ids = encoded(tokenizer, WORDS)
    pieces = Pieces(tokenizer.decode).of(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == tokenizer.decode(ids) == WORDS
    assert not any("\ufffd" in piece for piece in pieces)
    place = 0
    for index, piece in enumerate(pieces):
        for _ in piece:
            assert token_of(tokenizer, ids, place) == index
            place += 1


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_any_tokens_whatever_join_and_the_score_keeps_its_place(name, data):
    tokenizer = TOKENIZERS[name]
    tail = encoded(tokenizer, " <answer>7</answer>")
    ids = [*data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40)), *tail]
    pieces = Pieces(tokenizer.decode).of(ids)
    text = tokenizer.decode(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text
    place, index, seen = text.rindex("7</answer>"), 0, 0
    while not seen <= place < seen + len(pieces[index]):
        seen, index = seen + len(pieces[index]), index + 1
    assert index == token_of(tokenizer, ids, place)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "text", ["", "7", "é", "第", "plain text, one line", "\n\n", "   ", "🙂🙂"]
)
def test_short_texts_come_back(name, text):
    tokenizer = TOKENIZERS[name]
    ids = encoded(tokenizer, text)
    for split in (Pieces(tokenizer.decode), Pieces(tokenizer.decode)):
        assert "".join(split.of(ids)) == text
    split = Pieces(tokenizer.decode)
    split.of(encoded(tokenizer, "an anchor is known"))
    assert "".join(split.of(ids)) == text


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", ["text", "noise"])
def test_time_grows_with_the_length_and_not_with_its_square(name, kind):
    tokenizer, rng = TOKENIZERS[name], random.Random(0)
    some = encoded(tokenizer, WORDS)
    longest = some * (16_000 // len(some) + 1)
    if kind == "noise":
        longest = [rng.randrange(len(tokenizer)) for _ in longest]
    seconds = []
    for count in (2_000, 16_000):
        began = time.process_time()
        Pieces(tokenizer.decode).of(longest[:count])
        seconds.append(time.process_time() - began)
    assert seconds[1] < 24 * seconds[0] + 0.2  # 8 times the length


# --- the critic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_critics_words_are_what_it_wrote(tiny_model, name):
    """Text, score and the score's place; what the oracle keeps is encoded to the same tokens."""
    tokenizer = TOKENIZERS[name]
    text = f"{WORDS}\n<answer>7</answer>"
    critic = critic_of(tokenizer, tiny_model, lambda request: says(tokenizer, text))
    ((rationale,),) = critic.think([(5, 6)], seed=0)
    assert rationale.text == tokenizer.decode(list(rationale.completion_ids)) == text
    assert rationale.value == 0.7 and rationale.score_at is not None
    (seven,) = encoded(tokenizer, "a7")[len(encoded(tokenizer, "a")) :]
    assert rationale.completion_ids[rationale.score_at] == seven
    shown = {"id": "p", "prompt": "3", "answer": "7"}
    queries = Candidate(shown, "x", (1, 2), "start", 0.25, "2K", 1.0, 0.7)
    reasoning, why = best_reasoning(queries, [rationale], 0.2)
    assert (reasoning, why) == (WORDS + "\n", "")
    learnt = completion_ids(critic, reasoning, 7)
    assert learnt[: len(rationale.completion_ids)] == rationale.completion_ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_broken_characters_before_the_score_do_not_move_it(name):
    tokenizer = TOKENIZERS[name]
    reader = ScoreReader(tokenizer, score_tokens(tokenizer))
    half = encoded(tokenizer, "a第二步")[:-1]
    ids = [*half, *half[-2:], *encoded(tokenizer, "a <answer>4</answer>")]
    text, score, at = reader.parse(ids)
    assert text == tokenizer.decode(ids) and score == 4 and at is not None
    assert tokenizer.decode([ids[at]]) == "4"


# --- what a run stores ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stored_response_shows_its_characters(tmp_path, name):
    tokenizer = TOKENIZERS[name]
    ids = encoded(tokenizer, WORDS)
    run = Run.create(tmp_path / "run", {"name": "toy"}, {})
    rollout = replace(make_rollout(ids), text=WORDS)
    cuts = [0, 4, 9, 20, len(ids)]  # wherever a splitter may cut, inside of characters too
    states = [State(rollout, a, b) for a, b in itertools.pairwise(cuts)]
    run.write_rollouts("joint", 0, [rollout], tokenizer.decode)
    estimates = [Estimate(state, 0.5) for state in states]
    run.write_estimates("joint", 0, estimates, {}, decode=tokenizer.decode)
    result = run.trajectory(0)
    assert result.tokens is not None and "".join(result.tokens) == WORDS
    assert "".join(step.text for step in result.steps) == WORDS
