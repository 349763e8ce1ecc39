"""Worker processes on this machine, and the only way to speak with them.

    pool = pool_for(hardware)
    pool.call("generate", [(7, requests_0), (7, requests_1)])   # one tuple of arguments per worker

A command goes to all workers at once and is done when all have answered. Whatever goes wrong (an
error in a worker, the death of one, an interruption here) ends all of them: what one of several
did alone cannot be taken back. They also end by themselves when this process does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# Models take turns on a device: what one leaves in pieces must serve the next.
FRAGMENTS = "expandable_segments:True"
GRACE = 2.0  # seconds in which a worker's death may explain another worker's error


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its number among how many, on which device."""

    rank: int
    processes: int
    device: str  # "cpu" | "cuda"
    bf16: bool
    threads: int  # 0 = its share of the cores
    meeting: str  # a file through which the workers find each other


class Pool:
    """`processes` workers that answer commands (genac/distributed/worker.py)."""

    def __init__(self, processes: int, device: str, bf16: bool, threads: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="genac-")
        self._closed = self._busy = False
        self._unwanted: list[int] = []
        meeting = str(Path(self._folder) / "meeting")
        self._workers: list[tuple[subprocess.Popen, Connection]] = []
        try:
            for _ in range(processes):
                self._workers.append(start())
            places = [
                Place(rank, processes, device, bf16, threads, meeting) for rank in range(processes)
            ]
            self.call("join", [(place,) for place in places])
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process, _ in self._workers]

    @property
    def closed(self) -> bool:
        return self._closed

    def call(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers of all workers, in order. A worker's error is raised here; the death of one
        is a ChildProcessError.
        """
        assert len(arguments) == len(self._workers), "one tuple of arguments per worker"
        if self._closed:
            raise ChildProcessError("the worker processes have ended; start the command again")
        self._busy = True
        try:
            for rank, given in enumerate(arguments):
                try:
                    self._workers[rank][1].send((command, given))
                except OSError:
                    raise self._died(rank) from None
            answers = self._answers()
        except BaseException:
            self.close()
            raise
        finally:
            self._busy = False
        if self._unwanted:
            self._drop_unwanted()
        return answers

    def drop(self, number: int) -> None:
        """Frees an object of the workers; safe at any moment, as garbage collection needs it."""
        self._unwanted.append(number)
        if not self._busy and not self._closed:
            self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        numbers, self._unwanted = self._unwanted, []
        self.call("drop", [(numbers,)] * len(self._workers))

    def _answers(self) -> list[Any]:
        results: list[Any] = [None] * len(self._workers)
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._workers)}
        while waiting:
            for ready in wait(list(waiting)):
                assert isinstance(ready, Connection)
                rank = waiting.pop(ready)
                try:
                    good, value = ready.recv()
                except (EOFError, OSError):
                    raise self._died(rank) from None
                if not good:
                    raise self._explained(rank, *value)
                results[rank] = value
        return results

    def _explained(self, rank: int, error: Exception, where: str) -> Exception:
        """A worker's error, or the death of another worker that it comes from."""
        if not isinstance(error, ValueError):
            end = time.monotonic() + GRACE
            while time.monotonic() < end:
                for other, (process, _) in enumerate(self._workers):
                    if process.poll() is not None:
                        return self._died(other)
                time.sleep(0.05)
        error.add_note(f"in worker process {rank} of {len(self._workers)}:\n{where}")
        return error

    def _died(self, rank: int) -> ChildProcessError:
        process = self._workers[rank][0]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        code = process.returncode
        how = f"exit code {code}"
        if code is not None and code < 0:
            known = {s.value: s.name for s in signal.Signals}  # real-time signals have no name
            how = f"signal {known.get(-code, -code)}"
        memory = ", often a sign of too little memory" if code == -signal.SIGKILL else ""
        return ChildProcessError(
            f"worker process {rank} of {len(self._workers)} died ({how}{memory}); all others were "
            "ended. What was saved is intact: the same command resumes from the last checkpoint"
        )

    def close(self) -> None:
        """Ends all workers, whatever they are doing."""
        self._closed = True
        for process, connection in self._workers:
            process.kill()
            connection.close()
        for process, _ in self._workers:
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start() -> tuple[subprocess.Popen, Connection]:
    """A worker process and the connection to it. A plain process, so that a user's script is not
    imported again; in a session of its own, so that an interruption at the terminal reaches this
    process only, which then ends it.
    """
    here, there = Pipe()
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "genac.distributed.worker", str(there.fileno())]
    process = subprocess.Popen(
        [*command, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a worker prints is no result of the command
        pass_fds=[there.fileno()],
        env={"PYTORCH_CUDA_ALLOC_CONF": FRAGMENTS, **os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    there.close()
    return process, here


_pools: dict[tuple[Any, ...], Pool] = {}


def pool_for(processes: int, device: str, bf16: bool, threads: int) -> Pool:
    """The workers of this process, started at the first call."""
    key = (processes, device, bf16, threads)
    if key not in _pools or _pools[key].closed:
        close_all()  # a device belongs to one pool
        _pools[key] = Pool(*key)
    return _pools[key]


@atexit.register
def close_all() -> None:
    for pool in _pools.values():
        pool.close()
    _pools.clear()
