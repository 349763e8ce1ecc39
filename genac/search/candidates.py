"""Candidate responses of an actor and what a critic says of them, without the reference answer.

Neither model sees more than the problem's text: problems are stripped of answer and extras before
anything is sampled or judged, so that a search cannot leak what it is later scored by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from genac.config.run import RolloutConfig, StatesConfig
from genac.critics.base import Critic
from genac.rollout import sample
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.states import split
from genac.tasks.answers import whole_text
from genac.tasks.base import Task
from genac.types import Problem, Rollout, State

# Where a whole response is judged: at the last state before its end, as in training (the value is
# estimated before the last segment is read), or after its last token.
At = Literal["last", "end"]


@dataclass(frozen=True)
class Searcher:
    """The models of a search and how they are used. `critic` None = sampling and votes only."""

    actor: Runtime
    critic: Critic | None
    rollout: RolloutConfig
    states: StatesConfig
    seed: int = 0

    @property
    def judge(self) -> Critic:
        if self.critic is None:
            raise ValueError("this search needs a critic's values; name one with --critic")
        return self.critic


@dataclass(frozen=True)
class Candidate:
    """A response and its value (None = not judged, or no score was given)."""

    rollout: Rollout
    value: float | None = None


def blind(problem: Problem) -> Problem:
    """The problem without its answer and extras."""
    return Problem(problem.id, problem.prompt, "", problem.task)


def draw(search: Searcher, problems: Sequence[Problem], n: int) -> list[list[Candidate]]:
    """n responses per problem. Response g to problem p is the same whatever n is."""
    if n < 1:
        raise ValueError(f"--n is {n}; draw at least one response per problem")
    seeds = [
        derive_seed(search.seed, "search", p, g) for p in range(len(problems)) for g in range(n)
    ]
    rollouts = sample(search.actor, search.rollout, [blind(p) for p in problems], seeds)
    results = [Candidate(r) for r in rollouts]
    return [results[i : i + n] for i in range(0, len(results), n)]


def judged(
    search: Searcher, groups: Sequence[Sequence[Candidate]], at: At
) -> list[list[Candidate]]:
    """The same candidates with their values; token-identical states are judged once."""
    states = [state_of(search, c.rollout, at) for group in groups for c in group]
    estimates = iter(search.judge.estimate(states, step=-1))
    return [[replace(c, value=next(estimates).value) for c in group] for group in groups]


def state_of(search: Searcher, rollout: Rollout, at: At) -> State:
    """The state at which a whole response is judged."""
    if at == "last":
        return split([rollout], search.states, search.actor.tokenizer)[-1]
    end = len(rollout.response_ids)
    return State(rollout, end, end)


def answers(task: Task, group: Sequence[Candidate]) -> list[str | None]:
    """What the candidates answer, read as the task's verifier reads it."""
    return [task.answer_of(whole_text(c.rollout.problem, c.rollout.text)) for c in group]


def values(group: Sequence[Candidate]) -> list[float | None]:
    return [c.value for c in group]
