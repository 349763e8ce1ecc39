"""Judging responses so that nothing hangs: one bad response costs only itself.

    Verifier(task).verify([(problem, text), ...])  ->  [Outcome, ...]

A task that is not `trusted` verifies in worker processes under a time limit, so that an exception,
a hang or a crash is that response's `Outcome.reason`. Where it is not certain whose fault a death
is, a response is judged once more in a process of its own. A reward outside [0, 1] or a broken
signature is a bug and raises.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import NamedTuple

from genac.tasks.base import Task
from genac.tasks.judging import LEFT_RUNNING, Answer, checked, failure, reward_name, too_long
from genac.tasks.rewards import RewardError
from genac.tasks.worker import Worker
from genac.types import Problem

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = min(8, CORES)
ITEMS_PER_WORKER = 8  # fewer are judged sooner than another process has started
UNJUDGED = "the verifier returned None: it cannot judge this response"
DIED = "failed", "the verifier's process died"
TOGETHER, SINGLY, FRESH = 0, 1, 2  # with others; with no other; as a new process's first
HABIT = 4  # new processes in a row whose first response left the same kind behind


class Outcome(NamedTuple):
    """Reward in [0, 1], or None with the reason why there is none."""

    reward: float | None
    reason: str = ""


@dataclass
class Question:
    """A response to be judged. `care` says how, `sent` when (seconds of `time.monotonic`)."""

    index: int
    problem: Problem
    text: str
    care: int = TOGETHER
    sent: float = 0.0


class Work:
    """The questions of one call, shared by all slots, and what came of them."""

    def __init__(self, items: Sequence[tuple[Problem, str]], outcome: Callable[..., Outcome]):
        self.open = deque(Question(i, *item) for i, item in enumerate(items))
        self.careful: deque[Question] = deque()
        self.outcomes = [Outcome(None)] * len(items)
        self._outcome = outcome

    def done(self, question: Question, answer: Answer) -> None:
        self.outcomes[question.index] = self._outcome(*answer)

    def again(self, question: Question, care: int) -> None:
        question.care = max(question.care, care)
        (self.careful if question.care else self.open).appendleft(question)

    def take(self, singly: bool) -> Question | None:
        """The next question; one that must be alone only where `singly` says that it would be."""
        for queue in (self.open, self.careful) if singly else (self.open,):
            try:
                return queue.popleft()
            except IndexError:  # another thread took the last one
                continue
        return None

    def clear(self) -> None:
        self.open.clear()
        self.careful.clear()


class Verifier:
    """Judges responses of one task. `trusted` tasks run in process, others in a pool of worker
    processes; one is killed and restarted when a response takes more than `time_limit` seconds.
    Usable from any thread.
    """

    def __init__(self, task: Task, time_limit: float = 5.0):
        if not time_limit > 0:
            raise ValueError(f"time_limit is {time_limit}; use a positive number of seconds")
        self.task, self.time_limit = task, time_limit
        self.name = reward_name(task)
        self._lock = threading.Lock()
        habits = Habits()
        self._slots = [Slot(task, time_limit, habits) for _ in range(WORKERS)]

    def verify(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """One outcome per (problem, response). Raises RewardError for a reward outside [0, 1]."""
        with self._lock:
            if self.task.trusted:
                return [self._outcome(*self._judge(*item)) for item in items]
            return self._in_workers(items)

    def close(self) -> None:
        """End the workers; the next `verify` starts others."""
        with self._lock:
            for slot in self._slots:
                slot.stop()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_workers(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """A thread per worker takes the next open items; the first bug ends all of them."""
        work = Work(items, self._outcome)
        needed = min(WORKERS, -(-len(items) // ITEMS_PER_WORKER))
        if needed <= 1:
            self._slots[0].run(work)
            return work.outcomes
        with ThreadPoolExecutor(needed) as pool:
            try:
                for job in [pool.submit(slot.run, work) for slot in self._slots[:needed]]:
                    job.result()
            finally:  # interrupted: what is left would never be read
                work.clear()
        return work.outcomes

    def _judge(self, problem: Problem, text: str) -> Answer:
        try:
            return checked(self.task.verify(problem, text), self.name)
        except Exception as error:  # a verifier fails by nature: recorded as the reason
            return failure(error)

    def _outcome(self, kind: str, payload: float | str | None) -> Outcome:
        if kind == "contract":
            raise RewardError(payload)
        if kind == "failed" or isinstance(payload, str):
            return Outcome(None, str(payload))
        return Outcome(payload, UNJUDGED if payload is None else "")


class Habits:
    """What a reward leaves in its process whatever the response: a client, a thread, a folder on
    the path. A process where that was left is kept; where one response left more, it is replaced.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def unusual(self, kinds: set[str], first: bool) -> bool:
        """Whether `kinds`, left by a response, are no habit; `first` in its process or not."""
        habits = {kind for kind, count in self._counts.items() if count >= HABIT}
        if first:
            for kind in (set(self._counts) | kinds) - habits:
                self._counts[kind] = self._counts[kind] + 1 if kind in kinds else 0
        return bool(kinds - habits)


class Slot:
    """A place for a worker process, which starts when it is first needed and after a failure."""

    def __init__(self, task: Task, time_limit: float, habits: Habits):
        self.task, self.time_limit, self.habits = task, time_limit, habits
        self.worker: Worker | None = None
        self._flying: dict[int, Question] = {}
        self._retiring = False

    def run(self, work: Work) -> None:
        """Takes questions and has them answered until none is left for it."""
        try:
            while self._fill(work):
                self._next(work)
        except BaseException:  # a bug, or interrupted: what is under way would not be read
            work.clear()
            if self._flying:
                self.stop()
            raise

    def stop(self) -> None:
        self._flying, self._retiring = {}, False
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def _fill(self, work: Work) -> bool:
        """Sends as many questions as may be under way; False where there is nothing to wait for."""
        if self._retiring and not self._flying:
            self.stop()
        while not self._retiring and not any(question.care for question in self._flying.values()):
            if self._flying and self.worker and len(self._flying) >= self.worker.width:
                break
            question = work.take(singly=not self._flying)
            if question is None:
                break
            self._ask(work, question)
        return bool(self._flying)

    def _ask(self, work: Work, question: Question) -> None:
        if question.care == FRESH and self.worker is not None and self.worker.answered:
            self.stop()
        if self.worker is None:
            self.worker = Worker(self.task, self.time_limit)
        question.sent = monotonic()
        try:
            self._flying[self.worker.ask(question.problem, question.text)] = question
        except OSError:
            self._flying[0] = question
            self._failed(work, DIED)

    def _next(self, work: Work) -> None:
        """Waits for one answer, or for one failure."""
        assert self.worker is not None
        while True:
            try:
                received = self.worker.answer()
            except (EOFError, OSError):
                self._failed(work, DIED)
                return
            if received is not None:
                self._answered(work, *received)
                return
            oldest = min(question.sent for question in self._flying.values())
            guilty = self.worker.overdue(oldest)
            if guilty is not None:
                self._failed(work, too_long(self.time_limit), guilty)
                return

    def _answered(self, work: Work, number: int, answer: Answer, kinds: set[str]) -> None:
        assert self.worker is not None
        question = self._flying.pop(number, None)
        if question is None:  # no question of ours
            self._failed(work, DIED)
            return
        self.worker.answered += 1
        self._retiring |= bool(kinds & LEFT_RUNNING)
        if self.habits.unusual(kinds - LEFT_RUNNING, first=self.worker.answered == 1):
            others = list(self._flying.values())
            self.stop()
            if others:  # any of them may have done it, and all may have suffered
                for each in (question, *others):
                    work.again(each, SINGLY)
                return
        work.done(question, answer)

    def _failed(self, work: Work, answer: Answer, hanging: int | None = None) -> None:
        """The process is lost. A response is charged where only it can be guilty; others are
        judged again. `hanging` is the number of the one that exceeded its time.
        """
        worker, flying = self.worker, self._flying
        assert worker is not None
        running, _ = worker.page.read()
        alone, sure = len(flying) == 1, hanging in flying
        first = worker.answered == 0
        self.stop()
        for number, question in flying.items():
            if number == hanging or (alone and (first or question.care == FRESH)):
                work.done(question, answer)
            elif alone or (number == running and not sure):
                work.again(question, FRESH)
            else:
                work.again(question, question.care if sure else SINGLY)
