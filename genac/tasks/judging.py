"""What a worker process of the verifier does: receive the task, then judge until the other end
closes.

Every answer goes back with the number of its question, and with what judging it changed in this
process (`marks`). A reward function may fork: the child must neither answer nor judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import inspect
import marshal
import os
import pickle
import selectors
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import getpid
from time import monotonic
from typing import Any

from genac.tasks.base import Task
from genac.tasks.channel import IDLE, NO_ITEM, TOKEN_BYTES, Channel, Page
from genac.tasks.loading import FOLDERS
from genac.tasks.marks import Marks, adopt_orphans
from genac.tasks.rewards import RewardError, check_outcome, is_async
from genac.types import Problem

Answer = tuple[str, Any]  # ("value", reward or None), ("failed", reason), ("contract", message)

IN_FLIGHT = 16  # responses that one worker judges at a time where the reward is async
STALL = 0.02  # seconds: a step of one response that took longer is added to the others' limits
PATIENCE = 1.0  # seconds without work after which the timer of `Watch` is switched off
HIGH = 200  # number from which on the socket's descriptor is searched: low ones are often closed
GRACE = 0.1  # seconds for a cancelled task to end
THREADS = 128  # of an event loop; a response may leave some of them busy
LEFT_RUNNING = frozenset({"work that runs on"})  # a kind of change whose author is certain
ITEM: contextvars.ContextVar[int] = contextvars.ContextVar("item", default=NO_ITEM)
dumps, loads = marshal.dumps, pickle.loads  # names of its own: a reward function may patch modules


def reward_name(task: Task) -> str:
    """What an error calls the task's reward."""
    return getattr(task, "reward", None) or task.name


def begin(task: Task, problem: Problem, text: str) -> Any:
    """What `task.verify` returns, or an awaitable of it where the reward is async."""
    return getattr(task, "start", task.verify)(problem, text)


def checked(value: Any, name: str) -> Answer:
    return "value", check_outcome(value, name)


def failure(error: BaseException) -> Answer:
    """A broken contract is a bug; anything else is this response's bad luck."""
    try:
        text = f"{error!s:.200}"
    except BaseException as inner:  # a user's exception
        text = f"(its text raises {type(inner).__name__})"
    if isinstance(error, RewardError):
        return "contract", text
    return "failed", f"the verifier raised {type(error).__name__}: {text}"


def too_long(limit: float) -> Answer:
    return "failed", f"the verifier took more than {limit:g} s and was stopped"


def serve(descriptor: int, page_descriptor: int) -> None:
    """The worker's life. It ends with `os._exit`: a thread that was left behind would hold it."""
    try:
        with contextlib.suppress(EOFError, OSError):
            Server(own_socket(descriptor), Page(page_descriptor)).run()
    finally:
        os._exit(1)


def own_socket(descriptor: int) -> socket.socket:
    """The socket under a high number, closed in processes that this one starts."""
    with contextlib.suppress(ImportError, OSError):  # no POSIX system; a low limit of open files
        import fcntl

        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(descriptor)
        descriptor = high
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)


class Watch:
    """Ends this process where it hangs and its parent, killed, cannot end it."""

    def __init__(self, limit: float):
        self._seconds, self._until = 3 * limit + 2, 0.0
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 (for the process's life)

    def renew(self) -> None:
        now = monotonic()
        if self._until - now < self._seconds - 0.5:  # a new timer takes longer than most judges
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._nowhere)
            self._until = now + self._seconds

    def cancel(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._until = 0.0


class Server:
    """Answers questions, one at a time; many at a time where the task's reward is async."""

    def __init__(self, sock: socket.socket, page: Page):
        self.pid, self.page = getpid(), page
        token = sock.recv(TOKEN_BYTES, socket.MSG_WAITALL)
        self.channel = Channel(sock, token)
        adopt_orphans()
        os.register_at_fork(after_in_child=self._disown)

    def _disown(self) -> None:
        self.channel.sock.close()
        self.page.detach()

    def stay_alone(self) -> None:
        """Ends a child that a reward function forked and that ran back into this code."""
        if getpid() != self.pid:
            os._exit(1)

    def run(self) -> None:
        self.page.write(IDLE)
        first = self.channel.receive()
        assert first is not None
        try:
            self.limit, sent = loads(first)
            self.task: Task = loads(sent)
        except BaseException as error:  # reported to the parent, which raises
            self.channel.send(dumps(("broken", f"{type(error).__name__}: {error}")))
            return
        sys.path[:0] = FOLDERS  # for what a reward function imports when it is called
        self.name, self.watch = reward_name(self.task), Watch(self.limit)
        many = is_async(self.task)
        self.loop = asyncio.SelectorEventLoop(MarkingSelector(self))
        asyncio.set_event_loop(self.loop)
        self.marks = Marks()
        self.channel.send(dumps(("ready", IN_FLIGHT if many else 1)))
        if many:
            Concurrent(self).run()
        else:
            self._one_by_one()

    def _one_by_one(self) -> None:
        while True:
            frame = self.channel.receive(PATIENCE)
            if frame is None:
                self.watch.cancel()
                frame = self.channel.receive()
                assert frame is not None
            self.watch.renew()
            number, problem, text = loads(frame)
            self.page.write(number)
            answer = self.judge(problem, text)
            self.answer(number, answer)

    def judge(self, problem: Problem, text: str) -> Answer:
        try:
            value = begin(self.task, problem, text)
            if inspect.isawaitable(value):  # rare: an async function that does not look like one
                value = self.loop.run_until_complete(waited(value))
            return checked(value, self.name)
        except BaseException as error:  # a verifier fails by nature: recorded as the reason
            return failure(error)
        finally:
            self.stay_alone()

    def answer(self, number: int, answer: Answer, more: frozenset[str] = frozenset()) -> None:
        kinds = self.marks.changed() | more
        self.page.write(IDLE)
        self.channel.send(dumps((number, *answer, sorted(kinds))))


async def waited(value: Awaitable[Any]) -> Any:
    return await value


# --- many responses at a time ---


class Concurrent:
    """Judges many responses on one event loop, the same one for the worker's life."""

    def __init__(self, server: Server):
        self.server, self.loop, self.limit = server, server.loop, server.limit
        self.stalled, self.own = 0.0, dict[int, float]()  # seconds of long steps: of all, by item
        self.tasks: set[asyncio.Task[None]] = set()
        self.threads = CountedThreads()
        self.loop.set_default_executor(self.threads)
        self.loop.set_task_factory(self._task)

    def run(self) -> None:
        self.loop.add_reader(self.server.channel.sock, self._read)
        self.loop.run_forever()  # until the socket ends: see _read

    def _task(self, loop: Any, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        number = ITEM.get()
        if number != NO_ITEM and asyncio.iscoroutine(coroutine):
            coroutine = Steps(self, number, coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    def _read(self) -> None:
        try:
            frame = self.server.channel.receive(0)
            while frame is not None:
                task = self.loop.create_task(self._item(*loads(frame)))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
                frame = self.server.channel.buffered()
        except (EOFError, OSError):
            os._exit(0)

    async def _item(self, number: int, problem: Problem, text: str) -> None:
        try:
            await self._answer(number, problem, text)
        except (OSError, asyncio.CancelledError):
            os._exit(1)  # nobody listens any more, or a response cancelled the others' tasks

    async def _answer(self, number: int, problem: Problem, text: str) -> None:
        self.server.watch.renew()
        ITEM.set(number)
        self.own[number] = 0.0
        task = self.loop.create_task(self._judged(problem, text))
        await self._finish(number, task)
        answer = task.result() if task.done() else too_long(self.limit)
        if task.cancel():
            await asyncio.wait({task}, timeout=GRACE)
        del self.own[number]
        left = self.threads.busy(number) or not task.done()
        self.server.stay_alone()
        self.server.answer(number, answer, LEFT_RUNNING if left else frozenset())
        if len(self.tasks) == 1:  # this one: nothing is left to watch
            self.server.watch.cancel()
        else:
            self.server.watch.renew()

    async def _finish(self, number: int, task: asyncio.Task[Answer]) -> None:
        """Waits for the task, as long as the limit says, not counting what others blocked."""
        began, before = monotonic(), self.stalled
        while not task.done():
            others = self.stalled - before - self.own[number]
            left = began + self.limit + others - monotonic()
            if left <= 0:
                return
            await asyncio.wait({task}, timeout=left)

    async def _judged(self, problem: Problem, text: str) -> Answer:
        try:
            value = begin(self.server.task, problem, text)
            return checked(await value if inspect.isawaitable(value) else value, self.server.name)
        except BaseException as error:  # a verifier fails by nature: recorded as the reason
            return failure(error)

    def step(self, number: int, call: Callable[..., Any], *args: Any) -> Any:
        """Runs one step of an item, so that a hanging step can be traced to its item."""
        began = self.server.page.write(number)
        try:
            return call(*args)
        finally:
            self.server.stay_alone()
            took = self.server.page.write(NO_ITEM) - began
            if took > STALL:
                self.stalled += took
                if number in self.own:
                    self.own[number] += took


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine each of whose steps is marked with the item it belongs to."""

    def __init__(self, owner: Concurrent, number: int, coroutine: Coroutine[Any, Any, Any]):
        self.owner, self.number, self.coroutine = owner, number, coroutine
        self.__qualname__ = getattr(coroutine, "__qualname__", "coroutine")

    def send(self, value: Any) -> Any:
        return self.owner.step(self.number, self.coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self.owner.step(self.number, self.coroutine.throw, *error)

    def close(self) -> None:
        self.coroutine.close()

    def __await__(self) -> Iterator[Any]:
        return self.coroutine.__await__()


class CountedThreads(ThreadPoolExecutor):
    """An event loop's threads that know for which item each works."""

    def __init__(self) -> None:
        super().__init__(THREADS, thread_name_prefix="asyncio")
        self._open: dict[Future[Any], int] = {}

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*args, **kwargs)
        self._open[future] = ITEM.get()
        future.add_done_callback(lambda f: self._open.pop(f, None))
        return future

    def busy(self, number: int) -> bool:
        return any(n == number and not f.done() for f, n in list(self._open.items()))


class MarkingSelector(selectors.DefaultSelector):
    """Says when the loop waits, and ends a forked child that would run the loop on."""

    def __init__(self, server: Server):
        super().__init__()
        self.server = server

    def select(self, timeout: float | None = None) -> Any:
        self.server.stay_alone()
        self.server.page.write(IDLE)
        try:
            return super().select(timeout)
        finally:
            self.server.page.write(NO_ITEM)
