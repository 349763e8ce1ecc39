"""`check(task)`: does the verifier accept the task's gold answers and refuse corrupted ones?"""

from __future__ import annotations

import random
from dataclasses import dataclass

from genac.tasks.base import SPLITS, Task
from genac.tasks.verifier import Verifier


@dataclass(frozen=True)
class Proof:
    """Of `judged` gold answers `full` score 1; `fooled` corrupted ones score as high as theirs."""

    judged: int
    full: int
    fooled: int
    reason: str = ""  # what the first gold answer without a 1 got, or why none is judged


def check(task: Task, per_split: int = 4, time_limit: float = 5.0) -> Proof:
    """Nothing is judged where the task cannot demonstrate. Raises RewardError for a reward that
    breaks its contract.
    """
    problems = [task.problem(s, i) for s in SPLITS if task.size(s) != 0 for i in range(per_split)]
    try:
        golds = [task.demonstration(problem, random.Random(0), 0.0) for problem in problems]
    except ValueError as error:
        return Proof(0, 0, 0, str(error))
    with Verifier(task, time_limit) as verifier:
        right = verifier.verify(list(zip(problems, golds, strict=True)))
        wrong = verifier.verify([(p, corrupt(g)) for p, g in zip(problems, golds, strict=True)])
    missed = [o.reason or f"one gets {o.reward:g}" for o in right if o.reward != 1]
    fooled = [
        gold.reward is not None and bad.reward is not None and bad.reward >= gold.reward
        for gold, bad in zip(right, wrong, strict=True)
    ]
    return Proof(len(right), len(right) - len(missed), sum(fooled), next(iter(missed), ""))


def corrupt(answer: str) -> str:
    """The last digit changed; without one, the last character lost."""
    for place in range(len(answer) - 1, -1, -1):
        if answer[place] in "0123456789":
            return f"{answer[:place]}{(int(answer[place]) + 1) % 10}{answer[place + 1 :]}"
    return answer[:-1]
