"""Runs for the tests of the report: small, whole, and with numbers that are easy to check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from genac.runs.alarms import Alarms
from genac.runs.store import Run, environment
from genac.types import Estimate, Problem, Rationale, Rollout, State

ROLES = {"actor_sampling": 4.0, "critic_sampling": 3.0, "actor_training": 3.0, "evaluation": 9.0}
SUMMARY: dict[str, Any] = {
    "success_before": {"mean": 0.31, "low": 0.27, "high": 0.35},
    "success_after": {"mean": 0.72, "low": 0.68, "high": 0.76},
    "critic": {
        "mse": 0.041,
        "mse_interval": [0.03, 0.05],
        "mse_constant": 0.11,
        "mse_success_rate": 0.09,
        "mse_untrained": 1.0,
        "mse_sft": 0.08,
        "mse_rl": 0.041,
        "auc_within_problem": 0.83,
        "parse_rate": 0.99,
        "calibration": [
            {"count": i + 1, "predicted": i / 10 + 0.05, "actual": 0.5}
            for i in range(10)
        ],
    },
    "seconds": ROLES,
    "tokens": {role: int(1e6 * s) for role, s in ROLES.items() if role != "evaluation"},
    "flops": {role: 1e13 * s for role, s in ROLES.items()},
    "config_hash": "abc",
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "name": "toy",
    "algorithm": "genac",
    "seed": 0,
    "task": {"name": "arithmetic"},
    "rollout": {"num_prompts": 8, "num_generations": 4},
    "stages": {"joint": {"steps": 200}},
}
METRICS = (
    "reward reward_std frac_reward_zero_std completions/mean_length completions/max_length entropy "
    "kl clip_ratio/region_mean grad_norm loss sampling/sampling_logp_difference/mean critic/mse "
    "critic/explained_variance critic/parse_failure_rate critic/score_mean critic/advantage_gap "
    "critic/auc_within_problem critic/reward critic/rationale_length critic/entropy critic/gated"
)


def full_run(path: Path, steps: int = 200, text: str = "3+4=7\n", **config: Any) -> Run:
    """A finished run of all stages with an alarm at joint step 3; `config` replaces keys."""
    run = Run.create(path, {**CONFIG, **config}, environment())
    for stage in ("base", "critic_sft"):
        for step in range(steps):
            run.log(stage, step, {"loss": 2 / (step + 1)})
    for step in range(steps):
        run.log("critic_rl", step, {"critic/reward": 0.8, "critic/mse": 0.1})
        run.log("joint", step, joint_metrics(step, steps))
    pairs = [trajectory(member, text) for member in range(64)]
    run.write_rollouts("joint", steps - 1, [rollout for rollout, _ in pairs])
    estimates = [estimate for _, result in pairs for estimate in result]
    advantages = {(e.state.rollout.group, 0, e.state.start): -0.25 for e in estimates}
    run.write_estimates("joint", steps - 1, estimates, advantages, decode=lambda ids: text)
    alarms = Alarms(run, lambda line: None)
    for step in (1, 2, 3):
        alarms.check("joint", step, {"critic/advantage_gap": -0.2})
    run.write_summary(SUMMARY)
    return run


def joint_metrics(step: int, steps: int) -> dict[str, float]:
    metrics = dict.fromkeys(METRICS.split(), 0.3 + step / (3 * steps))
    metrics |= {"cost/tokens": 100.0 * (step + 1), "cost/seconds": 2.0 * (step + 1)}
    evaluated = {"eval/success": 0.5, "eval/success_low": 0.4, "eval/success_high": 0.6}
    return metrics | (evaluated if step % 20 == 0 else {})


def trajectory(member: int, text: str = "3+4=7\n") -> tuple[Rollout, list[Estimate]]:
    """A response of three states with the values 0.5, 0.8 and missing."""
    rollout = Rollout(
        Problem(f"heldout-{member}", f"2 * (3+4) {text}", "14"),
        group=member,
        member=0,
        prompt_ids=(1,),
        response_ids=tuple(range(9)),
        logprobs=np.zeros(9, np.float32),
        text=text,
        finish="stop",
        actor_version=1,
        reward=float(member % 2),
    )
    rationale = Rationale((1,), (2,), np.zeros(1, np.float32), f"so far right {text}", 0.8)
    values = (0.5, 0.8, None)
    states = [State(rollout, 3 * i, 3 * i + 3) for i in range(3)]
    return rollout, [Estimate(s, v, (rationale,)) for s, v in zip(states, values, strict=True)]
