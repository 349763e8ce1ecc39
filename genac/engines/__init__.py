"""Engines: tokens in, tokens and log-probabilities out. To add one: one class over `base.py` and
one line in `ENGINES`. Those of SERVED get their weights as folders; a runtime makes them.

Nothing here trains, and nothing knows problems, rewards or critics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genac.engines.base import Engine, Rereading


def own_engine(*args: Any, **options: Any) -> Engine:
    """The local engine. Servers are checked before torch, which it needs, is imported."""
    from genac.engines.local import LocalEngine

    return LocalEngine(*args, **options)


# (model, context length, rows at a time, dtype, tokenizer=...) -> Engine
ENGINES: dict[str, Callable[..., Engine]] = {"local": own_engine}
SERVED = ("vllm",)


def require_engine(name: str, key: str = "hardware.engine") -> None:
    """Raises ValueError for a name that is no engine's."""
    names = ["auto", *sorted(ENGINES), *SERVED]
    if name not in names:
        raise ValueError(f"{key} is {name!r}; use one of {names}")


def make_engine(
    name: str, model: Any, tokenizer: Any, max_length: int, max_rows: int, dtype: Any
) -> Engine:
    """The engine of that name over a model. One that does not probe counterfactual tokens itself
    is wrapped, so that critics can ask any engine for them.
    """
    engine = ENGINES[name](model, max_length, max_rows, dtype, tokenizer=tokenizer)
    return engine if getattr(engine, "answers_probes", False) else Rereading(engine)
