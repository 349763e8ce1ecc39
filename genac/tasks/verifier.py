"""Judging responses so that nothing hangs: one bad response costs only itself.

    Verifier(task).verify([(problem, text), ...])  ->  [Outcome, ...]

A task that is not `trusted` is asked in worker processes, each with one response at a time under a
time limit, so that an exception, a hang or a crash is that response's `Outcome.reason`. A reward
outside [0, 1] or a broken signature is a bug and raises.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from genac.tasks.base import Task
from genac.tasks.rewards import RewardError, check_outcome
from genac.types import Problem

START_LIMIT = 60.0  # seconds for a worker to import what the task needs
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = min(8, CORES)
ITEMS_PER_WORKER = 8  # fewer are judged sooner than another process has started
UNJUDGED = "the verifier returned None: it cannot judge this response"


class Outcome(NamedTuple):
    """Reward in [0, 1], or None with the reason why there is none."""

    reward: float | None
    reason: str = ""


class Verifier:
    """Judges responses of one task. `trusted` tasks run in process, others in a pool of worker
    processes; one is killed and restarted when a response takes more than `time_limit` seconds.
    Usable from any thread.
    """

    def __init__(self, task: Task, time_limit: float = 5.0):
        if not time_limit > 0:
            raise ValueError(f"time_limit is {time_limit}; use a positive number of seconds")
        self.task, self.time_limit = task, time_limit
        self.name = getattr(task, "reward", None) or task.name
        self._lock = threading.Lock()
        self._slots = [Slot(task, time_limit) for _ in range(WORKERS)]

    def verify(self, items: Sequence[tuple[Problem, str]]) -> list[Outcome]:
        """One outcome per (problem, response). Raises RewardError for a reward outside [0, 1]."""
        with self._lock:
            if self.task.trusted:
                return [self._outcome(*judge(self.task, *item)) for item in items]
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
        """A thread per worker takes the next open item; the first bug ends all of them."""
        waiting = deque(enumerate(items))
        found: list[Outcome] = [Outcome(None)] * len(items)

        def work(slot: Slot) -> None:
            try:
                for index, (problem, text) in taken(waiting):
                    found[index] = self._outcome(*slot.ask(problem, text))
            except BaseException:  # a bug: what the other workers would find is not read
                waiting.clear()
                raise

        needed = min(WORKERS, -(-len(items) // ITEMS_PER_WORKER))
        if needed <= 1:
            work(self._slots[0])
            return found
        with ThreadPoolExecutor(needed) as pool:
            try:
                for job in [pool.submit(work, slot) for slot in self._slots[:needed]]:
                    job.result()
            finally:  # interrupted: what is left would never be read
                waiting.clear()
        return found

    def _outcome(self, kind: str, payload: Any) -> Outcome:
        if kind == "contract":
            raise RewardError(payload)
        if kind == "failed":
            return Outcome(None, payload)
        reward = check_outcome(payload, self.name)
        return Outcome(reward, UNJUDGED if reward is None else "")


def taken(waiting: deque[Any]) -> Iterator[Any]:
    """Items off the queue's front until it is empty, shared with other threads."""
    while True:
        try:
            item = waiting.popleft()
        except IndexError:
            return
        yield item


class Slot:
    """A place for a worker process, which is started when it is first asked and after a failure."""

    def __init__(self, task: Task, time_limit: float):
        self.task, self.time_limit = task, time_limit
        self.worker: Worker | None = None

    def ask(self, problem: Problem, text: str) -> tuple[str, Any]:
        if self.worker is None:
            self.worker = Worker(self.task, self.time_limit)
        try:
            return self.worker.ask(problem, text)
        except TimeoutError:
            self.stop()
            return "failed", f"the verifier took more than {self.time_limit:g} s and was stopped"
        except (EOFError, OSError):
            self.stop()
            return "failed", "the verifier's process died"
        except BaseException:  # interrupted between question and answer: they no longer match
            self.stop()
            raise

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None


def judge(task: Task, problem: Problem, text: str) -> tuple[str, Any]:
    """("value", reward), ("failed", reason) or ("contract", message), all plain data."""
    try:
        value = task.verify(problem, text)
    except RewardError as error:
        return "contract", str(error)
    except Exception as error:  # a verifier fails by nature: recorded as this response's reason
        return "failed", f"the verifier raised {type(error).__name__}: {error!s:.200}"
    try:
        return "value", None if value is None else float(value)
    except (TypeError, ValueError):
        return "value", repr(value)


class Worker:
    """A process that holds the task; multiprocessing's would run the user's script again."""

    def __init__(self, task: Task, time_limit: float):
        self.time_limit = time_limit
        self._connection, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from genac.tasks.verifier import serve; "
            f"serve({theirs.fileno()}, {time_limit!r})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # so that what a verifier starts is killed with it
        )
        theirs.close()
        self.stop = weakref.finalize(self, _kill, process, self._connection)
        self._start(task)

    def _start(self, task: Task) -> None:
        remedy = "define it in a module that can be imported, not in the script itself"
        try:
            self._connection.send(task)
            message = self._receive(START_LIMIT)
        except Exception as error:  # whatever pickle raises
            self.stop()
            raise RewardError(f"task {task.name!r} cannot be sent: {error!r}; {remedy}") from error
        if message:
            self.stop()
            raise RewardError(f"task {task.name!r} does not load in a process: {message}; {remedy}")

    def ask(self, problem: Problem, text: str) -> tuple[str, Any]:
        """Raises TimeoutError after the time limit, EOFError or OSError where the process died."""
        self._connection.send((problem, text))
        return self._receive(self.time_limit)

    def _receive(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")
        return self._connection.recv()


def _kill(process: subprocess.Popen, connection: Connection) -> None:
    connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def serve(descriptor: int, time_limit: float) -> None:
    """The worker's loop: receive the task, then judge until the other end closes."""
    connection = Connection(descriptor)
    try:
        task = connection.recv()
    except Exception as error:  # reported to the parent, which raises
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send("")
    with open(os.devnull, "w") as nowhere, contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            problem, text = connection.recv()
            # If the parent is killed while a verifier hangs, nobody else ends this process.
            faulthandler.dump_traceback_later(3 * time_limit + 1, exit=True, file=nowhere)
            answer = judge(task, problem, text)
            faulthandler.cancel_dump_traceback_later()
            connection.send(answer)
