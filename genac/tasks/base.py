"""What a task is: problems, a verifier that proves its own gold answer, demonstrations and an
oracle.

Tasks are pure in (seed, split, index) and import no torch. A task that has no programmatic oracle
says so with a ValueError that names the remedy.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from genac.types import Problem

SPLITS = ("train", "heldout")
HELDOUT_ONE_IN = 4  # one problem text in four belongs to the held-out side, by its hash
CHECK = re.compile(r"=\s*\d+\s*(ok|no)\b")  # the end of a checked step, in the tiny tasks


@dataclass(frozen=True)
class OracleTrace:
    """A programmatic oracle's reasoning about a partial response, and its score, one of 0..10."""

    reasoning: str
    score: int
    # The check of each step, which a longer response only adds to: what a running critic notes.
    # None = the oracle does not check step by step.
    checks: tuple[str, ...] | None = None
    # What it has in common with the states that should get one calibrated score. Empty = its score.
    kind: str = ""


class Task(Protocol):
    """The protocol of a task. `trusted` tasks verify in process; others in a worker with a
    deadline.

    A task may also have `start(problem, text)`, which returns what `verify` returns or an awaitable
    of it, and `is_async`, which says that it does: then a worker judges many responses at a time.
    It may be a `ReadsVerdicts`, a `Diagnoses` and an `Exercises`.
    """

    name: str
    trusted: bool

    def problem(self, split: str, index: int) -> Problem:
        """Problem number `index` of "train" or "heldout"; the two never share a problem."""
        ...

    def size(self, split: str) -> int | None:
        """How many problems the split has; None = unlimited."""
        ...

    def verify(self, problem: Problem, text: str) -> float | None:
        """Reward in [0, 1] of a response; None = cannot be judged."""
        ...

    def answer_of(self, text: str) -> str | None:
        """The answer that `verify` reads in a response, so that equal answers can be counted
        (majority vote); None where there is none to read.
        """
        ...

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """A response text. `fault_rate` scales the task's systematic faults; 0 = it is correct."""
        ...

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        """Reasoning and score of someone who knows the mathematics but not this actor."""
        ...

    def alphabet(self) -> list[str]:
        """Every word the task's texts use, for the locally built tokenizer."""
        ...


@runtime_checkable
class ReadsVerdicts(Protocol):
    """A task whose oracle's reasoning says whether a mistake stands in a partial response."""

    def verdict(self, reasoning: str) -> bool | None:
        """Whether a mistake stands, says a reasoning in the oracle's words; None where it does not
        say. A critic that learned from the oracle writes such words too.
        """
        ...


@runtime_checkable
class Exercises(Protocol):
    """A task with exercises for its critic: what the oracle's reasoning needs, without problems."""

    def exercise(self, rng: random.Random) -> tuple[str, str]:
        """An instruction, and what is to be written."""
        ...


@dataclass(frozen=True)
class Diagnosis:
    """What a task's program sees in a whole response."""

    mistake: str  # kind of the first mistake that no later line mends; empty = none
    calculations: int = 0
    wrong_calculations: int = 0  # whose result is not what they calculate


@runtime_checkable
class Diagnoses(Protocol):
    """A task whose program names the first mistake of a response."""

    def diagnose(self, problem: Problem, response: str) -> Diagnosis:
        """What is wrong in a response that has ended."""
        ...


def last_check(reasoning: str) -> bool | None:
    """The verdict of checked steps such as "a+3=9=8 no": that of the last one. No step is wrong
    where there is none yet, and all are left."""
    checks = CHECK.findall(reasoning)
    if checks:
        return checks[-1] == "no"
    return False if "left" in reasoning else None


def normalised(text: str) -> str:
    """White space folded, so that problems differing only in it count as the same problem."""
    return " ".join(text.split())


def split_of(text: str) -> str:
    """The split that a problem belongs to: by its text alone, so that splits cannot overlap."""
    digest = hashlib.sha256(normalised(text).encode("utf-8", "replace")).digest()
    return "heldout" if digest[0] % HELDOUT_ONE_IN == 0 else "train"


def draw_in_split(
    draw: Callable[[random.Random], Problem], seed: int, split: str, index: int
) -> Problem:
    """Redraw until the problem's text falls in `split`; pure in (seed, split, index)."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {SPLITS}")
    rng = random.Random(f"{seed}/{split}/{index}")
    for _ in range(1000):
        problem = draw(rng)
        if split_of(problem.text) == split:
            return problem
    raise ValueError(
        f"no {split} problem in 1000 draws: the task's problem space is too small to be split; "
        "widen its difficulty (more steps, digits or operators)"
    )
