"""A critic against a panel: error, ranking, calibration, beside the floors it must beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from genac.critics.base import Critic
from genac.evals.ground_truth import Panel
from genac.ops import stats
from genac.types import Estimate


def evaluate_critic(critic: Critic, panel: Panel) -> dict[str, Any]:
    """Errors are squared differences to the Monte-Carlo value; see docs/metrics.md for each key."""
    return score_estimates(critic.estimate(panel.states, step=-1), panel)


def score_estimates(estimates: list[Estimate], panel: Panel) -> dict[str, Any]:
    """The metrics of given estimates of the panel's states."""
    truth = np.array([v.value for v in panel.values])
    known = np.array([e.value is not None for e in estimates])
    predicted = np.array([np.nan if e.value is None else e.value for e in estimates])
    error = np.where(known, (predicted - truth) ** 2, 1.0)
    problems = np.array([s.rollout.problem.id for s in panel.states])
    clusters = [error[problems == p] for p in dict.fromkeys(problems)]
    result: dict[str, Any] = {
        "states": len(estimates),
        "problems": len(clusters),
        "parse_rate": float(known.mean()),
        # A missing score counts as an error of 1, so that silence never looks like skill.
        "mse": float(error.mean()),
        "mse_interval": stats.bootstrap_interval(clusters),
        "mse_noise": panel.noise,
    }
    if known.any():
        result |= _parsed_only(
            predicted[known], truth[known], _inner(panel, known), problems[known]
        )
    return result


def _inner(panel: Panel, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which parsed states come after the start, and the outcome of the response each was taken
    from.
    """
    states = [s for s, k in zip(panel.states, known, strict=True) if k]
    return np.array([s.start > 0 for s in states]), np.array(
        [s.rollout.reward == 1.0 for s in states]
    )


def _parsed_only(
    predicted: np.ndarray,
    truth: np.ndarray,
    inner: tuple[np.ndarray, np.ndarray],
    problems: np.ndarray,
) -> dict[str, Any]:
    later, won = inner
    return {
        "mse_parsed": stats.mse(predicted, truth),
        "mae": stats.mae(predicted, truth),
        "pearson": stats.pearson(predicted, truth),
        "spearman": stats.spearman(predicted, truth),
        "explained_variance": stats.explained_variance(predicted, truth),
        "auc_within_problem": stats.auc_within(predicted[later], won[later], problems[later]),
        "auc_ceiling": stats.auc_within(truth[later], won[later], problems[later]),
        # A linear value head may leave [0, 1]; as a probability it is then read as 0 or 1.
        "calibration": stats.calibration_bins(predicted.clip(0, 1), truth),
        "expected_calibration_error": stats.expected_calibration_error(predicted.clip(0, 1), truth),
    }


def floors(panel: Panel) -> dict[str, float]:
    """Two predictors that look at no response, both chosen in hindsight: the best constant, and the
    problem's own success rate. The second can be the worse one: states after an error are worth
    little whatever the problem."""
    truth = np.array([v.value for v in panel.values])
    return {
        "mse_constant": float(truth.var()),
        "mse_success_rate": stats.mse(np.array(panel.problem_rate), truth),
    }
