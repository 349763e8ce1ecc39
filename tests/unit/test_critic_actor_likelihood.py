"""Values from the actor's own probabilities."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import EchoTask, make_rollout

from genac.config.models import OptimizerConfig, TinyConfig
from genac.config.run import RolloutConfig
from genac.critics.actor_likelihood import ActorLikelihoodCritic
from genac.hardware import Hardware
from genac.models.tiny import save_tiny
from genac.rollout import World, encode_prompt
from genac.runtime import ModelSpec, build
from genac.tasks.arithmetic import ArithmeticTask
from genac.tasks.exact import ModularTask
from genac.tasks.verifier import Verifier
from genac.types import State

TASK = ArithmeticTask(min_steps=2, max_steps=2)


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("actor") / "model"
    shape = TinyConfig(hidden_size=32, layers=1, heads=2, max_length=64).model_dump()
    save_tiny(folder, TASK.alphabet(), seed=0, **shape)
    return build(
        ModelSpec("actor", str(folder), OptimizerConfig()), Hardware(torch.device("cpu"), False)
    )


def world(task: Any = TASK, temperature: float = 1.0) -> World:
    return World(task, Verifier(task), RolloutConfig(temperature=temperature), seed=0)


def state(actor: Any, partial: str, rest: str = "ans=0") -> State:
    problem = TASK.problem("train", 0)
    ids = actor.tokenizer.encode(partial, add_special_tokens=False)
    more = actor.tokenizer.encode(rest, add_special_tokens=False)
    rollout = make_rollout((*ids, *more), prompt=encode_prompt(actor.tokenizer, problem))
    return State(replace(rollout, problem=problem), len(ids), len(ids) + 1)


def probability(actor: Any, partial: str, temperature: float = 1.0) -> float:
    """Of the solution behind `partial`, by one forward pass of the model itself."""
    problem = TASK.problem("train", 0)
    solution = TASK.demonstration(problem, random.Random(0), 0.0)
    prompt = list(encode_prompt(actor.tokenizer, problem))
    ids = [
        *prompt,
        *actor.tokenizer.encode(solution, add_special_tokens=False),
        actor.tokenizer.eos_token_id,
    ]
    skipped = len(prompt) + len(actor.tokenizer.encode(partial, add_special_tokens=False))
    with torch.no_grad():
        logits = actor.model(torch.tensor([ids])).logits[0] / temperature
    logprobs = logits.log_softmax(-1)
    return float(sum(logprobs[t - 1, ids[t]] for t in range(skipped, len(ids))).exp())


def lines(actor: Any) -> list[str]:
    problem = TASK.problem("train", 0)
    return TASK.demonstration(problem, random.Random(0), 0.0).splitlines(keepends=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_right_prefix_is_worth_the_probability_of_the_rest(actor, temperature):
    parts = lines(actor)
    states = [state(actor, "".join(parts[:k])) for k in range(3)]
    result = ActorLikelihoodCritic(actor, world(temperature=temperature)).estimate(states, 0)
    for k, estimate in enumerate(result):
        expected = probability(actor, "".join(parts[:k]), temperature)
        assert estimate.value == pytest.approx(expected, rel=1e-4) and estimate.state is states[k]
    assert result[0].value < result[1].value < result[2].value


def test_a_wrong_value_is_worth_nothing_and_half_a_line_is_unknown(actor):
    first = lines(actor)[0]
    digit = str((int(first[-2]) + 1) % 10)
    wrong = state(actor, f"{first[:-2]}{digit}\n")
    half = state(actor, first[0])
    result = ActorLikelihoodCritic(actor, world()).estimate([wrong, half], 0)
    assert [e.value for e in result] == [0.0, None]


def test_a_task_without_one_solution_is_refused(actor):
    with pytest.raises(ValueError, match="needs a task that knows its one solution"):
        ActorLikelihoodCritic(actor, world(EchoTask()))


def test_lines_right_of_the_exact_task():
    task = ModularTask(min_steps=2, max_steps=2)
    problem = task.problem("train", 0)
    a, b, _ = task.demonstration(problem, random.Random(0), 0.0).split("\n")
    assert task.lines_right(problem, "") == 0
    assert (
        task.lines_right(problem, f"{a}\n") == 1 and task.lines_right(problem, f"{a}\n{b}\n") == 2
    )
    other = (int(a.split("=")[1]) + 1) % 7
    assert task.lines_right(problem, f"{a.split('=')[0]}={other}\n") is None
