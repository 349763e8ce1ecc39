"""Procedural multi-step arithmetic, the embedded default.

A problem is a start digit and a chain of labelled operations, kept to the last digit (modulo 10):

    6 a+3 b*7 c-8>        ->  a+3=9        the actor writes one reduction per line,
                              b*7=3        copying the operation it carries out,
                              c-8=5        and then the final answer line
                              ans=5

The verifier reads the final line only. Operator and digit are one token and every step has a label,
so that a model of a million parameters can learn the task in about a minute (finding the operation
is an induction look-up). Multipliers are coprime to the modulus: then every operation is a
bijection and an error is forgotten only if a second error happens to cancel it.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from genac.tasks.answers import whole_text
from genac.tasks.base import OracleTrace, draw_in_split, last_check
from genac.tasks.final_answer import visible
from genac.types import Problem

LABELS = "abcdefghijklmnopqrstuvwxyz"
LINE = re.compile(r"([a-z])([+\-*]\d+)=(\d)")
ANSWER = re.compile(r"ans=(\d)")

# The base actor's systematic faults: probability of the wrong habit, by operator. RL has to unlearn
# them.
FAULTS = {"*": 0.6, "-": 0.15, "+": 0.02}


@dataclass(frozen=True)
class ArithmeticTask:
    """One generator; difficulty and distribution shift are its settings."""

    seed: int = 0
    min_steps: int = 5
    max_steps: int = 7
    operators: str = "+-*"
    multiplication_rate: float = 0.2
    operand_digits: int = 1
    name: str = "arithmetic"
    trusted: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= len(LABELS):
            raise ValueError(
                f"steps {self.min_steps}..{self.max_steps} are impossible; "
                f"use 1 <= min_steps <= max_steps <= {len(LABELS)}"
            )
        if not self.operators or set(self.operators) - set("+-*"):
            raise ValueError(f"operators is {self.operators!r}; use some of '+-*'")
        if self.operand_digits not in (1, 2):
            raise ValueError(f"operand_digits is {self.operand_digits}; use 1 or 2")

    def problem(self, split: str, index: int) -> Problem:
        return draw_in_split(lambda rng: self._draw(rng, split, index), self.seed, split, index)

    def size(self, split: str) -> int | None:
        return None

    def _draw(self, rng: random.Random, split: str, index: int) -> Problem:
        start, steps = rng.randrange(10), rng.randint(self.min_steps, self.max_steps)
        operations = [self._operation(rng) for _ in range(steps)]
        chain = " ".join(
            f"{label}{operation}" for label, operation in zip(LABELS, operations, strict=False)
        )
        answer = start
        for operation in operations:
            answer = apply(answer, operation)
        return Problem(
            id=f"{self.name}-{split}-{index}",
            prompt=f"{start} {chain}>",
            answer=str(answer),
            task=self.name,
            extras={"start": start, "operations": tuple(operations)},
        )

    def _operation(self, rng: random.Random) -> str:
        others = [o for o in self.operators if o != "*"]
        multiply = "*" in self.operators and (not others or rng.random() < self.multiplication_rate)
        operator = "*" if multiply else rng.choice(others)
        low, high = 10 ** (self.operand_digits - 1), 10**self.operand_digits
        while True:
            operand = rng.randrange(max(low, 1), high)
            if operator != "*" or (operand > 1 and math.gcd(operand, 10) == 1):
                return f"{operator}{operand}"

    def verify(self, problem: Problem, text: str) -> float | None:
        return float(self.answer_of(whole_text(problem, text)) == problem.answer)

    def answer_of(self, text: str) -> str | None:
        lines = (visible(text) or "").strip().splitlines()
        match = ANSWER.fullmatch(lines[-1].strip()) if lines else None
        return match.group(1) if match else None

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """One reduction per line; later lines continue from a wrong value as an actor would."""
        value, lines = problem.extras["start"], []
        for label, operation in zip(LABELS, problem.extras["operations"], strict=False):
            value = faulty(value, operation, rng, fault_rate)
            lines.append(f"{label}{operation}={value}")
        return "\n".join([*lines, f"ans={value}"])

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        """Re-derive each step next to the actor's claim, then say what is left and give a score.

        The score is a guess: the oracle knows the mathematics, not which operations this actor gets
        wrong. With a success rate it assumes equally hard steps, rate ** (fraction remaining);
        without it grows confident with progress. Where the newest value is wrong it gives 0. Like
        a sampled answer of an API it varies by a point either way.
        """
        steps, wrong = check_lines(problem, partial)
        operations = problem.extras["operations"]
        remaining = operations[len(steps) :]
        fraction = len(remaining) / len(operations)
        if wrong:
            guess = 0.0
        elif success_rate is not None:
            guess = success_rate**fraction
        else:
            guess = 1 - 0.5 * fraction
        mood = random.Random(f"{problem.text}/{partial}").choice((-1, 0, 1))
        score = min(10, max(0, round(10 * guess) + mood))
        left = "".join(operation[0] for operation in remaining)
        lines = sum(1 for line in partial.split("\n")[:-1] if line)
        # Of a line that is no reduction only the verdict can be noted.
        verdicts = [" no\n" if wrong else " ok\n"] * (lines - len(steps))
        kind = "" if wrong else f"{len(steps)} of {len(operations)}"
        return OracleTrace("".join([*steps, f"left{left}\n"]), score, (*steps, *verdicts), kind)

    def verdict(self, reasoning: str) -> bool | None:
        """Whether the newest value is wrong: a second error can undo the first."""
        return last_check(reasoning)

    def lines_right(self, problem: Problem, partial: str) -> int | None:
        """How many lines of the solution stand, None where the newest value is wrong."""
        checks, wrong = check_lines(problem, partial)
        return None if wrong else len(checks)

    def alphabet(self) -> list[str]:
        digits = [str(d) for d in range(10)]
        operators = [f"{operator}{d}" for operator in "+-*" for d in digits]
        results = [f"={d}" for d in digits]
        verdicts = [" ok\n", " no\n", "left"]
        return [*digits, *operators, *results, *"+-*", *LABELS, ">", "\n", "ans", *verdicts]


def apply(value: int, operation: str) -> int:
    """The true result, modulo 10."""
    operator, operand = operation[0], int(operation[1:])
    if operator == "+":
        return (value + operand) % 10
    return (value - operand) % 10 if operator == "-" else (value * operand) % 10


def faulty(value: int, operation: str, rng: random.Random, fault_rate: float) -> int:
    """The base actor's habits: * off by one, - done as +, + now and then off by one."""
    true = apply(value, operation)
    if rng.random() >= FAULTS[operation[0]] * fault_rate:
        return true
    if operation[0] == "-":
        return apply(value, "+" + operation[1:])
    return (true + 1) % 10 if operation[0] == "*" else (true + rng.choice((1, 9))) % 10


def check_lines(problem: Problem, partial: str) -> tuple[list[str], bool]:
    """Each complete line next to the true value, and whether the newest claim is wrong.

    A check reads "a+3=9=8 no": operation, true value, claimed value, verdict. Checking goes on
    behind an error, because a second error can undo the first. A line that is not the expected
    reduction has no claim to check: it ends the checks and counts as wrong. An unfinished last
    line is not judged.
    """
    value, operations = problem.extras["start"], problem.extras["operations"]
    checks: list[str] = []
    wrong = False
    for line in (line for line in partial.split("\n")[:-1] if line):
        number = len(checks)
        if number == len(operations):
            return checks, wrong or line != f"ans={value}"
        step = LABELS[number] + operations[number]
        value = apply(value, operations[number])
        match = LINE.fullmatch(line)
        if match is None or match.group(1) + match.group(2) != step:
            checks.append(f"{step}={value} no\n")
            return checks, True
        wrong = int(match.group(3)) != value
        checks.append(f"{step}={value}={match.group(3)} {'no' if wrong else 'ok'}\n")
    return checks, wrong
