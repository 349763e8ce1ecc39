"""Joint runs as jobs, and what experiments read from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import RunConfig
from genac.ops.stats import mean_interval
from genac.runs.store import Run, stable_hash
from paper.jobs import counted

Interval = dict[str, Any]
BUDGETS = ("samples", "tokens", "seconds")  # of joint training, at which methods are compared
COMPUTE = ("flops", "seconds")


def joint_run(config: dict[str, Any]) -> dict[str, Any]:
    """A job: a whole run. -> held-out success before, during and after, and its cost."""
    from genac.stages.pipeline import train

    cfg = RunConfig(**config)
    run = Run.open(train(cfg))
    summary = run.summary()
    return {
        "before": summary["success_before"]["mean"],
        "final": summary["success_after"]["mean"],
        "curve": curve(run, cfg),
        "cost": {k: summary[k] for k in ("seconds", "tokens", "flops")},
        "stages_cost": summary.get("stages_cost"),
        "critic": {
            key: [row.get(f"critic/{key}") for row in run.metrics("joint")]
            for key in ("bias", "mse", "explained_variance", "auc_within_problem")
        },
        "folder": cfg.output_dir,
    }


def curve(run: Run, cfg: RunConfig) -> dict[str, list[float]]:
    """Held-out success against each budget of joint training, from its start."""
    per_step = cfg.rollout.num_prompts * cfg.rollout.num_generations
    out: dict[str, list[float]] = {key: [0.0] for key in BUDGETS}
    out["success"] = [run.summary()["success_before"]["mean"]]
    for row in run.metrics("joint"):
        if row.get("eval/success") is not None:
            out["success"].append(row["eval/success"])
            out["samples"].append(float((row["step"] + 1) * per_step))
            out["tokens"].append(row["cost/tokens"])
            out["seconds"].append(row["cost/seconds"])
    return out


def columns(
    config: dict[str, Any], folder: str, tasks: dict[str, dict[str, Any]]
) -> dict[str, float]:
    """A job: held-out success of a run's actor on other tasks (name -> task options)."""
    from genac.evals.policy import evaluate_policy
    from genac.stages.setup import Setup, make_world

    cfg = RunConfig(**config)
    actor = Setup.of(cfg).actor(Path(folder) / "actor")
    count, samples = cfg.evaluate.during, cfg.evaluate.num_samples
    return {
        name: evaluate_policy(actor, make_world(cfg, **options), count, samples).mean
        for name, options in tasks.items()
    }


def placed(cfg: RunConfig, folder: Path) -> dict[str, Any]:
    """The config with a run folder of its own, named by what it is and by what its files hold."""
    values = cfg.model_dump()
    named = {k: v for k, v in values.items() if k not in ("output_dir", "name")}
    name = stable_hash(counted({"config": named}))
    return values | {"output_dir": str(folder / "runs" / name)}


def interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with its 95 % t interval."""
    mean, low, high = mean_interval(list(values))
    return {"mean": mean, "low": low, "high": high, "values": list(values)}


def over_trainings(result: Interval) -> dict[str, Any]:
    """An interval over trainings as verdicts read it."""
    low, high = result["low"], result["high"]
    return {"value": result["mean"], "low": low, "high": high, "by_training": result["values"]}


def ratio_interval(values: Sequence[float]) -> Interval:
    """Geometric mean of ratios over seeds with the t interval of their logarithms."""
    ends = mean_interval(np.log(values))
    mean, low, high = (None if v is None else float(np.exp(v)) for v in ends)
    return {"mean": mean, "low": low, "high": high, "values": list(values)}


def show(result: Interval, digits: int = 3) -> str:
    """0.512 [0.480, 0.544]"""
    if result["low"] is None:
        return f"{result['mean']:.{digits}f}"
    return f"{result['mean']:.{digits}f} [{result['low']:.{digits}f}, {result['high']:.{digits}f}]"


def difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Paired difference a - b over seeds."""
    return interval((np.asarray(a) - np.asarray(b)).tolist())
