"""The verifier's end of a worker process: start it, ask it, notice that it hangs, end all of it."""

from __future__ import annotations

import contextlib
import marshal
import os
import pickle
import secrets
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

from genac.tasks.base import Task
from genac.tasks.channel import TOKEN_BYTES, Channel, Garbled, Page, page_descriptor
from genac.tasks.judging import Answer
from genac.tasks.rewards import RewardError
from genac.types import Problem

START_LIMIT = 60.0  # seconds for a worker to import what the task needs
TICK = 0.05  # seconds between two looks at whether a worker hangs
OVERTIME = 5.0  # seconds beyond three limits, after which a question without an answer is lost
MARK = "GENAC_VERIFIER"  # environment variable by which a worker's descendants are known


class Worker:
    """A process that holds the task; multiprocessing's would run the user's script again.

    `width` questions may be open at a time; `answered` counts those that came back.
    """

    def __init__(self, task: Task, time_limit: float):
        self.time_limit, self.answered, self._sent = time_limit, 0, 0
        ours, theirs = socket.socketpair()
        page = page_descriptor()
        passed = [theirs.fileno(), page]
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from genac.tasks.judging import serve; "
            f"serve({passed[0]}, {passed[1]})"
        )
        mark = secrets.token_hex(16)
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            env=os.environ | {MARK: mark},
            start_new_session=True,  # so that what a verifier starts is killed with it
        )
        theirs.close()
        self.page = Page(page)
        os.close(page)
        self.process = process
        self.channel = Channel(ours, secrets.token_bytes(TOKEN_BYTES))
        self.stop = weakref.finalize(self, _kill, process, ours, mark)
        self.width = self._start(task)

    def _start(self, task: Task) -> int:
        remedy = "define it in a module that can be imported, not in the script itself"
        try:
            self.channel.sock.sendall(self.channel.token)
            sent = pickle.dumps((self.time_limit, pickle.dumps(task)))
            self.channel.send(sent, START_LIMIT)
            frame = self.channel.receive(START_LIMIT)
            if frame is None:
                raise TimeoutError(f"no answer within {START_LIMIT:g} s")
        except Exception as error:  # whatever pickle raises
            self.stop()
            raise RewardError(f"task {task.name!r} cannot be sent: {error!r}; {remedy}") from error
        kind, payload = marshal.loads(frame)
        if kind != "ready":
            self.stop()
            raise RewardError(f"task {task.name!r} does not load in a process: {payload}; {remedy}")
        return payload

    def ask(self, problem: Problem, text: str) -> int:
        """The question's number. OSError where the process is gone or does not read."""
        self._sent += 1
        question = pickle.dumps((self._sent, problem, text))
        self.channel.send(question, self.time_limit + OVERTIME)
        return self._sent

    def answer(self) -> tuple[int, Answer, set[str]] | None:
        """Number, answer and what it changed in the process; None where none came within a tick.

        Raises EOFError or OSError where the process died or something else wrote to its socket.
        """
        frame = self.channel.receive(TICK)
        if frame is not None:
            try:
                number, kind, payload, kinds = marshal.loads(frame)
            except (ValueError, TypeError, EOFError) as error:
                raise Garbled("a frame that is no answer") from error
            return number, (kind, payload), set(kinds)
        if self.process.poll() is not None and not self.channel.waiting():
            raise EOFError("the process ended")  # a child of it may hold the socket open
        return None

    def overdue(self, oldest: float) -> int | None:
        """The number of the question whose step hangs, NO_ITEM where no one knows which, else
        None. `oldest` is when the oldest open question was sent.
        """
        number, since = self.page.read()
        if number >= 0 and monotonic() - since > self.time_limit:
            sleep(TICK / 10)  # it may just have been written, one half before the other
            if self.page.read() == (number, since):
                return number
        late = monotonic() - oldest > 3 * self.time_limit + OVERTIME
        return 0 if late else None


def _kill(process: subprocess.Popen[bytes], sock: socket.socket, mark: str) -> None:
    """Ends the process, its group, and what it started in other sessions (Linux)."""
    sock.close()
    strays = descendants(process.pid, mark)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    killed: set[int] = set()
    while strays:  # until no new one was started meanwhile
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= strays
        strays = descendants(process.pid, mark) - killed
    process.wait()


def descendants(root: int, mark: str) -> set[int]:
    """Processes whose environment began with the mark, and the children of `root` and of them."""
    entry, parents, members = f"{MARK}={mark}".encode(), {}, {root}
    for pid, status, environment in _processes():
        parents[pid] = int(status.rpartition(b")")[2].split()[1])
        if entry in environment.split(b"\0"):
            members.add(pid)
    size = 0
    while size < len(members):
        size = len(members)
        members |= {pid for pid, parent in parents.items() if parent in members}
    return members - {root}


def _processes() -> Iterator[tuple[int, bytes, bytes]]:
    """Number, status line and first environment of each process of this user."""
    user = os.getuid() if hasattr(os, "getuid") else None
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it ended, or is not to be looked into
            if place.stat().st_uid == user:
                status = (place / "stat").read_bytes()
                yield int(place.name), status, (place / "environ").read_bytes()
