"""Step-level beam search: the critic's values decide which partial responses are continued.

    round:  every kept partial response is continued by `branch` segments up to the next boundary
            -> the critic judges the new boundaries -> the `width` highest values are kept

A boundary is known once the token behind it is: a blank line belongs to the segment before, as in
`states.newlines`. So a continuation is sampled one token beyond, with which its first branch goes
on; other branches that begin with a blank line are not of this boundary and are dropped.

A response that ended keeps the value of its last state (or is judged after its end) and competes
with the others; where it has one segment, that is the value of the empty prefix. The search of a
problem stops when all that is kept has ended. All problems advance together, so that each round is
one engine call of the actor and one of the critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from genac.engines.base import Completion, Request
from genac.models.chat import encode_prompt
from genac.rollout import as_read, request, response_text, stop_ids
from genac.search.candidates import At, Candidate, Searcher, blind
from genac.search.rules import top
from genac.seeding import derive_seed
from genac.types import Problem, Rollout, State

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Beam:
    """A partial response of problem number `problem`. `value` is that of the newest boundary."""

    problem: int
    ids: Ids = ()
    logprobs: tuple[float, ...] = ()
    finish: str = ""  # "stop" | "length" once it has ended
    value: float | None = None
    ahead: tuple[int, float] | None = None  # token seen behind the boundary, its log-probability


def beam_search(
    search: Searcher, problems: Sequence[Problem], n: int, width: int | None = None, at: At = "last"
) -> list[list[Candidate]]:
    """n candidates per problem and round, of which `width` (default n // 2) are kept.

    -> for each problem what was kept at the end, the highest value first.
    """
    width = max(1, n // 2) if width is None else width
    if not 1 <= width <= n:
        raise ValueError(f"--width is {width}; keep between 1 and --n {n} partial responses")
    hidden = [blind(p) for p in problems]
    prompts = [encode_prompt(search.actor.tokenizer, p) for p in hidden]
    hidden = [
        as_read(search.actor.tokenizer, p, ids) for p, ids in zip(hidden, prompts, strict=True)
    ]
    empty = [Beam(p) for p in range(len(problems))]
    kept = [[b] for b in (ask(search, hidden, prompts, empty, at) if at == "last" else empty)]
    stops, number = boundary_ids(search), 0
    while any(not b.finish for beams in kept for b in beams):
        grown = grow(search, prompts, kept, n // width if number else n, stops, number)
        ended = [b for beams in kept for b in beams if b.finish]
        valued = [*ended, *ask(search, hidden, prompts, grown, at)]
        kept = [keep(beams, width) for beams in by_problem(valued, len(problems))]
        number += 1
    return [
        [Candidate(as_rollout(search, hidden, prompts, b), b.value) for b in beams]
        for beams in kept
    ]


def grow(
    search: Searcher,
    prompts: Sequence[Ids],
    kept: Sequence[Sequence[Beam]],
    branch: int,
    stops: Ids,
    number: int,
) -> list[Beam]:
    """`branch` continuations of each partial response that has not ended."""
    tasks = [
        (
            onward(search, b) if k == 0 else b,
            derive_seed(search.seed, "beam", b.problem, number, place, k),
        )
        for beams in kept
        for place, b in enumerate(beams)
        if not b.finish
        for k in range(branch)
    ]
    ended, going = [b for b, _ in tasks if b.finish], [task for task in tasks if not task[0].finish]
    requests = [
        step_request(search, prompts[b.problem] + b.ids, b, seed, stops) for b, seed in going
    ]
    completions = search.actor.sampler.generate(requests)
    grown = [
        extend(search, b, c, stops)
        for (b, _), c in zip(going, completions, strict=True)
        if b.ahead is None or c.ids[0] not in stops
    ]
    return [*ended, *grown]


def onward(search: Searcher, beam: Beam) -> Beam:
    """The partial response with the token that was seen behind its boundary, if any."""
    if beam.ahead is None:
        return beam
    token, logprob = beam.ahead
    ids, logprobs = (*beam.ids, token), (*beam.logprobs, logprob)
    full = len(ids) >= search.rollout.max_completion_length
    finish = "stop" if token in stop_ids(search.actor) else "length" if full else ""
    return replace(beam, ids=ids, logprobs=logprobs, finish=finish, ahead=None)


def boundary_ids(search: Searcher) -> Ids:
    """Tokens after which a segment ends; () where segments are counted in tokens."""
    if search.states.splitter == "window":
        return ()
    if search.states.splitter != "newline":
        raise ValueError(
            f"beam search needs boundaries that are known when they are reached, and "
            f"states.splitter is {search.states.splitter!r}; use newline or window"
        )
    tokenizer = search.actor.tokenizer
    size = len(tokenizer)
    pieces = tokenizer.batch_decode([[i] for i in range(size)])
    return tuple(i for i, piece in enumerate(pieces) if piece.endswith("\n"))


def step_request(search: Searcher, ids: Ids, beam: Beam, seed: int, stops: Ids) -> Request:
    """One more segment, within what is left of the response's limit."""
    room = search.rollout.max_completion_length - len(beam.ids)
    limit = room if stops else min(room, search.states.window)
    new_request = request(search.actor, search.rollout, ids, limit, seed)
    return replace(new_request, line_ids=stops)


def extend(search: Searcher, beam: Beam, more: Completion, stops: Ids) -> Beam:
    """The partial response up to its next boundary or its end."""
    logprobs, ahead = more.logprobs.tolist(), None
    ids, finish = more.ids, "stop" if more.finish == "stop" else ""
    if len(ids) > 1 and ids[-2] in stops and ids[-1] not in stops:
        *logprobs, last = logprobs
        ids, finish, ahead = ids[:-1], "", (ids[-1], last)
    ids, logprobs = beam.ids + ids, (*beam.logprobs, *logprobs)
    if not finish and len(ids) >= search.rollout.max_completion_length:
        finish = "length"
    return replace(beam, ids=ids, logprobs=logprobs, finish=finish, ahead=ahead)


def ask(
    search: Searcher,
    problems: Sequence[Problem],
    prompts: Sequence[Ids],
    grown: Sequence[Beam],
    at: At,
) -> list[Beam]:
    """Values at the new boundaries. One that has ended keeps that of its last boundary, unless it
    is to be judged at its end.
    """
    due = [i for i, b in enumerate(grown) if not b.finish or at == "end"]
    states = [
        State(as_rollout(search, problems, prompts, grown[i]), len(grown[i].ids), len(grown[i].ids))
        for i in due
    ]
    estimates = search.judge.estimate(states, step=-1) if states else []
    results = list(grown)
    for i, estimate in zip(due, estimates, strict=True):
        results[i] = replace(grown[i], value=estimate.value)
    return results


def keep(beams: Sequence[Beam], width: int) -> list[Beam]:
    """The `width` highest values among distinct partial responses."""
    distinct = list({b.ids: b for b in beams}.values())
    return [distinct[i] for i in top([b.value for b in distinct], width)]


def by_problem(beams: Sequence[Beam], count: int) -> list[list[Beam]]:
    results: list[list[Beam]] = [[] for _ in range(count)]
    for beam in beams:
        results[beam.problem].append(beam)
    return results


def as_rollout(
    search: Searcher, problems: Sequence[Problem], prompts: Sequence[Ids], beam: Beam
) -> Rollout:
    return Rollout(
        problem=problems[beam.problem],
        group=beam.problem,
        member=0,
        prompt_ids=prompts[beam.problem],
        response_ids=beam.ids,
        logprobs=np.array(beam.logprobs, np.float32),
        text=response_text(search.actor.tokenizer, beam.ids),
        finish=beam.finish or "length",
        actor_version=search.actor.version,
    )
