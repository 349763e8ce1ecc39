"""Curves over steps for the report, one chart per line of a literal table, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genac.runs.charts import line_chart
from genac.runs.page import esc, figure, is_number, note

STAGES = ("base", "critic_sft", "critic_rl", "joint")


@dataclass(frozen=True)
class Curve:
    """A chart: metric key -> name in the legend."""

    title: str
    keys: Mapping[str, str]
    limits: tuple[float, float] | None = None


CURVES = (
    Curve(
        "Success",
        {"reward": "reward in training", "eval/success": "held-out success"},
        (-0.02, 1.02),
    ),
    Curve("Loss", {"loss": "loss"}),
    Curve("Critic reward", {"critic/reward": "R_v"}),
    Curve("Critic error (squared, against the reward)", {"critic/mse": "MSE"}),
    Curve("Explained variance of the critic", {"critic/explained_variance": "explained variance"}),
    Curve("Mean score of the critic", {"critic/score_mean": "value"}, (-0.02, 1.02)),
    Curve("Scores not parsed (fraction)", {"critic/parse_failure_rate": "failures"}, (-0.02, 1.02)),
    Curve("Advantage gap, right minus wrong", {"critic/advantage_gap": "gap"}),
    Curve(
        "Rewards within a group",
        {"reward_std": "standard deviation", "frac_reward_zero_std": "groups with equal rewards"},
    ),
    Curve("Response length (tokens)", {"completions/mean_length": "mean length"}),
    Curve("Entropy", {"entropy": "entropy"}),
    Curve("KL to the reference", {"kl": "KL"}),
    Curve("Clipped tokens (fraction)", {"clip_ratio/region_mean": "clip ratio"}),
)
EXPECTED_IN_JOINT = ("reward", "eval/success", "completions/mean_length", "entropy")


def stages(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The stages that logged anything: the pipeline's order first, then others."""
    seen = list(dict.fromkeys(str(line.get("stage")) for line in metrics))
    return [s for s in STAGES if s in seen] + [s for s in seen if s not in STAGES]


def curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Every chart whose metrics were logged, last stage first, and what joint training lacks."""
    if not metrics:
        return note("No curves: metrics.jsonl is missing or empty.")
    parts = []
    for stage in reversed(stages(metrics)):
        lines = [line for line in metrics if str(line.get("stage")) == stage]
        charts = "".join(_chart(stage, curve, lines) for curve in CURVES)
        parts.append(f'<h3>Stage {esc(stage)}</h3><div class="charts">{charts}</div>')
        if stage == "joint":
            parts.append(_absent(lines))
    return "".join(parts)


def points(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) wherever the metric is a finite number."""
    pairs = [(line.get("step"), line.get(key)) for line in lines]
    return [(x, y) for x, y in pairs if is_number(x) and is_number(y) and math.isfinite(y)]


def _chart(stage: str, curve: Curve, lines: Sequence[Mapping[str, Any]]) -> str:
    series = {name: points(lines, key) for key, name in curve.keys.items()}
    series = {name: values for name, values in series.items() if values}
    if not series:
        return ""
    svg = line_chart(f"{stage}: {curve.title}", series, curve.limits)
    return figure(curve.title, svg)


def _absent(lines: Sequence[Mapping[str, Any]]) -> str:
    absent = [key for key in EXPECTED_IN_JOINT if not points(lines, key)]
    return note(f"Not logged in stage joint: {', '.join(absent)}.") if absent else ""
