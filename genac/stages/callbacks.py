"""What a user's code hears of joint training, and how it ends a run.

    class Watch:
        def on_step(self, step, metrics): ...      # after every step; metrics as metrics.jsonl has
        def on_evaluate(self, step, metrics): ...  # held-out success: before, during and after
        def on_save(self, step, folder): ...       # a checkpoint is whole
        def on_end(self, run): ...                 # the run is finished

An object may have any of these; a plain function stands for `on_step`. `step` counts the steps that
are done, as transformers' `global_step`. A callback that raises StopTraining ends training as if
that step were the last one. Whatever else it raises comes out of `train`, behind a checkpoint.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

HOOKS = {"on_step": 2, "on_evaluate": 2, "on_save": 2, "on_end": 1}  # name -> arguments


class StopTraining(Exception):
    """Raised by a callback to end joint training: evaluation and saving follow as at its end."""


class Callbacks:
    """The hooks of several callbacks, called in order. ValueError for what is no callback."""

    def __init__(self, callbacks: Sequence[Any] = ()) -> None:
        self.ended: str | None = None  # why training is to end before its first step
        self._hooks: dict[str, list[Callable[..., Any]]] = {name: [] for name in HOOKS}
        for callback in callbacks:
            for name, hook in hooks_of(callback).items():
                require_callable(hook, callback, name)
                self._hooks[name].append(hook)

    def call(self, hook: str, *args: Any) -> Exception | None:
        """Calls all of them. Returns what the first one raised, so that a checkpoint can precede
        it."""
        for each in self._hooks[hook]:
            try:
                each(*args)
            except Exception as error:  # a user's code; the caller raises it
                return error
        return None


def hooks_of(callback: Any) -> dict[str, Callable[..., Any]]:
    """Those that it has, by name."""
    if hasattr(callback, "on_step_end"):
        raise ValueError(
            f"callback {callback!r} is one of transformers: its methods get other arguments; give "
            "an object with on_step(step, metrics), on_evaluate, on_save or on_end, or a function"
        )
    if isinstance(callback, type):
        raise ValueError(f"callback {callback!r} is a class: give an object, {callback.__name__}()")
    result = {name: getattr(callback, name) for name in HOOKS if hasattr(callback, name)}
    if not result and callable(callback):
        result = {"on_step": callback}
    if not result:
        raise ValueError(
            f"callback {callback!r} is no function and has none of the methods {list(HOOKS)}"
        )
    return result


def require_callable(hook: Callable[..., Any], callback: Any, name: str) -> None:
    """ValueError where it cannot take the arguments of that hook."""
    try:
        inspect.signature(hook).bind(*range(HOOKS[name]))
    except TypeError as error:
        arguments = {"on_end": "run", "on_save": "step, folder"}.get(name, "step, metrics")
        raise ValueError(
            f"callback {callback!r} cannot be called as {name}({arguments}): {error}"
        ) from error
    except ValueError:  # a builtin without a signature
        return
