"""Iterated modular arithmetic with noisy steps: a task whose value function is known exactly.

A problem is a start value and a chain of labelled affine maps x -> a*x+b, kept modulo m:

    5 a*3+2 b*6+1 c*2+0>   ->  a*3+2=3      one application per line
                               b*6+1=5
                               c*2+0=3
                               ans=3        the final answer line

The actor of this task is scripted: with probability eps a step's result is wrong (uniform over the
m-1 wrong values) and later lines continue from the wrong value. Multipliers are coprime to m, so
every map is a bijection: an error lives on until a second error happens to cancel it. With q the
probability that the claimed value is the true one, one step and n steps make

    q  <- q (1 - eps) + (1 - q) eps / (m - 1)
    q_n = 1/m + (q_0 - 1/m) (1 - eps m / (m - 1))^n

which is the exact success probability of any partial response.
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
OPERATION = re.compile(r"(?:\*(\d+))?\+(\d+)")
ANSWER = "ans="
STYLES = ("running", "direct")


@dataclass(frozen=True)
class ModularTask:
    """Chains of affine maps modulo `modulus`; `noise` is the scripted actor's eps.

    `style` says whether every step's value is written ("running") or the answer alone ("direct").
    """

    seed: int = 0
    modulus: int = 7
    min_steps: int = 4
    max_steps: int = 8
    noise: float = 0.1
    name: str = "exact"
    style: str = "running"
    trusted: bool = True

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style is {self.style!r}; use one of {STYLES}")
        if not 1 <= self.min_steps <= self.max_steps <= len(LABELS):
            raise ValueError(
                f"steps {self.min_steps}..{self.max_steps} are impossible; "
                f"use 1 <= min_steps <= max_steps <= {len(LABELS)}"
            )
        if not 2 <= self.modulus <= 31:
            raise ValueError(f"modulus is {self.modulus}; use 2..31, best a prime such as 7")
        check_noise(self.noise)

    def problem(self, split: str, index: int) -> Problem:
        return draw_in_split(lambda rng: self._draw(rng, split, index), self.seed, split, index)

    def size(self, split: str) -> int | None:
        return None

    def _draw(self, rng: random.Random, split: str, index: int) -> Problem:
        start = rng.randrange(self.modulus)
        count = rng.randint(self.min_steps, self.max_steps)
        operations = tuple(rng.choice(self._operations()) for _ in range(count))
        chain = " ".join(f"{a}{b}" for a, b in zip(LABELS, operations, strict=False))
        extras = {"start": start, "operations": operations, "modulus": self.modulus}
        answer = true_values(start, operations, self.modulus)[-1]
        name = f"{self.name}-{split}-{index}"
        return Problem(name, f"{start} {chain}>", str(answer), self.name, extras)

    def _operations(self) -> list[str]:
        m = self.modulus
        return [f"*{a}+{b}" for a in range(1, m) if math.gcd(a, m) == 1 for b in range(m)]

    def verify(self, problem: Problem, text: str) -> float | None:
        return float(self.answer_of(whole_text(problem, text)) == problem.answer)

    def answer_of(self, text: str) -> str | None:
        lines = (visible(text) or "").strip().splitlines()
        last = lines[-1].strip() if lines else ""
        return last.removeprefix(ANSWER) if last.startswith(ANSWER) else None

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """The scripted actor at eps = noise x fault_rate (0 = correct)."""
        return self.scripted_response(problem, rng, self.noise * fault_rate)

    def scripted_response(
        self, problem: Problem, rng: random.Random, eps: float, partial: str = ""
    ) -> str:
        """A whole response of the scripted actor, continued from `partial`.

        Raises ValueError where `partial` is a text that the scripted actor never writes.
        """
        check_noise(eps)
        if self.style == "direct":
            if not ANSWER.startswith(partial):
                raise ValueError(
                    f"partial {partial!r} is no prefix of a direct answer; use {ANSWER!r}"
                )
            return f"{ANSWER}{noisy(int(problem.answer), self.modulus, rng, eps)}"
        position = read_partial(problem, partial)
        if position is None:
            raise ValueError(f"partial {partial!r} is no prefix of a scripted response; cut one")
        value, done = position
        lines = partial.split("\n")[:done]
        steps = list(zip(LABELS, problem.extras["operations"], strict=False))
        for label, operation in steps[done:]:
            value = noisy(apply_map(value, operation, self.modulus), self.modulus, rng, eps)
            lines.append(f"{label}{operation}={value}")
        return "\n".join([*lines, f"{ANSWER}{value}"])

    def exact_value(
        self, problem: Problem, partial: str, faults: float | None = None
    ) -> float | None:
        """Success probability in [0, 1] of the scripted actor at eps = `faults` (None: `noise`).

        `partial` ends at a token boundary. None where the scripted actor never writes such a text.
        """
        eps = self.noise if faults is None else check_noise(faults)
        if is_answered(partial):
            return self.verify(problem, partial)
        if self.style == "direct":
            return 1 - eps if ANSWER.startswith(partial) else None
        position = read_partial(problem, partial)
        if position is None:
            return None
        value, done = position
        truth = true_values(problem.extras["start"], problem.extras["operations"], self.modulus)
        return success_probability(
            float(value == truth[done]), len(truth) - 1 - done, eps, self.modulus
        )

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        """Re-derive each line next to its claim; stop at the first error; name the steps left.

        The score guesses: 0 after an error, else equally hard steps at the given success rate, or
        confidence growing with progress where no rate is given. A direct answer is checked against
        the oracle's own steps.
        """
        if self.style == "direct":
            return self._check_answer(problem, partial, success_rate)
        checks, error = check_lines(problem, partial)
        if error:
            return OracleTrace(" ".join(checks), 0)
        total = len(problem.extras["operations"])
        left = LABELS[min(len(checks), total) : total]
        reasoning = " ".join([*checks, "left", *left])
        return OracleTrace(reasoning, guess_score(len(left) / total, success_rate))

    def _check_answer(
        self, problem: Problem, partial: str, success_rate: float | None
    ) -> OracleTrace:
        operations = problem.extras["operations"]
        truth = true_values(problem.extras["start"], operations, self.modulus)[1:]
        steps = zip(LABELS, operations, truth, strict=False)
        own = [f"{label}{operation}={value}" for label, operation, value in steps]
        if ANSWER.startswith(partial):
            return OracleTrace(" ".join([*own, "left", "ans"]), guess_score(1.0, success_rate))
        right = self.verify(problem, partial) == 1.0
        verdict = f"{ANSWER}{problem.answer} {'ok' if right else 'no'}"
        score = guess_score(0.0, success_rate) if right else 0
        return OracleTrace(" ".join([*own, verdict, *(["left"] if right else [])]), score)

    def verdict(self, reasoning: str) -> bool | None:
        """Whether a line is wrong, or the answer."""
        return last_check(reasoning)

    def lines_right(self, problem: Problem, partial: str) -> int | None:
        """How many lines of the solution stand, None where the newest value is wrong."""
        if self.style == "direct":
            return None if is_answered(partial) and self.verify(problem, partial) != 1.0 else 0
        position = read_partial(problem, partial)
        if position is None:
            return None
        value, done = position
        truth = true_values(problem.extras["start"], problem.extras["operations"], self.modulus)
        return done if value == truth[min(done, len(truth) - 1)] else None

    def alphabet(self) -> list[str]:
        values = [str(v) for v in range(self.modulus)]
        results = [f"={v}" for v in values]
        words = [">", "\n", "ans", "ok", "no", "left"]
        return [*values, *self._operations(), *results, *LABELS, *words]


def check_noise(eps: float) -> float:
    """eps itself, a probability; ValueError otherwise."""
    if not 0 <= eps <= 1:
        raise ValueError(f"noise {eps} is no probability; use a number in [0, 1]")
    return eps


def apply_map(value: int, operation: str, modulus: int) -> int:
    """The true result of "*a+b" or "+b"."""
    match = OPERATION.fullmatch(operation)
    assert match, operation
    return (value * int(match[1] or 1) + int(match[2])) % modulus


def true_values(start: int, operations: tuple[str, ...], modulus: int) -> list[int]:
    """The true value after 0, 1, ..., n steps."""
    values = [start]
    for operation in operations:
        values.append(apply_map(values[-1], operation, modulus))
    return values


def noisy(true: int, modulus: int, rng: random.Random, eps: float) -> int:
    """`true`, or with probability eps one of the other values, all equally likely."""
    return (true + rng.randrange(1, modulus)) % modulus if rng.random() < eps else true


def success_probability(correct: float, steps: int, eps: float, modulus: int) -> float:
    """q_n of the module docstring from q_0 = `correct` after `steps` noisy steps."""
    decay = 1 - eps * modulus / (modulus - 1)
    return 1 / modulus + (correct - 1 / modulus) * decay**steps


def is_answered(partial: str) -> bool:
    """Whether the final line stands: then the response is over and its value is its reward."""
    last = partial.strip().rsplit("\n", 1)[-1].strip()
    return last.startswith(ANSWER) and last != ANSWER


def read_partial(problem: Problem, partial: str) -> tuple[int, int] | None:
    """(claimed value, steps done) of a partial response; None where it breaks the format."""
    value, operations = problem.extras["start"], problem.extras["operations"]
    values = {str(v): v for v in range(problem.extras["modulus"])}
    lines = partial.split("\n")
    for number, line in enumerate(lines):
        step = number < len(operations)
        head = f"{LABELS[number]}{operations[number]}=" if step else ANSWER
        if number == len(lines) - 1 and head.startswith(line):
            return value, number
        claim = line.removeprefix(head)
        if not step or claim == line or claim not in values:
            return None
        value = values[claim]
    return value, len(lines)


def check_lines(problem: Problem, partial: str) -> tuple[list[str], bool]:
    """Each line as "label operation =re-derived =claimed verdict", and whether one is wrong.

    Stops at the first error. A line that is not the expected application is an error as well; an
    unfinished last line is not judged.
    """
    operations, modulus = problem.extras["operations"], problem.extras["modulus"]
    truth, checks = true_values(problem.extras["start"], operations, modulus), []
    lines = partial.split("\n")
    for number, line in enumerate(lines):
        step = number < len(operations)
        head = f"{LABELS[number]}{operations[number]}" if step else ANSWER[:-1]
        if number == len(lines) - 1 and f"{head}=".startswith(line):
            break
        true = truth[min(number + 1, len(operations))]
        claim = line.removeprefix(f"{head}=")
        shown = f"={claim}" if claim != line and claim in map(str, range(modulus)) else ""
        right = line == f"{head}={true}"
        checks.append(f"{head}={true}{shown} {'ok' if right else 'no'}")
        if not (right and step):
            return checks, not right
    return checks, False


def guess_score(left: float, success_rate: float | None) -> int:
    """An oracle's 0..10 for a faultless partial response with the fraction `left` still to do."""
    guess = 1 - left / 2 if success_rate is None else success_rate**left
    return round(10 * guess)
