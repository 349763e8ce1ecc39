"""The SFT data: traces on disk, and draws of them that are balanced."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from genac.runs.files import atomic_write, read_lines
from genac.types import Problem

Item = TypeVar("Item")
Note = tuple[int, str, int]


@dataclass(frozen=True)
class Trace:
    """One row of the SFT data: a state, or for a running critic a whole response."""

    problem: dict[str, Any]
    partial: str
    partial_ids: tuple[int, ...]  # of the actor's tokenizer
    success_rate: float
    reasoning: str
    score: int
    target: float | None  # mean return of the state
    # Of a running critic, the states before: (response tokens read, note, score) of each. Then
    # `reasoning` is the last note alone.
    earlier: Sequence[Note] = ()
    kind: str = ""  # as of OracleTrace


def balanced(traces: list[Trace], count: int, seed: int) -> list[Trace]:
    """At most `count` traces, drawn in turn from (no chance / some chance) x number of lines.

    No chance is the lowest score: where scores were calibrated, 0 may have become 1.
    """
    lowest = min((t.score for t in traces), default=0)
    return in_turn(traces, lambda t: (t.score == lowest, t.partial.count("\n")), count, seed)


def in_turn(
    items: Sequence[Item], cell: Callable[[Item], tuple], count: int, seed: int
) -> list[Item]:
    """At most `count` items, shuffled and then drawn from their cells in turn: the largest cells
    lose first.
    """
    cells: dict[tuple, list[Item]] = defaultdict(list)
    order = list(items)
    random.Random(f"{seed}/balance").shuffle(order)
    for item in order:
        cells[cell(item)].append(item)
    rounds = zip_longest(*(cells[k] for k in sorted(cells)))
    return [item for row in rounds for item in row if item is not None][:count]


def write_traces(file: Path, traces: Sequence[Trace]) -> None:
    atomic_write(file, "\n".join(json.dumps(asdict(t)) for t in traces))


def read_traces(file: Path) -> list[Trace]:
    rows = [row for _, row in read_lines(file)]
    if not rows:
        raise ValueError(f"{file} holds no trace; synthesize more (stages.synthesize.num_prompts)")
    return as_rows(Trace, rows, file)


def as_rows(kind: Callable[..., Item], rows: Sequence[dict[str, Any]], file: Path) -> list[Item]:
    """The rows of a stage's file as objects; ValueError where their keys are others."""
    try:
        return [kind(**{**row, "partial_ids": tuple(row["partial_ids"])}) for row in rows]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} holds rows with other keys than this version of genac writes ({error}); "
            f"delete the folder {file.parent}: the same command makes it again"
        ) from error


def problem_row(problem: Problem) -> dict[str, Any]:
    """A problem as traces and candidates hold it."""
    return {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer}


def problem_of(stored: Mapping[str, Any]) -> Problem:
    """The problem of a trace or of a candidate."""
    return Problem(stored["id"], stored["prompt"], stored["answer"])
