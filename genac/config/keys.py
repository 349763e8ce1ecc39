"""The keys of a configuration as a person meets them: help, near matches, and what was changed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from genac.config.algorithms import merge
from genac.config.arguments import keys, switched
from genac.config.base import Section
from genac.config.packaged import is_file
from genac.config.run import RunConfig

OFTEN = (
    "algorithm",
    "preset",
    "output_dir",
    "seed",
    "task.path",
    "task.reward",
    "actor.model_name_or_path",
    "critic.model_name_or_path",
    "actor.optimizer.learning_rate",
    "rollout.num_prompts",
    "rollout.num_generations",
    "rollout.max_completion_length",
    "critic.generative.max_new_tokens",
    "stages.joint.steps",
    "report_to",
)
SHOWN = ("-h", "--help", "--help-all", "--print-config")
PAIR = re.compile(r"[A-Za-z_][\w.-]*=")
WIDTH = 79


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1, "c": 2} -> {"a": {"b": 1}, "c": 2}."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        for part in reversed(str(key).split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def as_options(arguments: Sequence[str]) -> list[str]:
    """Arguments with a.b=c, as Hydra has it, in the place where an option may stand as --a.b=c."""
    known = dict(keys(RunConfig))
    result: list[str] = []
    for item in arguments:
        before = result[-1] if result else ""
        open_option = before.startswith("--") and "=" not in before and before not in SHOWN
        key = switched(before[2:].replace("-", "_"), known)[0]
        takes_value = open_option and known.get(key) is not bool
        plain = PAIR.match(item) and not takes_value and not is_file(item)
        result.append(f"--{item}" if plain else item)
    return result


def changed(cfg: Section, plain: Section, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, value in `plain`, value in `cfg`) of every key in which they differ."""
    result = []
    for name in type(cfg).model_fields:
        new, old = getattr(cfg, name), getattr(plain, name)
        if isinstance(new, Section):
            result += changed(new, old, f"{prefix}{name}.")
        elif new != old:
            result.append((prefix + name, old, new))
    return result


def described(section: Section, only: Sequence[str] = (), prefix: str = "") -> list[str]:
    """A paragraph per key: its name, what it takes, its value now, and what it means."""
    lines = []
    for name, field in type(section).model_fields.items():
        key, value = prefix + name, getattr(section, name)
        if isinstance(value, Section):
            lines += described(value, only, f"{key}.")
        elif not only or key in only:
            shown = str(value).split("\n")[0][:60]
            lines.append(f"  --{key} {takes(field.annotation)}  (default: {shown})")
            lines += textwrap.wrap(
                field.description or "", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    return lines


def takes(kind: Any) -> str:
    """What may follow a key."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        return f"{takes(get_args(kind)[0])} ..."
    if get_origin(kind) is dict or kind is dict:
        return "YAML"
    if kind is bool:
        return "[true|false]"
    parts = [takes(part) for part in get_args(kind) if part is not type(None)]
    plain = parts[0] if parts else getattr(kind, "__name__", "value")
    return {"str": "TEXT", "int": "N", "float": "X"}.get(plain, plain)
