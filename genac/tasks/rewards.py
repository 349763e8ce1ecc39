"""Rewards: load a scorer and check its range.

    load_reward("match" | "math" | "pkg.mod:fn" | "path/to/file.py:fn")  ->  scorer(problem, text)

A user's function has TRL's signature, `fn(prompts=..., completions=..., **columns) -> list[float |
None]`. It is called with one response at a time, by `genac.tasks.verifier` in a worker process with
a time limit. A reward outside [0, 1] is a bug and crashes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from numbers import Real
from pathlib import Path
from typing import Any

from genac.types import Problem

Scorer = Callable[[Problem, str], float | None]


class RewardError(ValueError):
    """The reward breaks its contract: a bug to be fixed, never one response's bad luck."""


def load_reward(spec: str) -> Scorer:
    """The scorer that `spec` names. Raises ValueError naming what is missing and the remedy."""
    if spec in BUILTIN:
        return BUILTIN[spec]()
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise ValueError(
            f"reward {spec!r} is unknown; use one of {sorted(BUILTIN)}, 'pkg.mod:fn' or "
            "'path/to/file.py:fn'"
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place, spec)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward {spec!r}: {place} has no function {name!r}; define it there")
    return functools.partial(call_reward, function, spec)


def call_reward(function: Callable[..., Any], spec: str, problem: Problem, text: str) -> Any:
    """One response judged by a function of TRL's signature, which gets the keywords it accepts.

    The columns are `answer` and the problem's extras, each a list of one. A chat prompt's
    completion is a list of one assistant message. Raises RewardError where a column lacks or the
    result is no list of one.
    """
    chat = not isinstance(problem.prompt, str)
    completion = [{"role": "assistant", "content": text}] if chat else text
    columns = {"answer": problem.answer, **problem.extras}
    columns |= {"prompts": problem.prompt, "completions": completion}
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        columns = {p.name: columns[p.name] for p in parameters if p.name in columns}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in VARIADIC]
    if missing := [name for name in needed if name not in columns]:
        raise RewardError(
            f"reward {spec!r} needs {missing}, which the data do not have; give the argument a "
            f"default or use one of the columns {sorted(problem.extras)}"
        )
    result = function(**{name: [value] for name, value in columns.items()})
    if not hasattr(result, "__len__") or isinstance(result, str | dict) or len(result) != 1:
        raise RewardError(
            f"reward {spec!r} returned {result!r:.100} for one completion; return a list with one "
            "number in [0, 1] (or None) for each completion"
        )
    return result[0]


VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(
            f"reward file {str(path)!r} does not exist; give the path from {Path.cwd()}"
        )
    name = f"genac_reward_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found and found.loader, path
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _load_module(place: str, spec: str) -> Any:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reward {spec!r}: {error}; install it, or name the file as 'path/to/file.py:fn'"
        ) from error


def match_answer(problem: Problem, text: str) -> float:
    """1.0 where the final answers are equal as normalised text or as decimal numbers, else 0.0."""
    got, wanted = normalise(final_answer(text)), normalise(final_answer(problem.answer))
    return float(got == wanted or _equal_numbers(got, wanted))


def _load_math() -> Scorer:
    try:
        import math_verify
    except ImportError as error:
        raise ValueError(
            "reward 'math' needs math-verify, which is not installed; pip install genac[tasks]"
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


BUILTIN: dict[str, Callable[[], Scorer]] = {"match": lambda: match_answer, "math": _load_math}


def final_answer(text: str) -> str:
    r"""What stands after the last 'ans=' or '####' or in the last \boxed{} or <answer></answer>,
    whichever comes last; without any, the last line. Linear in the length of the text.
    """
    text = text.strip()
    candidates = [_rest_of_line(text, "ans="), _rest_of_line(text, "####"), _boxed(text)]
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
    start, marker = text.rfind("\\boxed{"), len("\\boxed{")
    depth = 1
    for end in range(start + marker, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return start, text[start + marker : end]
    return -1, ""


def normalise(answer: str) -> str:
    """Surrounding blanks, commas, dollar signs and trailing dots removed."""
    return answer.replace(",", "").replace("$", "").strip().rstrip(".").strip()


def _equal_numbers(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False


def check_outcome(value: Any, name: str) -> float | None:
    """`value` as a float in [0, 1]; None passes. Raises RewardError naming reward and value."""
    if value is None:
        return None
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:  # NaN compares false
        raise RewardError(
            f"reward {name!r} is {value!r:.100}, not a number in [0, 1]; rescale it, or "
            "return None where a response cannot be scored"
        )
    return float(value)
