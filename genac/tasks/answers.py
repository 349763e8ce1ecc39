"""Built-in judges of a response: its final answer, its form, its length.

match_answer(problem, text)      final answers equal as text or as decimal numbers
math-verify's equivalence        loaded by `load_math`, an optional dependency
boxed_format, short              examples of what may be mixed into a reward with a weight
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from genac.types import Problem

Scorer = Callable[[Problem, str], float | None]

FULL_LENGTH, NO_LENGTH = 2000, 8000  # characters: `short` falls from 1 to 0 between them


def match_answer(problem: Problem, text: str) -> float:
    """1.0 where the final answers are equal as normalised text or as decimal numbers, else 0.0."""
    got, wanted = normalise(final_answer(text)), normalise(final_answer(problem.answer))
    return float(got == wanted or _equal_numbers(got, wanted))


def boxed_format(problem: Problem, text: str) -> float:
    r"""1.0 where thinking, if any, is closed and a filled \boxed{} follows it, else 0.0."""
    del problem
    _, closing, answer = text.rpartition("</think>")
    if ("<think>" in text) != bool(closing) or "<think>" in answer:
        return 0.0
    position, boxed = _boxed(answer)
    return float(position >= 0 and bool(boxed.strip()))


def short(problem: Problem, text: str) -> float:
    """1.0 up to FULL_LENGTH characters, from there linearly down to 0.0 at NO_LENGTH."""
    del problem
    return min(1.0, max(0.0, (NO_LENGTH - len(text)) / (NO_LENGTH - FULL_LENGTH)))


def load_math() -> Scorer:
    """math-verify's judgement. Raises ValueError where it is not installed."""
    try:
        import math_verify
    except ImportError as error:
        raise ValueError(
            "reward 'math' needs math-verify, which is not installed; pip install math-verify"
        ) from error
    # It warns that its own time limits are off. They use signal.alarm; the worker has a better one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return functools.partial(match_math, math_verify)


def match_math(math_verify: Any, problem: Problem, text: str) -> float | None:
    """1.0 where math-verify finds the answers equivalent; None for an unreadable reference."""
    reference = problem.answer
    if "$" not in reference and "\\boxed" not in reference:
        reference = (
            f"${final_answer(reference)}$"  # bare "x^2 + 1" would be read as its last number
        )
    gold = math_verify.parse(reference, parsing_timeout=None)
    found = math_verify.parse(text, parsing_timeout=None)
    return float(math_verify.verify(gold, found, timeout_seconds=None)) if gold else None


def final_answer(text: str) -> str:
    r"""What stands after the last 'ans=', '####' or 'Answer:' or in the last \boxed{} or
    <answer></answer>, whichever comes last; without any, the last line. Linear in the length of
    the text.
    """
    text = text.strip()
    candidates = [_rest_of_line(text, marker) for marker in ("ans=", "####", "Answer:")]
    candidates.append(_boxed(text))
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start >= 0:
        candidates.append((start, text[start + len("<answer>") : end]))
    position, answer = max(candidates, key=lambda found: found[0])
    return answer.strip() if position >= 0 else text.rsplit("\n", 1)[-1].strip()


def _rest_of_line(text: str, marker: str) -> tuple[int, str]:
    start = text.rfind(marker)
    return start, text[start + len(marker) :].split("\n", 1)[0]


def _boxed(text: str) -> tuple[int, str]:
    """Where the last complete \\boxed{} begins and what it holds; (-1, "") without one."""
    start, marker = text.rfind("\\boxed{"), len("\\boxed{")
    depth = 1
    for end in range(start + marker, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return start, text[start + marker : end]
    return -1, ""


def normalise(answer: str) -> str:
    """Surrounding blanks, commas, dollar signs and trailing dots removed."""
    return re.sub(r"[,$]", "", answer).strip().rstrip(".").strip()


def _equal_numbers(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False


BUILTIN: dict[str, Callable[[], Scorer]] = {
    "match": lambda: match_answer,
    "math": load_math,
    "format": lambda: boxed_format,
    "short": lambda: short,
}
