"""metrics.jsonl and events.jsonl as another program may have written them: what a field holds is
checked on reading, and what does not fit is left out and named with its file, field and line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genac.runs.files import NONFINITE, parsed
from genac.runs.guard import refuse_special, short_name
from genac.runs.numbers import is_number

LAST_STEP = 2**53  # beyond it a browser's numbers are no longer whole
SHOWN = 20  # problems of one file; a foreign one can hold any number of keys


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_step(value: Any) -> bool:
    return is_number(value) and abs(value) <= LAST_STEP and value == int(value)


def is_metric(value: Any) -> bool:
    """A number, true or false; null (not known), and "nan" and "inf" as the store writes them."""
    if isinstance(value, str):
        return value in NONFINITE
    return value is None or isinstance(value, bool) or is_number(value)


def is_any(value: Any) -> bool:
    return True


@dataclass(frozen=True)
class Fields:
    """What the lines of a log hold. A line is left out where one of `required` is not as it should
    be; elsewhere only the value is.
    """

    required: Mapping[str, tuple[Callable[[Any], bool], str]]
    optional: Mapping[str, tuple[Callable[[Any], bool], str]]
    others: tuple[Callable[[Any], bool], str]


TEXT, STEP = (is_text, "text"), (is_step, "a whole number")
METRICS = Fields(
    required={"stage": TEXT, "step": STEP},
    optional={"time": (is_number, "a number")},
    others=(is_metric, "a number"),
)
EVENTS = Fields(
    required={"kind": TEXT},
    optional={
        "time": (is_number, "a number"),
        "stage": (lambda value: value is None or is_text(value), "text"),
        "step": (lambda value: value is None or is_step(value), "a whole number"),
    },
    others=(is_any, ""),
)
LOGS = {"metrics.jsonl": METRICS, "events.jsonl": EVENTS}


@dataclass
class Log:
    """The lines of one log that were read so far. `add` takes the bytes that follow."""

    name: str
    keep: bool = True  # the lines themselves, not only what is wrong with them
    lines: list[dict[str, Any]] = field(default_factory=list)
    _seen: int = 0  # lines so far
    _broken: list[int] = field(default_factory=list)
    _wrong: dict[tuple[str, str], list[tuple[int, Any]]] = field(default_factory=dict)

    def add(self, data: bytes, ended: bool = True) -> int:
        """Takes in whole lines, and returns how many bytes they have. A last line without its end
        is one that is being written: it waits, but for the end of the file (`ended`), where it is
        taken if it is whole.
        """
        whole, newline, tail = data.rpartition(b"\n")
        for line in whole.split(b"\n") if newline else []:
            self._take(line)
        if ended and tail.strip() and parsed(tail) is not None:
            self._take(tail)
        return len(whole) + len(newline)

    def problems(self) -> list[str]:
        """What was left out, in words."""
        out = []
        if self._broken:
            many = len(self._broken) > 1
            numbers = ", ".join(map(str, self._broken[:5])) + (", ..." if self._broken[5:] else "")
            out.append(
                f"{self.name} line{'s' * many} {numbers} {'are' if many else 'is'} not "
                f"{'JSON objects' if many else 'a JSON object'}: delete "
                f"{'those lines' if many else 'that line'}; the other lines are shown"
            )
        for (key, words), places in list(self._wrong.items())[:SHOWN]:
            number, value = places[0]
            lines = f"line {number}" if len(places) == 1 else f"{len(places)} lines, first {number}"
            left = "the line is" if key in LOGS[self.name].required else "it is"
            out.append(
                f"{self.name}: {short_name(key)} is {_described(value)} and not {words} ({lines}): "
                f"{left} left out"
            )
        if more := len(self._wrong) - SHOWN:
            out += [f"{self.name}: {more} more fields are wrong"] if more > 0 else []
        return out

    def _take(self, line: bytes) -> None:
        self._seen += 1
        obj = parsed(line)
        if obj is None:
            self._broken += [self._seen] if line.strip() else []
            return
        fields = LOGS[self.name]
        for key, (is_right, words) in fields.required.items():
            if not is_right(obj.get(key)):
                self._note(key, words, obj.get(key))
                return
        kept = {}
        for key, value in obj.items():
            is_right, words = fields.required.get(key) or fields.optional.get(key) or fields.others
            if is_right(value):
                kept[key] = value
            else:
                self._note(key, words, value)
        if self.keep:
            self.lines.append(kept)

    def _note(self, key: str, words: str, value: Any) -> None:
        self._wrong.setdefault((key, words), []).append((self._seen, value))


def read_log(root: Path, name: str) -> Log:
    """The log `name` (a key of LOGS) of a run folder; FileNotFoundError, OSError or ValueError
    where it cannot be read at all.
    """
    refuse_special(root / name, root)
    log = Log(name)
    log.add((root / name).read_bytes())
    return log


class LogWatch:
    """What is wrong with a log that grows, read piece by piece."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._log, self._offset, self._inode, self._failed = Log(name, keep=False), 0, 0, ""

    def look(self, limit: int = 1 << 20) -> None:
        """Reads at most `limit` bytes that are new."""
        path = self._root / self._name
        try:
            refuse_special(path, self._root)
            state = path.stat()
            if state.st_ino != self._inode or state.st_size < self._offset:
                self._log, self._offset, self._inode = Log(self._name, keep=False), 0, state.st_ino
            self._failed = ""
            if state.st_size > self._offset:
                with open(path, "rb") as file:
                    file.seek(self._offset)
                    self._offset += self._log.add(file.read(limit), ended=False)
        except FileNotFoundError:
            self._failed = ""
        except (ValueError, OSError) as error:
            self._failed = f"{self._name} could not be read: {error}".replace(f"{path}", "it")

    def problems(self) -> list[str]:
        return [self._failed] if self._failed else self._log.problems()


def _described(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value)
    return short_name(text if len(text) < 40 else f"{text[:40]}...")
