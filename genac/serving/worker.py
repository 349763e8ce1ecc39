"""One thread that owns the critic: requests that wait together are judged in one engine call.

Tokenising happens here too, since a fast tokenizer must not be used by two threads at once.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from genac.scoring import Ids, Judgement, Prompt

TICK = 0.2  # seconds after which an idle worker looks whether it should end
log = logging.getLogger(__name__)


class Judge(Protocol):
    """What the worker needs of a `scoring.Scorer`."""

    @property
    def rationales(self) -> int:
        """Rationales per item where a request names no number."""
        ...

    def prompt(self, problem: Prompt, partial: str, success_rate: float | None = None) -> Ids:
        """Token ids of the critic's prompt; ValueError where it does not fit."""
        ...

    def judge(
        self, prompts: Sequence[Ids], seeds: Sequence[int], rationales: int | None = None
    ) -> list[Judgement]:
        """One judgement per prompt."""
        ...


@dataclass(frozen=True)
class Item:
    """One partial response to be judged."""

    problem: Prompt
    partial: str
    success_rate: float | None
    seed: int


@dataclass(frozen=True)
class Job:
    """One request: its items, and where its judgements are awaited."""

    items: tuple[Item, ...]
    rationales: int
    done: Future[list[Judgement]] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(self.items) * self.rationales


class Full(Exception):
    """As many requests wait as may."""


class Stopped(Exception):
    """The worker has ended, so nothing will be judged any more."""


class Unfit(ValueError):
    """An item cannot be judged, by what its text is."""


class Worker:
    """Judges jobs in the order they come, up to `max_batch` rationales of items at a time."""

    def __init__(self, critic: Judge, max_batch: int, max_queued: int) -> None:
        self.critic, self.max_batch = critic, max_batch
        self._waiting: queue.Queue[Job] = queue.Queue(max_queued)
        self._next: Job | None = None  # taken from the queue, but too large for the last batch
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="critic", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the batch it works on; jobs that still wait are cancelled."""
        self._ending.set()
        self._thread.join()
        while not self._waiting.empty():
            self._waiting.get_nowait().done.cancel()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    @property
    def queued(self) -> int:
        return self._waiting.qsize()

    def submit(self, items: Sequence[Item], rationales: int | None) -> Future[list[Judgement]]:
        """A future of the items' judgements; Full where too many requests wait already.

        The future raises Unfit for an item that cannot be judged, and what the engine raised where
        it failed.
        """
        if self.ending or not self.alive:
            raise Stopped
        job = Job(tuple(items), rationales or self.critic.rationales)
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            raise Full from None
        return job.done

    def _run(self) -> None:
        while not self.ending:
            if batch := self._take():
                self._answer(batch)
        if self._next is not None:
            self._next.done.cancel()

    def _take(self) -> list[Job]:
        """The next job, and those behind it that ask for as many rationales and fit beside it; none
        where nothing came for a moment.
        """
        try:
            first = self._next or self._waiting.get(timeout=TICK)
        except queue.Empty:
            return []
        self._next = None
        batch, rows = [first], first.rows
        while True:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return batch
            rows += job.rows
            if job.rationales != first.rationales or rows > self.max_batch:
                self._next = job
                return batch
            batch.append(job)

    def _answer(self, batch: Sequence[Job]) -> None:
        """Judges the jobs whose clients still wait and whose items fit."""
        # False where the client gave up while the job waited.
        expected = [job for job in batch if job.done.set_running_or_notify_cancel()]
        ready = [(job, result) for job in expected if (result := self._prompts(job)) is not None]
        if not ready:
            return
        prompts = [ids for _, result in ready for ids in result]
        seeds = [item.seed for job, _ in ready for item in job.items]
        try:
            judged = iter(self.critic.judge(prompts, seeds, batch[0].rationales))
            answers = [[next(judged) for _ in job.items] for job, _ in ready]
        except Exception as error:  # an engine fails by nature (memory, a device): clients are told
            log.exception("a batch of %d prompts could not be judged", len(prompts))
            for job, _ in ready:
                job.done.set_exception(error)
            return
        for (job, _), answer in zip(ready, answers, strict=True):
            job.done.set_result(answer)

    def _prompts(self, job: Job) -> list[Ids] | None:
        """The prompts of a job's items; None where one is unfit, and the job has been told."""
        try:
            return [self.critic.prompt(i.problem, i.partial, i.success_rate) for i in job.items]
        except ValueError as error:
            job.done.set_exception(Unfit(str(error)))
        except Exception as error:  # what a client sends must not end the thread
            log.exception("a request could not be read")
            job.done.set_exception(error)
        return None
