"""genac compare FILE: variants x seeds of one recipe, as a table at equal samples, tokens and
seconds.

recipe: recipes/arithmetic.yaml
output_dir: runs/compare
results: docs/results/compare-arithmetic      # .json and .md are written
seeds: [0, 1, 2]
processes: 2                                  # runs side by side, one CPU thread each
against: ppo                                  # optional: differences to this variant, by seed
overrides: {...}                              # for every run
variants:
  grpo: {algorithm: grpo}
  ppo: {algorithm: ppo, grid: {credit.lam: [0.5, 1.0]}}   # every combination becomes a variant
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.algorithms import merge
from genac.config.recipes import as_yaml, expand, read_recipe, resolve
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.ops.stats import mean_interval
from genac.runs.manifest import is_finished
from genac.runs.store import Run, atomic_write
from genac.stages.finish import config_hash
from genac.stages.pipeline import prepare
from genac.stages.setup import Setup, prepared_config

BUDGETS = {"samples": "samples", "tokens": "cost/tokens", "seconds": "cost/seconds"}


def compare(file: str | Path, arguments: Sequence[str] = ()) -> str:
    """Runs what is not finished yet, writes the table; returns it as Markdown."""
    if arguments:
        raise ValueError(f"genac compare takes one file and no overrides (given: {arguments[0]!r})")
    plan = read_recipe(file)
    missing = {"recipe", "output_dir", "results", "seeds", "variants"} - set(plan)
    if missing:
        raise ValueError(
            f"{file} lacks {', '.join(sorted(missing))}; see the head of genac/commands/compare.py"
        )
    runs = planned(plan)
    variants = list(dict.fromkeys(variant for variant, _ in runs))
    if plan.get("against", variants[0]) not in variants:
        raise ValueError(
            f"{file}: against is {plan['against']!r}; name one of {', '.join(variants)}"
        )
    # Stages that runs share are made first, so that parallel runs only read them.
    for cfg in {json.dumps(prepared_config(c).model_dump()): c for c in runs.values()}.values():
        prepare(Setup.of(prepared_config(cfg)))
    with ThreadPoolExecutor(plan.get("processes", 1)) as pool:
        list(pool.map(run_alone, runs.values()))
    table = tabulate(plan, runs)
    text = markdown(table, str(file))
    results = Path(plan["results"])
    results.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(results.with_suffix(".json"), json.dumps(table, indent=1))
    atomic_write(results.with_suffix(".md"), text)
    return text


def planned(plan: dict[str, Any]) -> dict[tuple[str, int], RunConfig]:
    """(variant, seed) -> config."""
    recipe, common = read_recipe(plan["recipe"]), plan.get("overrides", {})
    configs = {}
    for name, variant in expand(plan["variants"]).items():
        for seed in plan["seeds"]:
            place = {
                "seed": seed,
                "output_dir": f"{plan['output_dir']}/{name}-seed{seed}",
                "name": name,
            }
            configs[name, seed] = resolve(recipe, merge(merge(common, variant), place))
    return configs


def run_alone(cfg: RunConfig) -> None:
    """One run in a process of its own with one CPU thread; its output goes into a log."""
    folder = Path(cfg.output_dir)
    if is_finished(folder) and Run.open(folder).summary().get("config_hash") == config_hash(cfg):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Names hold dots ("lam=0.5"), so with_suffix would cut them.
    recipe, log = (folder.parent / f"{folder.name}.{kind}" for kind in ("yaml", "log"))
    recipe.write_text(as_yaml(cfg))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(log, "w") as out:
        command = [sys.executable, "-m", "genac.cli", "train", str(recipe)]
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode:
        raise ValueError(
            f"the run {folder} failed with exit code {done.returncode}; its log is {log}"
        )


def tabulate(plan: dict[str, Any], runs: dict[tuple[str, int], RunConfig]) -> dict[str, Any]:
    """Per variant its settings, its cost per step, and its success at equal budgets: the mean and t
    interval over seeds.
    """
    curves = {key: curve(Run.open(cfg.output_dir), cfg) for key, cfg in runs.items()}
    budgets = {name: min(c[name][-1] for c in curves.values()) for name in BUDGETS}
    rows = {}
    for name in dict.fromkeys(variant for variant, _ in runs):
        own = {seed: curves[name, seed] for seed in plan["seeds"]}
        cfg = runs[name, plan["seeds"][0]]
        final = [
            Run.open(runs[name, seed].output_dir).summary()["success_after"]["mean"]
            for seed in plan["seeds"]
        ]
        rows[name] = {
            "settings": settings(cfg),
            "final": final,
            "final_interval": mean_interval(final),
            "mean_over_training": [float(np.mean(c["success"])) for c in own.values()],
            "seconds_per_step": [c["seconds"][-1] / cfg.stages.joint.steps for c in own.values()],
            "tokens_per_step": [c["tokens"][-1] / cfg.stages.joint.steps for c in own.values()],
            "critic_mse": [late_error(runs[name, seed]) for seed in plan["seeds"]],
            **{
                f"at_equal_{budget}": [
                    float(np.interp(limit, c[budget], c["success"])) for c in own.values()
                ]
                for budget, limit in budgets.items()
            },
            "curve": {str(seed): c for seed, c in own.items()},
        }
    table = {k: plan[k] for k in ("recipe", "seeds", "against") if k in plan}
    return table | {"budgets": budgets, "variants": rows}


def late_error(cfg: RunConfig) -> float | None:
    """Squared error of the critic's values against returns, over the last half of joint training;
    None without a critic.
    """
    results = [row.get("critic/mse") for row in Run.open(cfg.output_dir).metrics("joint")]
    known = [x for x in results[len(results) // 2 :] if x is not None]
    return float(np.mean(known)) if known else None


def curve(run: Run, cfg: RunConfig) -> dict[str, list[float]]:
    """Held-out success against samples, tokens and seconds of joint training, from its start."""
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


def settings(cfg: RunConfig) -> dict[str, Any]:
    """What a reader must know of a row."""
    values: dict[str, Any] = {"learning_rate": cfg.actor.optimizer.learning_rate}
    if cfg.credit.estimator == "gae":
        values |= {"lam": cfg.credit.lam, "credit": cfg.credit.granularity}
    return values | critic_class(cfg.critic.kind).settings(cfg.critic)


def markdown(table: dict[str, Any], file: str) -> str:
    """The table, best mean first."""
    budgets = table["budgets"]
    head = (
        f"`genac compare {file}`, seeds {table['seeds']}: mean [95 % t interval over seeds] of "
        f"held-out success. Equal samples: {budgets['samples']:.0f} responses. Equal tokens: "
        f"{budgets['tokens']:,.0f} read, written or trained by any model. Equal seconds: "
        f"{budgets['seconds']:.0f} s. Tokens and seconds are those of joint training; what a "
        "critic's earlier stages cost is not in them.\n\n"
        "| variant | settings | final (equal samples) | mean over training | equal tokens "
        "| equal seconds | s/step | tokens/step |\n|---|---|---|---|---|---|---|---|\n"
    )
    rows = sorted(table["variants"].items(), key=lambda item: -item[1]["final_interval"][0])
    main = head + "".join(
        f"| {name} | {', '.join(f'{k} {v}' for k, v in row['settings'].items())} | "
        f"{cell(row['final'])} "
        f"| {cell(row['mean_over_training'])} | {cell(row['at_equal_tokens'])} | "
        f"{cell(row['at_equal_seconds'])} "
        f"| {np.median(row['seconds_per_step']):.2f} | {np.median(row['tokens_per_step']):,.0f} |\n"
        for name, row in rows
    )
    return main + differences(table) if "against" in table else main


def differences(table: dict[str, Any]) -> str:
    """A second table: each variant less `against`, paired by seed."""
    base = table["variants"][table["against"]]
    columns = {"final": "final", "mean_over_training": "mean over training"}
    columns["critic_mse"] = "squared error of the values asked against returns, last half"
    head = (
        f"\nLess {table['against']}, paired by seed:\n\n| variant | "
        + " | ".join(columns.values())
        + " |\n"
        + "|---" * (1 + len(columns))
        + "|\n"
    )

    def less(row: dict[str, Any], key: str) -> str:
        pairs = zip(row[key], base[key], strict=True)
        results = [a - b for a, b in pairs if a is not None and b is not None]
        if not results:
            return "-"
        mean, low, high = mean_interval(results)
        return f"{mean:+.4f}" if low is None else f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"

    return head + "".join(
        f"| {name} | " + " | ".join(less(row, key) for key in columns) + " |\n"
        for name, row in table["variants"].items()
        if name != table["against"]
    )


def cell(values: Sequence[float]) -> str:
    mean, low, high = mean_interval(list(values))
    return (
        f"{mean:.3f}"
        if low is None or high is None
        else f"{mean:.3f} [{max(low, 0):.3f}, {min(high, 1):.3f}]"
    )
