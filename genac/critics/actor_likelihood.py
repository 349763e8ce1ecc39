"""Values read from the actor's own probabilities: nearly what a perfect critic would give.

On tasks whose solution is one fixed text, a partial response that is still right ends well if the
actor goes on with the solution:

    V(s) = prod_t p(y_t | y_<t)    over the tokens y_t of the solution that are left

and one whose newest value is wrong is worth 0. There is no sampling, only one forward pass per
problem. It leaves out that a second error may cancel the first (under a tenth of wrong prefixes on
`arithmetic`), that an earlier error which was cancelled changes p, and a length limit that cuts the
solution; the approximation experiment prints its error next to the panel's noise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from genac.critics.base import Critic, CriticInputs
from genac.models.chat import encode_prompt
from genac.rollout import World
from genac.runtime import Runtime
from genac.types import Estimate, Problem, Sample, State


class ActorLikelihoodCritic(Critic):
    """For tasks that have `lines_right`; ValueError for others."""

    def __init__(self, actor: Runtime, world: World) -> None:
        if not hasattr(world.task, "lines_right"):
            raise ValueError(
                f"critic.kind 'actor_likelihood' needs a task that knows its one solution, and "
                f"{world.task.name!r} does not; use arithmetic or exact, or critic.kind monte_carlo"
            )
        if world.rollout.top_p < 1:
            raise ValueError(
                f"critic.kind 'actor_likelihood' reads whole distributions, but rollout.top_p is "
                f"{world.rollout.top_p}; set it to 1"
            )
        self.actor, self.world = actor, world

    @classmethod
    def build(cls, inputs: CriticInputs) -> ActorLikelihoodCritic:
        return cls(inputs.actor, inputs.world)

    @property
    def samples_with(self) -> Runtime:
        return self.actor

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        # One table per problem: its states differ only in how many lines are done.
        problems = {s.rollout.problem.text: s.rollout.problem for s in states}
        tables = dict(zip(problems, self._tables(list(problems.values())), strict=True))
        return [
            Estimate(s, self._value(s, tables[s.rollout.problem.text]), version=self.actor.version)
            for s in states
        ]

    def _value(self, state: State, table: list[float]) -> float | None:
        ids = state.rollout.response_ids[: state.start]
        partial = self.actor.tokenizer.decode(list(ids), skip_special_tokens=True)
        if partial and not partial.endswith("\n"):
            return None  # in the middle of a line nothing is known
        done = self.world.task.lines_right(state.rollout.problem, partial)  # pyright: ignore[reportAttributeAccessIssue]
        # None: a line is wrong. Behind the last line the entry before it stands: the end is left.
        return 0.0 if done is None else table[min(done, len(table) - 1)]

    def _tables(self, problems: list[Problem]) -> list[list[float]]:
        """For each problem the value after 0, 1, ... right lines."""
        tokenizer = self.actor.tokenizer
        samples, starts = [], []
        for problem in problems:
            prompt = encode_prompt(tokenizer, problem)
            text = self.world.task.demonstration(problem, random.Random(0), 0.0)
            # Line by line, so that the token at which each begins is known.
            lines = [
                tokenizer.encode(line, add_special_tokens=False)
                for line in text.splitlines(keepends=True)
            ]
            ids = (*prompt, *(i for line in lines for i in line), tokenizer.eos_token_id)
            weights = np.zeros(len(ids), np.float32)
            weights[len(prompt) :] = 1.0
            temperature = self.world.rollout.temperature
            samples.append(Sample(ids, weights, "policy", temperature=temperature))
            starts.append(len(prompt) + np.cumsum([0, *map(len, lines)])[:-1])
        result = self.actor.learner.logprobs(samples)
        return [
            [float(np.exp(logprobs[start:].sum())) for start in places]
            for logprobs, places in zip(result, starts, strict=True)
        ]
