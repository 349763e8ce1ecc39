"""Two critics on the same solutions: which one sees a mistake, and at what price?

    genac train arithmetic
    genac train arithmetic --algorithm ppo --output-dir runs/ppo
    python examples/compare_critics.py runs/arithmetic runs/ppo

Every problem gets a right solution and one with a mistake, cut behind the line of the mistake. A
critic that sees it gives the wrong one the lower value; one that guesses does so half of the time.
The tokens are what all its judgements took. `genac eval critic` measures more, with intervals.
"""

from __future__ import annotations

import random
import sys
from itertools import count, islice

from genac.scoring import Scorer, load_scorer  # a generative critic, or a value head
from genac.tasks.arithmetic import ArithmeticTask  # a task that can write both: bring your own
from genac.types import Problem

Pair = tuple[Problem, str, str]  # and the same lines, right and with a mistake in the last one


def pairs(task: ArithmeticTask, number: int) -> list[Pair]:
    def attempts():
        for index in count():
            problem = task.problem("heldout", index)
            right = lines(task.demonstration(problem, random.Random(index), fault_rate=0))
            wrong = lines(task.demonstration(problem, random.Random(index), fault_rate=1))
            if right != wrong:
                end = [a == b for a, b in zip(right, wrong, strict=True)].index(False) + 1
                yield problem, "".join(right[:end]), "".join(wrong[:end])

    return list(islice(attempts(), number))


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def judge(critic: Scorer, cases: list[Pair]) -> str:
    texts = [(problem.prompt, text) for problem, *both in cases for text in both]
    judged = critic.judge([critic.prompt(*case) for case in texts], seeds=range(len(texts)))
    values = [item.value for item in judged]  # None where no score could be read
    sides = list(zip(values[::2], values[1::2], strict=True))
    known = [(right, wrong) for right, wrong in sides if right is not None and wrong is not None]
    if not known:
        return "no score could be read"
    right, wrong = (sum(side) / len(known) for side in zip(*known, strict=True))
    sees = sum((a > b) + (a == b) / 2 for a, b in known) / len(known)
    price = critic.processed_tokens / len(texts)
    return (
        f"right {right:.2f}  wrong {wrong:.2f}  sees {sees:.0%} of {len(known)}  {price:.0f} tokens"
    )


def main(names: list[str], task: ArithmeticTask, number: int = 200) -> None:
    cases = pairs(task, number)
    for name in names:
        print(f"{name:24} {judge(load_scorer(name), cases)}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/compare_critics.py RUN RUN ...")
    main(sys.argv[1:], ArithmeticTask(seed=1))
