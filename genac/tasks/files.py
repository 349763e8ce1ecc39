"""The user's own data: a JSONL, JSON, Parquet or CSV file of prompts and answers.

    {"prompt": "What is 2 + 3?", "answer": "5", "topic": "sums"}        one row of problems.jsonl

`prompt` is a string or a list of chat messages; columns beside prompt and answer become the
problem's extras, which a reward function gets by keyword. A problem belongs to the held-out split
by the hash of its white-space-normalised prompt, so duplicates never cross the line.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from genac.tasks.base import SPLITS, OracleTrace, normalised
from genac.tasks.rewards import load_reward
from genac.types import Problem

Row = dict[str, Any]


@dataclass
class FileTask:
    """Problems of a file. `reward` is a spec of `rewards.load_reward`; None = "match".

    The order within a split is a shuffle by `seed`; an index past the end starts the next epoch,
    which is shuffled anew.
    """

    path: str
    heldout_fraction: float = 0.1
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    reward: str | None = None
    seed: int = 0
    name: str = "file"

    def __post_init__(self) -> None:
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction is {self.heldout_fraction}; use 0 <= fraction < 1")
        self._score = load_reward(self.reward or "match")
        rows = enumerate(read_rows(Path(self.path)), 1)
        self._problems: dict[str, list[Problem]] = {split: [] for split in SPLITS}
        for number, row in rows:
            problem = self._problem(number, row)
            heldout = hash_fraction(problem.text) < self.heldout_fraction
            self._problems["heldout" if heldout else "train"].append(problem)

    def __getstate__(self) -> Row:
        """Settings only: the verifier's process gets each problem with its response."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: Row) -> None:
        self.__dict__.update(state, _problems={})
        self._score = load_reward(self.reward or "match")

    @property
    def trusted(self) -> bool:
        """Comparing answers cannot hang; math-verify and users' functions can."""
        return self.reward in (None, "match")

    def problem(self, split: str, index: int) -> Problem:
        problems = self._split(split)
        if not problems:
            total = sum(len(p) for p in self._problems.values())
            raise ValueError(
                f"the {split} split of {self.path!r} is empty ({total} rows, heldout_fraction "
                f"{self.heldout_fraction}); add rows or change heldout_fraction"
            )
        epoch, position = divmod(index, len(problems))
        return problems[shuffled(self.seed, split, epoch, len(problems))[position]]

    def size(self, split: str) -> int | None:
        return len(self._split(split))

    def _split(self, split: str) -> list[Problem]:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; use one of {SPLITS}")
        return self._problems[split]

    def _problem(self, number: int, row: Row) -> Problem:
        for column in (self.prompt_column, self.answer_column):
            if row.get(column) in (None, "", []):
                raise ValueError(
                    f"row {number} of {self.path!r} has no {column!r}, only {list(row)}; "
                    "set prompt_column and answer_column to the names that the file uses"
                )
        prompt, answer = row[self.prompt_column], row[self.answer_column]
        if not is_prompt(prompt):
            raise ValueError(
                f"row {number} of {self.path!r}: {self.prompt_column!r} is {prompt!r:.80}; write a "
                "string or a list of messages {'role': ..., 'content': ...}"
            )
        extras = {k: v for k, v in row.items() if k != self.prompt_column}
        if self.answer_column == "answer" and isinstance(answer, str):
            del extras["answer"]  # otherwise kept for reward functions: another name, or no string
        text = json.dumps(answer) if isinstance(answer, list | dict) else str(answer)
        return Problem(f"{self.name}-{number}", prompt, text, self.name, extras)

    def verify(self, problem: Problem, text: str) -> float | None:
        return self._score(problem, text)

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """The reference answer: a data file knows no faults."""
        return problem.answer

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        raise ValueError(
            f"task {self.name!r} has no programmatic oracle; set stages.synthesize.oracle: "
            "outcome, which labels partial responses by how they end, or endpoint (an API)"
        )

    def alphabet(self) -> list[str]:
        """Words, digits and signs of all prompts and answers (for models made from a config)."""
        problems = [problem for split in SPLITS for problem in self._problems[split]]
        return vocabulary(text for p in problems for text in (p.text, p.answer))


def is_prompt(value: Any) -> bool:
    """A string, or chat messages."""
    if isinstance(value, list):
        return all(
            isinstance(m, dict)
            and isinstance(m.get("role"), str)
            and isinstance(m.get("content"), str)
            for m in value
        )
    return isinstance(value, str)


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that belongs to the text whatever its white space."""
    digest = hashlib.sha256(normalised(text).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@functools.lru_cache(maxsize=4)
def shuffled(seed: int, split: str, epoch: int, size: int) -> tuple[int, ...]:
    """The order of an epoch, the same in every process."""
    order = list(range(size))
    random.Random(f"{seed}/{split}/{epoch}").shuffle(order)
    return tuple(order)


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Words whole, digits and other characters alone, and the newline."""
    words = {"\n"}
    for text in texts:
        words.update(re.findall(r"[^\W\d_]+|.", text))
    return sorted(words)


# --- reading -------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The rows of a data file, at least one. Raises ValueError naming the file and the place."""
    if path.suffix not in READERS:
        raise ValueError(
            f"data file {str(path)!r} has the extension {path.suffix!r}; use one of {list(READERS)}"
        )
    if not path.is_file():
        raise ValueError(f"data file {str(path)!r} does not exist; give the path from {Path.cwd()}")
    try:
        rows = READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise ValueError(f"data file {str(path)!r} is not UTF-8 ({error}); convert it") from error
    if not rows:
        raise ValueError(f"data file {str(path)!r} has no rows; write at least one")
    return rows


def read_jsonl(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_as_row(_parse(line, f"line {number} of {str(path)!r}"), number, path))
    return rows


def read_json(path: Path) -> list[Row]:
    data = _parse(path.read_text(encoding="utf-8-sig"), f"{str(path)!r}")
    if not isinstance(data, list):
        raise ValueError(f"{str(path)!r} holds a {type(data).__name__}; write a list of objects")
    return [_as_row(value, number, path) for number, value in enumerate(data, 1)]


def read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} of {str(path)!r}: {error}") from error
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(
                f"row {number} of {str(path)!r} has more fields than columns; quote the commas"
            )
    return rows


def read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{str(path)!r} is no readable Parquet file: {error}") from error


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON ({error}); write one value per line") from error


def _as_row(value: Any, number: int, path: Path) -> Row:
    if not isinstance(value, dict):
        raise ValueError(
            f"line {number} of {str(path)!r} is {value!r:.60}; write an object with named columns"
        )
    return value


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
