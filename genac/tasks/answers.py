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
from typing import Any

from genac.tasks.final_answer import (
    SIGNS,
    Form,
    boxed,
    final_answer,
    last_line,
    normalise,
    number,
    opens_thought,
    read,
    undelimited,
    visible,
)
from genac.types import Problem

__all__ = [
    "BUILTIN",
    "Scorer",
    "answer_key",
    "final_answer",
    "match_answer",
    "normalise",
    "whole_text",
]

Scorer = Callable[[Problem, str], float | None]

MATHEMATICS = ("$", "\\(", "\\[")
# "42 cows", but neither "2ab" nor "1 and 2": math-verify knows what those are.
SENTENCE = re.compile(r"(?:^|\s)(?!and\b)[A-Za-z]{3,}(?=[\s.,;:!?]|$)")
LIST_COMMA = re.compile(r"(?<![\\{]),")  # neither a thin space nor the comma of 1{,}234
FULL_LENGTH, NO_LENGTH = 2000, 8000  # characters: `short` falls from 1 to 0 between them


def match_answer(problem: Problem, text: str) -> float:
    """1.0 where the final answers are equal as normalised text or as decimal numbers, else 0.0."""
    answer = answer_key(whole_text(problem, text))
    return float(answer is not None and answer == normalise(reference(problem)[0]))


def answer_key(text: str) -> str | None:
    """The final answer as it is compared and counted; None where there is none."""
    response = visible(text)
    form = None if response is None else read(response)
    if response is None or (form and form.cut):
        return None
    return normalise(form.content if form else last_line(response)) or None


def reference(problem: Problem) -> tuple[str, bool]:
    """The part of the reference that is compared, and whether it stands there in a form (behind
    "####", in a box) or is the last line.
    """
    text = problem.answer
    text = visible(text) or text
    form = read(text)
    return (form.content, True) if form and not form.cut else (last_line(text), False)


def whole_text(problem: Problem, text: str) -> str:
    """The response with the opening tag of the thought that its prompt ended in, if any."""
    prompt = problem.prompt
    if isinstance(prompt, str):
        inside = opens_thought(prompt)
    else:  # a final message of the assistant is the beginning of the response
        last = prompt[-1] if prompt else {}
        inside = last.get("role") == "assistant" and visible(last["content"]) is None
    return f"<think>{text}" if inside or problem.opens_thought else text


def boxed_format(problem: Problem, text: str) -> float:
    r"""1.0 where thinking, if any, is closed and a filled \boxed{} follows it, else 0.0. The
    opening tag may be missing: many chat templates end the prompt with it.
    """
    response = visible(whole_text(problem, text))
    return float(response is not None and boxed(response))


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
            "reward 'math' needs math-verify, which is not installed; pip install 'genac[math]'"
        ) from error
    # It warns that its own time limits are off. They use signal.alarm; the worker has a better one.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return functools.partial(match_math, math_verify)


def match_math(math_verify: Any, problem: Problem, text: str) -> float | None:
    """1.0 where the answers match or math-verify finds them equivalent, else 0.0; None where the
    reference cannot be read.
    """
    text = whole_text(problem, text)
    if match_answer(problem, text):
        return 1.0
    gold = math_verify.parse(gold_latex(problem), parsing_timeout=None)
    if not gold:
        return None
    response = visible(text)
    form = None if response is None else read(response)
    if response is None or (form and form.cut):
        return 0.0
    result = math_verify.parse(response_latex(response, form), parsing_timeout=None)
    return float(math_verify.verify(gold, result, timeout_seconds=None))


def gold_latex(problem: Problem) -> str:
    """The reference as math-verify reads it."""
    answer, in_form = reference(problem)
    in_text = any(sign in problem.answer for sign in MATHEMATICS)
    if in_text and not in_form and not is_bare(problem.answer):
        return problem.answer.translate(SIGNS)
    return as_latex(answer)  # bare "x^2 + 1" would be read as its last number


def is_bare(text: str) -> bool:
    """Whether a text is nothing but one number or formula."""
    text = text.strip()
    return undelimited(text) != text or number(normalise(text)) is not None


def response_latex(response: str, form: Form | None) -> str:
    """The response's final answer as math-verify reads it: a sentence as one, else as LaTeX.
    Without a form it searches the whole response.
    """
    if form is None:
        return as_latex(response) if is_bare(response) else response.translate(SIGNS)
    if form.kind == "box":
        return as_latex(form.content)
    if any(sign in form.content for sign in MATHEMATICS):
        return form.content.translate(SIGNS)
    plain = "\\" not in form.content and any(c.isdigit() for c in form.content)
    if plain and SENTENCE.search(form.content):
        return f"Answer: {form.content}".translate(SIGNS)
    return as_latex(form.content)


def as_latex(answer: str) -> str:
    """The answer as one formula. The commas left in it separate: without a blank behind them
    math-verify reads the two numbers of "1, 200" as one.
    """
    return f"${LIST_COMMA.sub(', ', normalise(answer))}$"


BUILTIN: dict[str, Callable[[], Scorer]] = {
    "match": lambda: match_answer,
    "math": load_math,
    "format": lambda: boxed_format,
    "short": lambda: short,
}
