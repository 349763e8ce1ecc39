"""Problems from data: the user's own file, or a data set of the hub.

    {"prompt": "What is 2 + 3?", "answer": "5", "topic": "sums"}        one row of problems.jsonl

The prompt is a string or a list of chat messages; columns besides prompt and answer become the
problem's extras, which a reward function gets by keyword. A problem belongs to the held-out split
by the hash of its white-space-normalised prompt, so duplicates never cross the line; or the
held-out split is a source of its own, whose problems are taken out of the training rows.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from genac.seeding import shuffled
from genac.tasks.answers import answer_key
from genac.tasks.base import SPLITS, OracleTrace, normalised
from genac.tasks.callables import is_in_process
from genac.tasks.overlap import shared
from genac.tasks.rewards import is_async, load_reward, needs_answer, start
from genac.tasks.sources import ANSWERS, SOURCES, columns, rows
from genac.tasks.values import Row, as_text, chat, missing
from genac.types import Message, Problem, open_answer


@dataclass
class FileTask:
    """Problems of a source (`sources.rows`). `reward` is a spec of `rewards.load_reward`; None =
    "match".

    The order within a split is a shuffle by `seed`; an index past the end starts the next epoch,
    which is shuffled anew. `instruction` is written behind the last message of the user, `system`
    before the first message.
    Training rows whose prompt holds a problem of a source in `decontaminate` or of `heldout`, or is
    held by one, are left out; `row_counts` says how many. `overlong`: a run refuses prompts beyond
    the context by their rows ("refuse"), or leaves them out ("skip").
    """

    path: str
    heldout_fraction: float = 0.1
    prompt_column: str | None = None
    answer_column: str | None = None
    reward: str | None = None
    seed: int = 0
    name: str = "file"
    split: str | None = None
    config: str | None = None
    heldout: str | None = None
    heldout_split: str | None = None
    instruction: str = ""
    system: str = ""
    decontaminate: list[str] = field(default_factory=list)
    overlong: str = "refuse"

    def __post_init__(self) -> None:
        if self.overlong not in ("refuse", "skip"):
            raise ValueError(f"overlong is {self.overlong!r}; use 'refuse' or 'skip'")
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction is {self.heldout_fraction}; use 0 <= fraction < 1")
        self._score = load_reward(self.reward or "match")
        self._problems: dict[str, list[Problem]] = {split: [] for split in SPLITS}
        self._removed: dict[str, int] = {}
        results = list(self._read(self.path, self.split, self.name))
        against = {name: problem_texts(name) for name in self.decontaminate}
        if self.heldout is not None:
            queries = list(self._read(self.heldout, self.heldout_split, f"{self.name}-heldout"))
            self._problems["heldout"] = [self._dressed(p) for p in queries]
            against["heldout"] = [question_text(problem.prompt) for problem in queries]
        results = self._clean(results, against)
        for problem in results:
            drawn = hash_fraction(problem.question) < self.heldout_fraction
            split = "heldout" if drawn and self.heldout is None else "train"
            self._problems[split].append(self._dressed(problem))

    def _read(self, path: str, split: str | None, name: str) -> Iterable[Problem]:
        result = rows(path, split, self.config if path == self.path else None)
        known, first = SOURCES.get(path), result[0]
        optional = not (self.answer_column or known or needs_answer(self.reward or "match"))
        if without := optional and not any(name in first for name in ANSWERS):
            first = first | {ANSWERS[0]: ""}
        prompt, answer = columns(first, path, self.prompt_column, self.answer_column, known)
        names = (prompt, None if without else answer)
        for number, row in enumerate(result, 1):
            yield self._problem(f"{name}-{number}", f"row {number} of {path!r}", row, *names)

    def _clean(self, results: list[Problem], against: dict[str, list[str]]) -> list[Problem]:
        """Without the problems that other sources hold, which are counted."""
        for name, texts in against.items():
            both = shared([question_text(problem.prompt) for problem in results], texts)
            results = [problem for i, problem in enumerate(results) if i not in both]
            self._removed[name] = len(both)
        return results

    def without(self, names: Collection[str]) -> FileTask:
        """The task without the problems of these ids, which are counted as `overlong`."""
        task = copy.copy(self)
        task._problems = {
            split: [p for p in problems if p.id not in names]
            for split, problems in self._problems.items()
        }
        task._removed = self._removed | {"overlong": len(names)}
        return task

    def row_counts(self) -> dict[str, Any]:
        """How many problems each split holds, and how many were left out, by whose they are."""
        sizes = {split: len(problems) for split, problems in self._problems.items()}
        return {"path": self.path, **sizes, "removed": dict(self._removed)}

    def _dressed(self, problem: Problem) -> Problem:
        return dressed(problem, self.instruction, self.system)

    def __getstate__(self) -> Row:
        """Settings only: the verifier's process gets each problem with its response."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: Row) -> None:
        self.__dict__.update(state, _problems={}, _removed={})
        self._score = load_reward(self.reward or "match")

    @property
    def trusted(self) -> bool:
        """Comparing answers cannot hang; math-verify and users' functions can. Of these, some can
        only be called here (`callables`).
        """
        return self.reward in (None, "match") or is_in_process(self.reward)

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

    def _problem(
        self, name: str, where: str, row: Row, prompt_column: str, answer_column: str | None
    ) -> Problem:
        """`answer_column` None: the data have no answers, and their reward needs none."""
        for column in (prompt_column, answer_column):
            if column is not None and missing(row.get(column)):
                raise ValueError(
                    f"{where} has no {column!r} (it is {row.get(column)!r}), only {list(row)}; set "
                    "prompt_column and answer_column to the names that the data use"
                )
        answer: Any = "" if answer_column is None else row[answer_column]
        try:
            prompt = chat(row[prompt_column])
            answer = as_text(answer) if isinstance(answer, bytes) else answer
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} holds bytes that are no UTF-8 ({error})") from error
        if prompt is None:
            raise ValueError(
                f"{where}: {prompt_column!r} is {row[prompt_column]!r:.80}; write a string or a "
                "list of messages {'role': ..., 'content': text}"
            )
        extras = {k: v for k, v in row.items() if k != prompt_column}
        if answer_column == "answer" and isinstance(answer, str):
            del extras["answer"]  # otherwise kept for reward functions: another name, or no string
        if isinstance(answer, list | dict):
            extras.setdefault("ground_truth", answer)  # as it is, for a reward that wants its parts
        if isinstance(answer, list) and len(answer) == 1:
            answer = answer[0]  # OlympiadBench lists its answers
        text = (
            json.dumps(answer, default=as_text)
            if isinstance(answer, list | dict)
            else as_text(answer)
        )
        return Problem(name, prompt, text, self.name, extras)

    def verify(self, problem: Problem, text: str) -> float | None:
        return self._score(problem, text)

    def start(self, problem: Problem, text: str) -> Any:
        """The same, or an awaitable of it where `is_async`."""
        return start(self._score, problem, text)

    @property
    def is_async(self) -> bool:
        """Whether the reward function is async: many responses may be judged at once."""
        return is_async(self._score)

    def answer_of(self, text: str) -> str | None:
        """The final answer as text; a reward that knows more (that 1/2 is 0.5) is not called."""
        return answer_key(text)

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """The reference answer: a data file knows no faults. ValueError where it has none."""
        if not problem.answer:
            raise ValueError(
                f"{self.path!r} has no answers, so nothing can be imitated: name a model "
                "(actor.model_name_or_path) in place of one made here, set stages.warmup.steps to "
                "0, or add a column 'answer'"
            )
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


def problem_texts(name: str) -> list[str]:
    """The prompts of a source ("NAME", or "NAME@SPLIT"), whatever its answers are called."""
    source, _, split = name.partition("@")
    result = rows(source, split or None)
    column, _ = columns(result[0] | {"answer": ""}, source, None, None, SOURCES.get(source))
    return [question_text(chat(row[column]) or "") for row in result]


def question_text(prompt: str | list[Message]) -> str:
    """The question, without a system's message and the beginning of the answer."""
    if isinstance(prompt, str):
        return prompt
    question = prompt if open_answer(prompt) is None else prompt[:-1]
    return "\n".join(m["content"] for m in question if m["role"] != "system")


def dressed(problem: Problem, instruction: str, system: str) -> Problem:
    """The problem as the actor reads it: with the instruction, behind the system's message."""
    if not instruction and not system:
        return problem
    prompt = problem.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if instruction:
        messages = instructed(messages, instruction)
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    plain = isinstance(prompt, str) and not system
    return replace(problem, prompt=messages[0]["content"] if plain else messages)


def instructed(messages: list[Message], instruction: str) -> list[Message]:
    """The messages with the instruction behind the last one of the user; where the user says
    nothing, as the user's message before the answer begins."""
    places = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not places:
        end = len(messages) - (open_answer(messages) is not None)
        return [*messages[:end], {"role": "user", "content": instruction}, *messages[end:]]
    at = places[-1]
    last = messages[at] | {"content": f"{messages[at]['content']}\n\n{instruction}"}
    return [*messages[:at], last, *messages[at + 1 :]]


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that belongs to the text whatever its white space."""
    digest = hashlib.sha256(normalised(text).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Words whole, digits and other characters alone, and the newline."""
    words = {"\n"}
    for text in texts:
        words.update(re.findall(r"[^\W\d_]+|.", text))
    return sorted(words)
