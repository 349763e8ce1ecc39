"""What the generative critic learns from its rationales: REINFORCE, or exactly at the score.

The reward of a value v against the outcome r is R_v = 1 - (r - v)^2. A rationale is trained by the
policy loss with R_v less a baseline as its advantage. With `exact_score_gradient` the score's
tokens are trained by the gradient of the expected R_v instead, which has no sampling noise; that
and the reasoning's policy loss are two terms of one gradient (see `ops.objectives.score`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from genac.config.models import GenerativeConfig
from genac.critics.base import pooled_returns
from genac.critics.scores import DIGITS, ScoreTokens
from genac.ops.losses import critic_reward
from genac.types import SCORE_VALUES, Estimate, Rationale, Sample, ScoreTarget

Judged = tuple[float, tuple[Rationale, ...]]  # a state's outcome, and the rationales about it


def training_set(estimates: Sequence[Estimate], cfg: GenerativeConfig) -> list[Judged]:
    """(target, rationales) per state that trains, has a target and was asked; pooled
    states once.
    """
    states = [e.state for e in estimates]
    targets = pooled_returns(states) if cfg.pool_states else [s.rollout.reward for s in states]
    rows = [
        (estimate.state.key, target, estimate.rationales)
        for estimate, target in zip(estimates, targets, strict=True)
        if target is not None and estimate.rationales
    ]
    # Equal states share target and rationales; once is enough, or the start would outweigh the
    # rest.
    if cfg.pool_states:
        rows = list({row[0]: row for row in rows}.values())
    return [(target, rationales) for _, target, rationales in rows]


def rationale_samples(
    chosen: Sequence[Judged], scores: ScoreTokens | None, cfg: GenerativeConfig
) -> tuple[list[Sample], np.ndarray]:
    """One policy sample per rationale, and the rewards R_v of all of them, in the same order."""
    exact = cfg.exact_score_gradient
    rewards = [
        [reward(t, target, expected=exact) for t in rationales] for target, rationales in chosen
    ]
    samples = [
        rationale_sample(rationale, own - baseline, target, scores if exact else None, cfg)
        for (target, rationales), row, base_row in zip(
            chosen, rewards, baselines(chosen, rewards, cfg), strict=True
        )
        for rationale, own, baseline in zip(rationales, row, base_row, strict=True)
    ]
    return samples, np.array([r for row in rewards for r in row])


def reward(rationale: Rationale, target: float, *, expected: bool) -> float:
    """R_v of a rationale; 0, the least, where it gave no score.

    `expected` takes the mean of R_v over the scores' probabilities, where they are known.
    """
    if rationale.value is None:  # the least, so that a rationale never gains by giving no score
        return 0.0
    if expected and rationale.score_probs is not None:
        return float(rationale.score_probs @ critic_reward(SCORE_VALUES, target))
    return critic_reward(rationale.value, target)


def baselines(
    chosen: Sequence[Judged], rewards: Sequence[Sequence[float]], cfg: GenerativeConfig
) -> list[list[float]]:
    """0, or the mean reward of the other rationales about the same state, or (with one rationale
    per state) of the other states with the same outcome.
    """
    if cfg.reinforce_baseline == "none":
        return [[0.0] * len(row) for row in rewards]
    # RLOO (2402.14740): unbiased, because a rationale's own reward is not in its baseline.
    if cfg.num_samples > 1:
        return [leave_one_out_mean(row) for row in rewards]
    # R_v depends on the outcome, so only states with the same one are comparable.
    pools: dict[bool, list[int]] = defaultdict(list)
    for index, (target, _) in enumerate(chosen):
        pools[target >= 0.5].append(index)
    out = [[0.0] * len(row) for row in rewards]
    for members in pools.values():
        # Identical states hold one rationale object: its copies are no others to each other.
        owners = [id(chosen[i][1][0]) for i in members]
        means = leave_one_out_mean([rewards[i][0] for i in members], owners)
        for i, mean in zip(members, means, strict=True):
            out[i] = [mean]
    return out


def leave_one_out_mean(
    rewards: Sequence[float], owners: Sequence[int] | None = None
) -> list[float]:
    """For each entry the mean of the others; of itself where it is alone (its advantage is then 0).

    Entries of one owner are copies of one rationale (identical states share it) and no others to
    each other.
    """
    owners = range(len(rewards)) if owners is None else owners  # each its own
    own: dict[int, list[float]] = defaultdict(list)
    for owner, reward in zip(owners, rewards, strict=True):
        own[owner].append(reward)
    total, count = sum(rewards), len(rewards)
    return [
        (total - sum(own[o])) / (count - len(own[o])) if count > len(own[o]) else r
        for o, r in zip(owners, rewards, strict=True)
    ]


def rationale_sample(
    rationale: Rationale,
    advantage: float,
    target: float,
    scores: ScoreTokens | None,
    cfg: GenerativeConfig,
) -> Sample:
    """A policy Sample over the completion; with `scores` the score's tokens are trained exactly
    instead, and the reasoning, whose gradient is noisy, weighs cfg.reasoning_weight (1: the
    gradient of the expected reward). A completion without a score is REINFORCE's whole."""
    ids = rationale.prompt_ids + rationale.completion_ids
    first = len(rationale.prompt_ids)
    weights = np.zeros(len(ids), np.float32)
    weights[first:] = 1.0
    old = np.zeros(len(ids), np.float32)
    old[first:] = rationale.logprobs
    exact: tuple[ScoreTarget, ...] = ()
    if scores is not None and rationale.score_probs is not None:
        exact = score_targets(rationale, first, scores, critic_reward(SCORE_VALUES, target))
        weights[first:] = cfg.reasoning_weight
        weights[[one.at for one in exact]] = 0.0  # or the score would be trained twice
    return Sample(
        ids=ids,
        weights=weights,
        loss="policy" if scores is None else "score",
        advantages=np.where(weights > 0, np.float32(advantage), np.float32(0)),
        old_logprobs=old,
        scores=exact,
        temperature=cfg.temperature or 1.0,  # greedy completions were drawn at none
    )


def score_targets(
    rationale: Rationale, first: int, tokens: ScoreTokens, rewards: np.ndarray
) -> tuple[ScoreTarget, ...]:
    """The exact objective at the score of a rationale whose score's probabilities are known.

    first: where the rationale's tokens begin. rewards (11,): R_v of each score. Where 10 is two
    tokens the first 1 is worth e R_v(1) + q R_v(10), a constant here (e, q: see `scores`). A
    rationale that wrote the 1 also trains what follows: 0 is worth R_v(10), another digit nothing,
    anything else R_v(1). See `ops.losses.expected_score_loss`.
    """
    assert rationale.score_at is not None
    at = first + rationale.score_at
    worth = rewards[: len(tokens.ids)].tolist()
    if rationale.after_one is None:
        return (ScoreTarget(at, tokens.ids, tuple(worth)),)
    low, high = float(rewards[1]), float(rewards[-1])  # of the scores 1 and 10
    worth[1] = float(rationale.after_one @ (low, high))
    begin = ScoreTarget(at, tokens.ids, tuple(worth))
    if rationale.completion_ids[rationale.score_at] != tokens.one:
        return (begin,)
    return begin, ScoreTarget(at + 1, tokens.ids, (high, *[0.0] * (DIGITS - 1)), low)
