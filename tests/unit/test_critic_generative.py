"""The generative critic against a scripted engine: values, rewards, baselines, targets, memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import ScriptedEngine, byte_tokenizer, make_rollout, runtime_with, says

from genac.config.models import GenerativeConfig, ICCConfig
from genac.critics.base import rollouts_of
from genac.critics.generative import GenerativeCritic
from genac.critics.reinforce import leave_one_out_mean
from genac.types import Estimate, Problem, Sample, State

GOLDEN = np.zeros(11)
GOLDEN[[2, 6]] = 0.3, 0.1  # 0.6 of the mass is on words that are no score


class Recorder:
    """In a learner's place: keeps the samples."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def learn(self, samples, seed):
        self.samples = list(samples)
        return {"loss": 0.5}


@pytest.fixture
def build(tokenizer: Any, tiny_model: Any) -> Any:
    """build(texts, probs, **config): a critic that says the texts in turn, again and again."""

    def make(texts: list[str], probs: np.ndarray | None = None, **cfg: Any) -> GenerativeCritic:
        calls = iter(range(10**6))
        engine = ScriptedEngine(
            lambda request: says(tokenizer, texts[next(calls) % len(texts)], probs)
        )
        runtime = runtime_with(engine, tokenizer, tiny_model, "critic")
        runtime.learner = Recorder()  # type: ignore[assignment]
        options = {"prompt": "compact", "max_new_tokens": 32} | cfg
        return GenerativeCritic(runtime, runtime, GenerativeConfig(**options), seed=0)

    return make


def score(n: int | str) -> str:
    return f"ok<answer>{n}</answer>"


def state(
    ids=(5, 6, 7), reward: float | None = 1.0, start: int | None = None, **more: Any
) -> State:
    start = len(ids) if start is None else start
    return State(make_rollout(ids, reward, **more), start, len(ids))


def requests_of(critic: GenerativeCritic) -> list[Any]:
    engine: Any = critic.runtime.engine
    return engine.requests


def trained(critic: GenerativeCritic, estimates: list[Estimate]) -> list[Sample]:
    critic.learn(estimates, step=0)
    learner: Any = critic.runtime.learner
    return learner.samples


def advantages(samples: list[Sample]) -> list[float]:
    """The advantage of each sample's trained tokens."""
    return [float(s.advantages[s.weights > 0][0]) for s in samples if s.advantages is not None]


# --- values ---------------------------------------------------------------------------------------


def test_identical_states_are_judged_once(build):
    critic = build([score(3), score(8)])
    group = [state((5, 6), r, start=0, member=m) for m, r in enumerate((1.0, 0.0, 1.0))]
    result = critic.estimate([*group, state((5, 6))], step=0)
    assert len(requests_of(critic)) == 2
    assert [e.value for e in result] == [0.3, 0.3, 0.3, 0.8]
    assert [e.state for e in result[:3]] == group
    assert result[0].rationales is result[2].rationales


def test_estimates_name_the_version_and_keep_the_rationale(build):
    critic = build(["hm" + score(4)])
    critic.runtime.version = 9
    estimate = critic.estimate([state()], step=0)[0]
    rationale = estimate.rationales[0]
    assert estimate.version == 9 and rationale.text == "hmok<answer>4</answer>"
    assert rationale.prompt_ids == requests_of(critic)[0].prompt_ids
    assert len(rationale.logprobs) == len(rationale.completion_ids)


@pytest.mark.parametrize("text", ["no idea", score(11), "<answer>", "<answer>7"])
@pytest.mark.parametrize("readout", ["sampled", "expected"])
def test_a_missing_score_stays_missing(build, text, readout):
    critic = build([text], GOLDEN, readout=readout)
    estimate = critic.estimate([state()], step=0)[0]
    assert estimate.value is None and estimate.rationales[0].value is None
    assert estimate.rationales[0].score_probs is None


def test_readouts_by_hand(build):
    """p(2) = 0.3, p(6) = 0.1: 3/4 and 1/4 of the scores' mass; 0.75 * 0.2 + 0.25 * 0.6 = 0.3."""
    sampled = build([score(6)], GOLDEN).estimate([state()], step=0)[0]
    expected = build([score(6)], GOLDEN, readout="expected").estimate([state()], step=0)[0]
    assert sampled.value == 0.6 and expected.value == pytest.approx(0.3)
    # Variance 0.75 * 0.1^2 + 0.25 * 0.3^2 = 0.03.
    assert expected.rationales[0].spread == pytest.approx(0.03**0.5)


def test_probabilities_are_read_at_the_last_score(build, tokenizer):
    """The engine's watched rows differ by position; the row of the second answer counts."""
    critic = build([""], readout="expected")
    text = score(3) + score(8)
    at = tokenizer.tokenize(text).index("8")

    def script(request):
        done = says(tokenizer, text, GOLDEN)
        done.token_probs[:] = np.eye(11)[0]
        done.token_probs[at] = np.eye(11)[8]
        return done

    critic.runtime.engine = ScriptedEngine(script)
    estimate = critic.estimate([state()], step=0)[0]
    assert estimate.value == pytest.approx(0.8) and estimate.rationales[0].score_at == at


def test_several_rationales_average_those_that_parse(build):
    critic = build([score(2), "no idea", score(8)], num_samples=3)
    estimate = critic.estimate([state()], step=0)[0]
    assert estimate.value == pytest.approx(0.5) and len(estimate.rationales) == 3
    assert len({r.seed for r in requests_of(critic)}) == 3


def test_seeds_differ_by_state_and_step(build):
    critic = build([score(2)])
    critic.estimate([state(), state((8,))], step=0)
    critic.estimate([state(), state((8,))], step=1)
    assert len({r.seed for r in requests_of(critic)}) == 4


def test_requests_stop_at_the_closing_tag_and_watch_the_scores(build, tokenizer):
    critic = build([score(2)], temperature=0.6)
    critic.estimate([state()], step=0)
    request = requests_of(critic)[0]
    assert tokenizer.convert_tokens_to_ids("</answer>") in request.stop_ids
    assert tokenizer.eos_token_id in request.stop_ids
    words = [tokenizer.decode([i]) for i in request.token_prob_ids]
    assert words == [str(i) for i in range(11)]
    assert request.temperature == 0.6 and request.max_new_tokens == 32


def test_a_closing_tag_of_several_tokens_stops_as_a_string(tiny_model, tokenizer):
    """Real vocabularies rarely hold the tag; the actor's tokenizer plays no part in it."""
    split = byte_tokenizer()
    engine = ScriptedEngine(lambda request: says(split, score(5)))
    critic_runtime = runtime_with(engine, split, tiny_model, "critic")
    actor = runtime_with(engine, tokenizer, tiny_model)
    cfg = GenerativeConfig(prompt="compact", max_new_tokens=32)
    critic = GenerativeCritic(critic_runtime, actor, cfg, seed=0)
    (estimate,) = critic.estimate([state()], 0)
    (request,) = engine.requests
    assert request.stop == ("</answer>",) and estimate.value == 0.5
    assert split.encode("</answer>")[0] not in request.stop_ids


def test_a_prompt_beyond_the_context_is_missing(build):
    critic = build([score(5)])
    critic.runtime.max_length = 60
    result = critic.estimate([state(), state((5,) * 100)], step=0)
    assert [e.value for e in result] == [0.5, None] and result[1].rationales == ()
    assert len(requests_of(critic)) == 1
    assert len(trained(critic, result)) == 1


def test_a_context_without_room_for_any_prompt_is_an_error(build):
    critic = build([score(5)])
    critic.runtime.max_length = 32
    with pytest.raises(ValueError, match="leaves no room for a prompt"):
        critic.estimate([state()], step=0)


# --- in-context conditioning ----------------------------------------------------------------------


def test_success_rate_starts_at_the_first_batch_and_then_moves_by_momentum(build):
    critic = build([score(5)], icc=ICCConfig(success_rate_momentum=0.9))
    first = [state((5,), 1.0), state((6,), 0.0), state((7,), None)]
    critic.estimate(first, step=0)
    assert critic.rate.value == 0.5
    critic.observe(rollouts_of(first))
    assert critic.rate.value == 0.5
    second = critic.estimate([state((5,), 1.0)], step=1)
    assert critic.rate.value == 0.5  # judged under the rate of the past
    # Responses without a queried state count as well.
    critic.observe([*rollouts_of([e.state for e in second]), make_rollout((9,), 1.0)])
    assert critic.rate.value == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)


def test_a_response_counts_once_however_many_states_it_has(build):
    critic = build([score(5)])
    long, short = make_rollout((5,) * 9, 1.0), make_rollout((6,), 0.0)
    critic.estimate([State(long, i, i + 1) for i in range(9)] + [State(short, 0, 1)], step=0)
    assert critic.rate.value == 0.5


def test_conditioning_shows_in_the_prompt_and_can_be_off(build, tokenizer):
    for enabled in (True, False):
        icc = ICCConfig(enabled=enabled, actor_size="7")
        critic = build([score(5)], icc=icc)
        critic.estimate([state((5,), 1.0)], step=0)
        prompt = tokenizer.decode(requests_of(critic)[0].prompt_ids)
        assert ("size 7rate 10" in prompt) == enabled


# --- learning -------------------------------------------------------------------------------------


def test_paper_rewards_by_hand(build):
    """R_v = 1 - (r - v)^2 without a baseline; an unparsable output earns 0."""
    critic = build([score(7), score(0), "no idea"])
    states = [state((5,), 1.0), state((6,), 0.0), state((7,), 1.0)]
    estimates = critic.estimate(states, step=0)
    samples = trained(critic, estimates)
    assert advantages(samples) == pytest.approx([0.91, 1.0, 0.0])
    assert critic.learn(estimates, 0)["critic/reward"] == pytest.approx((0.91 + 1) / 3)


def test_samples_train_the_completion_only(build):
    critic = build([score(7)], temperature=0.8)
    estimates = critic.estimate([state()], step=0)
    sample, rationale = trained(critic, estimates)[0], estimates[0].rationales[0]
    first = len(rationale.prompt_ids)
    assert sample.ids == rationale.prompt_ids + rationale.completion_ids
    assert not sample.weights[:first].any() and (sample.weights[first:] == 1).all()
    assert sample.old_logprobs is not None
    np.testing.assert_array_equal(sample.old_logprobs[first:], rationale.logprobs)
    assert sample.temperature == 0.8 and not sample.scores


def test_pooled_targets_are_the_mean_return_and_train_once(build):
    """The empty prefix of four responses, one right: target 1/4, R_v = 1 - (0.25 - 0.5)^2."""
    group = [state((5,), r, start=0, member=m) for m, r in enumerate((1.0, 0.0, 0.0, 0.0))]
    pooled = build([score(5)], pool_states=True)
    samples = trained(pooled, pooled.estimate(group, step=0))
    assert advantages(samples) == pytest.approx([1 - 0.0625])
    single = build([score(2)])
    samples = trained(single, single.estimate(group, step=0))
    assert advantages(samples) == pytest.approx([1 - 0.64, *[1 - 0.04] * 3])


def test_unscored_responses_train_nothing(build):
    critic = build([score(5)])
    result = critic.learn(critic.estimate([state(reward=None)], step=0), step=0)
    assert result == {"critic/skipped_rate": 0.0, "critic/truncated_rate": 0.0}
    assert critic.rate.value is None


def test_leave_one_out_among_the_rationales_of_a_state(build):
    """Scores 10, 5, unparsable on a right response: rewards 1, 0.75, 0."""
    critic = build([score(10), score(5), "?"], num_samples=3, reinforce_baseline="leave_one_out")
    samples = trained(critic, critic.estimate([state(reward=1.0)], step=0))
    assert advantages(samples) == pytest.approx([1 - 0.375, 0.75 - 0.5, 0 - 0.875])


def test_leave_one_out_among_states_of_the_same_outcome(build):
    """Right responses scored 10 and 5 (rewards 1, 0.75), wrong ones 0 and 5 (rewards 1, 0.75)."""
    critic = build([score(10), score(5), score(0), score(5)], reinforce_baseline="leave_one_out")
    outcomes = zip((5, 6, 7, 8), (1.0, 1.0, 0.0, 0.0), strict=True)
    states = [state((token,), reward) for token, reward in outcomes]
    samples = trained(critic, critic.estimate(states, step=0))
    assert advantages(samples) == pytest.approx([0.25, -0.25, 0.25, -0.25])


def test_copies_of_a_rationale_do_not_leak_into_its_own_baseline(build):
    """Three right responses share the empty prefix, hence one rationale (score 10, reward 1);
    another right state got 5 (reward 0.75). The baseline of the copies is 0.75, no mean with
    themselves.
    """
    critic = build([score(10), score(5)], reinforce_baseline="leave_one_out")
    shared = [state((5,), 1.0, start=0, member=m) for m in range(3)]
    samples = trained(critic, critic.estimate([*shared, state((6, 7), 1.0)], step=0))
    assert advantages(samples) == pytest.approx([0.25, 0.25, 0.25, 0.75 - 1.0])


def test_leave_one_out_mean():
    assert leave_one_out_mean([1.0, 0.0, 0.5]) == pytest.approx([0.25, 0.75, 0.5])
    assert leave_one_out_mean([0.7]) == [0.7]
    assert leave_one_out_mean([1.0, 1.0, 0.0], [3, 3, 4]) == pytest.approx([0.0, 0.0, 1.0])
    assert leave_one_out_mean([0.4, 0.4], [3, 3]) == [0.4, 0.4]


def test_the_exact_score_gradient_replaces_the_sampled_one(build, tokenizer):
    critic = build([score(6)], GOLDEN, exact_score_gradient=True, reasoning_weight=0.25)
    estimates = critic.estimate([state(reward=1.0)], step=0)
    sample, rationale = trained(critic, estimates)[0], estimates[0].rationales[0]
    assert rationale.score_at is not None
    at = len(rationale.prompt_ids) + rationale.score_at
    (exact,) = sample.scores
    assert exact.at == at and tokenizer.decode([sample.ids[at]]) == "6"
    assert exact.rewards == pytest.approx([1 - (1 - i / 10) ** 2 for i in range(11)])
    assert sample.weights[at] == 0 and sample.weights[-1] == 0.25
    # The reasoning's reward is the expectation: 0.75 * (1 - 0.64) + 0.25 * (1 - 0.16).
    assert advantages([sample]) == pytest.approx([0.75 * 0.36 + 0.25 * 0.84])


def test_without_a_score_the_exact_gradient_trains_the_whole_completion(build):
    critic = build([score(10), "hm"], GOLDEN, exact_score_gradient=True,
                   reinforce_baseline="leave_one_out")  # fmt: skip
    samples = trained(critic, critic.estimate([state((5,)), state((6,))], step=0))
    expected = 0.75 * 0.36 + 0.25 * 0.84
    assert not samples[1].scores and samples[1].weights[-1] == 1.0
    assert advantages(samples)[1] == pytest.approx(0 - expected)


def test_states_that_train_nothing_get_their_own_number_of_rationales(build):
    critic = build([score(5)], num_samples=3, value_samples=1)
    states = [replace(state((5 + i,)), trains=i in (1, 4)) for i in range(6)]
    estimates = critic.estimate(states, step=0)
    assert [len(e.rationales) for e in estimates] == [1, 3, 1, 1, 3, 1]
    samples = trained(critic, estimates)
    expected = [t.prompt_ids + t.completion_ids for i in (1, 4) for t in estimates[i].rationales]
    assert [s.ids for s in samples] == expected
    alike = build([score(5)], num_samples=3).estimate(states, step=0)
    assert {len(e.rationales) for e in alike} == {3}


# --- memory ---------------------------------------------------------------------------------------


def test_state_round_trip(build):
    critic, other = build([score(5)]), build([score(5)])
    critic.learn(critic.estimate([state((5,), 1.0), state((6,), 0.0)], step=0), step=0)
    other.restore(critic.state())
    assert other.rate.value == critic.rate.value == 0.5 and other.state() == critic.state()


def test_another_prompt_is_refused(build):
    saved = build([score(5)], prompt="paper").state()
    with pytest.raises(ValueError, match="trained under prompt"):
        build([score(5)], prompt="compact").restore(saved)
    with pytest.raises(ValueError, match="None"):
        build([score(5)]).restore({"success_rate": {"momentum": 0.9, "value": None}})


def test_problems_with_equal_tokens_are_one_state_and_others_are_not(build):
    critic = build([score(3), score(8)])
    other = state((5,), prompt=(9, 9), problem=Problem("q", "9", "1"))
    assert [e.value for e in critic.estimate([state((5,)), other], step=0)] == [0.3, 0.8]
