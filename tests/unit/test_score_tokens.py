"""Scores 0..10 as tokens: one for each, or 10 as a 1 and a 0; values, targets, gradients."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import SHAPE
from fakes import ScriptedEngine, byte_tokenizer, make_rollout, runtime_with, says
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

from genac.config.models import GenerativeConfig, LossConfig, OptimizerConfig
from genac.critics.generative import GenerativeCritic
from genac.critics.reinforce import rationale_sample
from genac.critics.scores import ScoreTokens, score_tokens
from genac.engines.base import Completion
from genac.learner import Learner
from genac.models import tiny
from genac.ops.losses import critic_reward
from genac.types import SCORE_VALUES, Rationale, Sample, ScoreTarget, State

DIGITS = ScoreTokens(tuple(range(3, 13)))  # of the gradients' model: token 3 is "0", 4 is "1"
FIRST = np.zeros(10)
FIRST[[1, 8]] = 0.4  # 0.2 of the mass is no score
AFTER = np.zeros(10)
AFTER[[0, 2]] = 0.6, 0.1  # 10, 12 (no score), and 0.3 that 1 is the score


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny tokenizer without a word 10."""
    words = [word for word in tiny.CRITIC_WORDS if word != "10"]
    monkeypatch.setattr(tiny, "CRITIC_WORDS", words)
    return tiny.build_tokenizer(["a", "ok"], 64)


def critic_of(tokenizer: Any, model: Any, script: Any, **cfg: Any) -> GenerativeCritic:
    runtime = runtime_with(ScriptedEngine(script), tokenizer, model, "critic")
    options = {"prompt": "compact", "max_new_tokens": 32} | cfg
    return GenerativeCritic(runtime, runtime, GenerativeConfig(**options), seed=0)


def says_score(tokenizer: Any, written: str, probe_probs: np.ndarray | None) -> Completion:
    """FIRST at the score's place and AFTER behind it; elsewhere what nobody should read."""
    text = f"ok<answer>{written}</answer>"
    done = says(tokenizer, text, np.full(10, 0.1))
    at = tokenizer.encode(f"ok<answer>{written[0]}", add_special_tokens=False)
    done.token_probs[len(at) - 1], done.token_probs[len(at)] = FIRST, AFTER
    return Completion(done.ids, done.logprobs, done.finish, done.token_probs, probe_probs)


def state() -> State:
    return State(make_rollout((5, 6)), 2, 2)


# --- which tokens ---------------------------------------------------------------------------------


def test_ten_is_one_token_or_two(tokenizer, split):
    whole, byte, two = (score_tokens(t) for t in (tokenizer, byte_tokenizer(), split))
    assert whole and whole.one is None and tokenizer.decode(whole.ids) == "012345678910"
    for result, of in ((byte, byte_tokenizer()), (two, split)):
        assert result and of.decode(list(result.ids)) == "0123456789"
        assert result.one is not None and of.decode([result.one]) == "1"


def test_a_closing_tag_that_is_written_otherwise_alone():
    """Like Llama 2: a word's mark stands at the beginning of a text and not behind a digit."""
    texts = ["<answer>", "</answer>", *"0123456789"]
    llama = LlamaTokenizer().train_new_from_iterator(texts * 4, 300)
    alone, whole = llama.tokenize("</answer>"), llama.tokenize("<answer>10</answer>")
    assert whole[-len(alone) :] != alone
    result = score_tokens(llama)
    assert result and llama.convert_ids_to_tokens(list(result.ids)) == list("0123456789")


def test_digits_that_are_unknown_are_no_scores():
    """Each is one token, and all of them the same."""
    words = {"<unk>": 0, "<answer>": 1, "</answer>": 2}
    bare = Tokenizer(WordLevel(words, unk_token="<unk>"))
    bare.pre_tokenizer = WhitespaceSplit()
    assert score_tokens(PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>")) is None


@pytest.mark.parametrize("glued", [">7", "7</", "10<"])
def test_digits_that_melt_into_the_tags_are_no_scores(glued):
    fast = byte_tokenizer()
    fast.add_tokens([glued])
    assert score_tokens(fast) is None


# --- values ---------------------------------------------------------------------------------------


def test_one_and_ten_share_the_first_token_by_hand():
    """p(1) = p(8) = 1/2 of the scores' mass; behind the 1, 0.6 : 0.3 for the 0."""
    probs, after_one = DIGITS.read(FIRST, AFTER)
    expected = np.zeros(11)
    expected[[1, 8, 10]] = 1 / 6, 1 / 2, 1 / 3
    np.testing.assert_allclose(probs, expected)
    np.testing.assert_allclose(after_one, [0.3, 0.6])
    rationale = Rationale((), (), np.zeros(0), "", 0.8, 0, probs, after_one)
    assert rationale.expected == pytest.approx(0.1 / 6 + 0.4 + 1 / 3)  # 0.75


def test_eleven_tokens_need_nothing_behind_the_first():
    token_probs = np.arange(11, dtype=np.float32)
    probs, after_one = ScoreTokens(tuple(range(11))).read(token_probs, None)
    np.testing.assert_array_equal(probs, token_probs / token_probs.sum())
    assert after_one is None


def test_no_mass_on_any_end_of_a_one_is_no_error():
    probs, after_one = DIGITS.read(FIRST, np.eye(10)[3])
    np.testing.assert_allclose(probs[[1, 10]], 0.25)
    np.testing.assert_array_equal(after_one, [0, 0])


@pytest.mark.parametrize("written", ["10", "1", "8"])
def test_the_value_is_the_same_whatever_was_written(split, tiny_model, written):
    """What follows a 1 is read behind the 1 that was written, or from the engine's probe."""
    probe_probs = AFTER if written == "8" else None
    script = lambda request: says_score(split, written, probe_probs)  # noqa: E731
    critic = critic_of(split, tiny_model, script, readout="expected")
    (estimate,) = critic.estimate([state()], 0)
    assert estimate.value == pytest.approx(0.75)
    assert estimate.rationales[0].value == int(written) / 10
    (request,) = critic.runtime.engine.requests  # type: ignore[union-attr]
    ids = estimate.rationales[0].completion_ids
    one, at = split.convert_tokens_to_ids("1"), estimate.rationales[0].score_at
    assert request.probe(ids) == (None if written[0] == "1" else (at, one))
    assert request.probe(ids[:-1]) is None  # no score, nothing to ask


def test_a_sampled_readout_requests_no_probe(split, tiny_model):
    script = lambda request: says_score(split, "8", None)  # noqa: E731
    critic = critic_of(split, tiny_model, script)
    (estimate,) = critic.estimate([state()], 0)
    (request,) = critic.runtime.engine.requests  # type: ignore[union-attr]
    assert request.probe is None and not request.token_prob_ids
    assert estimate.value == 0.8 and estimate.rationales[0].score_probs is None


def test_one_token_scores_request_no_probe(tokenizer, tiny_model):
    script = lambda request: says(tokenizer, "<answer>10</answer>", np.eye(11)[10])  # noqa: E731
    critic = critic_of(tokenizer, tiny_model, script, readout="expected")
    assert critic.estimate([state()], 0)[0].value == 1.0
    assert critic.runtime.engine.requests[0].probe is None  # type: ignore[union-attr]


def test_a_warning_where_digits_are_not_tokens_and_only_there(split, tiny_model):
    glued = byte_tokenizer()
    glued.add_tokens([">7"])
    with pytest.warns(UserWarning, match="some of the digits 0..9 as several tokens"):
        critic = critic_of(glued, tiny_model, None, readout="expected")
    assert critic.scores is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        critic_of(glued, tiny_model, None)
        for options in ({"readout": "expected"}, {"exact_score_gradient": True}):
            critic_of(split, tiny_model, None, **options)


# --- the exact gradient ---------------------------------------------------------------------------


def rationale_of(written: tuple[int, ...], first: np.ndarray, after: np.ndarray) -> Rationale:
    """A rationale of two tokens, the score and a closing token; prompt (13, 14)."""
    probs, after_one = DIGITS.read(first, after)
    ids = (20, *written, 21)
    return Rationale((13, 14), ids, np.zeros(len(ids), np.float32), "", 0.5, 1, probs, after_one)


def sample_of(rationale: Rationale, target: float) -> Sample:
    cfg = GenerativeConfig(exact_score_gradient=True, reasoning_weight=0.0)
    return rationale_sample(rationale, 0.0, target, DIGITS, cfg)


def test_targets_by_hand():
    """Target 1: R(1) = 0.19, R(8) = 0.96, R(10) = 1. A first 1 is worth 0.3 * 0.19 + 0.6 * 1."""
    rewards = [1 - (1 - i / 10) ** 2 for i in range(11)]
    (first,) = sample_of(rationale_of((11,), FIRST, AFTER), 1.0).scores
    assert first.at == 3 and first.ids == DIGITS.ids and first.otherwise == 0
    assert first.rewards == pytest.approx([0, 0.657, *rewards[2:10]])
    for written in ((4, 3), (4,)):
        sample = sample_of(rationale_of(written, FIRST, AFTER), 1.0)
        assert sample.scores[0] == first
        second = ScoreTarget(4, DIGITS.ids, (1.0, *[0.0] * 9), sample.scores[1].otherwise)
        assert sample.scores[1:] == (second,) and second.otherwise == pytest.approx(0.19)


def test_tokens_trained_exactly_are_not_trained_twice():
    cfg = GenerativeConfig(exact_score_gradient=True, reasoning_weight=0.25)
    masks = [
        rationale_sample(
            rationale_of(written, FIRST, AFTER), 0.5, 1.0, DIGITS, cfg
        ).weights.tolist()
        for written in ((11,), (4, 3), (4,))
    ]
    quarter = [0, 0, 0.25]
    assert masks == [[*quarter, 0, 0.25], [*quarter, 0, 0, 0.25], [*quarter, 0, 0]]


def double_model() -> Any:
    torch.manual_seed(3)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE)).double().eval()


def next_probs(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    return torch.softmax(model(torch.tensor([ids])).logits[0, -1], -1)


def expected_reward(model: Any, target: float) -> torch.Tensor:
    """The expectation of R_v over all first and second tokens, enumerated."""
    before, rewards = (13, 14, 20), critic_reward(SCORE_VALUES, target)
    first, second = next_probs(model, before), next_probs(model, (*before, DIGITS.ids[1]))
    total = torch.zeros((), dtype=torch.float64)
    for token, p in enumerate(first):
        if token not in DIGITS.ids:
            continue
        digit = DIGITS.ids.index(token)
        if digit != 1:
            total = total + p * rewards[digit]
            continue
        for behind, q in enumerate(second):
            if behind == DIGITS.ids[0]:
                total = total + p * q * rewards[10]
            elif behind not in DIGITS.ids:
                total = total + p * q * rewards[1]
    return total


@torch.no_grad()
def slopes(model: Any, target: float, directions: list[list[torch.Tensor]]) -> list[float]:
    """Central differences of the enumerated expectation, in float64."""
    results, step = [], 1e-5
    for direction in directions:
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(model)
            for parameter, d in zip(moved.parameters(), direction, strict=True):
                parameter += sign * step * d
            values.append(float(expected_reward(moved, target)))
        results.append((values[0] - values[1]) / (2 * step))
    return results


def learned(model: Any, rationale: Rationale, target: float) -> list[torch.Tensor]:
    """The gradient that the learner follows upwards, of one rationale."""
    optimizer = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1e9)
    learner = Learner(copy.deepcopy(model), optimizer, LossConfig())
    learner.learn([sample_of(rationale, target)], seed=0)
    zero = torch.zeros(())
    return [zero if p.grad is None else -p.grad for p in learner.model.parameters()]


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_the_expected_reward(target):
    """Over the draw of the first token: with p(1) a rationale writes a 1 and trains what
    follows.
    """
    model, rng = double_model(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        first, after = (
            next_probs(model, (13, 14, 20, *more))[list(DIGITS.ids)].numpy()
            for more in ((), (DIGITS.ids[1],))
        )
    p1 = float(first[1])
    other, one, ten = (
        learned(model, rationale_of(written, first, after), target)
        for written in ((11,), (4,), (4, 3))
    )
    torch.testing.assert_close(one, ten)  # what was drawn behind the 1 does not matter
    expected = [(1 - p1) * a + p1 * b for a, b in zip(other, one, strict=True)]
    directions = [
        [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in model.parameters()]
        for _ in range(4)
    ]
    along = [
        sum(float((g * d).sum()) for g, d in zip(expected, direction, strict=True))
        for direction in directions
    ]
    required = slopes(model, target, directions)
    assert along == pytest.approx(required, rel=1e-4, abs=1e-7)
    without = [
        sum(float((g * d).sum()) for g, d in zip(other, direction, strict=True))
        for direction in directions
    ]
    assert without != pytest.approx(required, rel=1e-3, abs=1e-7)  # the second token is needed
