"""What a critic is: states in, estimates out, and a way to learn from returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from genac.runtime import Runtime
from genac.types import Estimate, Rollout, State

Metrics = dict[str, float]


class Critic(Protocol):
    """Values for states. `runtime` is the trained model, None for critics that have none."""

    runtime: Runtime | None

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        """One estimate per state, in order; a value of None is missing."""
        ...

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        """Sees all responses of a step, also those that no value was asked for, before `learn`."""
        ...

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        """Learns from the outcomes of the estimated states' rollouts."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the model; json-able."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
        ...


def unique_states(states: Sequence[State]) -> tuple[list[State], list[int]]:
    """Token-identical states once, and for each state the place of its representative."""
    place: dict[tuple[int, ...], int] = {}
    first: list[State] = []
    index = []
    for state in states:
        key = state.key
        if key not in place:
            place[key] = len(first)
            first.append(state)
        index.append(place[key])
    return first, index


def rollouts_of(states: Sequence[State]) -> list[Rollout]:
    """The responses that the states belong to, each once, in order."""
    return list({id(state.rollout): state.rollout for state in states}.values())


def pooled_returns(states: Sequence[State]) -> list[float | None]:
    """For each state the mean reward over all rollouts that pass through it (None = nobody scored).

    The empty prefix of a problem is shared by its whole group, so its target is the group's mean
    and not one coin flip.
    """
    rewards: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for state in states:
        if state.rollout.reward is not None:
            rewards[state.key].append(state.rollout.reward)
    means = {key: sum(found) / len(found) for key, found in rewards.items()}
    return [means.get(state.key) for state in states]


class NoCritic:
    """For algorithms that need no values."""

    runtime: Runtime | None = None

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        return []

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        return None

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        return None
