"""One thread that owns the critic: items that wait together are judged in one engine call, other
work on it is done alone in its turn.

Tokenising happens here too, since a fast tokenizer must not be used by two threads at once.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from genac.scoring import Ids, Judgement, Prompt

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


@dataclass(frozen=True)
class Call:
    """Other work on the critic, and where its result is awaited."""

    work: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)


class Full(Exception):
    """As many requests wait as may."""


class Stopped(Exception):
    """The worker has ended, so nothing will be judged any more."""


class Unfit(ValueError):
    """An item cannot be judged, by what its text is."""


class Worker:
    """Judges jobs in the order they come, up to `max_batch` rationales of items at a time."""

    def __init__(self, critic: Judge, max_batch: int, max_queued: int) -> None:
        self.critic, self.max_batch, self.max_queued = critic, max_batch, max_queued
        # None = end once nothing waits behind it.
        self._waiting: queue.Queue[Job | Call | None] = queue.Queue()
        self._next: Job | Call | None = None  # taken from the queue, but not fit for the last batch
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="critic", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Ends the thread once nothing waits; whoever calls this lets nothing more come."""
        self._join()

    def stop(self) -> None:
        """Ends the thread after the batch it works on; jobs that still wait are cancelled."""
        self._ending.set()
        self._join()

    def _join(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        while not self._waiting.empty():
            if (job := self._waiting.get_nowait()) is not None:
                job.done.cancel()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    @property
    def queued(self) -> int:
        return sum(job is not None for job in list(self._waiting.queue))

    def submit(self, items: Sequence[Item], rationales: int | None) -> Future[list[Judgement]]:
        """A future of the items' judgements; Full where too many requests wait already.

        The future raises Unfit for an item that cannot be judged, and what the engine raised where
        it failed.
        """
        return self._put(Job(tuple(items), rationales or self.critic.rationales)).done

    def call(self, work: Callable[[], Any], *, always: bool = False) -> Future[Any]:
        """A future of what `work` returns or raises; Full as for `submit` unless `always`."""
        return self._put(Call(work), always).done

    def _put(self, job: Any, always: bool = False) -> Any:
        if self.ending or not self.alive:
            raise Stopped
        if not always and self.queued >= self.max_queued:
            raise Full
        self._waiting.put(job)
        return job

    def _run(self) -> None:
        while not self.ending:
            batch = self._take()
            if isinstance(batch, Call):
                self._do(batch)
            elif batch:
                self._answer(batch)
            elif self._waiting.empty():
                break
            else:
                self._waiting.put(None)  # behind what came while it drained
        if self._next is not None:
            self._next.done.cancel()

    def _take(self) -> list[Job] | Call:
        """The next job, and those behind it that ask for as many rationales and fit with it, or
        the next call; nothing where the worker is to end.
        """
        first = self._next or self._waiting.get()
        self._next = None
        if first is None:
            return []
        if isinstance(first, Call):
            return first
        batch, rows = [first], first.rows
        while True:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return batch
            if job is None:
                self._waiting.put(None)  # for the next look
                return batch
            if isinstance(job, Call) or job.rationales != first.rationales:
                self._next = job
                return batch
            rows += job.rows
            if rows > self.max_batch:
                self._next = job
                return batch
            batch.append(job)

    def _do(self, call: Call) -> None:
        if not call.done.set_running_or_notify_cancel():
            return
        try:
            result = call.work()
        except ValueError as error:  # what was sent does not fit
            call.done.set_exception(error)
        except Exception as error:  # as in `_answer`: whoever waits learns of it
            log.exception("a request failed")
            call.done.set_exception(error)
        else:
            call.done.set_result(result)

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
        except Exception as error:  # an engine fails by nature (memory, a device): clients get it
            log.exception("a batch of %d prompts could not be judged", len(prompts))
            for job, _ in ready:
                job.done.set_exception(error)
            return
        for (job, _), answer in zip(ready, answers, strict=True):
            job.done.set_result(answer)

    def _prompts(self, job: Job) -> list[Ids] | None:
        """The prompts of a job's items; None where one is unfit, and the job has failed."""
        try:
            return [self.critic.prompt(i.problem, i.partial, i.success_rate) for i in job.items]
        except ValueError as error:
            job.done.set_exception(Unfit(str(error)))
        except Exception as error:  # what a client sends must not end the thread
            log.exception("a request could not be read")
            job.done.set_exception(error)
        return None
