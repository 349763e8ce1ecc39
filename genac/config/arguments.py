"""--dotted.key value pairs of the command line, as a recipe would hold them.

--rollout.num_prompts 4   --rollout.num-prompts=4      either spelling
--critic.share_base   --critic.no_share_base           true and false
--report_to wandb mlflow   --report_to [wandb]         lists; None = no value
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Union, get_args, get_origin

import yaml

from genac.config.algorithms import merge
from genac.config.base import Section

NOTHING = ("None", "null")  # of a key that may have no value
LISTED = "; 'genac train --help-all' lists the known ones"
FLAGS = {"true": True, "false": False}


def typed_values(arguments: Sequence[str], schema: type[Section]) -> dict[str, Any]:
    """The values by section, as texts where the config turns them into numbers. ValueError for what
    is no key, and for a key without a value.
    """
    known, result = dict(keys(schema)), dict[str, Any]()
    rest = list(arguments)
    while rest:
        item = rest.pop(0)
        if not item.startswith("--"):
            raise ValueError(
                f"{item!r} belongs to no key: write --dotted.key value; a recipe comes first"
            )
        name, equals, inline = item.removeprefix("--").partition("=")
        key, switch = switched(name.replace("-", "_"), known)
        if key not in known:
            raise ValueError(unknown(item.partition("=")[0], key, known, "--"))
        raw = [inline] if equals else taken(rest, known[key], item)
        value: Any = switch if switch is not None else parsed(raw, known[key], item)
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def keys(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its annotation."""
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def switched(key: str, known: dict[str, Any]) -> tuple[str, bool | None]:
    """section.no_name is the key section.name, switched off."""
    section, dot, name = key.rpartition(".")
    plain = section + dot + name.removeprefix("no_")
    off = key not in known and name.startswith("no_") and known.get(plain) is bool
    return (plain, False) if off else (key, None)


def taken(rest: list[str], kind: Any, item: str) -> list[str]:
    """Takes what belongs to a key out of `rest`: one text, or of a list all up to the next key."""
    if get_origin(kind) is list:
        count = next((i for i, text in enumerate(rest) if text.startswith("--")), len(rest))
    elif kind is bool:
        count = int(bool(rest) and rest[0].lower() in FLAGS)
    elif not rest or rest[0].startswith("--"):
        raise ValueError(f"{item} needs a value")
    else:
        count = 1
    result, rest[:] = rest[:count], rest[count:]
    return result


def parsed(raw: list[str], kind: Any, item: str) -> Any:
    """The value of a key; numbers and choices stay texts, which the config checks."""
    if kind is bool:
        return FLAGS.get(raw[0].lower(), raw[0]) if raw else True
    listed, whole = get_origin(kind) is list, " ".join(raw)
    if get_origin(kind) is dict or (listed and whole.startswith("[")):
        value = from_yaml(whole, item)
        return [str(part) for part in value] if listed else value
    if listed:
        return raw
    optional = get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)
    return None if optional and raw[0] in NOTHING else raw[0]


def from_yaml(text: str, item: str) -> Any:
    """What a text of the command line means as YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{item}: {text!r} is no valid YAML: {error}") from error


def unknown(item: str, key: str, known: Collection[str], mark: str = "") -> str:
    """Why `item` is refused; `mark` stands before the keys that it names."""
    return f"{item}: unknown key{near(key, known, mark)}{LISTED}"


def sections_of(key: str) -> list[str]:
    """a and a.b of a.b.c"""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def near(key: str, known: Collection[str], mark: str = "") -> str:
    """'; did you mean a or b' for a key or section that is none, or ''. Keys of the same last name
    count, then those of a last name that is nearly the same.
    """
    last = key.rpartition(".")[2]
    if not mark:  # sections are no options of the command line
        known = dict.fromkeys((*known, *(part for name in known for part in sections_of(name))))
    results = difflib.get_close_matches(key, known, 2, cutoff=0.8)
    results += [name for name in known if name.rpartition(".")[2] == last]
    if not results:
        ends = {name.rpartition(".")[2] for name in known}
        meant = difflib.get_close_matches(last, ends, 1, cutoff=0.85)
        results = [name for name in known if name.rpartition(".")[2] in meant]
    chosen = sorted(dict.fromkeys(results), key=lambda name: name.count("."))[:3]
    return f"; did you mean {' or '.join(mark + name for name in chosen)}" if chosen else ""
