"""Writes the parts of docs/ that follow from the code: every key, the command line, the alarms.

python tools/reference.py           # writes them
python tools/reference.py --check   # exit code 1 where a page is behind the code
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from genac.config.keys import OFTEN
from genac.config.run import RunConfig

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- written by tools/reference.py -->\n", "<!-- end -->"


# --- the keys of a run ---------------------------------------------------------------------------


@dataclass
class Part:
    """A section class: its own keys, and the places where it stands with their other defaults."""

    kind: type[BaseModel]
    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: dict[str, FieldInfo] = field(default_factory=dict)


def keys_page() -> str:
    parts: dict[type[BaseModel], Part] = {}
    collect(parts, RunConfig, "", RunConfig())
    sections = [section_text(part) for part in parts.values()]
    index = {key: row for part in parts.values() for key, row in rows(part)}
    common = "".join(common_row(key, index) for key in OFTEN)
    head = (
        "# All keys\n\nWritten from the code by `python tools/reference.py`. `-` means none. The "
        "defaults are those of a\nlarge run; recipes for tiny models set their own. Precedence and "
        "overrides:\n[configuration](configuration.md).\n\n## The keys that people change\n\n"
        f"{HEAD}{common}\n"
    )
    return head + "\n".join(sections)


HEAD = "| key | type | default | |\n|---|---|---|---|\n"


def collect(parts: dict[type[BaseModel], Part], kind: type[BaseModel], at: str, value: Any) -> None:
    """Walks the sections depth first, in the order of the file."""
    part = parts.setdefault(kind, Part(kind))
    part.places[at] = {name: getattr(value, name) for name in kind.model_fields}
    for name, info in kind.model_fields.items():
        inner = section_of(info)
        if inner:
            collect(parts, inner, f"{at}{name}.", getattr(value, name))
        else:
            part.inner[name] = info


def section_of(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def section_text(part: Part) -> str:
    lines = [f"## {heading(part)}\n\n"]
    if part.kind.__doc__ and part.kind is not RunConfig:
        lines.append(part.kind.__doc__.strip().split("\n\n")[0].replace("\n    ", " ") + "\n")
    if len(part.places) > 1:
        places = ", ".join(f"`{place.rstrip('.')}`" for place in part.places)
        lines.append(f"\n{textwrap.fill(f'`*` is {places}.', 100)}\n")
        lines += [f"{text}\n" for text in other_defaults(part)]
    table = "".join(row for _, row in rows(part))
    return "".join(lines) + (f"\n{HEAD}{table}" if table else "")


def heading(part: Part) -> str:
    names = [place.rstrip(".") for place in part.places]
    return names[0] or "run" if len(names) == 1 else f"*.{names[0].split('.')[-1]}"


def other_defaults(part: Part) -> Iterator[str]:
    """Where a place has other defaults than the class."""
    own = {name: info.get_default(call_default_factory=True) for name, info in part.inner.items()}
    for place, values in part.places.items():
        other = {name: values[name] for name in own if values[name] != own[name]}
        if other:
            listed = ", ".join(f"`{key}` {shown(value)}" for key, value in other.items())
            yield f"`{place.rstrip('.')}` has {listed}."


def rows(part: Part) -> Iterator[tuple[str, str]]:
    """(key, table row) of a section; `*` for its place where it has several."""
    many = len(part.places) > 1
    place, values = next(iter(part.places.items()))
    for name, info in part.inner.items():
        default = info.get_default(call_default_factory=True) if many else values[name]
        last = heading(part) + "." if many else place
        text = escaped(info.description or "")
        cells = f"{kind_text(info.annotation, info.metadata)} | {shown(default)} | {text} |\n"
        for key in part.places if many else [place]:
            yield f"{key}{name}", f"| `{last}{name}` | {cells}"
            if many:
                break


def common_row(key: str, index: Mapping[str, str]) -> str:
    """A row under its full key, also where the section's table has a star for the place."""
    _, rest = index[key].split(" | ", 1)
    return f"| `{key}` | {rest}"


def kind_text(kind: Any, limits: list[Any]) -> str:
    """int >= 1, `a` \\| `b`, text, names, mapping, flag."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        own = [a for a in args if a is not type(None)]
        return kind_text(own[0], limits)
    if hasattr(kind, "__metadata__"):
        return kind_text(kind.__origin__, [*kind.__metadata__, *limits])
    if origin is Literal:
        return " \\| ".join(f"`{a}`" for a in args)
    if origin in (list, tuple):
        return "names"
    if origin is dict or kind is dict:
        return "mapping"
    words = {bool: "flag", str: "text", int: "int", float: "float"}
    return (words[kind] + limits_text(limits)) if kind in words else kind.__name__


def limits_text(limits: list[Any]) -> str:
    low = high = ""
    for limit in flat(limits):
        if isinstance(limit, Ge):
            low = f" >= {limit.ge:g}"
        if isinstance(limit, Gt):
            low = f" > {limit.gt:g}"
        if isinstance(limit, Le):
            high = f" <= {limit.le:g}"
        if isinstance(limit, Lt):
            high = f" < {limit.lt:g}"
    return f"{low},{high}" if low and high else low + high


def flat(limits: list[Any]) -> Iterator[Any]:
    for limit in limits:
        if isinstance(limit, FieldInfo):
            yield from flat(limit.metadata)
        elif isinstance(limit, Interval):
            yield from limit
        else:
            yield limit


def shown(value: Any) -> str:
    if value is None or value in ((), []):
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"`{value}`" if isinstance(value, str) else str(value)


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# --- the command line and the alarms -------------------------------------------------------------


# Their help is the list of all keys, which has a page of its own.
KEYED = ("train", "synthesize", "sft", "pretrain-critic", "doctor")


def cli_page() -> str:
    from genac.cli import EVALUATIONS, VERBS

    verbs = [[verb] for verb in VERBS if verb not in KEYED]
    verbs += [["eval", kind] for kind in EVALUATIONS]
    helps = ((" ".join(verb), help_text([*verb, "--help"])) for verb in verbs)
    sections = [
        f"## genac {name}\n\n```text\n{text}\n```\n"
        for name, text in helps
        if "usage:" in text[:99]
    ]
    return "\n".join(
        [
            "# Command line\n\nWritten from the code by `python tools/reference.py`.\n\n```text\n"
            f"{help_text(['--help'])}\n```\n",
            "- Exit codes: 0 done; 2 bad input or a full disk, reported in one message; 130 "
            "interrupted.\n- Keys and how they override each other: "
            "[configuration](configuration.md),\n  [all keys](keys.md).\n- The experiments of a "
            "checkout are `python -m paper PLAN`\n  ([evaluation](evaluation.md)).\n",
            *sections,
        ]
    )


def help_text(arguments: list[str]) -> str:
    """What the command line prints, 100 columns wide; "" where it does not answer with help."""
    from genac.cli import main

    out, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            code: object = main(arguments)
    except SystemExit as end:
        code = end.code
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return "" if code else out.getvalue().strip()


def alarms_list() -> str:
    from genac.runs.alarms import RULES

    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "eq": "="}
    lines: list[str] = []
    for rule in RULES:
        when = f"`{rule.key}` {signs[rule.compare.__name__]} {rule.limit:g}"
        when += f", in bf16 {rule.bf16_limit:g}" if rule.bf16_limit is not None else ""
        when += f", {rule.steps} steps in a row" if rule.steps > 1 else ""
        text = f"**`{rule.kind}`** ({when}): {rule.says}. Remedy: {rule.remedy}."
        options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
        lines += textwrap.wrap(f"- {text}", 100, subsequent_indent="  ", **options)
    return "\n".join(lines) + "\n"


# --- writing -------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """What each page should hold."""
    trouble = DOCS / "troubleshooting.md"
    before, _, rest = trouble.read_text().partition(BEGIN)
    return {
        DOCS / "keys.md": keys_page(),
        DOCS / "cli.md": cli_page(),
        trouble: f"{before}{BEGIN}\n{alarms_list()}\n{END}{rest.partition(END)[2]}",
    }


def main(arguments: list[str]) -> int:
    behind = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    if arguments == ["--check"]:
        print("\n".join(f"{p.name} is behind the code: python tools/reference.py" for p in behind))
        return int(bool(behind))
    for path, text in pages().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
