"""Modular sums: the control, where theory predicts no gap between one-shot and reasoning critics.

The sum of labelled digits modulo m, either with a running sum per line or directly as the answer:

    0 a+3 b+9 c+4>   ->  a+3=3     style "running"          ans=6     style "direct"
                         b+9=2
                         c+4=6
                         ans=6

A sum is one layer of counting, so a bounded-depth pass can represent it as well as a chain of
thought. The scripted actor and its exact values are those of `exact`: with probability eps a
written result is wrong.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from genac.tasks.base import OracleTrace
from genac.tasks.exact import (
    ANSWER,
    LABELS,
    ModularTask,
    check_noise,
    guess_score,
    is_answered,
    noisy,
    true_values,
)
from genac.types import Problem

STYLES = ("running", "direct")


@dataclass(frozen=True)
class SumTask(ModularTask):
    """Sums of digits modulo `modulus`; `style` says whether running sums are written."""

    modulus: int = 10
    name: str = "sums"
    style: str = "running"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style not in STYLES:
            raise ValueError(f"style is {self.style!r}; use one of {STYLES}")

    def _operations(self) -> list[str]:
        return [f"+{digit}" for digit in range(min(10, self.modulus))]

    def scripted_response(
        self, problem: Problem, rng: random.Random, eps: float, partial: str = ""
    ) -> str:
        """A whole response of the scripted actor, continued from `partial` (see `exact`)."""
        if self.style == "running":
            return super().scripted_response(problem, rng, eps, partial)
        if not ANSWER.startswith(partial):
            raise ValueError(f"partial {partial!r} is no prefix of a direct answer; use {ANSWER!r}")
        return f"{ANSWER}{noisy(int(problem.answer), self.modulus, rng, check_noise(eps))}"

    def exact_value(
        self, problem: Problem, partial: str, faults: float | None = None
    ) -> float | None:
        """Success probability in [0, 1] of the scripted actor; "direct" has but one state."""
        if self.style == "running" or is_answered(partial):
            return super().exact_value(problem, partial, faults)
        eps = self.noise if faults is None else check_noise(faults)
        return 1 - eps if ANSWER.startswith(partial) else None

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        """Running sums are checked line by line; a direct answer against the oracle's own sums."""
        if self.style == "running":
            return super().oracle(problem, partial, success_rate)
        operations = problem.extras["operations"]
        truth = true_values(problem.extras["start"], operations, self.modulus)[1:]
        steps = zip(LABELS, operations, truth, strict=False)
        sums = [f"{label}{operation}={value}" for label, operation, value in steps]
        if ANSWER.startswith(partial):
            return OracleTrace(" ".join([*sums, "left", "ans"]), guess_score(1.0, success_rate))
        right = self.verify(problem, partial) == 1.0
        verdict = f"{ANSWER}{problem.answer} {'ok' if right else 'no'}"
        score = guess_score(0.0, success_rate) if right else 0
        return OracleTrace(" ".join([*sums, verdict, *(["left"] if right else [])]), score)
