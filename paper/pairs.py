"""One critic against another on the same panels, which resamples problems in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genac.evals.critic import finite, safe_ratio
from genac.ops import stats


def compare(
    a: Sequence[Mapping[str, Any]],
    b: Sequence[Mapping[str, Any]],
    key: str,
    how: str,
    groups: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Critic a against critic b on the same panels (one per training), resampled by problem.

    `how` is "ratio" (a / b) or "difference" (a - b) of the statistic `key`, pooled over the panels'
    problems. `groups` names the training each panel belongs to, where a training has several panels
    that share problems (actors of one base model): a problem is then resampled with all its states.
    -> value, low, high (trainings fixed; None where nothing was counted) and the value of each
    training.
    """
    groups = list(range(len(a))) if groups is None else groups
    clusters: dict[tuple[Any, str], np.ndarray] = {}
    for group, x, y in zip(groups, a, b, strict=True):
        rows = np.concatenate([x["by_problem"][key], y["by_problem"][key]], axis=1)
        for problem, row in zip(x["problem_ids"], rows, strict=True):
            clusters[group, problem] = clusters.get((group, problem), 0.0) + row

    def statistic(sums: np.ndarray) -> np.ndarray:
        left, right = safe_ratio(sums[..., :2]), safe_ratio(sums[..., 2:])
        with np.errstate(divide="ignore", invalid="ignore"):
            return left / right if how == "ratio" else left - right

    low, high = stats.bootstrap_sums(list(clusters.values()), statistic)
    by_training = [
        finite(statistic(np.sum([v for (g, _), v in clusters.items() if g == group], axis=0)))
        for group in dict.fromkeys(groups)
    ]
    value = finite(statistic(np.sum(list(clusters.values()), axis=0)))
    return {"value": value, "low": low, "high": high, "by_training": by_training}
