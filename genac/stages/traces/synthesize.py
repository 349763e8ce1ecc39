"""Oracle traces for stage 1: reasoning and a score for partial responses of the actor.

The programmatic oracle knows the mathematics but not this actor; its scores are guesses that RL
pretraining has to calibrate. `calibrated` replaces each guess by the mean return of the states that
were judged alike; `outcome` (for tasks without an oracle) writes no reasoning and the rounded mean
return. `endpoint` and `monte_carlo` are in genac.stages.traces.endpoint, `labels` in
genac.stages.traces.labels.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from genac.config.run import RunConfig
from genac.critics import is_taught
from genac.critics.base import pooled_returns, unique_states
from genac.evals.cost import Cost
from genac.models.chat import encode_response
from genac.rollout import World, problems_at, response_text
from genac.runs.store import Run, stable_hash
from genac.runtime import Runtime
from genac.stages.setup import Setup
from genac.stages.traces import endpoint, labels
from genac.stages.traces.files import Trace, balanced, problem_row, write_traces
from genac.stages.traces.inputs import TraceInputs
from genac.stages.traces.states import own_rollouts
from genac.states import segment_starts, split
from genac.types import Rollout, State

BUILD = endpoint.BUILD | {"labels": labels.from_labels}
FEWEST = 8  # states of a kind whose mean return says something


def running(cfg: RunConfig) -> bool:
    """Whether the critic keeps notes."""
    return cfg.critic.generative.form == "running"


def check(setup: Setup) -> None:
    """Refuses, before anything is computed, an oracle that the critic cannot learn from."""
    cfg, stage = setup.cfg, setup.cfg.stages.synthesize
    taught = is_taught(cfg)
    if taught and stage.oracle == "labels":
        labels.check(cfg, setup.world.task)
    if not (taught and running(cfg)) or stage.oracle == "outcome":
        return
    problem = "critic.generative.form is 'running', which learns from notes on single steps, but "
    remedy = (
        "set stages.synthesize.oracle to outcome (scores without notes), or "
        "critic.generative.form to per_state"
    )
    if stage.oracle not in ("task", "calibrated"):
        raise ValueError(
            f"{problem}stages.synthesize.oracle {stage.oracle!r} judges single states; {remedy}"
        )
    first = problems_at(setup.world, "train", 0, 1)[0]
    if setup.world.task.oracle(first, "", None).checks is None:
        raise ValueError(
            f"{problem}the oracle of task {setup.world.task.name!r} does not check step by step; "
            f"{remedy}"
        )


def traces_file(cfg: RunConfig, actor: Path) -> Path:
    """JSONL of traces; made unless it exists."""
    build = BUILD.get(cfg.stages.synthesize.oracle, synthesize)

    def fill(inputs: TraceInputs, run: Run) -> None:
        run.truncate_after("synthesize", -1)  # an interrupted one starts again
        build(inputs, run)

    return TraceInputs.of(cfg, actor).folder(fill) / "traces.jsonl"


def candidates_of(folder: Path) -> list[Path]:
    """The stage whose states the traces in `folder` judge, if it is one of its own."""
    name = Run.open(folder).config()["inputs"].get("candidates")
    return [folder.parent / name] if name else []


def synthesize(inputs: TraceInputs, run: Run) -> None:
    """Roll out, choose states, query the oracle, write everything down."""
    assert inputs.actor is not None
    setup, cost = inputs.setup(), Cost()
    actor = setup.actor(inputs.actor.path)
    rollouts = own_rollouts(setup, actor, cost)
    rate = sum(r.reward or 0 for r in rollouts) / max(1, len(rollouts))
    if setup.cfg.stages.synthesize.oracle in ("task", "calibrated"):
        rollouts += demonstrations(setup, actor, rollouts)
    make = running_traces if running(setup.cfg) else state_traces
    traces = make(setup, setup.world, actor, rollouts, rate)
    chosen = chosen_of(traces, setup.cfg)
    write_traces(run.path / "traces.jsonl", chosen)
    sizes = {"traces": len(chosen), "candidates": len(traces)}
    run.log("synthesize", 0, sizes | {"reward": rate} | cost.totals())


def chosen_of(traces: list[Trace], cfg: RunConfig) -> list[Trace]:
    """Those of the actor's responses, and beside them those of demonstrations, each balanced."""
    stage = cfg.stages.synthesize
    made = [trace for trace in traces if trace.target is None]
    if not made:
        return balanced(traces, stage.num_states, cfg.seed)
    own = [trace for trace in traces if trace.target is not None]
    return [
        *balanced(own, stage.num_states, cfg.seed),
        *balanced(made, stage.demonstrations, cfg.seed),
    ]


def demonstrations(setup: Setup, actor: Runtime, rollouts: Sequence[Rollout]) -> list[Rollout]:
    """At least as many of the task's own, with wrong results, as traces are kept of them; of the
    problems that the actor answered. They are judged like its responses and not rewarded, so they
    take no part in calibration. An actor's wrong results are too few to learn from that a
    result must be
    calculated, and not copied.
    """
    cfg, task = setup.cfg.stages.synthesize, setup.world.task
    by_problem = {rollout.problem.id: rollout for rollout in rollouts}
    made = []
    for number in range(math.ceil(cfg.demonstrations / max(1, len(by_problem)))):
        for rollout in by_problem.values():
            name = f"{setup.cfg.seed}/demonstration/{rollout.problem.id}/{number}"
            text = task.demonstration(rollout.problem, random.Random(name), cfg.fault_rate)
            ids = encode_response(actor.tokenizer, text)
            made.append(
                replace(
                    rollout,
                    text=text,
                    response_ids=ids,
                    logprobs=np.zeros(len(ids), np.float32),
                    reward=None,
                )
            )
    return made


def state_traces(
    setup: Setup, world: World, actor: Runtime, rollouts: list[Rollout], rate: float
) -> list[Trace]:
    """A trace per unique state; `rate` is the actor's measured success rate."""
    states = split(rollouts, setup.cfg.states, actor.tokenizer)
    targets = dict(zip((s.key for s in states), pooled_returns(states), strict=True))
    unique, _ = unique_states(states)
    traces = [
        trace(setup, world, actor, state, targets[state.key], stated_rate(setup, state.key, rate))
        for state in unique
    ]
    return calibrated(traces) if setup.cfg.stages.synthesize.oracle == "calibrated" else traces


def running_traces(
    setup: Setup, world: World, actor: Runtime, rollouts: list[Rollout], rate: float
) -> list[Trace]:
    """A trace per distinct response: its last state's, behind the notes of those before."""
    paths = [whole_path(rollout, setup.cfg, actor) for rollout in rollouts]
    states = [state for path in paths for state in path]
    targets = dict(zip((s.key for s in states), pooled_returns(states), strict=True))
    unique = list({(path[-1].key, len(path)): path for path in paths}.values())
    traces = [
        trace(
            setup, world, actor, state, targets[state.key], stated_rate(setup, path[-1].key, rate)
        )
        for path in unique
        for state in path
    ]
    if setup.cfg.stages.synthesize.oracle == "calibrated":
        traces = calibrated(traces)
    rows = iter(traces)
    return [with_notes([next(rows) for _ in path]) for path in unique]


def whole_path(rollout: Rollout, cfg: RunConfig, actor: Runtime) -> list[State]:
    """A response's states at all of its segments."""
    starts = segment_starts(rollout, cfg.states, actor.tokenizer)
    ends = [*starts[1:], len(rollout.response_ids)]
    return [State(rollout, start, end) for start, end in zip(starts, ends, strict=True)]


def with_notes(path: list[Trace]) -> Trace:
    """The last trace of a response, with what the reasoning gained from state to state as notes."""
    notes, before = [], ""
    for one in path:
        notes.append((len(one.partial_ids), one.reasoning.removeprefix(before), one.score))
        before = one.reasoning
    *earlier, (_, note, _) = notes
    return replace(path[-1], reasoning=note, earlier=tuple(earlier))


def stated_rate(setup: Setup, key: tuple[int, ...], rate: float) -> float:
    """The success rate that the oracle hears of a state or response.

    Labels that come from this actor's returns belong to its own rate; only the programmatic
    oracle's guesses can follow another one.
    """
    cfg = setup.cfg.stages.synthesize
    if not (cfg.vary_success_rate and cfg.oracle == "task"):
        return rate
    return random.Random(f"{setup.cfg.seed}/rate/{stable_hash(list(key))}").random()


def trace(
    setup: Setup, world: World, actor: Runtime, state: State, target: float | None, rate: float
) -> Trace:
    """The oracle's word on one state; of a running critic's all that was noted so far."""
    cfg, rollout = setup.cfg.stages.synthesize, state.rollout
    ids = rollout.response_ids[: state.start]
    partial = response_text(actor.tokenizer, ids)
    if cfg.oracle == "outcome":
        reasoning, score, kind = "", round(10 * (target or 0.0)), ""
    else:
        reply = rate if setup.cfg.critic.generative.icc.enabled else None
        answer = world.task.oracle(rollout.problem, partial, reply)
        reasoning, score, kind = answer.reasoning, answer.score, answer.kind
        if running(setup.cfg):
            reasoning = "".join(answer.checks or ())
    row = problem_row(rollout.problem)
    return Trace(row, partial, ids, rate, reasoning, score, target, kind=kind)


def calibrated(traces: list[Trace]) -> list[Trace]:
    """Every guess replaced by the mean return of the states that were judged alike: those of its
    kind where there are at least FEWEST, else those of its score.
    """
    returns: dict[str | int, list[float]] = defaultdict(list)
    for t in traces:
        if t.target is not None:
            returns[t.score].append(t.target)
            returns[t.kind].append(t.target)

    def mean(t: Trace) -> int:
        alike = returns[t.kind] if t.kind else []
        result = alike if len(alike) >= FEWEST else returns[t.score]
        return round(10 * sum(result) / len(result)) if result else t.score

    return [replace(t, score=mean(t)) for t in traces]
