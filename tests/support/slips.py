"""Solutions of word problems with exactly one mistake, and the line that holds it."""

from __future__ import annotations

import random
from typing import NamedTuple

from genac.tasks.word_problems.story import Redraw, result_of
from genac.tasks.word_problems.task import parts
from genac.types import Problem

KINDS = ("slip", "quantity", "operation", "dropped", "answer")


class Corrupted(NamedTuple):
    text: str
    line: int  # of the mistake, from 1


def corrupted(problem: Problem, kind: str, rng: random.Random) -> Corrupted | None:
    """One mistake of a kind, later lines going on from it; None where the draw makes none."""
    _, steps = parts(problem)
    needed = list(problem.extras["needed"])
    if kind == "answer":
        *lines, _ = solved(problem, {}, needed) or []
        wrong = int(problem.answer) + rng.choice((-10, -1, 1, 7))
        return Corrupted("\n".join([*lines, f"Answer: {wrong}"]) + "\n", len(needed) + 1)
    k = rng.choice(needed)
    step = steps[k]
    if kind == "dropped":
        return without(problem, k, needed)
    change: dict[str, int | str] = {}
    if kind == "slip":
        change["off"] = rng.choice((-10, -1, 1, 10))
    elif kind == "operation":
        change["operator"] = rng.choice([o for o in "+-*" if o != step.operator])
    else:
        if step.right < 0:
            return None
        own = {n[0] for n in problem.extras["numbers"]}
        used = {n for n in own if rng.random() < 0.5}
        right = problem.extras["numbers"][step.right][0]
        change["right"] = rng.choice(sorted(({rng.randint(2, 99)} | used) - {right}) or [right + 1])
    lines, right = (solved(problem, changes, needed) for changes in ({k: change}, {}))
    if lines is None or right is None or lines == right:
        return None
    right_line, wrong_line = right[needed.index(k)], lines[needed.index(k)]
    if kind != "slip" and right_line.rsplit("= ", 1)[1] == wrong_line.rsplit("= ", 1)[1]:
        return None  # 2 + 2 for 2 * 2
    return Corrupted("\n".join(lines) + "\n", needed.index(k) + 1)


def solved(problem: Problem, changes: dict, needed: list[int]) -> list[str] | None:
    """The lines of a solution; of a dropped step the result is its left operand."""
    numbers, steps = parts(problem)
    results: dict[int, int] = {}
    lines = []
    for k in range(len(steps)):
        event, left, operator, right = steps[k]
        a, b = (numbers[r].value if r >= 0 else results[~r] for r in (left, right))
        change = changes.get(k, {})
        b, operator = change.get("right", b), change.get("operator", operator)
        if change.get("dropped"):
            results[k] = a
            continue
        try:
            results[k] = result_of(a, operator, b) + change.get("off", 0)
        except Redraw:
            return None
        if k in needed:
            lines.append(f"{event}: {a} {operator} {b} = {results[k]}.")
    return [*lines, f"Answer: {results[len(steps) - 1]}"]


def without(problem: Problem, k: int, needed: list[int]) -> Corrupted | None:
    """A step left out. Terms of a sum may come in any order, so that it is missed where the sum is
    multiplied, divided or compared, else at the answer.
    """
    _, steps = parts(problem)
    lines = solved(problem, {k: {"dropped": True}}, needed)
    if lines is None or steps[k].operator in "*/" or steps[k].right < 0:
        return None
    kept = [j for j in needed if j != k]
    above, later = {~k}, []
    for j in range(k + 1, len(steps)):
        if {steps[j].left, steps[j].right} & above:
            above.add(~j)
            later.append(j)
    whole = (j for j in later if steps[j].operator in "*/" or "has more than" in steps[j].event)
    first = next(whole, None)
    line = len(lines) if first is None else kept.index(first) + 1
    return Corrupted("\n".join(lines) + "\n", line)
