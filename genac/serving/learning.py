"""What a learning server does with requests, in the order of its queue.

A request to learn is on disk before it is acknowledged, and the critic writes what it is about to
learn before it does (`genac/service/journal.py`). So a server that was killed loads its checkpoint,
learns again what came behind it, then what waits here, and goes on with the same weights.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from genac import checkpoint
from genac.client.messages import Advantages, Learn, Learnt, Responses, SuccessRate, Values
from genac.service import LearningCritic
from genac.service.kept import digest_of
from genac.serving.accepted import Accepted
from genac.serving.worker import Full, Stopped, Worker

FAILURES = 1000  # failed requests whose reason is kept
log = logging.getLogger(__name__)


class Broken(Exception):
    """The critic is not what its folder says."""


@dataclass
class Entry:
    """A request to learn, as it was accepted."""

    digest: str
    estimates: str | None
    reply: Learnt  # "queued", or the first reply of a request that was learnt before
    number: int | None = None  # of its file; None = it is in memory
    request: Learn | None = None
    done: Future[Learnt] = field(default_factory=Future)


class Learning:
    """A critic and the requests to learn. Without a folder of the critic's nothing outlives the
    process.

    `accept` and `status` may be called by any thread, the rest by the worker's.
    """

    def __init__(self, critic: LearningCritic, max_pending: int) -> None:
        self.critic, self.max_pending = critic, max_pending
        self.accepted = Accepted(critic.folder) if critic.folder else None
        self.metrics: Mapping[str, float] = {}  # of the last `learn`
        self.states = 0  # values given
        self.failed = 0
        self.broken = ""  # why this critic must not be used any more
        self._waiting: dict[str, Entry] = {}
        self._failures: OrderedDict[str, Learnt] = OrderedDict()
        self._number = 0
        self._lock = threading.Lock()

    @property
    def pending(self) -> int:
        """Requests to learn that wait."""
        return len(self._waiting)

    def accept(self, request: Learn, worker: Worker) -> Entry:
        """The request's entry. It is in a file by then, or was learnt already.

        Gone where the estimates are not kept, ValueError where the request does not fit them or its
        id was another one's, Full where too many wait, OSError where it cannot be written.
        """
        request = request.model_copy(update={"wait": True})  # which makes it no other request
        name, entry = request.request_id, entry_of(request)
        with self._lock:
            if (known := self._waiting.get(name)) is not None:
                if known.digest != entry.digest:
                    raise ValueError(
                        f"the request_id {name!r} was another request's; give each its own"
                    )
                return known
            if not worker.alive or worker.ending:
                raise Stopped
            self.require_sound()
            if (first := self.critic.learnt(name, entry.digest)) is not None:
                entry.reply = first
                return entry
            self._write(entry, request)
            self._queue(entry, worker)
            return entry

    def _write(self, entry: Entry, request: Learn) -> None:
        """Puts a new request into a file, where there is a folder."""
        if self.pending >= self.max_pending:
            raise Full
        self._require_own(request.estimates)
        estimates = self.critic.lesson_bytes(request)
        if self.accepted is not None:
            self.accepted.put(self._number + 1, request, estimates)
            entry.number = self._number = self._number + 1
            entry.request = None  # memory stays flat, however many wait

    def require_sound(self) -> None:
        if self.broken:
            raise Broken(self.broken)

    def _require_own(self, estimates: str | None) -> None:
        """ValueError where a request that waits learns the same estimates: they train once."""
        for name, entry in list(self._waiting.items()):
            if estimates is not None and entry.estimates == estimates:
                raise ValueError(f"the request {name!r}, which waits, learns the same estimates")

    def status(self, request_id: str) -> Learnt | None:
        """What has become of a request; None where no such one is known."""
        if (entry := self._waiting.get(request_id)) is not None:
            return entry.reply
        return self.critic.learnt(request_id) or self._failures.get(request_id)

    def go_on(self, worker: Worker) -> None:
        """Queues what a server before this one had accepted."""
        for number in self.accepted.numbers() if self.accepted is not None else ():
            assert self.accepted is not None
            entry = entry_of(self.accepted.read(number)[0])
            entry.number = self._number = number
            entry.request = None
            self._queue(entry, worker)

    def _queue(self, entry: Entry, worker: Worker) -> None:
        self._waiting[entry.reply.request_id] = entry
        entry.done = worker.call(lambda: self._learn(entry), always=True)

    # --- work of the critic's thread -------------------------------------------------------------

    def values(self, request: Responses) -> Values:
        self.require_sound()
        return self._counted(self.critic.values(request))

    def advantages(self, request: Responses) -> Advantages:
        self.require_sound()
        return self._counted(self.critic.advantages(request))

    def _counted(self, reply: Any) -> Any:
        self.states += sum(len(r.values) for r in reply.responses)
        return reply

    def set_success_rate(self, request: SuccessRate) -> SuccessRate:
        self.require_sound()
        self.critic.set_success_rate(request)
        return request

    def save(self) -> None:
        """A checkpoint, unless there is one of this step."""
        self.require_sound()  # or what nobody vouches for would be gone on from
        assert self.critic.folder is not None
        saved = checkpoint.complete(self.critic.folder)
        if not saved or checkpoint.step_of(saved[-1]) != self.critic.step:
            self.critic.save()

    def _learn(self, entry: Entry) -> Learnt:
        """Learns one request; raises where that fails, with the critic as it was."""
        name = entry.reply.request_id
        self.require_sound()
        begun = self.critic.begun
        try:
            reply = self.critic.learn(*self._content(entry))
        except Exception as error:
            learnt = self.critic.learnt(name)
            if learnt is None:
                self._fail(name, error, touched=self.critic.begun != begun)
                raise
            log.warning("%s was learnt, but: %s", name, error)  # no room for the checkpoint
            reply = learnt
        finally:
            if self.accepted is not None and entry.number is not None:
                self.accepted.drop(entry.number)
            del self._waiting[name]
        self.metrics = reply.metrics
        return reply

    def _content(self, entry: Entry) -> tuple[Learn, bytes]:
        """The request, and the estimates that it names."""
        if entry.request is not None:
            return entry.request, b""
        assert self.accepted is not None and entry.number is not None
        return self.accepted.read(entry.number)

    def _fail(self, name: str, error: Exception, touched: bool) -> None:
        """Notes a failure, and takes back what one half-way may have changed."""
        self.failed += 1
        text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self._failures[name] = Learnt(request_id=name, status="failed", error=text)
        while len(self._failures) > FAILURES:
            self._failures.popitem(last=False)
        if not touched or self.critic.folder is None:
            return
        try:
            self.critic.recover()
        except Exception as more:  # whatever it was, weights of unknown origin must not answer
            log.exception("the critic cannot be brought back to its checkpoint")
            self.broken = f"the critic failed ({type(more).__name__}); restart the server"


def entry_of(request: Learn) -> Entry:
    reply = Learnt(request_id=request.request_id, status="queued")
    return Entry(digest_of("learn", request), request.estimates, reply, request=request)
