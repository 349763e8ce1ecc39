"""Python functions as rewards: each gets a name that a config and its hash can hold.

    reward_name(rewards.score)       ->  "rewards:score"             any process can import it
    reward_name(lambda completions: ...)  ->  "in-process:lambda#3f2a9c1b"

A function of a script, of a notebook, or made by another function exists in this process alone. Its
name holds a hash of its source and of the plain values that it closes over. It is called here, one
response after another and without a time limit.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

IN_PROCESS = "in-process:"
PLAIN = (type(None), bool, int, float, complex, str, bytes)
REGISTERED: dict[str, Callable[..., Any]] = {}  # spec -> function


def reward_spec(functions: Any, weights: Sequence[float] | None = None) -> str:
    """The spec of `load_reward` for a function, a spec, or several under weights (None = equal
    ones), which are scaled to sum 1. ValueError for what is neither, and for wrong weights.
    """
    several = list(functions) if isinstance(functions, list | tuple) else [functions]
    names = [name if isinstance(name, str) else reward_name(name) for name in several]
    if weights is not None and len(weights) != len(names):
        raise ValueError(f"{len(weights)} reward_weights for {len(names)} reward_funcs")
    if not names:
        raise ValueError("reward_funcs is empty; give at least one function")
    if len(names) == 1:
        return names[0]
    shares = [1.0] * len(names) if weights is None else [float(w) for w in weights]
    if min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"reward_weights {shares} must not be negative, nor all 0")
    if nested := [name for name in names if " + " in name or " * " in name]:
        raise ValueError(f"reward {nested[0]!r} is a sum itself; give its parts and their weights")
    return " + ".join(f"{w / sum(shares):.12f} * {n}" for w, n in zip(shares, names, strict=True))


def reward_name(function: Any) -> str:
    """The spec of one function, which is registered where no other process could import it."""
    if not callable(function) or isinstance(function, type):
        raise ValueError(
            f"reward {function!r:.100} is no function; give f(prompts, completions, **columns) -> "
            "list, or a name such as 'match', 'math' or 'rewards.py:score'"
        )
    if is_importable(function):
        return f"{function.__module__}:{function.__name__}"
    plain = re.sub(r"\W", "", getattr(function, "__name__", type(function).__name__))
    digest = hashlib.sha256(repr(identity(function, set())).encode()).hexdigest()[:12]
    spec = f"{IN_PROCESS}{plain}#{digest}"
    REGISTERED[spec] = function
    return spec


def is_importable(function: Any) -> bool:
    """Whether another process gets this very function by module and name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", "")
    if module in (None, "__main__") or getattr(function, "__qualname__", None) != name:
        return False
    if getattr(sys.modules.get(module), name, None) is not function:
        return False
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def is_in_process(spec: str | None) -> bool:
    """Whether a reward, or a part of it, can be called in the process alone that made it."""
    return IN_PROCESS in (spec or "")


def registered(spec: str) -> Callable[..., Any]:
    """The function of an in-process spec. ValueError in any other process."""
    if spec not in REGISTERED:
        raise ValueError(
            f"reward {spec!r} was a function of another Python process (of a script or notebook, a "
            "lambda or a closure), which no other can import; put it into a file of its own and "
            "give 'file.py:function', or the function imported from there"
        )
    return REGISTERED[spec]


def identity(value: Any, seen: set[int]) -> Any:
    """What identifies a function: its source, and the values that it was made with.

    Of an object that is not plain the type counts alone, as do the globals that a function reads.
    """
    if isinstance(value, PLAIN):
        return value
    if id(value) in seen:
        return "again"
    seen.add(id(value))
    if isinstance(value, list | tuple):
        return [identity(item, seen) for item in value]
    if isinstance(value, dict):
        return [(str(key), identity(item, seen)) for key, item in value.items()]
    if isinstance(value, functools.partial):
        return [identity(part, seen) for part in (value.func, value.args, value.keywords)]
    if inspect.ismethod(value):
        return [identity(value.__func__, seen), identity(value.__self__, seen)]
    if inspect.isfunction(value):
        made_with = [value.__defaults__, value.__kwdefaults__, closed_over(value)]
        return [source_of(value), *(identity(part, seen) for part in made_with)]
    kind = type(value)
    own = vars(value) if callable(value) and hasattr(value, "__dict__") else {}
    return [f"{kind.__module__}.{kind.__qualname__}", source_of(kind), identity(own, seen)]


def source_of(code: Any) -> str:
    """The text of a function or class. A lambda's is its code: a line may hold several."""
    if getattr(code, "__name__", "") != "<lambda>":
        try:
            return textwrap.dedent(inspect.getsource(code))
        except (OSError, TypeError):  # typed at a prompt, or built in
            pass
    return code_text(getattr(code, "__code__", None))


def code_text(part: Any) -> str:
    """Compiled code and its constants as a text that is the same in every process."""
    if isinstance(part, frozenset):
        return str(sorted(map(repr, part)))
    if not inspect.iscode(part):
        return repr(part)
    return " ".join([part.co_code.hex(), repr(part.co_names), *map(code_text, part.co_consts)])


def closed_over(function: Any) -> list[Any]:
    """What its closure holds; a cell that is not filled yet holds nothing."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            values.append(None)
    return values
