"""Oracle traces for stage 1: reasoning and a score for partial responses of the actor.

The programmatic oracle knows the mathematics but not this actor; its scores are guesses that RL
pretraining has to calibrate. `calibrated` replaces each guess by the mean return of the states that
got the same guess; `outcome` (for tasks without an oracle) writes no reasoning and the rounded mean
return. `endpoint` and `monte_carlo` are in genac.stages.traces.endpoint.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from genac.config.run import RunConfig
from genac.critics.base import pooled_returns, unique_states
from genac.rollout import World, collect, problems_at, response_text
from genac.runs.progress import phase
from genac.runs.store import Run, stable_hash
from genac.runtime import Runtime
from genac.stages.setup import Setup
from genac.stages.traces import endpoint
from genac.stages.traces.files import Trace, balanced, write_traces
from genac.stages.traces.inputs import TraceInputs
from genac.states import split
from genac.types import State


def traces_file(cfg: RunConfig, actor: Path) -> Path:
    """JSONL of traces; made unless it exists."""
    build = endpoint.BUILD.get(cfg.stages.synthesize.oracle, synthesize)

    def fill(inputs: TraceInputs, run: Run) -> None:
        run.truncate_after("synthesize", -1)  # an interrupted one starts again
        build(inputs, run)

    return TraceInputs.of(cfg, actor).folder(fill) / "traces.jsonl"


def synthesize(inputs: TraceInputs, run: Run) -> None:
    """Roll out, choose states, ask the oracle, write everything down."""
    assert inputs.actor is not None
    setup = inputs.setup()
    cfg, world = setup.cfg.stages.synthesize, setup.world
    world = replace(
        world, rollout=world.rollout.model_copy(update={"num_generations": cfg.num_generations})
    )
    actor = setup.actor(inputs.actor.path)
    problems = problems_at(world, "train", 0, cfg.num_prompts)
    with phase(f"traces: {cfg.num_prompts} problems, {cfg.num_generations} responses each"):
        groups = collect(actor, world, problems, "synthesize")
    rollouts = [r for group in groups for r in group if r.reward is not None]
    states = split(rollouts, setup.cfg.states, actor.tokenizer)
    rate = sum(r.reward or 0 for r in rollouts) / max(1, len(rollouts))
    traces = _traces(setup, world, actor, states, rate)
    if cfg.oracle == "calibrated":
        traces = calibrated(traces)
    chosen = balanced(traces, cfg.num_states, setup.cfg.seed)
    write_traces(run.path / "traces.jsonl", chosen)
    run.log("synthesize", 0, {"traces": len(chosen), "candidates": len(traces), "reward": rate})


def _traces(
    setup: Setup, world: World, actor: Runtime, states: list[State], rate: float
) -> list[Trace]:
    targets = dict(zip((s.key for s in states), pooled_returns(states), strict=True))
    unique, _ = unique_states(states)
    return [trace(setup, world, actor, state, targets[state.key], rate) for state in unique]


def trace(
    setup: Setup, world: World, actor: Runtime, state: State, target: float | None, rate: float
) -> Trace:
    """The oracle's word on one state; `rate` is the actor's measured success rate.

    Labels that come from this actor's returns belong to its own rate; only the programmatic
    oracle's guesses can be told another one.
    """
    cfg, rollout = setup.cfg.stages.synthesize, state.rollout
    ids = rollout.response_ids[: state.start]
    partial = response_text(actor.tokenizer, ids)
    if cfg.vary_success_rate and cfg.oracle == "task":
        rate = random.Random(f"{setup.cfg.seed}/rate/{stable_hash(list(state.key))}").random()
    if cfg.oracle == "outcome":
        reasoning, score = "", round(10 * (target or 0.0))
    else:
        reply = rate if setup.cfg.critic.generative.icc.enabled else None
        answer = world.task.oracle(rollout.problem, partial, reply)
        reasoning, score = answer.reasoning, answer.score
    problem = {
        "id": rollout.problem.id,
        "prompt": rollout.problem.prompt,
        "answer": rollout.problem.answer,
    }
    return Trace(problem, partial, ids, rate, reasoning, score, target)


def calibrated(traces: list[Trace]) -> list[Trace]:
    """Every guess replaced by the mean return of the states that got the same guess."""
    returns: dict[int, list[float]] = defaultdict(list)
    for t in traces:
        if t.target is not None:
            returns[t.score].append(t.target)
    table = {score: round(10 * sum(result) / len(result)) for score, result in returns.items()}
    return [replace(t, score=table.get(t.score, t.score)) for t in traces]
