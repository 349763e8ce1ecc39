"""What a task's generator can be set to, checked by name and type before the task is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from genac.config.arguments import near

# Fields of a task that are no settings of its problems, or keys of their own in `task`.
NO_OPTIONS = ("name", "trusted", "path", "reward", "seed")


def checked(
    name: str, build: Callable[..., Any], options: Mapping[str, Any], section: str
) -> dict[str, Any]:
    """The options with the values that their types make of them. ValueError for an option that
    the task has not got, with those that it has, and for a value of another type.

    `section`: the key that holds the options, such as task.options.
    """
    if not is_dataclass(build):  # its types are not read, only the names
        return named(name, build, options, section)
    hints = get_type_hints(build)
    known = [field.name for field in fields(build)]
    for key in options:
        if key not in known:
            shown = ", ".join(sorted(set(known) - {*NO_OPTIONS}))
            raise ValueError(
                f"{section}.{key} is no option of task {name!r}{near(key, known)}; it has {shown}. "
                "A recipe's options are those of its own task: for another one leave them out"
            )
    return {key: typed(f"{section}.{key}", hints[key], value) for key, value in options.items()}


def named(
    name: str, build: Callable[..., Any], options: Mapping[str, Any], section: str
) -> dict[str, Any]:
    """The options as they are; ValueError for one that the task's constructor does not take."""
    known = signature(build).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())
    for key in options:
        if key not in known and not takes_any:
            raise ValueError(
                f"{section}.{key} is no option of task {name!r}{near(key, known)}; remove it"
            )
    return dict(options)


def typed(key: str, kind: Any, value: Any) -> Any:
    """The value as its type has it; ValueError where it is of another."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = "".join(f".{part}" for part in problem["loc"])
        message = "give a list" if problem["type"] == "sequence_str" else problem["msg"]
        raise ValueError(f"{key}{place}: {message} (given: {value!r:.80})") from error
