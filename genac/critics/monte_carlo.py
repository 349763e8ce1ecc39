"""The Monte-Carlo critic (VinePPO, 2410.01679), which is also the ground truth of evaluations.

From a state's exact token prefix, K fresh continuations of the actor under the remaining token
budget; the value is their mean reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genac.critics.base import Critic, CriticInputs, unique_states
from genac.rollout import World, request, response_text
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.types import Estimate, State


@dataclass(frozen=True)
class MonteCarloValue:
    """Mean and number of the continuations that could be scored."""

    value: float | None
    count: int

    @property
    def variance(self) -> float:
        """Estimated sampling variance of `value`: v (1 - v) / (count - 1) for 0/1 rewards."""
        if self.value is None or self.count < 2:
            return float("nan")
        return self.value * (1 - self.value) / (self.count - 1)


def monte_carlo_values(
    actor: Runtime, world: World, states: Sequence[State], count: int, *seed: int | str
) -> list[MonteCarloValue]:
    """`count` continuations per state; token-identical states share them. `seed` names what for.

    A state at the length limit leaves no room for a continuation, and one whose continuations could
    not be scored has no mean: their values are None. Raises ValueError where count is below 1.
    """
    if count < 1:
        raise ValueError(f"{count} continuations per state estimate nothing; use at least 1")
    unique, index = unique_states(states)
    budget = world.rollout.max_completion_length
    requests = []
    owners = []  # of each request, the place of its state
    for number, state in enumerate(unique):
        room = budget - state.start
        for k in range(count if room > 0 else 0):
            draw = derive_seed(world.seed, *seed, "mc", number, k)
            requests.append(request(actor, world.rollout, state.prefix_ids, room, draw))
            owners.append(number)
    completions = actor.sampler.generate(requests)
    answers = [
        (
            unique[owner].rollout.problem,
            response_text(
                actor.tokenizer, unique[owner].rollout.response_ids[: unique[owner].start] + c.ids
            ),
        )
        for owner, c in zip(owners, completions, strict=True)
    ]
    rewards: list[list[float]] = [[] for _ in unique]
    for owner, outcome in zip(owners, world.verifier.verify(answers), strict=True):
        if outcome.reward is not None:
            rewards[owner].append(outcome.reward)
    values = [MonteCarloValue(sum(r) / len(r) if r else None, len(r)) for r in rewards]
    return [values[i] for i in index]


class MonteCarloCritic(Critic):
    """Values from the actor's own continuations; nothing to learn."""

    continues_states = True

    def __init__(self, actor: Runtime, world: World, num_continuations: int) -> None:
        self.actor = actor
        self.world = world
        self.num_continuations = num_continuations

    @classmethod
    def build(cls, inputs: CriticInputs) -> MonteCarloCritic:
        return cls(inputs.actor, inputs.world, inputs.cfg.critic.num_continuations)

    @property
    def samples_with(self) -> Runtime:
        return self.actor

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        values = monte_carlo_values(
            self.actor, self.world, states, self.num_continuations, "critic", step
        )
        return [
            Estimate(state, v.value, version=self.actor.version)
            for state, v in zip(states, values, strict=True)
        ]
