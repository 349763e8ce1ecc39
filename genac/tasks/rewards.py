"""Rewards: load a scorer and check its range.

    load_reward("match" | "math" | "format" | "short")            built in, see answers.py
    load_reward("pkg.mod:fn" | "path/to/file.py:fn")              yours, TRL's signature
    load_reward("verl:path/to/file.py:compute_score")             yours, verl's signature
    load_reward("0.9 * math + 0.1 * format")                      a weighted mean
    ->  scorer(problem, text)

A function of TRL's signature is `fn(prompts=..., completions=..., **columns) -> list[float |
None]`, plain or async. It is called with one response at a time, by `genac.tasks.verifier` in a
worker process with a time limit. A reward outside [0, 1] is a bug and crashes.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from genac.tasks.answers import BUILTIN, Scorer
from genac.types import Problem

WEIGHTED = re.compile(r"\s*([0-9.]+)\s*\*\s*(.+?)\s*")
VERL = "verl:"


class RewardError(ValueError):
    """The reward breaks its contract: a bug to be fixed, never one response's bad luck."""


def load_reward(spec: str) -> Scorer:
    """The scorer that `spec` names. Raises ValueError naming what is missing and the remedy."""
    terms = spec.split(" + ")
    if len(terms) > 1 or WEIGHTED.fullmatch(spec):
        return weighted(spec, terms)
    if spec in BUILTIN:
        return BUILTIN[spec]()
    place, _, name = spec.removeprefix(VERL).rpartition(":")
    if not place or not name:
        raise ValueError(
            f"reward {spec!r} is unknown; use one of {sorted(BUILTIN)}, 'pkg.mod:fn', "
            "'path/to/file.py:fn', 'verl:path/to/file.py:compute_score', or a sum of them with "
            "weights ('0.9 * math + 0.1 * format')"
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place, spec)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward {spec!r}: {place} has no function {name!r}; define it there")
    call = call_verl if spec.startswith(VERL) else call_reward
    return functools.partial(call, function, spec)


def weighted(spec: str, terms: Sequence[str]) -> Scorer:
    """The mean of several rewards. The weights must sum to 1, so that it stays in [0, 1]."""
    found = [WEIGHTED.fullmatch(term) for term in terms]
    if not all(found):
        raise ValueError(
            f"reward {spec!r}: every term needs a weight, as in '0.9 * math + 0.1 * format'"
        )
    weights = [float(m[1]) for m in found if m]
    if abs(math.fsum(weights) - 1) > 1e-6:
        raise ValueError(
            f"reward {spec!r}: the weights sum to {sum(weights):g}; make it 1, so that the reward "
            "stays in [0, 1]"
        )
    parts = [load_reward(m[2]) for m in found if m]
    return functools.partial(weigh, spec, weights, parts)


def weigh(
    spec: str, weights: Sequence[float], parts: Sequence[Scorer], problem: Problem, text: str
) -> float | None:
    """None where any part cannot judge the response: half a reward would look like a bad one."""
    found = [check_outcome(as_number(part(problem, text)), spec) for part in parts]
    known = [v for v in found if v is not None]
    if len(known) < len(found):
        return None
    mean = math.fsum(w * v for w, v in zip(weights, known, strict=True)) / math.fsum(weights)
    return min(1.0, round(mean, 12))  # all parts full is 1, whatever the weights' rounding


def as_number(value: Any) -> Any:
    """numpy's booleans and numbers as Python's; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def call_reward(
    function: Callable[..., Any], spec: str, problem: Problem, text: str
) -> float | None:
    """One response judged by a function of TRL's signature, which gets the keywords it accepts.

    The columns are `answer` and the problem's extras, each a list of one. A chat prompt's
    completion is a list of one assistant message. Raises RewardError where a column lacks or the
    result is no list of one.
    """
    chat = not isinstance(problem.prompt, str)
    completion = [{"role": "assistant", "content": text}] if chat else text
    columns = {"answer": problem.answer, **problem.extras}
    columns |= {"prompts": problem.prompt, "completions": completion}
    columns = accepted(function, spec, columns, problem)
    result = settled(function(**{name: [value] for name, value in columns.items()}))
    if not hasattr(result, "__len__") or isinstance(result, str | dict) or len(result) != 1:
        raise RewardError(
            f"reward {spec!r} returned {result!r:.100} for one completion; return a list with one "
            "number in [0, 1] (or None) for each completion"
        )
    return result[0]


def call_verl(function: Callable[..., Any], spec: str, problem: Problem, text: str) -> float | None:
    """The same for verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`,
    which returns a number or a dict with `score`."""
    columns = {
        "data_source": problem.extras.get("data_source", problem.task),
        "solution_str": text,
        "ground_truth": problem.extras.get("ground_truth", problem.answer),
        "extra_info": problem.extras.get("extra_info", {}),
    }
    result = settled(function(**accepted(function, spec, columns, problem)))
    if isinstance(result, dict):
        if "score" not in result:
            raise RewardError(f"reward {spec!r} returned {result!r:.100}; a dict needs 'score'")
        return result["score"]
    return result


def accepted(
    function: Callable[..., Any], spec: str, columns: dict[str, Any], problem: Problem
) -> dict[str, Any]:
    """Those of the columns that the function takes. RewardError where it needs others."""
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        columns = {p.name: columns[p.name] for p in parameters if p.name in columns}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in VARIADIC]
    if missing := [name for name in needed if name not in columns]:
        raise RewardError(
            f"reward {spec!r} needs {missing}, which the data do not have; give the argument a "
            f"default or use one of the columns {sorted(problem.extras)}"
        )
    return columns


def settled(result: Any) -> Any:
    """The result of an async function, once it is there."""
    return asyncio.run(_await(result)) if inspect.isawaitable(result) else result


async def _await(result: Any) -> Any:
    return await result


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
