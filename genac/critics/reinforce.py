"""What the generative critic learns from its rationales: REINFORCE, or exactly at the score.

The reward of a value v against the outcome r is R_v = 1 - (r - v)^2. A rationale is trained by the
policy loss with R_v less a baseline as its advantage. With `exact_score_gradient` the score's
tokens are trained by the gradient of the expected R_v instead, which has no sampling noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from genac.config.models import GenerativeConfig
from genac.critics.base import pooled_returns
from genac.critics.scores import ScoreTokens
from genac.ops.losses import critic_reward
from genac.types import SCORE_VALUES, Estimate, Sample, ScoreTarget, Thought

Judged = tuple[float, tuple[Thought, ...]]  # a state's outcome, and the thoughts about it


def training_set(estimates: Sequence[Estimate], cfg: GenerativeConfig) -> list[Judged]:
    """(target, thoughts) per state that trains, has a target and was asked; pooled states once."""
    states = [e.state for e in estimates]
    targets = pooled_returns(states) if cfg.pool_states else [s.rollout.reward for s in states]
    rows = [
        (estimate.state.key, target, estimate.thoughts)
        for estimate, target in zip(estimates, targets, strict=True)
        if target is not None and estimate.thoughts
    ]
    # Equal states share target and thoughts; once is enough, or the start would outweigh the rest.
    if cfg.pool_states:
        rows = list({row[0]: row for row in rows}.values())
    return [(target, thoughts) for _, target, thoughts in rows]


def thought_samples(
    chosen: Sequence[Judged], scores: ScoreTokens | None, cfg: GenerativeConfig
) -> tuple[list[Sample], np.ndarray]:
    """One policy sample per thought, and the rewards R_v of all of them, in the same order."""
    exact = cfg.exact_score_gradient
    rewards = [[reward(t, target, expected=exact) for t in thoughts] for target, thoughts in chosen]
    samples = [
        thought_sample(thought, own - baseline, target, scores if exact else None, cfg)
        for (target, thoughts), row, base_row in zip(
            chosen, rewards, baselines(chosen, rewards, cfg), strict=True
        )
        for thought, own, baseline in zip(thoughts, row, base_row, strict=True)
    ]
    return samples, np.array([r for row in rewards for r in row])


def reward(thought: Thought, target: float, *, expected: bool) -> float:
    """R_v of a thought; 0, the least, where it gave no score.

    `expected` takes the mean of R_v over the scores' probabilities, where they are known.
    """
    if thought.value is None:
        return 0.0
    if expected and thought.score_probs is not None:
        return float(thought.score_probs @ critic_reward(SCORE_VALUES, target))
    return critic_reward(thought.value, target)


def baselines(
    chosen: Sequence[Judged], rewards: Sequence[Sequence[float]], cfg: GenerativeConfig
) -> list[list[float]]:
    """0, or the mean reward of the other thoughts about the same state, or (with one thought per
    state) of the other states with the same outcome.
    """
    if cfg.reinforce_baseline == "none":
        return [[0.0] * len(row) for row in rewards]
    if cfg.num_samples > 1:
        return [leave_one_out_mean(row) for row in rewards]
    # R_v depends on the outcome, so only states with the same one are comparable.
    pools: dict[bool, list[int]] = defaultdict(list)
    for index, (target, _) in enumerate(chosen):
        pools[target >= 0.5].append(index)
    out = [[0.0] * len(row) for row in rewards]
    for members in pools.values():
        # Identical states hold one thought object: its copies are no others to each other.
        owners = [id(chosen[i][1][0]) for i in members]
        means = leave_one_out_mean([rewards[i][0] for i in members], owners)
        for i, mean in zip(members, means, strict=True):
            out[i] = [mean]
    return out


def leave_one_out_mean(
    rewards: Sequence[float], owners: Sequence[int] | None = None
) -> list[float]:
    """For each entry the mean of the others; of itself where it is alone (its advantage is then 0).

    Entries of one owner are copies of one thought (identical states share it) and no others to each
    other.
    """
    owners = range(len(rewards)) if owners is None else owners
    own: dict[int, list[float]] = defaultdict(list)
    for owner, reward in zip(owners, rewards, strict=True):
        own[owner].append(reward)
    total, count = sum(rewards), len(rewards)
    return [
        (total - sum(own[o])) / (count - len(own[o])) if count > len(own[o]) else r
        for o, r in zip(owners, rewards, strict=True)
    ]


def thought_sample(
    thought: Thought,
    advantage: float,
    target: float,
    scores: ScoreTokens | None,
    cfg: GenerativeConfig,
) -> Sample:
    """A policy Sample over the completion; with `scores` the score's tokens are trained exactly
    instead, and the reasoning, whose gradient is noisy, weighs cfg.reasoning_weight."""
    ids = thought.prompt_ids + thought.completion_ids
    first = len(thought.prompt_ids)
    mask = np.zeros(len(ids), np.float32)
    mask[first:] = 1.0
    old = np.zeros(len(ids), np.float32)
    old[first:] = thought.logprobs
    exact: tuple[ScoreTarget, ...] = ()
    if scores is not None and thought.score_probs is not None:
        exact = scores.targets(thought, first, critic_reward(SCORE_VALUES, target))
        mask[first:] = cfg.reasoning_weight
        mask[[one.at for one in exact]] = 0.0  # or the score would be trained twice
    return Sample(
        ids=ids,
        mask=mask,
        loss="score",
        advantages=np.where(mask > 0, np.float32(advantage), np.float32(0)),
        old_logprobs=old,
        scores=exact,
        temperature=cfg.temperature or 1.0,  # greedy completions were drawn at none
    )
