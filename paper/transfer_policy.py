"""What a transferred critic is worth to a policy: samples until GRPO's final success.

`policy` of a plan `transfer`: `actors` (names out of `unmet`) go through joint training, by GRPO
and by GenAC, once for each of `seeds`. GenAC's critic was taught by the actor itself or by others.
It is one of the experiment's trainings, taken in turn, and has no further stage of its own. `grpo`
and `genac` are overrides of each method, `overrides` those of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from paper.downstream import samples_ratio
from paper.plan import Findings, Plan
from paper.runs import difference, interval, joint_run, placed
from paper.transfer_report import GRPO, OWN, WITH

KEYS = ("actors", "seeds", "overrides", "grpo", "genac")
METHODS = (GRPO, OWN, WITH)
READY = {  # the critic has been taught, with ICC
    "critic": {"generative": {"icc": {"enabled": True}}},
    "stages": {"sft": {"epochs": 0}, "critic_rl": {"steps": 0}},
}

Folders = Mapping[tuple[str, str, int], Mapping[str, str]]  # (form, teacher, seed) -> by stage


def check(plan: Plan) -> None:
    """ValueError where the plan's `policy` lacks a key, or names an actor that is not there."""
    policy, unmet = plan.values.get("policy"), plan.values["unmet"]
    if policy is None:
        return
    if set(policy) != set(KEYS):
        wrong = ", ".join(sorted(set(policy) ^ set(KEYS)))
        raise ValueError(f"policy must have the keys {', '.join(KEYS)}; look at {wrong}")
    if unknown := [name for name in policy["actors"] if name not in unmet]:
        raise ValueError(f"policy.actors names {unknown[0]!r}; unmet has {', '.join(unmet)}")
    for key in ("actors", "seeds"):
        if not policy[key]:
            raise ValueError(f"policy.{key} is empty; give at least one")


def trained(
    plan: Plan, actors: Mapping[str, dict[str, Any]], critics: Folders
) -> dict[str, dict[str, Any]]:
    """actor -> method -> its summary. `actors`: the overrides that start a run from each."""
    policy = plan.values["policy"]
    actor_names, seeds = policy["actors"], policy["seeds"]
    keys = [(name, method, seed) for name in actor_names for method in METHODS for seed in seeds]
    items = [
        {
            "config": run_config(
                plan, actors[name], critic_of(plan, critics, name, method, seed), seed
            )
        }
        for name, method, seed in keys
    ]
    runs = dict(zip(keys, plan.jobs.map(joint_run, items), strict=True))
    result: dict[str, dict[str, Any]] = {}
    for name in policy["actors"]:
        rows = {m: [runs[name, m, seed] for seed in policy["seeds"]] for m in METHODS}
        result[name] = {m: summary(row, rows[GRPO]) for m, row in rows.items()}
    return result


def critic_of(plan: Plan, critics: Folders, name: str, method: str, seed: int) -> str | None:
    """The critic that a run of this seed starts with; None for GRPO."""
    if method == GRPO:
        return None
    training = plan.seeds[plan.values["policy"]["seeds"].index(seed) % len(plan.seeds)]
    return critics[method, name if method == OWN else "", training]["rl"]


def run_config(plan: Plan, actor: dict[str, Any], critic: str | None, seed: int) -> dict[str, Any]:
    policy = plan.values["policy"]
    own: tuple[dict[str, Any], ...] = ({"algorithm": "grpo"}, policy["grpo"])
    if critic is not None:
        model = {"critic": {"model_name_or_path": critic}}
        own = ({"algorithm": "genac"}, plan.values["critic"], READY, policy["genac"], model)
    return placed(plan.config(policy["overrides"], *own, actor, seed=seed), plan.folder)


def summary(runs: Sequence[dict[str, Any]], marks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    curves, theirs = ([run["curve"] for run in rows] for rows in (runs, marks))
    finals, their_finals = ([run["final"] for run in rows] for rows in (runs, marks))
    return {
        "final": interval(finals),
        "minus_grpo": difference(finals, their_finals),
        "samples_ratio": samples_ratio(curves, theirs),
        "curve": {
            "samples": curves[0]["samples"],
            "success": [
                interval(list(values))
                for values in zip(*(curve["success"] for curve in curves), strict=True)
            ],
        },
    }


def with_policy(findings: Findings, table: dict[str, dict[str, Any]]) -> Findings:
    """The experiment's findings and these."""
    ratios = {a: {m: r["samples_ratio"] for m, r in rows.items()} for a, rows in table.items()}
    return replace(
        findings,
        figures=findings.figures | {"transfer_samples_ratio_to_grpo": ratios},
        extra=findings.extra | {"policy": table},
    )
