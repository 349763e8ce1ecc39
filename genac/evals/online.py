"""What one training step says of actor and critic, at no extra cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genac.credit import values_of_row
from genac.ops import stats
from genac.types import Estimate, Group

Metrics = dict[str, float | None]


def rollout_metrics(groups: Sequence[Group]) -> Metrics:
    """Rewards and lengths, under TRL's names."""
    rollouts = [r for group in groups for r in group]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    lengths = [len(r.response_ids) for r in rollouts]
    flat = [len({r.reward for r in g if r.reward is not None}) <= 1 for g in groups]
    return {
        "reward": float(np.mean(rewards)) if rewards else None,
        "reward_std": float(np.std(rewards)) if rewards else None,
        "reward_none_rate": 1 - len(rewards) / len(rollouts),
        "frac_reward_zero_std": float(np.mean(flat)),
        "completions/mean_length": float(np.mean(lengths)),
        "completions/max_length": float(np.max(lengths)),
        "completions/clipped_ratio": float(np.mean([r.finish == "length" for r in rollouts])),
        "num_tokens": float(sum(lengths)),
    }


def critic_metrics(estimates: Sequence[Estimate]) -> Metrics:
    """The critic against outcomes. `critic/mse` includes the variance of the rewards."""
    if not estimates:
        return {}
    values = values_of_row(estimates)
    repeat = [widths(e) for e in estimates]
    out: Metrics = {
        "critic/parse_failure_rate": float(np.mean(np.isnan(values))),
        "critic/states": float(len(values)),
    }
    rewards = np.repeat([reward_or_nan(e) for e in estimates], repeat)
    usable = np.isfinite(values) & np.isfinite(rewards)
    if not usable.any():
        return out
    value, reward = values[usable], rewards[usable]
    # The first token of a dense state stands at its start, the others behind it.
    first = np.concatenate([[0], np.cumsum(repeat)[:-1]])
    offset = np.arange(len(values)) - np.repeat(first, repeat)
    start = np.repeat([e.state.start for e in estimates], repeat) + offset
    later = start[usable] > 0
    problem = np.repeat([e.state.rollout.group for e in estimates], repeat)[usable]
    known = [e for e in estimates if e.value is not None and e.state.rollout.reward is not None]
    won = value[later & (reward >= 0.5)]
    lost = value[later & (reward < 0.5)]
    rationales = [t for e in known for t in e.rationales]
    written = {t.value for t in rationales if t.value is not None}
    scores = written if rationales else np.unique(value.round(6))
    return out | {
        "critic/mse": stats.mse(value, reward),
        "critic/explained_variance": stats.explained_variance(value, reward),
        "critic/score_mean": float(value.mean()),
        # Above 0: the critic promises more than the actor keeps. A stale one drifts below.
        "critic/bias": float((value - reward).mean()),
        "critic/distinct_scores": float(len(scores)),
        "critic/advantage_gap": float(won.mean() - lost.mean()) if len(won) and len(lost) else None,
        "critic/auc_within_problem": stats.auc_within(
            value[later], reward[later] >= 0.5, problem[later]
        ),
        "critic/rationale_length": float(np.mean([len(t.completion_ids) for t in rationales]))
        if rationales
        else None,
    }


def widths(estimate: Estimate) -> int:
    """How many values an estimate holds."""
    return 1 if estimate.token_values is None else len(estimate.token_values)


def reward_or_nan(estimate: Estimate) -> float:
    reward = estimate.state.rollout.reward
    return float("nan") if reward is None else reward
