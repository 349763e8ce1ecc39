"""Traces from labelled solutions that others wrote: a bare score for each state, no reasoning.

A solution becomes a response of the actor's tokens behind the prompt that the task would send. Its
states are those of `states`, and one after all of it. A value is the probability that a solution
ends right, so the score is the outcome's, 10 or 0, also before a mistake that its author then made.
From the first wrong step on it is 0, whatever the answer: nobody should be led there. A file that
labels steps alone says by them how a solution ends: wrong where any step is. Equal states have the
mean, as under `outcome`, and one success rate is stated of all, so that it gives no label away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genac.config.run import RunConfig, StatesConfig
from genac.critics.base import pooled_returns, unique_states
from genac.evals.cost import Cost
from genac.evals.solution_files import Solution, read_solutions
from genac.models.chat import encode_prompt, encode_response
from genac.rollout import response_text
from genac.runs.store import Run
from genac.stages.loop import warn
from genac.stages.setup import reader
from genac.stages.traces.files import Trace, balanced, problem_row, write_traces
from genac.stages.traces.inputs import TraceInputs
from genac.stages.traces.states import own_rollouts
from genac.stages.warmup import as_prompted, dress_of
from genac.states import segment_starts, thin
from genac.tasks.base import Task
from genac.tasks.files import question_text
from genac.tasks.overlap import shared
from genac.types import Problem, Rollout, State

REASONS = {
    "unlabelled": "have no label",
    "heldout": "solve a held-out problem of the task",
    "too_long": "exceed the actor's context",
}
OPTION = "stages.synthesize.columns."


@dataclass(frozen=True)
class Labelled:
    """The solutions of a file that can be learned from, and how many more it holds, by why not."""

    pairs: list[tuple[Problem, Solution]]
    left_out: dict[str, int]  # unlabelled, heldout, too_long


@dataclass(frozen=True)
class Response:
    """A response with its label as the reward; `wrong_at`: tokens through its first wrong step."""

    rollout: Rollout
    wrong_at: int | None = None


def check(cfg: RunConfig, task: Task) -> None:
    """ValueError where there is nothing to learn from, before a model is loaded."""
    require_fitting(cfg, labelled(cfg, task), *reader(cfg))


def require_fitting(cfg: RunConfig, some: Labelled, tokenizer: Any, context: int) -> None:
    """ValueError where every solution is too long for the actor."""
    lengths = []
    for response in responses(some.pairs, tokenizer):
        lengths.append(length(response))
        if lengths[-1] <= context:
            return
    raise ValueError(
        f"no solution of stages.synthesize.path {cfg.stages.synthesize.path!r} fits the actor's "
        f"context of {context} tokens (the shortest has {min(lengths)} with its prompt); use "
        "shorter ones, or an actor with a longer context"
    )


def from_labels(inputs: TraceInputs, run: Run) -> None:
    """Reads the file, and lets the actor write responses, too, where that is configured."""
    assert inputs.actor is not None
    setup, cost = inputs.setup(), Cost()
    cfg, stage = setup.cfg, setup.cfg.stages.synthesize
    tokenizer, context = reader(cfg)
    some = labelled(cfg, setup.world.task)
    every = list(responses(some.pairs, tokenizer))
    fitting = [response for response in every if length(response) <= context]
    left_out = some.left_out | {"too_long": len(every) - len(fitting)}
    say_left_out(stage.path, left_out, len(fitting), context)
    if stage.own_responses:
        actor = setup.actor(inputs.actor.path)
        fitting += [Response(rollout) for rollout in own_rollouts(setup, actor, cost)]
    traces = traces_of(fitting, cfg.states, tokenizer)
    chosen = balanced(traces, stage.num_states, cfg.seed)
    if len({one.score for one in chosen}) == 1:
        warn(f"every trace has the score {chosen[0].score}, {constant(stage.own_responses)}")
    write_traces(run.path / "traces.jsonl", chosen)
    sizes = {"traces": len(chosen), "candidates": len(traces), "reward": chosen[0].success_rate}
    counts = {f"left_out/{reason}": count for reason, count in left_out.items()}
    run.log("synthesize", 0, sizes | counts | cost.totals())


def constant(own_responses: bool) -> str:
    """What follows from one label only, and the remedy."""
    more = "" if own_responses else ", or the actor's own (stages.synthesize.own_responses)"
    return (
        "so the critic learns a constant; stages.synthesize.path needs right solutions and wrong "
        f"ones{more}"
    )


# --- the file -------------------------------------------------------------------------------------


def labelled(cfg: RunConfig, task: Task) -> Labelled:
    """The solutions with a label whose problem the task does not hold out. ValueError where there
    are none.
    """
    stage = cfg.stages.synthesize
    assert stage.path is not None
    solutions = read_solutions(stage.path, stage.columns, OPTION)
    known = [solution for solution in solutions if solution.ends_right is not None]
    if not known:
        raise ValueError(
            f"stages.synthesize.path {stage.path!r}: not one of its {len(solutions)} solutions has "
            "a label; fill in correct, label or labels"
        )
    problems = problems_of(known, dress_of(cfg))
    tested = held_out(problems, task)
    pairs = [(problems[s.problem], s) for s in known if s.problem not in tested]
    if not pairs:
        raise ValueError(
            f"stages.synthesize.path {stage.path!r}: all of its problems are held-out problems of "
            f"task {task.name!r}, on which the run is evaluated; give solutions of other problems, "
            "or hold out others (task.options.heldout)"
        )
    left_out = {"unlabelled": len(solutions) - len(known), "heldout": len(known) - len(pairs)}
    return Labelled(pairs, left_out)


def problems_of(solutions: Sequence[Solution], dress: dict[str, str]) -> dict[str, Problem]:
    """Text in the file -> the problem as the task would send it."""
    texts = dict.fromkeys(solution.problem for solution in solutions)
    return {
        text: as_prompted(Problem(f"solutions-{number}", text, ""), **dress)
        for number, text in enumerate(texts, 1)
    }


def held_out(problems: dict[str, Problem], task: Task) -> set[str]:
    """The texts of problems that the task holds out. One that draws its problems has no list."""
    size = task.size("heldout") or 0
    tested = [question_text(task.problem("heldout", i).prompt) for i in range(size)]
    texts = list(problems)
    both = shared([question_text(problem.prompt) for problem in problems.values()], tested)
    return {texts[i] for i in both}


def say_left_out(path: str | None, left_out: dict[str, int], kept: int, context: int) -> None:
    """A warning with the numbers, where solutions were left out."""
    parts = [f"{count} {REASONS[name]}" for name, count in left_out.items() if count]
    if parts:
        total, text = kept + sum(left_out.values()), ", ".join(parts)
        warn(
            f"stages.synthesize.path {path!r}: of {total} solutions, {text} and are left out (the "
            f"context is of {context} tokens)"
        )


# --- states ---------------------------------------------------------------------------------------


def responses(pairs: Sequence[tuple[Problem, Solution]], tokenizer: Any) -> Iterator[Response]:
    """The solutions as responses, in order."""
    prompts: dict[str, tuple[int, ...]] = {}
    for problem, solution in pairs:
        if problem.id not in prompts:
            prompts[problem.id] = encode_prompt(tokenizer, problem)
        text, at = solution.prefix(len(solution.segments)), solution.first_wrong
        # Without the line break behind it, which may be a token with what follows or precedes it.
        wrong = None if at is None else solution.prefix(at + 1).rstrip()
        ids = encode_response(tokenizer, text)
        rollout = Rollout(
            problem=problem,
            group=0,
            member=solution.row,
            prompt_ids=prompts[problem.id],
            response_ids=ids,
            logprobs=np.zeros(len(ids), np.float32),
            text=text,
            finish="stop",
            actor_version=0,
            reward=float(bool(solution.ends_right)),
        )
        yield Response(rollout, None if wrong is None else len(encode_response(tokenizer, wrong)))


def length(response: Response) -> int:
    return len(response.rollout.prompt_ids) + len(response.rollout.response_ids)


def states_of(response: Response, cfg: StatesConfig, tokenizer: Any) -> list[State]:
    """Where its segments start, and after all of it, thinned as `split` does."""
    rollout, end = response.rollout, len(response.rollout.response_ids)
    starts = thin([*segment_starts(rollout, cfg, tokenizer), end], cfg.max_states)
    wrong_at = end + 1 if response.wrong_at is None else response.wrong_at
    failed = replace(rollout, reward=0.0)
    return [
        State(rollout if start < wrong_at else failed, start, after)
        for start, after in zip(starts, [*starts[1:], end], strict=True)
    ]


def traces_of(some: Sequence[Response], cfg: StatesConfig, tokenizer: Any) -> list[Trace]:
    """A trace per unique state, whose score is the rounded mean of the labels."""
    states = [state for response in some for state in states_of(response, cfg, tokenizer)]
    targets = dict(zip((s.key for s in states), pooled_returns(states), strict=True))
    rate = sum(r.rollout.reward or 0.0 for r in some) / len(some)
    traces = []
    for state in unique_states(states)[0]:
        ids, target = state.rollout.response_ids[: state.start], targets[state.key] or 0.0
        partial = response_text(tokenizer, ids)
        row = problem_row(state.rollout.problem)
        traces.append(Trace(row, partial, ids, rate, "", round(10 * target), target))
    return traces
