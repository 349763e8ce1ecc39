"""What a critic is: states in, estimates out, and a way to learn from returns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from genac.config.models import OptimizerConfig
from genac.config.run import RunConfig
from genac.hardware import Hardware
from genac.rollout import World
from genac.runtime import ModelSpec, Runtime
from genac.types import Estimate, Rollout, State

Metrics = dict[str, float]


@dataclass(frozen=True)
class CriticInputs:
    """What a critic is built from. `path` is None where its class does not learn."""

    cfg: RunConfig
    hardware: Hardware
    world: World
    actor: Runtime
    path: Path | None = None
    optimizer: OptimizerConfig | None = None  # None = critic.optimizer
    decay_steps: int | None = None

    def spec(self, **changes: Any) -> ModelSpec:
        """The spec of the critic's own model, as configured."""
        assert self.path is not None
        critic = self.cfg.critic
        spec = ModelSpec(
            "critic",
            str(self.path),
            self.optimizer or critic.optimizer,
            critic.loss,
            load=critic.load,
            lora=critic.lora,
            max_rows=self.cfg.rollout.max_rows,
            decay_steps=self.decay_steps,
            seed=self.cfg.seed,
            engine=critic.engine,
            folder=engine_folder(self.cfg),
        )
        return replace(spec, **changes)


def engine_folder(cfg: RunConfig) -> Path:
    """Where the servers of a run's engines keep weights and logs."""
    return Path(cfg.output_dir) / "engines"


class Critic:
    """States in, estimates out. A kind of critic states its facts here; nothing asks for its name.

    In every step the loop calls `estimate`, then `observe`, then `learn`.
    """

    learns: ClassVar[bool] = False  # it has a model of its own and is a `TrainableCritic`
    needs_traces: ClassVar[bool] = False  # stage 1 teaches it an oracle's reasoning
    max_states_applies: ClassVar[bool] = False  # `max_states` limits which states train it
    reads_whole_responses: ClassVar[bool] = False  # a state costs nothing once its response is read
    reads_actor_tokens: ClassVar[bool] = False  # its model reads the actor's token ids
    continues_states: ClassVar[bool] = False  # the actor goes on from states
    asks_states: ClassVar[bool] = True  # False = it has no values, so no states are split

    runtime: Runtime | None = None  # the trained model; None where there is none

    @classmethod
    def build(cls, inputs: CriticInputs) -> Critic:
        """The configured critic. Raises ValueError where config, task or folder do not fit it."""
        raise NotImplementedError

    @property
    def samples_with(self) -> Runtime | None:
        """The model whose work `estimate` is, for the account of costs; None = nothing computes."""
        return self.runtime

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        """One estimate per state, in order; a value of None is missing."""
        raise NotImplementedError

    def observe(self, rollouts: Sequence[Rollout]) -> None:
        """Sees all responses of a step, also those that no value was asked for, before `learn`."""

    def set_success_rate(self, rate: float | None) -> None:
        """Tells a conditioned critic the actor's success rate; others take no notice."""

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        """Learns from the outcomes of the estimated states' rollouts, where it learns at all.

        The estimates are those of this step, so what they hold was sampled by the present weights.
        Returns metrics under critic/.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the model; json-able."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned. ValueError where it belongs to another critic."""


class TrainableCritic(Critic):
    """A critic with a model of its own."""

    learns = True
    runtime: Runtime

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        raise NotImplementedError


class NoCritic(Critic):
    """For algorithms that need no values."""

    asks_states = False

    @classmethod
    def build(cls, inputs: CriticInputs) -> NoCritic:
        return cls()

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        return []


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
    means = {key: sum(result) / len(result) for key, result in rewards.items()}
    return [means.get(state.key) for state in states]
