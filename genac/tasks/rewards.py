"""Rewards: load a scorer and check its range.

    load_reward("match" | "math" | "format" | "short")            built in, see answers.py
    load_reward("pkg.mod:fn" | "path/to/file.py:fn")              yours, TRL's signature
    load_reward("verl:path/to/file.py:compute_score")             yours, verl's signature
    load_reward("0.9 * math + 0.1 * format")                      a weighted mean
    load_reward("in-process:fn#HASH")                             a function that lives here only
    ->  scorer(problem, text)

A function of TRL's signature is `fn(prompts=..., completions=..., **columns) -> list[float |
None]`, plain or async. `genac.tasks.verifier` calls it in a worker process with a time limit, each
call with one response; many calls of an async one are under way at once. A reward outside [0, 1]
is a bug and crashes.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

from genac.tasks.answers import BUILTIN, Scorer
from genac.tasks.base import Task
from genac.tasks.callables import is_in_process, registered
from genac.tasks.loading import function_of, on_path
from genac.types import Problem

WEIGHTED = re.compile(r"\s*([0-9.]+)\s*\*\s*(.+?)\s*")
VERL = "verl:"
COMPARING = ("match", "math")  # built in, with the reference answer
ROUNDING = 1e-6  # the cosine of a float32 vector with itself is 1.0000001192


class RewardError(ValueError):
    """The reward breaks its contract: a bug to be fixed, never one response's bad luck."""


def load_reward(spec: str) -> Scorer:
    """The scorer that `spec` names. Raises ValueError naming what is missing and the remedy."""
    terms = spec.split(" + ")
    if len(terms) > 1 or WEIGHTED.fullmatch(spec):
        return weighted(spec, terms)
    if spec in BUILTIN:
        return BUILTIN[spec]()
    if is_in_process(spec):
        return UserReward(registered(spec), spec)
    place, _, name = spec.removeprefix(VERL).rpartition(":")
    if not place or not name:
        raise ValueError(
            f"reward {spec!r} is unknown; use one of {sorted(BUILTIN)}, 'pkg.mod:fn', "
            "'path/to/file.py:fn', 'verl:path/to/file.py:compute_score', or a sum of them with "
            "weights ('0.9 * math + 0.1 * format')"
        )
    function, folder = function_of(spec, place, name)
    return UserReward(function, spec, spec.startswith(VERL), folder)


def weighted(spec: str, terms: Sequence[str]) -> Scorer:
    """The mean of several rewards. The weights must sum to 1, so that it stays in [0, 1]."""
    matches = [WEIGHTED.fullmatch(term) for term in terms]
    if not all(matches):
        raise ValueError(
            f"reward {spec!r}: every term needs a weight, as in '0.9 * math + 0.1 * format'"
        )
    weights = tuple(float(m[1]) for m in matches if m)
    if abs(math.fsum(weights) - 1) > 1e-6:
        raise ValueError(
            f"reward {spec!r}: the weights sum to {sum(weights):g}; make it 1, so that the reward "
            "stays in [0, 1]"
        )
    return WeightedReward(spec, weights, tuple(load_reward(m[2]) for m in matches if m))


def needs_answer(spec: str) -> bool:
    """Whether a part of the reward compares with the reference answer."""
    return any(part in COMPARING for part in parts_of(spec))


def parts_of(spec: str) -> list[str]:
    """The rewards that a spec names, without their weights."""
    matches = [(WEIGHTED.fullmatch(term), term) for term in spec.split(" + ")]
    return [match[2] if match else term for match, term in matches]


def start(score: Scorer, problem: Problem, text: str) -> Any:
    """What `score` returns, or an awaitable of it where the reward function is async."""
    begin = getattr(score, "start", score)
    return begin(problem, text)


def is_async(score: Scorer | Task) -> bool:
    """Whether a scorer or a task may have many responses under way at the same time."""
    return bool(getattr(score, "is_async", False))


@dataclass(frozen=True)
class UserReward:
    """A user's function. `verl` says whose signature it has; `folder` holds its file."""

    function: Callable[..., Any]
    spec: str
    verl: bool = False
    folder: str | None = None

    @property
    def is_async(self) -> bool:
        call = getattr(self.function, "__call__", None)  # noqa: B004 (an object's async __call__)
        return any(map(inspect.iscoroutinefunction, (self.function, call)))

    def __call__(self, problem: Problem, text: str) -> Any:
        with on_path(self.folder):
            return settled(self.start(problem, text))

    def start(self, problem: Problem, text: str) -> Any:
        """The value of one response, or an awaitable of it. RewardError as `call_reward`."""
        call, read = (call_verl, read_verl) if self.verl else (call_reward, read_one)
        result = call(self.function, self.spec, problem, text)
        return self._later(result, read) if inspect.isawaitable(result) else read(result, self.spec)

    async def _later(self, result: Awaitable[Any], read: Callable[[Any, str], Any]) -> Any:
        return read(await result, self.spec)


@dataclass(frozen=True)
class WeightedReward:
    """A weighted mean of rewards; None where any part cannot judge the response, because half a
    reward would look like a bad one.
    """

    spec: str
    weights: tuple[float, ...]
    parts: tuple[Scorer, ...]

    @property
    def is_async(self) -> bool:
        return any(map(is_async, self.parts))

    def __call__(self, problem: Problem, text: str) -> float | None:
        return self._mean([part(problem, text) for part in self.parts])

    def start(self, problem: Problem, text: str) -> Any:
        return self._later(problem, text) if self.is_async else self(problem, text)

    async def _later(self, problem: Problem, text: str) -> float | None:
        values = []
        for part in self.parts:
            value = start(part, problem, text)
            values.append(await value if inspect.isawaitable(value) else value)
        return self._mean(values)

    def _mean(self, values: Sequence[Any]) -> float | None:
        checked = [check_outcome(value, self.spec) for value in values]
        known = [value for value in checked if value is not None]
        if len(known) < len(checked):
            return None
        products = (w * v for w, v in zip(self.weights, known, strict=True))
        mean = math.fsum(products) / math.fsum(self.weights)
        return min(1.0, round(mean, 12))  # all parts full is 1, whatever the weights' rounding


def call_reward(function: Callable[..., Any], spec: str, problem: Problem, text: str) -> Any:
    """Call a function of TRL's signature for one response, with the keywords it accepts.

    The columns are `answer` and the problem's extras, each a list of one. A chat prompt's
    completion is a list of one assistant message. Raises RewardError where a column lacks.
    """
    chat = not isinstance(problem.prompt, str)
    completion = [{"role": "assistant", "content": text}] if chat else text
    columns = {"answer": problem.answer} if problem.answer else {}  # data may have none
    columns |= problem.extras
    columns |= {"prompts": problem.prompt, "completions": completion}
    columns = accepted(function, spec, columns, problem)
    return function(**{name: [value] for name, value in columns.items()})


def read_one(result: Any, spec: str) -> Any:
    """The only value of the list that a function of TRL's signature returns."""
    if not hasattr(result, "__len__") or isinstance(result, str | bytes | dict) or len(result) != 1:
        raise RewardError(
            f"reward {spec!r} returned {shown(result)} for one completion; return a list with one "
            "number in [0, 1] (or None) for each completion"
        )
    return next(iter(result))


def call_verl(function: Callable[..., Any], spec: str, problem: Problem, text: str) -> Any:
    """The same for verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`."""
    columns = {
        "data_source": problem.extras.get("data_source", problem.task),
        "solution_str": text,
        "ground_truth": problem.extras.get("ground_truth", problem.answer),
        "extra_info": problem.extras.get("extra_info", {}),
    }
    return function(**accepted(function, spec, columns, problem))


def read_verl(result: Any, spec: str) -> Any:
    """The number that a function of verl's signature returns, or the `score` of its dict."""
    if not isinstance(result, dict):
        return result
    if "score" not in result:
        raise RewardError(f"reward {spec!r} returned {shown(result)}; a dict needs 'score'")
    return result["score"]


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
    """The result of an async function, once it is there, on the thread's one event loop: what a
    function keeps (a client, a lock) belongs to the loop it was made on.
    """
    if not inspect.isawaitable(result):
        return result
    if not hasattr(KEPT, "loop"):
        KEPT.loop = asyncio.new_event_loop()
    return KEPT.loop.run_until_complete(_await(result))


async def _await(result: Any) -> Any:
    return await result


VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
KEPT = threading.local()


def check_outcome(value: Any, name: str) -> float | None:
    """`value` as a float in [0, 1]; None passes. What rounding puts outside by ROUNDING or less
    is 0 or 1. Raises RewardError naming reward and value.
    """
    if value is None:
        return None
    number = as_number(value)
    if not -ROUNDING <= number <= 1 + ROUNDING:  # NaN compares false
        raise RewardError(
            f"reward {name!r} is {shown(value)}, not a number in [0, 1]; rescale it, or "
            "return None where a response cannot be scored"
        )
    return min(1.0, max(0.0, number))


def as_number(value: Any) -> float:
    """A number of Python, numpy or torch as a float; NaN for anything else and for what a float
    cannot hold. Text is no number, whatever it spells.
    """
    try:
        if not isinstance(value, Real | Decimal) and hasattr(value, "item"):
            value = value.item()
        return float(value) if isinstance(value, Real | Decimal) else math.nan
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises RuntimeError
        return math.nan


def shown(value: Any) -> str:
    """The beginning of a value's repr, also where that raises."""
    try:
        return f"{value!r:.100}"
    except Exception as error:  # a user's class, or an integer of more digits than Python prints
        return f"a {type(value).__name__} (its repr raises {type(error).__name__})"
