"""Solutions that others wrote, with their labels, from a data file or a data set of the hub.

    read_solutions("solutions.jsonl")            columns problem, solution, correct
    read_solutions("Qwen/ProcessBench@gsm8k")    problem, steps, label (first error, -1 = none)
    read_solutions("steps.parquet")              problem, steps, labels (one per step)

A solution is a sequence of segments: its steps where the file has them, else its lines, as the
newline splitter cuts them. Values are estimated before each segment and after the last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genac.tasks import sources
from genac.tasks.values import Row, as_text, missing

# What a column is called, the first one that a row has; `--columns` says otherwise.
NAMES = {
    "problem": ("problem", "question", "prompt"),
    "solution": ("solution", "response", "completion"),
    "steps": ("steps",),
    "correct": ("correct", "is_correct", "final_answer_correct"),
    "label": ("label",),
    "labels": ("labels", "step_labels"),
}
LABELS = ("correct", "label", "labels")
EXPECTED = (
    "problem and solution (a text) or steps (a list of texts), and at least one of correct "
    "(true/false or 1/0), label (with steps: index of the first wrong one, -1 = none) and labels "
    "(with steps: one per step; true/false, 1/0, 1/0/-1 or +/-)"
)
LINE = re.compile(r"\n*[^\n]+\n*")  # a blank line belongs to the line before it
TRUE = {"true", "1", "1.0", "+"}
FALSE = {"false", "0", "0.0", "-"}


@dataclass(frozen=True)
class Solution:
    """One solution. Labels that the file does not have are None."""

    row: int  # in the file, from 1
    problem: str
    segments: tuple[str, ...]
    correct: bool | None = None  # whether its final answer is right
    first_error: int | None = None  # index of the first wrong segment, -1 = none
    labels: tuple[bool | None, ...] | None = None  # whether a segment is right; None = neutral

    def prefix(self, count: int) -> str:
        """The first `count` segments as they were written."""
        return "".join(self.segments[:count])

    def fraction(self, count: int) -> float:
        """How much of the text, in characters, the first `count` segments are."""
        return len(self.prefix(count)) / len(self.prefix(len(self.segments)))

    @property
    def first_wrong(self) -> int | None:
        """Index of the first wrong segment by the labels of steps; None = none is known."""
        if self.first_error is not None:
            return None if self.first_error == -1 else self.first_error
        return next((i for i, label in enumerate(self.labels or ()) if label is False), None)

    @property
    def ends_right(self) -> bool | None:
        """`correct`; where the file does not say, whether no step is wrong. None = no label."""
        if self.correct is not None:
            return self.correct
        labels = (self.first_error, *(self.labels or ()))
        return self.first_wrong is None if any(x is not None for x in labels) else None


def read_solutions(
    name: str, columns: Mapping[str, str] | None = None, option: str = "--columns "
) -> list[Solution]:
    """All solutions of a file ("FILE") or data set ("NAME@SPLIT"), at least one.

    columns: names of the file's columns by our own (NAMES), where they are others; `option` is what
    a user writes before one. ValueError naming file, row, column and value where something cannot
    be read.
    """
    place, _, split = name.partition("@")
    rows = sources.rows(place, split or None)
    names = column_names(rows, name, columns or {}, option)
    scale = ternary(rows, names)
    return [
        solution(row, number, f"row {number} of {name!r}", names, scale)
        for number, row in enumerate(rows, 1)
    ]


def column_names(
    rows: Sequence[Row], name: str, own: Mapping[str, str], option: str
) -> dict[str, str]:
    """Our name -> the file's, of the columns that it has; ValueError where too few are there."""
    if unknown := sorted(own.keys() - NAMES.keys()):
        raise ValueError(f"{option}{unknown[0]}=...: use {', '.join(NAMES)}")
    held = list(dict.fromkeys(key for row in rows for key in row))
    for key, column in own.items():
        if column not in held:
            raise ValueError(
                f"{option}{key}={column}: {name!r} has no column {column!r}, only {held}"
            )
    choices = {key: [own[key]] if key in own else NAMES[key] for key in NAMES}
    result = {
        key: next(c for c in choices[key] if c in held)
        for key in NAMES
        if any(c in held for c in choices[key])
    }
    if "steps" not in result:  # without steps a column of that name is something else
        result = {k: v for k, v in result.items() if k in own or k not in ("label", "labels")}
    text = "problem" in result and ("solution" in result or "steps" in result)
    if not text or not any(key in result for key in LABELS):
        lacking = "no labels" if text else "no problems with solutions"
        raise ValueError(
            f"{name!r} has {lacking}: its columns are {held}; expected are {EXPECTED}. Name "
            f"columns that are called otherwise, as in {option}correct=is_right"
        )
    if "steps" not in result and any(key in result for key in ("label", "labels")):
        raise ValueError(
            f"{name!r} has labels of steps but no column steps, only {held}; name it with "
            f"{option}steps=..."
        )
    return result


def ternary(rows: Sequence[Row], names: Mapping[str, str]) -> bool:
    """Whether step labels are 1, 0 and -1, so that 0 is neutral: whether any is -1."""
    if "labels" not in names:
        return False
    lists = (as_list(row.get(names["labels"])) or [] for row in rows)
    return any(value in (-1, "-1") for values in lists for value in values)


def solution(row: Row, number: int, where: str, names: Mapping[str, str], scale: bool) -> Solution:
    """One row. `scale`: see `ternary`."""
    for key in ("problem", "steps" if "steps" in names else "solution"):
        if missing(row.get(names[key])):
            raise ValueError(
                f"{where}: {names[key]!r} is {row.get(names[key])!r}; write it, or take the row out"
            )
    segments = segments_of(row, where, names)
    labels = step_labels(row, where, names, scale)
    if labels is not None and len(labels) != len(segments):
        raise ValueError(
            f"{where} has {len(labels)} labels for {len(segments)} steps; write one per step"
        )
    return Solution(
        number,
        text_of(row[names["problem"]], where, names["problem"]),
        segments,
        truth(row.get(names["correct"]), where, names["correct"]) if "correct" in names else None,
        first_error(row, where, names, len(segments)) if "label" in names else None,
        labels,
    )


def segments_of(row: Row, where: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """Steps, each ended by a line break, or the lines of the text."""
    if "steps" not in names:
        column = names["solution"]
        segments = LINE.findall(text_of(row[column], where, column))
        if not any(s.strip() for s in segments):
            raise ValueError(f"{where}: {column!r} is empty; take the row out")
        return tuple(segments)
    steps = as_list(row[names["steps"]])
    if not steps or not all(isinstance(s, str) and s.strip() for s in steps):
        raise ValueError(
            f"{where}: {names['steps']!r} is {row[names['steps']]!r:.60}; write a list of texts, "
            "none of them empty"
        )
    return tuple(step if step.endswith("\n") else step + "\n" for step in steps)


def step_labels(
    row: Row, where: str, names: Mapping[str, str], scale: bool
) -> tuple[bool | None, ...] | None:
    if "labels" not in names or row.get(names["labels"]) is None:
        return None
    values = as_list(row[names["labels"]])
    if values is None:
        raise ValueError(
            f"{where}: {names['labels']!r} is {row[names['labels']]!r:.60}; write a list, one "
            "label per step"
        )
    return tuple(label_of(value, where, names["labels"], scale) for value in values)


def label_of(value: Any, where: str, column: str, scale: bool) -> bool | None:
    text = str(value).strip().lower()
    if scale and text in ("-1", "-1.0"):
        return False
    if value is None or (scale and text in ("0", "0.0")):
        return None
    return truth(value, where, column)


def first_error(row: Row, where: str, names: Mapping[str, str], steps: int) -> int | None:
    value = row.get(names["label"])
    if value is None:
        return None
    text = str(value).strip().removesuffix(".0")
    if not re.fullmatch(r"-?\d+", text) or not -1 <= int(text) < steps:
        raise ValueError(
            f"{where}: {names['label']!r} is {value!r:.40}, and it has {steps} steps; write the "
            f"index of the first wrong step, 0 to {steps - 1}, or -1 for none"
        )
    return int(text)


def truth(value: Any, where: str, column: str) -> bool | None:
    """A label as a truth value; None where the cell is empty."""
    text = str(value).strip().lower()
    if value is None or text in ("", "nan"):
        return None
    if text not in TRUE | FALSE:
        raise ValueError(f"{where}: {column!r} is {value!r:.40}; write true or false, or 1 or 0")
    return text in TRUE


def text_of(value: Any, where: str, column: str) -> str:
    if not isinstance(value, str | bytes):
        raise ValueError(f"{where}: {column!r} is {value!r:.60}; write a text")
    try:
        return as_text(value)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {column!r} holds bytes that are no UTF-8 ({error})") from error


def as_list(value: Any) -> list[Any] | None:
    """A list, also one that a CSV cell holds as JSON; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    return list(value) if isinstance(value, list | tuple) else None
