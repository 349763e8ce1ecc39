"""Prints a problem and its solution: python -m genac.tasks.word_problems [--OPTION VALUE ...]."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

from genac.tasks.word_problems.task import WordProblemTask


def main(arguments: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m genac.tasks.word_problems")
    p.add_argument("--split", default="train")
    p.add_argument("--index", type=int, default=0)
    p.add_argument("--grammars", nargs="+", default=argparse.SUPPRESS)
    p.add_argument("--wording", default=argparse.SUPPRESS)
    for name in ("seed", "min-steps", "max-steps", "max-number", "distractors"):
        p.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS)
    options = vars(p.parse_args(arguments))
    split, index = options.pop("split"), options.pop("index")
    task = WordProblemTask(**options)
    problem = task.problem(split, index)
    print(f"{problem.text}\n\n{task.demonstration(problem, random.Random(0), 0.0)}")


if __name__ == "__main__":
    main()
