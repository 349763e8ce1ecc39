"""What one training step says of actor and critic, at no extra cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genac.ops import stats
from genac.rollout import Group
from genac.types import Estimate

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
    """The critic against outcomes. `critic/mse` is against 0/1 rewards, so it keeps their
    variance.
    """
    if not estimates:
        return {}
    known = [e for e in estimates if e.value is not None and e.state.rollout.reward is not None]
    out: Metrics = {
        "critic/parse_failure_rate": float(np.mean([e.value is None for e in estimates])),
        "critic/states": float(len(estimates)),
    }
    if not known:
        return out
    value = np.array([e.value for e in known], float)
    reward = np.array([e.state.rollout.reward for e in known], float)
    later = np.array([e.state.start > 0 for e in known])
    problem = np.array([e.state.rollout.group for e in known])
    won, lost = value[later & (reward >= 0.5)], value[later & (reward < 0.5)]
    thoughts = [t for e in known for t in e.thoughts]
    scores = (
        {t.value for t in thoughts if t.value is not None}
        if thoughts
        else set(value.round(6).tolist())
    )
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
        "critic/thought_length": float(np.mean([len(t.completion_ids) for t in thoughts]))
        if thoughts
        else None,
    }
