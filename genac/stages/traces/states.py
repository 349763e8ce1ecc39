"""The states that an oracle judges: partial responses of the actor, chosen before anything
is paid for, and kept, so that a resumed command sends the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from genac.config.run import RunConfig
from genac.critics.base import pooled_returns, unique_states
from genac.critics.monte_carlo import monte_carlo_values
from genac.critics.prompts import size_text
from genac.evals.cost import Cost
from genac.evals.critic import fraction
from genac.models.loading import parameter_count
from genac.rollout import collect, problems_at, response_text
from genac.runs.files import read_lines
from genac.runs.progress import phase
from genac.runs.store import Run, atomic_write
from genac.runtime import Runtime
from genac.stages.inputs import (
    ACTOR,
    ACTOR_DEFAULTS,
    HARDWARE,
    SAMPLING,
    TASK,
    Artifact,
    StageInputs,
    on_actor,
    stage_config,
)
from genac.stages.setup import Setup
from genac.stages.traces.files import as_rows, in_turn, problem_row
from genac.states import split
from genac.types import Rollout, State


@dataclass(frozen=True)
class Candidate:
    """A partial response; `returns` is the mean reward of the responses through it, `value` the
    mean over fresh continuations (None where none was requested, or none could be scored)."""

    problem: dict[str, Any]
    partial: str
    partial_ids: tuple[int, ...]
    position: str  # start, or a third of the response
    success_rate: float  # of the actor on all problems
    actor_size: str
    returns: float | None
    value: float | None = None

    @property
    def known(self) -> float:
        """The best that is known of its value."""
        return self.value if self.value is not None else (self.returns or 0.0)


@dataclass(frozen=True)
class CandidateInputs(StageInputs):
    """The task's options are those of the run under `stages.synthesize.options`."""

    stage = "candidates"

    actor: Artifact
    count: int  # states that are judged

    @classmethod
    def of(cls, cfg: RunConfig, actor: Path) -> CandidateInputs:
        """ValueError where a saved model is not as it was written."""
        stage, model = cfg.stages.synthesize, Artifact.model(actor)
        made = (f"stages.synthesize.{n}" for n in ("num_prompts", "num_generations"))
        own = (*made, "stages.synthesize.continuations", "critic.generative.icc.actor_size")
        reads = (*TASK, *SAMPLING, "states", *own, *ACTOR, *HARDWARE)
        changes = on_actor(cfg, model, stage.options)
        count = stage.num_requests or stage.num_states
        return cls(*stage_config(cfg, reads, changes, ACTOR_DEFAULTS), model, count)


def candidates(inputs: CandidateInputs) -> list[Candidate]:
    """The states to be judged; made unless they exist."""
    folder = inputs.folder(build)
    rows = [row for _, row in read_lines(folder / "candidates.jsonl")]
    return as_rows(Candidate, rows, folder / "candidates.jsonl")


def build(inputs: CandidateInputs, run: Run) -> None:
    """Roll out, choose states by outcome and position, value them by continuations if requested."""
    setup, cost = inputs.setup(), Cost()
    cfg, world = setup.cfg.stages.synthesize, setup.world
    actor = setup.actor(inputs.actor.path)
    rollouts = own_rollouts(setup, actor, cost)
    if not rollouts:
        raise ValueError(
            "not one response of the actor could be scored, so there are no states to judge; "
            "look at the reward function"
        )
    states = split(rollouts, setup.cfg.states, actor.tokenizer)
    returns = dict(zip((s.key for s in states), pooled_returns(states), strict=True))
    unique, _ = unique_states(states)
    chosen = in_turn(
        unique,
        lambda s: (third(returns[s.key]), position(s)),
        inputs.count,
        setup.cfg.seed,
    )
    values: Sequence[float | None] = [None] * len(chosen)
    if cfg.continuations:
        with cost.clock("actor_sampling", actor):
            result = monte_carlo_values(actor, world, chosen, cfg.continuations, "synthesize")
        values = [v.value for v in result]
    rate = sum(r.reward or 0.0 for r in rollouts) / len(rollouts)
    size = setup.cfg.critic.generative.icc.actor_size or size_text(parameter_count(actor.model))
    rows = []
    for state, value in zip(chosen, values, strict=True):
        ids = state.rollout.response_ids[: state.start]
        shown, partial = problem_row(state.rollout.problem), response_text(actor.tokenizer, ids)
        at = position(state)
        rows.append(Candidate(shown, partial, ids, at, rate, size, returns[state.key], value))
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    atomic_write(run.path / "candidates.jsonl", text)
    run.truncate_after("candidates", -1)
    run.log("candidates", 0, {"candidates": len(rows), "reward": rate} | cost.totals())


def own_rollouts(setup: Setup, actor: Runtime, cost: Cost) -> list[Rollout]:
    """The actor's scored responses to the problems of the stage; the others are left out."""
    cfg = setup.cfg.stages.synthesize
    group = {"num_generations": cfg.num_generations}
    world = replace(setup.world, rollout=setup.world.rollout.model_copy(update=group))
    problems = problems_at(world, "train", 0, cfg.num_prompts)
    with (
        phase(f"traces: {cfg.num_prompts} problems, {cfg.num_generations} responses each"),
        cost.clock("actor_sampling", actor),
    ):
        groups = collect(actor, world, problems, "synthesize")
    return [r for group in groups for r in group if r.reward is not None]


def position(state: State) -> str:
    return fraction(state.start, len(state.rollout.response_ids))


def third(value: float | None) -> int:
    """0, 1, 2: mostly lost, open, mostly won."""
    return min(2, int(3 * (value or 0.0)))
