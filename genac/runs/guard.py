"""Reading a folder that anyone may have written: only regular files, and JSON that is not too deep.

Opening a pipe waits for ever, and a link can lead to any file of the reader's; both are refused.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

DEPTH = 100  # brackets within each other; far more end Python's own recursion
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)  # strings of JSON, in which brackets are text
# Control characters as their pictures, but for tabs and line ends: printed, they would drive the
# terminal.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
LONGEST_NAME = 120


def refuse_special(path: Path, root: Path | None = None) -> None:
    """Raises OSError where `path` cannot be reached, and ValueError where it is no regular file or,
    with `root`, lies outside that folder.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise ValueError(f"{path} is a link that leads nowhere: delete it") from None
        raise
    for is_kind, name in KINDS:
        if is_kind(mode):
            raise ValueError(f"{path} is {name}, not a file: delete or move it")
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{path} is a link out of the folder and is not read: copy the file to its place"
        )


def parse_json(data: str | bytes) -> Any:
    """The value of a JSON text (bytes are UTF-8).

    Raises ValueError where it is no JSON, or nested deeper than DEPTH.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    if text.count("[") + text.count("{") > DEPTH and _depth(text) > DEPTH:
        raise ValueError(f"it is nested deeper than {DEPTH} levels")
    return json.loads(text)


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r"[][{}]", TEXTS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def printable(text: str) -> str:
    """Text of unknown origin for a terminal: no control characters, no lone surrogates."""
    return text.translate(CONTROLS).encode("utf-8", "replace").decode("utf-8")


def short_name(name: str) -> str:
    """A file's name for a message in one line."""
    text = printable(name).replace("\n", "\u240a").replace("\t", "\u2409")
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}\u2026"
