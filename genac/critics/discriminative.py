"""The discriminative critic: a value head, read at every state in one forward pass per response."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from genac.config.models import DiscriminativeConfig
from genac.credit import values_of_row
from genac.critics.base import CriticInputs, Metrics, TrainableCritic, pooled_returns
from genac.distributed.build import build
from genac.models.value_head import HEAD_FILE
from genac.ops.advantages import gae
from genac.runtime import Runtime
from genac.types import Estimate, Rollout, Sample, State


class DiscriminativeCritic(TrainableCritic):
    """MSE or HL-Gauss head. Its targets are at every queried state, or sparse (SP3O)."""

    reads_actor_tokens = True

    def __init__(
        self, runtime: Runtime, cfg: DiscriminativeConfig, gamma: float, seed: int
    ) -> None:
        self.runtime = runtime
        self.cfg = cfg
        self.gamma = gamma
        self.seed = seed

    @classmethod
    def build(cls, inputs: CriticInputs) -> DiscriminativeCritic:
        """A trained head where the folder holds one, else a new one on the folder's model."""
        cfg, path = inputs.cfg.critic.discriminative, inputs.path
        assert path is not None
        trained = (path / HEAD_FILE).exists()
        # A folder of any language model will do to start from; its LM head is not used.
        spec = inputs.spec(head=cfg.head, bins=cfg.bins, trained=trained)
        runtime = build(spec, inputs.hardware)
        return cls(runtime, cfg, inputs.cfg.credit.gamma, inputs.cfg.seed)

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        """One forward pass per response, whatever the number of its states."""
        # The prompt and every prefix are parts of the one sequence, whose values come together.
        rollouts = by_rollout(states)
        sequences = [rollout.prompt_ids + rollout.response_ids for rollout, _ in rollouts]
        values = self.runtime.learner.values(sequences)
        of = {id(rollout): value for (rollout, _), value in zip(rollouts, values, strict=True)}
        return [self._estimate(state, of[id(state.rollout)]) for state in states]

    def _estimate(self, state: State, values: np.ndarray) -> Estimate:
        """values (P + T + 1,): entry t is about the prefix of t tokens of prompt and response."""
        first, version = len(state.rollout.prompt_ids), self.runtime.version
        value = float(values[first + state.start])
        if not state.dense:
            return Estimate(state, value, version=version)
        # The last value, behind the response's end, is nobody's: the reward is known there.
        tokens = values[first + state.start : first + state.end]
        return Estimate(state, value, version=version, token_values=tokens)

    def learn(self, estimates: Sequence[Estimate], step: int) -> Metrics:
        """Regression on lambda-returns of the values read before this step.

        They are constants of the loss, computed once: not from the values that it is changing.
        """
        rng = random.Random(f"{self.seed}/sparse/{step}")
        samples = []
        for rollout, rows in self._targets(estimates):
            if rollout.reward is None or not rollout.response_ids:
                continue  # nothing is known, or no token to put a target at
            if self.cfg.targets == "sparse":
                count = min(self.cfg.sparse_states, len(rows))
                rows = rows[sorted(rng.sample(range(len(rows)), count))]
            samples.append(value_sample(rollout, rows[:, 0].astype(int), rows[:, 1]))
        if not samples:
            return {}
        measured = self.runtime.learner.learn(samples, seed=step)
        return {f"critic/{key}": value for key, value in measured.items()}

    def _targets(self, estimates: Sequence[Estimate]) -> list[tuple[Rollout, np.ndarray]]:
        """Per response (S, 2): where values are supervised, as token indices of the response, and
        the return (pooled over identical states by an option) or lambda-return of each.
        """
        states, rows = [e.state for e in estimates], by_rollout([e.state for e in estimates])
        starts = [np.concatenate([starts_of(states[i]) for i in places]) for _, places in rows]
        rewards = [np.nan if r.reward is None else r.reward for r, _ in rows]
        if self.cfg.lam != 1.0 or self.gamma != 1.0:
            values = [values_of_row([estimates[i] for i in places]) for _, places in rows]
            targets = self._lambda_returns(values, rewards)
        elif self.cfg.pool_states:
            pooled = np.array(pooled_returns(per_token(states)), float)
            targets = np.split(pooled, np.cumsum([len(s) for s in starts])[:-1])
        else:
            targets = [np.full(len(s), r) for s, r in zip(starts, rewards, strict=True)]
        return [
            (rollout, np.stack([where, of], -1))
            for (rollout, _), where, of in zip(rows, starts, targets, strict=True)
        ]

    def _lambda_returns(
        self, values: Sequence[np.ndarray], rewards: Sequence[float]
    ) -> list[np.ndarray]:
        """(S,) per response, from its values (S,) and its reward. A value head leaves none
        missing.
        """
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(row).float() for row in values], batch_first=True
        )
        lengths = torch.tensor([len(row) for row in values])
        weights_BT = torch.arange(padded.shape[1]) < lengths[:, None]
        _, returns_BT = gae(padded, torch.tensor(rewards), weights_BT, self.gamma, self.cfg.lam)
        clamped = returns_BT.clamp(0, 1).numpy()
        return [row[: len(row_values)] for row, row_values in zip(clamped, values, strict=True)]


def starts_of(state: State) -> np.ndarray:
    """(S,) the response tokens before which the state's values are read."""
    return np.arange(state.start, state.end if state.dense else state.start + 1)


def per_token(states: Sequence[State]) -> list[State]:
    """The states in the order of their responses, dense ones as one state per token."""
    return [
        State(rollout, int(start), int(start) + 1)
        for rollout, places in by_rollout(states)
        for index in places
        for start in starts_of(states[index])
    ]


def by_rollout(states: Sequence[State]) -> list[tuple[Rollout, list[int]]]:
    """The rollouts of the states, each with the places of its states, in order."""
    places: dict[int, tuple[Rollout, list[int]]] = {}
    for index, state in enumerate(states):
        places.setdefault(id(state.rollout), (state.rollout, []))[1].append(index)
    return list(places.values())


def value_sample(
    rollout: Rollout, starts: Sequence[int] | np.ndarray, targets: Sequence[float] | np.ndarray
) -> Sample:
    """Targets at the first token of each supervised segment: the value of the prefix before it.

    starts, targets (S,); starts index the response's tokens.
    """
    ids = rollout.prompt_ids + rollout.response_ids
    at = len(rollout.prompt_ids) + np.asarray(starts, int)
    weights = np.zeros(len(ids), np.float32)
    weights[at] = 1.0
    stream = np.zeros(len(ids), np.float32)
    stream[at] = targets
    return Sample(ids=ids, weights=weights, loss="value", targets=stream)
