"""The critic's error beyond the lengths of its training, and what a critic that keeps notes costs.

Plan: `arms` (critic -> overrides), `heads` (which of them are value heads), `pairs` (critics whose
errors are compared), `shifts` (panel name -> task options). For each seed the base model and every
critic are made anew, and all are judged on the same panels. One seed is finished before the next is
begun, so that a plan with fewer seeds reports those that are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from genac.config.run import RunConfig
from genac.evals.critic import score_estimates
from genac.runs.store import Run
from genac.stages.panels import stored_panel
from genac.stages.setup import Setup
from genac.types import Estimate
from paper.approximation import actor_config, actors, made
from paper.approximation_report import IN
from paper.critics import bring_up, predictor
from paper.length_report import SFT, Panels, Table, report
from paper.plan import Findings, Plan

Ids = tuple[int, ...]


def run(plan: Plan) -> Findings:
    shifts = {IN: {}, **plan.values["shifts"]}
    table: Table = {}
    panels: Panels = {}
    updates: dict[str, list[int]] = {}
    for seed in plan.seeds:
        measure(plan, seed, shifts, table, panels, updates)
    return report(plan, table, panels, updates)


def measure(
    plan: Plan,
    seed: int,
    shifts: dict[str, Any],
    table: Table,
    panels: Panels,
    updates: dict[str, list[int]],
) -> None:
    """Every arm of a seed on every panel, added to `table`, `panels` and the `updates` of SFT."""
    base = actors(plan, [seed])[seed]
    arms = plan.values["arms"]
    configs = [plan.config(arm, seed=seed).model_dump() for arm in arms.values()]
    brought = plan.jobs.map(bring_up, [{"config": c} for c in configs])
    critics = {
        name: folders[stage]
        for arm, folders in zip(arms, brought, strict=True)
        for name, stage in ((arm, "rl"), (arm + SFT, "sft"))
        if folders[stage]
    }
    for arm, folders in zip(arms, brought, strict=True):
        if folders["sft"]:
            stage = Run.open(Path(folders["sft"]).parent)
            updates.setdefault(arm, []).append(len(stage.metrics("critic_sft")))
    panels |= made(plan, {seed: base}, shifts)
    jobs = [(name, shift) for name in critics for shift in shifts]
    items = [
        {
            "config": actor_config(plan, seed),
            "actor": base,
            "critic": critics[name],
            "options": shifts[shift],
            "rate": panels[seed, shift]["rate"],
        }
        for name, shift in jobs
    ]
    for job, result in zip(jobs, plan.jobs.map(judged_with_tokens, items), strict=True):
        table.setdefault(job, []).append(result)


def judged_with_tokens(
    config: dict[str, Any], actor: str, critic: str, options: dict[str, Any], rate: float
) -> dict[str, Any]:
    """A job: one critic on one panel, and what its values cost in tokens (see `costs`)."""
    setup = Setup.of(RunConfig(**config))
    runtime = setup.actor(actor)
    panel = stored_panel(setup, Path(actor), runtime, options)
    one = predictor(setup, runtime, critic, options, rate, panel)
    assert one.runtime is not None
    before = one.runtime.processed_tokens
    estimates = one.estimate(panel.states, step=-1)
    processed = one.runtime.processed_tokens - before
    return score_estimates(estimates, panel) | {"tokens": costs(estimates, processed)}


def costs(estimates: Sequence[Estimate], processed: int) -> dict[str, float]:
    """Tokens per value. `written` by the critic; `read` once by an engine that keeps all keys and
    values, so that what two texts begin with is read once and what was written is not read again;
    `processed`, both as this engine does it.
    """
    count = len(estimates)
    texts = [
        (rationale.prompt_ids, rationale.completion_ids)
        for estimate in estimates
        for rationale in estimate.rationales
    ]
    written = sum(len(completion) for _, completion in texts)
    if not texts:  # a value head reads its state
        texts = [(estimate.state.key, ()) for estimate in estimates]
    return {
        "written": written / count,
        "read": read_once(texts) / count,
        "processed": processed / count,
    }


def read_once(texts: Iterable[tuple[Ids, Ids]]) -> int:
    """Tokens of a tree of all texts (read part, written part) that nobody wrote."""
    tree: dict[tuple[int, int], int] = {}
    own: set[int] = set()
    for read, written in texts:
        node = 0
        for place, token in enumerate((*read, *written)):
            node = tree.setdefault((node, token), len(tree) + 1)
            if place >= len(read):
                own.add(node)
    return len(tree) - len(own)
