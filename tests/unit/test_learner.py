"""The learner: results do not depend on how samples are batched, and each term is what it says."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from genac.config.models import LossConfig, OptimizerConfig
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.learner import Learner
from genac.models.value_head import ValueModel
from genac.ops.losses import critic_reward
from genac.types import Sample, ScoreTarget

SCORE_IDS = tuple(range(3, 14))


def learner_of(model: Any, tokens: int = 8192, rate: float = 1e-3, **loss: Any) -> Learner:
    optimizer = OptimizerConfig(
        learning_rate=rate, weight_decay=0.0, max_grad_norm=1e9, tokens_per_microbatch=tokens
    )
    return Learner(copy.deepcopy(model), optimizer, LossConfig(**loss))


def random_samples(count: int = 9, vocab: int = 40, score: bool = False) -> list[Sample]:
    rng, samples = np.random.default_rng(0), []
    for length in rng.integers(4, 30, count):
        ids = tuple(int(i) for i in rng.integers(3, vocab, length))
        weights = (rng.random(length) < 0.6).astype(np.float32)
        weights[-1], weights[0] = 1.0, 0.0
        target = ScoreTarget(int(length) - 2, SCORE_IDS, tuple(rng.random(11).tolist()))
        samples.append(
            Sample(
                ids,
                weights,
                "score" if score else "policy",
                advantages=rng.normal(size=length).astype(np.float32),
                old_logprobs=(-4 + 0.3 * rng.normal(size=length)).astype(np.float32),
                ref_logprobs=(-4 + 0.3 * rng.normal(size=length)).astype(np.float32),
                scores=(target,) if score else (),
                temperature=0.8,
            )
        )
    return samples


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    named = learner.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def close_gradients(one: Learner, other: Learner) -> None:
    own, theirs = gradients(one), gradients(other)
    assert own.keys() == theirs.keys()
    for name, value in own.items():
        torch.testing.assert_close(value, theirs[name], atol=2e-6, rtol=1e-4, msg=name)


def logprobs_of(model: Any, sample: Sample) -> torch.Tensor:
    """(T,) log-probabilities by the plain route, 0 for the first token."""
    logits = model(torch.tensor([sample.ids])).logits[0, :-1].float() / sample.temperature
    logp = torch.log_softmax(logits, -1)
    picked = logp.gather(-1, torch.tensor(sample.ids[1:])[:, None])[:, 0]
    return torch.cat([torch.zeros(1), picked])


# --- invariance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["token", "sequence"])
@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_results_do_not_depend_on_microbatches_or_order(tiny_model, tokens, loss_type):
    samples = random_samples(score=True)
    options = {"beta": 0.1, "entropy_coef": 0.01, "loss_type": loss_type, "dual_clip": 2.0}
    whole, cut = learner_of(tiny_model, **options), learner_of(tiny_model, tokens, **options)
    first, second = whole.learn(samples, seed=0), cut.learn(samples[::-1], seed=5)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    close_gradients(whole, cut)
    after = zip(whole.logprobs(samples), cut.logprobs(samples), strict=True)
    assert max(float(np.abs(a - b).max()) for a, b in after) < 1e-3


def test_padding_does_not_change_logprobs_or_values(tiny_model):
    samples = random_samples()
    learner, alone = learner_of(tiny_model), learner_of(tiny_model, tokens=1)
    for a, b in zip(learner.logprobs(samples), alone.logprobs(samples), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    model = ValueModel(tiny_model, 1)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    values = Learner(model, OptimizerConfig(), head="mse").values([s.ids for s in samples])
    for s, row in zip(samples, values, strict=True):
        assert len(row) == len(s.ids) + 1 and np.isnan(row[0])
        single = model(torch.tensor([s.ids]))[0, :, 0].detach().numpy()
        np.testing.assert_allclose(row[1:], single, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_engine_and_learner_agree(tiny_model, temperature):
    engine, learner = LocalEngine(tiny_model, max_length=256), learner_of(tiny_model)
    requests = [Request((5, 6, 7 + i), 20, seed=i, temperature=temperature) for i in range(6)]
    for request, done in zip(requests, engine.generate(requests), strict=True):
        ids = request.prompt_ids + done.ids
        weights = np.ones(len(ids), np.float32)
        weights[:3] = 0
        result = learner.logprobs([Sample(ids, weights, "policy", temperature=temperature)])[0]
        np.testing.assert_allclose(result[3:], done.logprobs, atol=1e-4)
        assert not result[:3].any()


# --- the losses against plain autograd -----------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_policy_loss_equals_plain_autograd(tiny_model, loss_type, kind):
    samples = random_samples()
    options = {"epsilon": 0.1, "epsilon_high": 0.3, "beta": 0.2, "entropy_coef": 0.05}
    learner = learner_of(tiny_model, loss_type=loss_type, kl_estimator=kind, **options)
    measured = learner.learn(samples, seed=0)
    plain, rows, tokens = copy.deepcopy(tiny_model), [], 0
    for s in samples:
        logits = plain(torch.tensor([s.ids])).logits[0, :-1] / s.temperature
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        logp, keep = logprobs_of(plain, s)[1:], torch.tensor(s.weights)[1:] != 0
        old, ref, advantage = (
            torch.tensor(x)[1:] for x in (s.old_logprobs, s.ref_logprobs, s.advantages)
        )
        ratio, d = (logp - old).exp(), ref - logp
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.3) * advantage)
        kl = {"k1": -d, "k2": d**2 / 2, "k3": d.exp() - 1 - d}[kind]
        rows.append((-gain + 0.2 * kl - 0.05 * entropy)[keep])
        tokens += int(keep.sum())
    if loss_type == "token":
        loss = torch.cat(rows).sum() / tokens
    else:
        loss = torch.stack([row.mean() for row in rows]).mean()
    loss.backward()
    assert measured["loss"] == pytest.approx(loss.item(), rel=1e-4)
    expected = learner_of(plain)
    for copied, original in zip(expected.model.parameters(), plain.parameters(), strict=True):
        copied.grad = original.grad
    close_gradients(learner, expected)


def test_token_and_sequence_means_weigh_lengths_differently(tiny_model):
    """Two sequences of 1 and 3 tokens with advantages 1 and -1, on-policy: the loss by hand."""
    result = {}
    for loss_type in ("token", "sequence"):
        learner = learner_of(tiny_model, loss_type=loss_type)
        samples = []
        for length, advantage in ((1, 1.0), (3, -1.0)):
            ids = tuple(range(3, 5 + length))
            weights = np.array([0, 0, *[1] * length], np.float32)
            bare = Sample(ids, weights, "policy")
            old = learner.logprobs([bare])[0]
            samples.append(replace(bare, old_logprobs=old, advantages=weights * advantage))
        result[loss_type] = learner.learn(samples, seed=0)["loss"]
    assert result["token"] == pytest.approx(-(1 - 3) / 4, abs=1e-5)
    assert result["sequence"] == pytest.approx(0.0, abs=1e-5)


def test_score_target_gradient_is_that_of_the_expected_reward(tiny_model):
    """Two prompts, the score token at index 4; reasoning is not trained."""
    rewards = tuple(float(r) for r in critic_reward(np.arange(11) / 10, 0.3))
    target, zeros = ScoreTarget(4, SCORE_IDS, rewards), np.zeros(6, np.float32)
    samples = [
        Sample(ids, zeros, "score", zeros, zeros, scores=(target,))
        for ids in ((5, 6, 7, 8, 9, 1), (20, 21, 22, 23, 24, 1))
    ]
    learner = learner_of(tiny_model)
    measured = learner.learn(samples, seed=0)
    plain = copy.deepcopy(tiny_model)
    expected = 0.0
    for s in samples:
        probs = torch.softmax(plain(torch.tensor([s.ids])).logits[0, 3], -1)
        expected = expected + (probs[list(SCORE_IDS)] * torch.tensor(rewards)).sum() / 2
    (-expected).backward()
    assert measured["loss"] == pytest.approx(-expected.item(), rel=1e-5)
    required = learner_of(plain)
    for copied, original in zip(required.model.parameters(), plain.parameters(), strict=True):
        copied.grad = original.grad
    close_gradients(learner, required)


def test_score_target_draws_probability_to_the_best_score(tiny_model):
    rewards = tuple(float(r) for r in critic_reward(np.arange(11) / 10, 0.7))
    zeros = np.zeros(5, np.float32)
    s = Sample(
        (5, 6, 7, 8, 1), zeros, "score", zeros, zeros, scores=(ScoreTarget(3, SCORE_IDS, rewards),)
    )
    learner = learner_of(tiny_model, rate=1e-2)
    for step in range(40):
        learner.learn([s], seed=step)
    with torch.no_grad():
        probs = torch.softmax(learner.model(torch.tensor([s.ids])).logits[0, 2], -1)
    assert int(probs.argmax()) == SCORE_IDS[7]
    assert float(probs[list(SCORE_IDS)] @ torch.tensor(rewards)) > 0.97


# --- it learns, and stops loudly -----------------------------------------------------------------


def test_sft_loss_falls(tiny_model):
    weights = np.array([0, 0, 1, 1, 1, 1], np.float32)
    samples = [Sample((i, 3, i, i, i, 1), weights, "sft") for i in range(5, 13)]
    learner = learner_of(tiny_model, rate=1e-2)
    losses = [learner.learn(samples, seed=s)["loss"] for s in range(60)]
    assert losses[0] > 3 and losses[-1] < 0.05


@pytest.mark.parametrize(("head", "outputs"), [("mse", 1), ("hl_gauss", 51)])
def test_value_head_fits_values_by_prefix(tiny_model, head, outputs):
    """The value read before token t is about ids[:t]: a token must not see itself."""
    learner = Learner(
        ValueModel(tiny_model, outputs), OptimizerConfig(learning_rate=1e-2), head=head
    )
    sequences = [(5, 6, 7, 8), (9, 6, 7, 8)]
    samples = [
        Sample(ids, np.array([0, 1, 0, 1], np.float32), "value", targets=np.full(4, y, np.float32))
        for ids, y in zip(sequences, (0.2, 0.7), strict=True)
    ]
    for step in range(80):
        learner.learn(samples, seed=step)
    values = learner.values(sequences)
    for row, expected in zip(values, (0.2, 0.7), strict=True):
        assert row[1] == pytest.approx(expected, abs=0.05)
        assert row[3] == pytest.approx(expected, abs=0.05)


def test_value_targets_are_read_at_the_prefix_before_the_token(tiny_model):
    model = ValueModel(tiny_model, 1)
    torch.nn.init.normal_(model.head.weight)
    learner = Learner(model, OptimizerConfig(), head="mse")
    ids, weights = (5, 6, 7, 8), np.array([0, 0, 1, 0], np.float32)
    value = float(learner.values([ids])[0][2])
    s = Sample(ids, weights, "value", targets=np.array([9, 9, 0.25, 9], np.float32))
    assert learner.learn([s], 0)["loss"] == pytest.approx((value - 0.25) ** 2, rel=1e-4)


@pytest.mark.parametrize("poison", ["advantage", "weight"])
def test_a_loss_that_is_not_finite_changes_no_weight(tiny_model, poison):
    learner, samples = learner_of(tiny_model), random_samples(3)
    learner.learn(samples, seed=0)
    if poison == "advantage":
        bad = samples[0].advantages * np.inf
        broken = [replace(samples[0], advantages=bad), *samples[1:]]
    else:
        broken = samples
        with torch.no_grad():
            learner.model.lm_head.weight[4, 0] = float("nan")
    before = copy.deepcopy(learner.model.state_dict())
    optimizer = copy.deepcopy(learner.optimizer.state_dict()["state"])
    with pytest.raises(FloatingPointError, match="optimiser step 1"):
        learner.learn(broken, seed=1)
    for name, value in learner.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    after = learner.optimizer.state_dict()["state"]
    assert all(torch.equal(after[i]["exp_avg"], optimizer[i]["exp_avg"]) for i in after)
    assert learner.steps == 1


@pytest.mark.parametrize("tokens", [1, 8192])
def test_mixtures_are_an_error_however_they_fall_into_microbatches(tiny_model, tokens):
    samples = random_samples(2)
    learner = learner_of(tiny_model, tokens)
    with pytest.raises(ValueError, match="ref_logprobs"):
        learner.learn([samples[0], replace(samples[1], ref_logprobs=None)], seed=0)
    with pytest.raises(ValueError, match=r"\['policy', 'sft'\]"):
        learner.learn([samples[0], replace(samples[1], loss="sft")], seed=0)
    assert learner.steps == 0


def test_nothing_to_train_is_no_step(tiny_model):
    learner = learner_of(tiny_model)
    empty = replace(random_samples(1)[0], weights=np.zeros(4, np.float32), ids=(5, 6, 7, 8))
    assert learner.learn([empty], seed=0) == {} and learner.learn([], seed=0) == {}
    assert learner.steps == 0


def test_minibatches_epochs_and_warmup_count_steps(tiny_model):
    loss = LossConfig(num_iterations=2, num_minibatches=3)
    learner = Learner(tiny_model, OptimizerConfig(learning_rate=1e-3, warmup_steps=10), loss)
    learner.learn(random_samples(7), seed=0)
    assert learner.steps == 6
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 6 / 10)


def test_clipping_stops_the_gradient(tiny_model):
    """A token whose probability already rose beyond 1 + epsilon_high is not pushed further."""
    learner = learner_of(tiny_model)
    ids, weights = (5, 6, 7), np.array([0, 0, 1], np.float32)
    now = learner.logprobs([Sample(ids, weights, "policy")])[0]
    raised = Sample(
        ids, weights, "policy", advantages=weights, old_logprobs=now - np.float32(1) * weights
    )
    measured = learner.learn([raised], seed=0)
    assert measured["grad_norm"] == 0.0 and measured["clip_ratio/high_mean"] == 1.0
    lowered = replace(raised, old_logprobs=now + np.float32(1) * weights)
    assert learner_of(tiny_model).learn([lowered], seed=0)["grad_norm"] > 0
