"""The few lines a person wants to see when a run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genac.runs.store import Run
from genac.stages.finish import read_summary


def console(folder: Path) -> str:
    """Success before and after, the critic and its trivial baselines, seconds by role."""
    summary = read_summary(Run.open(folder))
    before, after = summary["success_before"], summary["success_after"]
    lines = [
        f"{summary['name']} ({summary['algorithm']}): held-out success "
        f"{percent(before)} -> {percent(after)}{points(summary.get('success_gain'))}   "
        f"pass@{after['k']} {after['pass_at_k']:.1%} "
        f"[{after['pass_at_k_low']:.1%}, {after['pass_at_k_high']:.1%}]",
        *mistake_lines(before, after),
        *critic_lines(summary["critic"]),
        *([f"no critic panel: {reason}"] if (reason := summary.get("no_panel")) else []),
        "seconds: "
        + ", ".join(f"{k} {v:.0f}" for k, v in summary["seconds"].items())
        + before_it(summary.get("stages_cost", {})),
        f"report: {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def percent(score: dict[str, float]) -> str:
    return f"{score['mean']:.1%} [{score['low']:.1%}, {score['high']:.1%}]"


def points(gain: dict[str, float] | None) -> str:
    """The paired difference, which older runs lack."""
    if gain is None:
        return ""
    mean, low, high = (100 * gain[key] for key in ("mean", "low", "high"))
    return f" ({mean:+.1f} points [{low:+.1f}, {high:+.1f}])"


def before_it(stages: dict[str, Any]) -> str:
    """What the stages before joint training took; nothing where one did not record it."""
    spent = stages.get("total", {}).get("seconds")
    return "" if spent is None else f"; stages before {spent:.0f}"


def mistake_lines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """First mistakes before and after, of a task whose program names them."""
    if "diagnosis" not in before or "diagnosis" not in after:
        return []
    first, last = (one["diagnosis"]["first_mistakes"] for one in (before, after))
    changes = [f"{kind} {first.get(kind, 0)} -> {last.get(kind, 0)}" for kind in first | last]
    count = after["diagnosis"]["responses"]
    return [f"first mistakes of {count} responses: {', '.join(changes) or 'none'}"]


def critic_lines(critic: dict[str, Any]) -> list[str]:
    """MSE against Monte-Carlo values by stage, and what no look at the response can beat."""
    if not critic:
        return []
    names = ("constant", "success_rate", "untrained", "sft", "rl")
    results = [f"{n} {critic[f'mse_{n}']:.4f}" for n in names if critic.get(f"mse_{n}") is not None]
    auc = critic.get("auc_within_problem")
    return [
        "critic MSE against Monte-Carlo values: " + ", ".join(results),
        *gain_lines(critic),
        f"critic AUC within problem {'-' if auc is None else f'{auc:.3f}'}, parse rate "
        f"{critic['parse_rate']:.1%}",
    ]


def gain_lines(critic: dict[str, Any]) -> list[str]:
    """The paired difference to the best trivial baseline, which older runs lack."""
    if "mse_gain" not in critic:
        return []
    low, high = critic["mse_gain_interval"]
    return [
        f"critic MSE below the best trivial baseline by {critic['mse_gain']:.4f} "
        f"[{low:.4f}, {high:.4f}]"
    ]
