"""A critic against a panel: error, ranking, calibration and cost, with the trivial baselines it
must beat.

Every statistic with an interval is a ratio of two sums over problems (squared error and states,
ranked pairs and pairs, hits and pools), kept per problem in `by_problem`: so it can be resampled by
problem, alone or paired with another critic on the same panel.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genac.critics.base import Critic
from genac.evals.ground_truth import Panel
from genac.evals.verdicts import verdict_sums
from genac.models.loading import parameter_count
from genac.ops import stats
from genac.types import Estimate

POOLS = (2, 4, 8, 16)
POOL_DRAWS = 64  # pools per problem and size
FRACTIONS = ("start", "first third", "second third", "last third")
Sums = dict[str, list[list[float]]]  # statistic -> (numerator, denominator) per problem


def evaluate_critic(critic: Critic, panel: Panel) -> dict[str, Any]:
    """Errors are squared differences to the Monte-Carlo value; see docs/metrics.md for each key.

    Verdicts are those of a critic that judges each state by itself: a running critic's rationale
    is a note on the newest step.
    """
    runtime, begin = critic.samples_with, time.perf_counter()
    before = runtime.processed_tokens if runtime else 0
    estimates = critic.estimate(panel.states, step=-1)
    seconds = (time.perf_counter() - begin) / len(estimates)
    if critic.reads_whole_responses:
        panel = replace(panel, verdicts=None)
    result = score_estimates(estimates, panel) | {"seconds_per_value": seconds}
    if runtime is not None:
        tokens = (runtime.processed_tokens - before) / len(estimates)
        result["tokens_per_value"] = tokens
        result["flops_per_value"] = 2 * parameter_count(runtime.model) * tokens
    return result


def brief(result: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without sums per problem and without the clock, so that equal runs are equal."""
    left_out = ("by_problem", "problem_ids", "seconds_per_value")
    return {k: v for k, v in result.items() if k not in left_out}


def score_estimates(estimates: Sequence[Estimate], panel: Panel) -> dict[str, Any]:
    """The metrics of given estimates of the panel's states."""
    truth_N = np.array([v.value for v in panel.values])
    known_N = np.array([e.value is not None for e in estimates])
    predicted_N = np.array([np.nan if e.value is None else e.value for e in estimates])
    sums = problem_sums(predicted_N, panel)
    if panel.verdicts is not None:
        problems_N = np.array([s.rollout.problem.id for s in panel.states])
        sums |= verdict_sums(estimates, panel.verdicts, truth_N, problems_N)
    result: dict[str, Any] = {
        "states": len(estimates),
        "problems": len(sums["mse"]),
        "parse_rate": float(known_N.mean()),
        # A missing score counts as an error of 1, so that silence never looks like skill.
        **{key: value for key in sums for key, value in with_interval(key, sums).items()},
        **gain_over_baselines(sums["mse"], panel),
        "mse_noise": panel.noise,
        "bias": float(np.mean(predicted_N[known_N] - truth_N[known_N])) if known_N.any() else None,
        "by_problem": sums,
        "problem_ids": list(dict.fromkeys(s.rollout.problem.id for s in panel.states)),
    }
    result["top1_by_pool"] = {
        str(size): {
            "accuracy": result.pop(f"top1_{size}"),
            "interval": result.pop(f"top1_{size}_interval"),
            "chance": result.pop(f"chance_{size}"),
        }
        for size in POOLS
    }
    result["mse_by_fraction"] = {name: result.pop(f"mse, {name}") for name in FRACTIONS}
    for unused in [
        *(f"chance_{s}_interval" for s in POOLS),
        *(f"mse, {f}_interval" for f in FRACTIONS),
    ]:
        result.pop(unused)
    if known_N.any():
        result |= _parsed_only(predicted_N[known_N], truth_N[known_N])
    return result


def with_interval(key: str, sums: Sums) -> dict[str, Any]:
    """{key: ratio, key_interval: [low, high]}; None where nothing was counted."""
    sums_PD = np.array(sums[key])
    value = ratio(sums_PD.sum(0))
    if value is None:
        return {key: None, f"{key}_interval": None}
    return {key: value, f"{key}_interval": stats.bootstrap_sums(sums_PD, safe_ratio)}


def ratio(pair: Any) -> float | None:
    return float(pair[0] / pair[1]) if pair[1] else None


def safe_ratio(sums: np.ndarray) -> np.ndarray:
    """Numerator by denominator of (..., 2); not a number where nothing was counted."""
    return np.divide(
        sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0
    )


def problem_sums(predicted_N: np.ndarray, panel: Panel) -> Sums:
    """For each statistic its numerator and denominator per problem, in the panel's order.

    predicted (N,) with NaN for a missing value. `mse` counts a missing value as an error of 1;
    `mse_corrected` has the panel's own sampling variance taken off (it can be below 0).
    """
    truth_N = np.array([v.value for v in panel.values])
    noise_N = np.nan_to_num(np.array([v.variance for v in panel.values]))
    missing_N = np.isnan(predicted_N)
    error_N = np.where(missing_N, 1.0, (predicted_N - truth_N) ** 2)
    corrected_N = np.where(missing_N, 1.0, error_N - noise_N)
    rank_N = np.where(missing_N, -np.inf, predicted_N)  # what is missing is ranked last
    won_N = np.array([s.rollout.reward == 1.0 for s in panel.states])
    inner_N = np.array([s.start > 0 for s in panel.states])
    part_N = np.array([fraction(s.start, len(s.rollout.response_ids)) for s in panel.states])
    problems_N = np.array([s.rollout.problem.id for s in panel.states])
    sums: Sums = {}
    for number, problem in enumerate(dict.fromkeys(problems_N.tolist())):
        own_N = problems_N == problem
        later_N = own_N & inner_N
        rng = np.random.default_rng(number)
        rows = {
            "mse": (error_N[own_N].sum(), own_N.sum()),
            "mse_corrected": (corrected_N[own_N].sum(), own_N.sum()),
            "auc_within_problem": stats.auc_pairs(rank_N[later_N], won_N[later_N]),
            "auc_ceiling": stats.auc_pairs(truth_N[later_N], won_N[later_N]),
        }
        for name in FRACTIONS:
            at_N = own_N & (part_N == name)
            rows[f"mse, {name}"] = (error_N[at_N].sum(), at_N.sum())
        for size in POOLS:
            hits, chance, pools = stats.pool_hits(
                rank_N[later_N], truth_N[later_N], size, POOL_DRAWS, rng
            )
            rows[f"top1_{size}"] = (hits, pools)
            rows[f"chance_{size}"] = (chance, pools)
        for key, pair in rows.items():
            sums.setdefault(key, []).append([float(x) for x in pair])
    return sums


def fraction(start: int, length: int) -> str:
    """Which part of the response the state stands at."""
    if start == 0:
        return FRACTIONS[0]
    return FRACTIONS[1 + min(2, 3 * start // max(1, length))]


def _parsed_only(predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    return {
        "mse_parsed": stats.mse(predicted, truth),
        "mae": stats.mae(predicted, truth),
        "pearson": stats.pearson(predicted, truth),
        "spearman": stats.spearman(predicted, truth),
        "explained_variance": stats.explained_variance(predicted, truth),
        # A linear value head may leave [0, 1]; as a probability it is then read as 0 or 1.
        "calibration": stats.calibration_bins(predicted.clip(0, 1), truth),
        "expected_calibration_error": stats.expected_calibration_error(predicted.clip(0, 1), truth),
    }


def trivial_baselines(panel: Panel) -> dict[str, float]:
    """Two predictors that look at no response, both chosen in hindsight: the best constant, and the
    problem's own success rate. The second can be the worse one: states after an error are worth
    little whatever the problem."""
    truth = np.array([v.value for v in panel.values])
    return {
        "mse_constant": float(truth.var()),
        "mse_success_rate": stats.mse(np.array(panel.problem_rate), truth),
    }


def gain_over_baselines(error_sums: list[list[float]], panel: Panel) -> dict[str, Any]:
    """How much less the critic errs than the best of `trivial_baselines`, in `mse`, with the 95 %
    interval of the difference on the same problems: in each draw both baselines are measured on the
    problems drawn, and the better one counts.

    error_sums (P, 2): the critic's squared error and its states per problem, as in `problem_sums`.
    """
    truth_N, rate_N = np.array([v.value for v in panel.values]), np.array(panel.problem_rate)
    terms_ND = np.stack([truth_N, truth_N**2, (rate_N - truth_N) ** 2], axis=1)
    problems_N = np.array([s.rollout.problem.id for s in panel.states])
    order = dict.fromkeys(problems_N.tolist())
    terms_PD = [terms_ND[problems_N == problem].sum(0) for problem in order]
    sums_PD = np.hstack([error_sums, terms_PD])
    low, high = stats.bootstrap_sums(sums_PD, _gain)
    return {"mse_gain": float(_gain(sums_PD.sum(0))), "mse_gain_interval": (low, high)}


def _gain(sums: np.ndarray) -> np.ndarray:
    """sums (..., 5): squared error, states, values, squared values, the rate's squared error."""
    error, states, values, squares, rate = np.moveaxis(sums, -1, 0)
    constant = squares / states - (values / states) ** 2
    return np.minimum(constant, rate / states) - error / states


def finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
