"""Monte-Carlo values: fresh continuations from the exact prefix under the remaining budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import EchoTask, ScriptedEngine, make_rollout, runtime_with, says

from genac.config.run import RolloutConfig
from genac.critics.monte_carlo import MonteCarloCritic, MonteCarloValue, monte_carlo_values
from genac.rollout import World
from genac.tasks.verifier import Verifier
from genac.types import State

BUDGET = 10


def world_of(task: EchoTask, **rollout: Any) -> World:
    cfg = RolloutConfig(max_completion_length=BUDGET, num_generations=2, **rollout)
    return World(task, Verifier(task), cfg, seed=0)


@pytest.fixture
def actor(tokenizer: Any, tiny_model: Any) -> Any:
    """An actor that writes x, y, z in turn."""
    words = iter("xyz" * 1000)
    engine = ScriptedEngine(lambda request: says(tokenizer, next(words)))
    return runtime_with(engine, tokenizer, tiny_model)


def state(tokenizer: Any, text: str, start: int, prompt=(3, 4)) -> State:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return State(make_rollout(ids, prompt=prompt), start, len(ids))


def test_values_by_hand(actor, tokenizer):
    """Continuations abx, aby, abz earn 1, 0 and nothing; the mean is over those judged."""
    task = EchoTask({"abx": 1.0, "aby": 0.0, "abz": None})
    result = monte_carlo_values(actor, world_of(task), [state(tokenizer, "abcd", 2)], 3, "t")[0]
    assert (result.value, result.count) == (0.5, 2)
    assert result.variance == 0.25


def test_exact_prefix_and_remaining_budget(actor, tokenizer):
    world = world_of(EchoTask(), temperature=0.7, top_p=0.9)
    states = [state(tokenizer, "abcd", n) for n in (0, 1, 3)]
    monte_carlo_values(actor, world, states, 2, "t")
    for number, s in enumerate(states):
        for request in actor.engine.requests[2 * number : 2 * number + 2]:
            assert request.prompt_ids == s.prefix_ids == (3, 4, *s.rollout.response_ids[: s.start])
            assert request.max_new_tokens == BUDGET - s.start
            assert (request.temperature, request.top_p) == (0.7, 0.9)
            assert tokenizer.eos_token_id in request.stop_ids
    assert len({r.seed for r in actor.engine.requests}) == 6


def test_identical_states_share_their_continuations(actor, tokenizer):
    task = EchoTask({"x": 1.0})
    states = [state(tokenizer, text, 0) for text in ("ab", "cd")]
    states.append(state(tokenizer, "ab", 0, prompt=(9,)))
    result = monte_carlo_values(actor, world_of(task), states, 3, "t")
    assert len(actor.engine.requests) == 6 and result[0] is result[1]
    assert result[0].value == pytest.approx(1 / 3)


def test_a_state_nobody_can_judge_has_no_value(actor, tokenizer):
    result = monte_carlo_values(
        actor, world_of(EchoTask(default=None)), [state(tokenizer, "ab", 1)], 3, "t"
    )[0]
    assert result.value is None and result.count == 0 and np.isnan(result.variance)


def test_a_state_without_budget_is_missing(actor, tokenizer):
    world = world_of(EchoTask(default=1.0))
    result = monte_carlo_values(actor, world, [state(tokenizer, "a" * 12, BUDGET)], 3, "t")[0]
    assert result == MonteCarloValue(None, 0) and actor.engine.requests == []


@pytest.mark.parametrize("count", [0, -1])
def test_no_continuation_is_an_error(actor, tokenizer, count):
    with pytest.raises(ValueError, match="at least 1"):
        monte_carlo_values(actor, world_of(EchoTask()), [state(tokenizer, "a", 0)], count, "t")


def test_the_critic_draws_anew_each_step(actor, tokenizer):
    critic = MonteCarloCritic(actor, world_of(EchoTask(default=1.0)), 2)
    actor.version = 4
    first = critic.estimate([state(tokenizer, "ab", 1)], step=0)[0]
    critic.estimate([state(tokenizer, "ab", 1)], step=1)
    assert (first.value, first.version) == (1.0, 4)
    assert len({r.seed for r in actor.engine.requests}) == 4
    assert critic.learn([first], 0) == {} and critic.state() == {}


def test_variance_is_unbiased():
    """v (1 - v) / (K - 1) averages to the true variance p (1 - p) / K."""
    from math import comb

    p, k = 0.3, 5
    mean = sum(
        comb(k, n) * p**n * (1 - p) ** (k - n) * MonteCarloValue(n / k, k).variance
        for n in range(k + 1)
    )
    assert mean == pytest.approx(p * (1 - p) / k)
    assert np.isnan(MonteCarloValue(1.0, 1).variance)
