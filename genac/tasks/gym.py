"""Any generator of `reasoning-gym` as a task: `pip install genac[tasks]`.

    task = GymTask("chain_sum", entries=1000, config={"max_terms": 3})
    task.problem("train", 0).prompt     # "State the final answer to ...: 4 - 1 ="

The data set's own `score_answer` judges; many of them give partial credit between 0 and 1.
"""

from __future__ import annotations

import functools
import json
import random
from dataclasses import dataclass, field
from typing import Any

from genac.seeding import shuffled
from genac.tasks.answers import answer_key, final_answer, normalise, whole_text
from genac.tasks.base import SPLITS, OracleTrace, split_of
from genac.tasks.files import vocabulary
from genac.types import Problem


@dataclass(frozen=True)
class GymTask:
    """The first `entries` entries of one generator, split by the hash of the question.

    `config` holds the generator's own settings. The order within a split is a shuffle by `seed`; an
    index past the end starts the next epoch, which is shuffled anew.
    """

    dataset: str = "chain_sum"
    seed: int = 0
    entries: int = 1000
    config: dict[str, Any] = field(default_factory=dict)
    name: str = "gym"
    trusted: bool = False  # third-party scorers: judged in a worker process with a time limit

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise ValueError(f"entries is {self.entries}; use at least 1")
        _ = self._source

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _ = self._source  # imported when a process gets the task, not on its first response's time

    @property
    def _source(self) -> Any:
        config = json.dumps(self.config, sort_keys=True)
        return load_dataset(self.dataset, self.seed, self.entries, config)

    def problem(self, split: str, index: int) -> Problem:
        members = self._members(split)
        if not members:
            raise ValueError(
                f"the {split} split of {self.dataset!r} is empty with {self.entries} entries; "
                "raise entries or widen config"
            )
        epoch, position = divmod(index, len(members))
        return self._problem(members[shuffled(self.seed, split, epoch, len(members))[position]])

    def size(self, split: str) -> int | None:
        return len(self._members(split))

    def _members(self, split: str) -> tuple[int, ...]:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; use one of {SPLITS}")
        return members_of(self._source)[split]

    def _problem(self, number: int) -> Problem:
        entry = self._source[number]
        name = f"{self.name}-{self.dataset}-{number}"
        return Problem(
            name, entry["question"], entry["answer"] or "", self.name, dict(entry["metadata"])
        )

    def verify(self, problem: Problem, text: str) -> float | None:
        """The data set's score of the final answer (see `tasks/final_answer.py`); 0 without one."""
        answer = problem.answer or None  # some puzzles have many solutions and name none
        entry = {"question": problem.text, "answer": answer, "metadata": problem.extras}
        own = final_answer(whole_text(problem, text))
        if answer and "," in own and "," not in answer:
            own = normalise(own)  # scorers that search for a number stop at the comma of 28,080
        return float(self._source.score_answer(own, entry)) if own else 0.0

    def answer_of(self, text: str) -> str | None:
        return answer_key(text)

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """The answer only, in tags where it has several lines: a generator knows no faults."""
        if not problem.answer:
            raise ValueError(
                f"{self.dataset!r} names no solution for {problem.id}; start from a trained model"
            )
        lines = "\n" in problem.answer.strip()
        return f"<answer>{problem.answer}</answer>" if lines else problem.answer

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        raise ValueError(
            f"task {self.name!r} has no programmatic oracle; set stages.synthesize.oracle: "
            "outcome, which labels partial responses by how they end, or endpoint (an API)"
        )

    def alphabet(self) -> list[str]:
        """Words, digits and signs of all questions and answers (for models made from a config)."""
        problems = map(self._problem, range(self.entries))
        return vocabulary(text for p in problems for text in (p.text, p.answer))


@functools.lru_cache(maxsize=8)
def load_dataset(name: str, seed: int, size: int, config: str) -> Any:
    """reasoning-gym's data set. Raises ValueError naming what is missing or refused."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise ValueError(
            "the gym task needs reasoning-gym, which is not installed; pip install genac[tasks]"
        ) from error
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **json.loads(config))
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"reasoning-gym refuses data set {name!r} with config {config}: {error}; "
            "its gallery lists names and settings"
        ) from error


@functools.lru_cache(maxsize=8)
def members_of(source: Any) -> dict[str, tuple[int, ...]]:
    """The entry numbers of each split."""
    members: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number in range(len(source)):
        members[split_of(source[number]["question"])].append(number)
    return {split: tuple(numbers) for split, numbers in members.items()}
