"""The value-head critic: one pass per response, targets where they belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fakes import make_rollout

from genac.config.models import DiscriminativeConfig, OptimizerConfig
from genac.critics.discriminative import DiscriminativeCritic, value_sample
from genac.learner import Learner
from genac.models.value_head import ValueModel, outputs_of
from genac.runtime import Runtime
from genac.states import every_token
from genac.types import Estimate, Rollout, State

CUTS = [(0, 2), (2, 3), (3, 6)]


@pytest.fixture
def build(tiny_model: Any, tokenizer: Any) -> Any:
    """build(gamma, **config): a critic whose head has random weights."""

    def make(gamma: float = 1.0, rate: float = 1e-2, **cfg: Any) -> DiscriminativeCritic:
        config = DiscriminativeConfig(**cfg)
        model = ValueModel(tiny_model, outputs_of(config.head, config.bins))
        torch.manual_seed(0)
        torch.nn.init.normal_(model.head.weight, std=0.3)
        learner = Learner(model, OptimizerConfig(learning_rate=rate), head=config.head)
        runtime = Runtime("critic", model, tokenizer, learner, None, 256)
        return DiscriminativeCritic(runtime, config, gamma, seed=0)

    return make


def states_of(rollout: Rollout) -> list[State]:
    return [State(rollout, *cut) for cut in CUTS]


def example() -> list[State]:
    """Two right and one wrong response of 6 tokens and 3 states, and one that is not scored."""
    rollouts = [
        make_rollout((5, 6, 7, 8, 9, 1), 1.0),
        make_rollout((5, 6, 10, 8, 9, 1), 0.0, member=1),
        make_rollout((20, 21, 22, 23, 24, 1), None, (3, 4, 5), group=1),
        make_rollout((30, 31, 32, 33, 34, 1), 1.0, (3,), group=2),
    ]
    return [s for r in rollouts for s in states_of(r)]


@pytest.mark.parametrize("head", ["mse", "hl_gauss"])
def test_one_forward_equals_separate_prefix_forwards(build, head):
    critic = build(head=head)
    states = example()
    for estimate in critic.estimate(states, step=0):
        alone = critic.runtime.learner.values([estimate.state.prefix_ids])[0][-1]
        assert estimate.value == pytest.approx(float(alone), abs=1e-5)


def test_a_response_costs_one_sequence(build, monkeypatch):
    critic, seen = build(), []
    values = critic.runtime.learner.values
    monkeypatch.setattr(
        critic.runtime.learner, "values", lambda ids: seen.append(len(ids)) or values(ids)
    )
    critic.estimate(example(), step=0)
    assert seen == [4]


def test_token_identical_states_have_equal_values(build):
    values = [e.value for e in build().estimate(example(), step=0)]
    assert values[0] == pytest.approx(values[3], abs=1e-5)
    assert values[1] == pytest.approx(values[4], abs=1e-5)
    assert values[2] != values[5]


def trained_places(critic: DiscriminativeCritic, states: list[State], monkeypatch: Any) -> Any:
    """(where, target) of every supervised entry, by sample."""
    return supervised(critic, [Estimate(s, 0.5) for s in states], monkeypatch)


def supervised(critic: DiscriminativeCritic, estimates: list[Estimate], monkeypatch: Any) -> Any:
    kept: list[Any] = []
    monkeypatch.setattr(critic.runtime.learner, "learn", lambda s, seed: kept.extend(s) or {})
    critic.learn(estimates, step=0)
    return [
        [(int(i), float(s.targets[i])) for i in np.nonzero(s.weights)[0]]
        for s in kept
        if s.targets is not None
    ]


def test_dense_targets_are_the_return_at_every_state(build, monkeypatch):
    """Prompts have 2, 2 and 1 tokens; the unscored response trains nothing."""
    result = trained_places(build(), example(), monkeypatch)
    assert result == [
        [(2, 1.0), (4, 1.0), (5, 1.0)],
        [(2, 0.0), (4, 0.0), (5, 0.0)],
        [(1, 1.0), (3, 1.0), (4, 1.0)],
    ]


def test_sparse_targets_supervise_that_many_states(build, monkeypatch):
    dense = trained_places(build(), example(), monkeypatch)
    result = trained_places(build(targets="sparse", sparse_states=2), example(), monkeypatch)
    assert [len(row) for row in result] == [2, 2, 2]
    assert all(set(few) < set(many) for few, many in zip(result, dense, strict=True))


def test_pooled_targets(build, monkeypatch):
    result = trained_places(build(pool_states=True), example(), monkeypatch)
    assert [t for _, t in result[0]] == [0.5, 0.5, 1.0] and [t for _, t in result[1]] == [
        0.5,
        0.5,
        0.0,
    ]


def targets_of(critic: DiscriminativeCritic, estimates: list[Estimate]) -> list[float]:
    """Of the estimates of one response."""
    ((_, rows),) = critic._targets(estimates)
    return rows[:, 1].tolist()


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        # Values 0.2, 0.6, 0.4 and r = 1. lambda 0: the next value, and the reward at the end.
        (1.0, 0.0, [0.6, 0.4, 1.0]),
        # lambda 1/2: A_3 = 0.6; A_2 = -0.2 + 0.3 = 0.1; A_1 = 0.4 + 0.05 = 0.45; returns A + V.
        (1.0, 0.5, [0.65, 0.7, 1.0]),
        # gamma 1/2, lambda 1: 1; 1/2; 1/4.
        (0.5, 1.0, [0.25, 0.5, 1.0]),
    ],
)
def test_lambda_targets_by_hand(build, gamma, lam, expected):
    critic = build(gamma, lam=lam)
    states = states_of(make_rollout((5, 6, 7, 8, 9, 1), 1.0))
    estimates = [Estimate(s, v) for s, v in zip(states, (0.2, 0.6, 0.4), strict=True)]
    assert targets_of(critic, estimates) == pytest.approx(expected)


def test_targets_stay_in_the_unit_interval(build):
    """A head without bounds may give values beyond it; HL-Gauss targets may not."""
    states = states_of(make_rollout((5, 6, 7, 8, 9, 1), 1.0))
    estimates = [Estimate(s, v) for s, v in zip(states, (0.2, 1.6, -0.4), strict=True)]
    assert targets_of(build(lam=0.0), estimates) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "options", [{}, {"lam": 0.5}, {"pool_states": True}, {"targets": "sparse"}]
)
def test_token_values_train_as_one_estimate_per_token_does(build, options, monkeypatch):
    rollouts = [make_rollout((5, 6, 7, 8), 1.0), make_rollout((5, 6, 9), 0.0, member=1)]
    critic = build(**options)
    dense = critic.estimate(every_token(rollouts), 0)
    single = [one for estimate in dense for one in estimate.per_token()]
    assert [e.state.start for e in single] == [0, 1, 2, 3, 0, 1, 2]
    again = critic.estimate([e.state for e in single], 0)
    assert [e.value for e in again] == [e.value for e in single]
    one, other = (supervised(critic, given, monkeypatch) for given in (dense, single))
    assert one == other


def test_value_sample_by_hand():
    rollout = make_rollout((5, 6, 7, 8, 9, 1))
    sample = value_sample(rollout, [states_of(rollout)[i].start for i in (0, 2)], [0.25, 0.75])
    assert sample.weights.tolist() == [0, 0, 1, 0, 0, 1, 0, 0]
    assert sample.targets is not None
    assert sample.targets.tolist() == [0, 0, 0.25, 0, 0, 0.75, 0, 0]


def test_an_empty_response_is_no_crash(build):
    state = State(make_rollout(()), 0, 0)
    critic = build()
    estimate = critic.estimate([state], step=0)
    assert estimate[0].value is not None and critic.learn(estimate, step=0) == {}


@pytest.mark.parametrize(("head", "targets"), [("mse", "dense"), ("hl_gauss", "sparse")])
def test_it_learns_which_state_wins(build, head, targets):
    critic, states = build(head=head, targets=targets), example()
    for step in range(60):
        critic.learn(critic.estimate(states, step), step)
    values = [e.value for e in critic.estimate(states, 0)]
    assert values[2] > 0.8 and values[5] < 0.2 and values[0] == pytest.approx(0.5, abs=0.2)


def test_heads_are_saved_with_the_backbone_and_checked(build, tmp_path, tiny_folder):
    critic = build()
    critic.runtime.save_model(tmp_path)
    fresh = ValueModel(critic.runtime.model.causal_lm, 1)
    fresh.load_head(tmp_path)
    assert torch.equal(fresh.head.weight, critic.runtime.model.head.weight)
    with pytest.raises(ValueError, match="has 1 outputs, the config asks for 51"):
        ValueModel(critic.runtime.model.causal_lm, 51).load_head(tmp_path)
    with pytest.raises(ValueError, match=r"holds no value_head.safetensors"):
        fresh.load_head(tiny_folder)
