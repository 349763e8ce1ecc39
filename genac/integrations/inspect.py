# pyright: reportMissingImports=false
"""An inspect_ai scorer that points at the step where a solution goes wrong (docs/plugins.md).

    inspect eval task.py --model ...
    inspect score logs/LOG.eval --scorer genac/wrong_step -S url=http://HOST:8077

A critic values the answer before every step and behind the last one. The step that the value falls
most over is named. Needs `genac serve --learn`; no torch here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise

from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from genac.client import AsyncClient
from genac.client.messages import Response, Responses, ResponseValues

METRICS = {"final": [mean(), stderr()], "lowest": [mean(), stderr()], "fall": [mean(), stderr()]}


@scorer(metrics=METRICS)
def wrong_step(
    url: str = "http://127.0.0.1:8077",
    separator: str = "\n",
    api_key_env: str | None = None,
    timeout: float = 600.0,
) -> Scorer:
    """Scores the critic's value at the end, the lowest one and the largest fall, each in [0, 1].

    The answer of a score is the step of the largest fall, its explanation the critic's reasoning
    behind it. `separator` ends a step. A solution without a value is left out of the metrics.
    """
    key = key_of(api_key_env)

    async def score(state: TaskState, target: Target) -> Score:
        text = state.output.completion
        response = Response(
            problem=state.input_text, text=text, boundaries=boundaries(text, separator)
        )
        # A client of its own: one that is kept belongs to the event loop of its first request, and
        # every evaluation runs another.
        async with AsyncClient(url, key, timeout=timeout) as client:
            reply = await client.values(Responses(responses=(response,), rationales=True))
        return judged(text, reply.responses[0])

    return score


def key_of(variable: str | None) -> str | None:
    """The service's key. ValueError where the variable that is named is not set."""
    if variable is not None and not os.environ.get(variable):
        raise ValueError(
            f"api_key_env names {variable}, which is not set in this process; export it where "
            "inspect runs"
        )
    return os.environ[variable] if variable is not None else None


def boundaries(text: str, separator: str) -> tuple[int, ...]:
    """Where steps start, and the end of the text, in characters.

    Blank steps belong to the one before, as where the critic was trained.
    """
    mark = re.escape(separator)
    starts = [0]
    for end in re.finditer(f"{mark}(?:\\s*{mark})*", text):
        if text[starts[-1] : end.end()].strip():
            starts.append(end.end())
    if len(starts) > 1 and not text[starts[-1] :].strip():
        starts.pop()
    return tuple(dict.fromkeys((*starts, len(text))))


def judged(text: str, answer: ResponseValues) -> Score:
    """The score of one solution from the values at its boundaries."""
    known = [(i, v) for i, v in enumerate(answer.values) if v is not None]
    if not known:
        return Score.unscored(reason="the critic gave no value", answer=None)
    values = [v for _, v in known]
    falls = [(before, after, a - b) for (before, a), (after, b) in pairwise(known)]
    before, after, fall = max(falls, key=lambda f: f[2], default=(0, 0, 0.0))
    numbers = {"final": values[-1], "lowest": min(values), "fall": max(fall, 0.0)}
    metadata = {"values": list(answer.values), "boundaries": list(answer.boundaries)}
    if fall <= 0:
        return Score(value=numbers, explanation="the value never falls", metadata=metadata)
    step = text[answer.boundaries[before] : answer.boundaries[after]]
    return Score(
        value=numbers,
        answer=step,
        explanation=explained(step, before, after, answer.values, answer.rationales),
        metadata=metadata,
    )


def explained(
    step: str,
    before: int,
    after: int,
    values: Sequence[float | None],
    rationales: Sequence[Sequence[str]] | None,
) -> str:
    """Which step it is, the values around it, and what the critic wrote behind it."""
    which = f"step {before + 1}" if after == before + 1 else f"steps {before + 1} to {after}"
    reason = rationales[after][0] if rationales and rationales[after] else ""
    return f"{which} {step!r}: {values[before]:.2f} -> {values[after]:.2f}\n{reason}".rstrip()
