"""The discriminative critic: a value head, read at every state in one forward pass per response."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from genac.config import DiscriminativeConfig
from genac.critics.base import Metrics, NoCritic, pooled_returns
from genac.ops.advantages import gae
from genac.runtime import Runtime
from genac.types import Estimate, Rollout, Sample, State


class DiscriminativeCritic(NoCritic):
    """MSE or HL-Gauss head; dense targets at every state it is asked about, or sparse ones
    (SP3O).
    """

    def __init__(
        self, runtime: Runtime, cfg: DiscriminativeConfig, gamma: float, seed: int
    ) -> None:
        self.runtime: Runtime | None = runtime
        self._runtime, self.cfg, self.gamma, self.seed = runtime, cfg, gamma, seed

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        rollouts = by_rollout(states)
        sequences = [rollout.prompt_ids + rollout.response_ids for rollout, _ in rollouts]
        values = self._runtime.learner.values(sequences)
        of = {id(rollout): value for (rollout, _), value in zip(rollouts, values, strict=True)}
        version = self._runtime.version
        return [
            Estimate(
                s, float(of[id(s.rollout)][len(s.rollout.prompt_ids) + s.start]), version=version
            )
            for s in states
        ]

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        """Regression on lambda-returns of the values read before this step."""
        states = [e.state for e in estimates]
        targets = self._targets(estimates)
        rng = random.Random(f"{self.seed}/sparse/{step}")
        samples = []
        for rollout, places in by_rollout(states):
            if rollout.reward is None or not rollout.response_ids:
                continue
            if self.cfg.targets == "sparse":
                places = sorted(rng.sample(places, min(self.cfg.sparse_states, len(places))))
            samples.append(value_sample(rollout, states, places, targets))
        if not samples:
            return {}
        measured = self._runtime.learner.learn(samples, seed=step)
        return {f"critic/{key}": value for key, value in measured.items()}

    def _targets(self, estimates: Sequence[Estimate]) -> list[float]:
        """The return of each state (pooled over identical states by an option), or its
        lambda-return.
        """
        states = [e.state for e in estimates]
        if self.cfg.lam == 1.0 and self.gamma == 1.0:
            if self.cfg.pool_states:
                return [float("nan") if r is None else r for r in pooled_returns(states)]
            return [float("nan") if s.rollout.reward is None else s.rollout.reward for s in states]
        out = [float("nan")] * len(states)
        for rollout, places in by_rollout(states):
            if rollout.reward is None:
                continue
            values = torch.tensor([[estimates[i].value or 0.0 for i in places]])
            _, returns = gae(
                values,
                torch.tensor([rollout.reward]),
                torch.ones_like(values),
                self.gamma,
                self.cfg.lam,
            )
            for i, target in zip(places, returns[0].clamp(0, 1).tolist(), strict=True):
                out[i] = target
        return out


def by_rollout(states: Sequence[State]) -> list[tuple[Rollout, list[int]]]:
    """The rollouts of the states, each with the places of its states, in order."""
    places: dict[int, tuple[Rollout, list[int]]] = {}
    for index, state in enumerate(states):
        places.setdefault(id(state.rollout), (state.rollout, []))[1].append(index)
    return list(places.values())


def value_sample(
    rollout: Rollout, states: Sequence[State], places: Sequence[int], targets: Sequence[float]
) -> Sample:
    """Targets at the first token of each supervised segment: the value of the prefix before it."""
    ids = rollout.prompt_ids + rollout.response_ids
    mask, stream = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.float32)
    for index in places:
        at = len(rollout.prompt_ids) + states[index].start
        mask[at], stream[at] = 1.0, targets[index]
    return Sample(ids=ids, mask=mask, loss="value", targets=stream)
