"""Choosing among the candidates of one problem: pure functions of their answers and values.

Lists of one length _N, one entry per candidate. An answer of None could not be read and never gets
a vote; a value of None is missing and loses to every value. Each rule returns the place of the
chosen candidate. Whatever is still tied goes to the earliest candidate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

Answers = Sequence[str | None]
Values = Sequence[float | None]


def majority(answer_N: Answers) -> int:
    """The most frequent answer (self-consistency, 2203.11171); 0 where none can be read."""
    return _heaviest(answer_N, [1.0] * len(answer_N))


def weighted(answer_N: Answers, value_N: Values) -> int:
    """The answer whose candidates' values sum to most; where all sums are 0, the most frequent."""
    weight_N = [0.0 if v is None else v for v in value_N]
    readable = any(w > 0 for a, w in zip(answer_N, weight_N, strict=True) if a is not None)
    return _heaviest(answer_N, weight_N) if readable else majority(answer_N)


def best(answer_N: Answers, value_N: Values) -> int:
    """The highest value; of equal ones that with the more frequent answer. Majority where all
    values are missing.
    """
    if all(v is None for v in value_N):
        return majority(answer_N)
    count = _sums(answer_N, [1.0] * len(answer_N))
    return max(
        range(len(value_N)),
        key=lambda i: (_or_least(value_N[i]), count.get(answer_N[i], 0.0), -i),
    )


def top(value_N: Values, count: int) -> list[int]:
    """The places of the `count` highest values, highest first."""
    order = sorted(range(len(value_N)), key=lambda i: (-_or_least(value_N[i]), i))
    return order[:count]


def _heaviest(answer_N: Answers, weight_N: Sequence[float]) -> int:
    sums = _sums(answer_N, weight_N)
    if not sums:
        return 0
    # max keeps the first of equal ones, and sums are in the order of appearance.
    return answer_N.index(max(sums, key=lambda a: sums[a]))


def _sums(answer_N: Answers, weight_N: Sequence[float]) -> dict[str | None, float]:
    sums: dict[str | None, float] = defaultdict(float)
    for answer, weight in zip(answer_N, weight_N, strict=True):
        if answer is not None:
            sums[answer] += weight
    return sums


def _or_least(value: float | None) -> float:
    return -math.inf if value is None else value


# name -> rule of (answers, values)
RULES: dict[str, Callable[[Answers, Values], int]] = {
    "sample": lambda answers, values: 0,
    "majority": lambda answers, values: majority(answers),
    "best-of-n": best,
    "weighted": weighted,
}
