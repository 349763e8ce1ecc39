"""The HTTP endpoints of a critic that learns: those of `app.py`, and those of `genac.client`.

POST /values /advantages /learn /success-rate /checkpoint
GET  /learn/{request_id} /version /metrics /healthz
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import Scope

from genac.client.errors import Gone
from genac.client.messages import Learn, Learnt, Responses, SuccessRate, Version
from genac.scoring import Critic
from genac.serving.app import Limits, add_card, add_scoring, explained, guarded_app
from genac.serving.guard import JSON, Bounds, Refuse, refusal, without_key
from genac.serving.learning import Broken, Learning
from genac.serving.metrics import (
    CONTENT_TYPE,
    Counted,
    Counts,
    counter,
    gauge,
    named,
    resident_bytes,
)
from genac.serving.worker import Full, Stopped, Worker

OPEN = ("/health", "/healthz")  # which need no key
READ = 120.0  # seconds in which a body must have arrived
SILENT = (ConnectionError, ChildProcessError, TimeoutError)  # of an engine or a worker process
STOPPING = "the server is stopping; it is there again once it was restarted"
Message = TypeVar("Message", bound=BaseModel)


@dataclass(frozen=True)
class LearningLimits:
    """What one request may hold. By default a step of 128 problems with 8 responses of 1,000 tokens
    and their log-probabilities fits twice.
    """

    max_megabytes: float = 64.0  # of its body
    max_responses: int = 8192

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")

    def bounds(self, seconds: float) -> Bounds:
        size = int(self.max_megabytes * 2**20)
        # A token of a real vocabulary takes about 7 bytes.
        return Bounds(size, size // 6, seconds, READ)


class LearningServer:
    """One critic, its thread, and the application around them."""

    def __init__(
        self,
        learning: Learning,
        scorer: Critic,
        limits: Limits,
        learning_limits: LearningLimits,
        *,
        host: str = "127.0.0.1",
        names: Sequence[str] = (),
        key: str | None = None,
    ) -> None:
        """`key`: what a client must bring; None = any client may call."""
        self.learning, self.scorer = learning, scorer
        self.limits, self.learning_limits = limits, learning_limits
        self.worker = Worker(scorer, limits.max_batch, limits.max_queued)
        self.draining = False
        self.counts = Counts()
        bounds = learning_limits.bounds(limits.seconds)
        self.app = guarded_app(self._lifespan, bounds, host, names, self._refuse(key))
        self._endpoints()
        paths = {getattr(route, "path", "") for route in self.app.routes}
        self.app.add_middleware(Counted, paths=paths, counts=self.counts)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self.worker.start()
        self.learning.go_on(self.worker)
        yield
        await asyncio.to_thread(self.worker.stop)

    def drain(self) -> None:
        """Takes no new requests, finishes those that wait, and saves a checkpoint."""
        self.draining = True
        self.worker.drain()
        if self.learning.critic.folder is not None and not self.learning.broken:
            self.learning.save()

    def _refuse(self, key: str | None) -> Refuse:
        def refuse(scope: Scope, headers: Headers) -> Response | None:
            if key is not None and scope["path"] not in OPEN:
                refused = without_key(headers, key)
                if refused is not None:
                    return refused
            if self.draining and scope["method"] == "POST":
                return refusal(503, STOPPING, **{"retry-after": "5"})
            if self.learning.broken and scope["method"] == "POST":
                return refusal(503, self.learning.broken)
            return None

        return refuse

    # --- endpoints -------------------------------------------------------------------------------

    def _endpoints(self) -> None:
        app = self.app
        add_scoring(app, self.worker, self.scorer.rationales, self.limits)
        add_card(app, self._card)
        app.add_api_route("/values", self.values, methods=["POST"], openapi_extra=taking(Responses))
        app.add_api_route(
            "/advantages", self.advantages, methods=["POST"], openapi_extra=taking(Responses)
        )
        app.add_api_route("/learn", self.learn, methods=["POST"], openapi_extra=taking(Learn))
        app.add_api_route("/learn/{request_id:path}", self.status, methods=["GET"])
        app.add_api_route(
            "/success-rate", self.success_rate, methods=["POST"], openapi_extra=taking(SuccessRate)
        )
        app.add_api_route("/checkpoint", self.checkpoint, methods=["POST"])
        app.add_api_route("/version", self.version, methods=["GET"])
        app.add_api_route("/metrics", self.metrics, methods=["GET"])
        for path in OPEN:
            app.add_api_route(path, self.health, methods=["GET"])

    async def values(self, request: Request) -> Response:
        """Values of responses at their segments' starts."""
        return await self._estimated(request, self.learning.values)

    async def advantages(self, request: Request) -> Response:
        """Values, and the advantages that the outcomes and they give by the server's settings."""
        return await self._estimated(request, self.learning.advantages)

    async def _estimated(self, request: Request, work: Any) -> Response:
        message = await read(request, Responses)
        if isinstance(message, Response):
            return message
        if refused := self._too_many(message.responses):
            return refused
        # With an id it goes on for a client that gave up: the same request again gets its reply.
        return await self._answer(lambda: work(message), kept=message.id is not None)

    async def learn(self, request: Request) -> Response:
        """Learns from outcomes. 202 with status "queued" where the reply does not wait for it."""
        message = await read(request, Learn)
        if isinstance(message, Response):
            return message
        if refused := self._too_many(message.responses or ()):
            return refused
        try:
            entry = await asyncio.to_thread(self.learning.accept, message, self.worker)
        except Exception as error:
            return self._refused(error)
        if not message.wait or entry.reply.status != "queued":
            return learnt(entry.reply)
        late = "GET /learn/{request_id} reports on it, and so does the same request again"
        return await self._reply(asyncio.shield(asyncio.wrap_future(entry.done)), late)

    async def status(self, request_id: str) -> Response:
        """What has become of a request to learn."""
        reply = self.learning.status(request_id)
        if reply is None:
            return refusal(404, "no request with this id was accepted; send it (again)")
        return written(reply)

    async def success_rate(self, request: Request) -> Response:
        """Sets what a conditioned critic's prompts say of the actor."""
        message = await read(request, SuccessRate)
        if isinstance(message, Response):
            return message

        return await self._answer(lambda: self.learning.set_success_rate(message), kept=True)

    async def checkpoint(self) -> Response:
        """Saves the critic now."""
        if self.learning.critic.folder is None:
            return refusal(409, "the server has no folder for checkpoints; start it with one")

        def work() -> Version:
            self.learning.save()
            return self._version()

        return await self._answer(work, kept=True)

    async def version(self) -> Response:
        """Which weights answer now, and what the critic is."""
        return written(self._version())

    async def metrics(self) -> Response:
        """Counts and durations for Prometheus."""
        learning, critic = self.learning, self.learning.critic
        lines = [
            *self.counts.lines(),
            *gauge("genac_queue", "Requests that wait.", self.worker.queued),
            *gauge("genac_learn_queue", "Requests to learn that wait.", learning.pending),
            *gauge("genac_version", "Of the critic's weights.", critic.version),
            *counter("genac_learnt_total", "Requests learnt, over all starts.", critic.step),
            *counter("genac_learn_failed_total", "Requests not learnt.", learning.failed),
            *counter("genac_values_total", "Values given.", learning.states),
            *named("genac_critic", "Measurements of the last learn.", learning.metrics),
            *gauge("process_resident_memory_bytes", "Memory.", resident_bytes()),
        ]
        return Response("\n".join(lines) + "\n", media_type=CONTENT_TYPE)

    async def health(self) -> Response:
        """200 while the critic can answer, else 503."""
        status = "ok" if self.worker.alive else "stopped"
        status = "draining" if self.draining else status
        status = self.learning.broken or status
        queue = {"queued": self.worker.queued, "version": self.learning.critic.version}
        return JSON({"status": status, **queue}, 200 if status == "ok" else 503)

    # --- what they share -------------------------------------------------------------------------

    def _version(self) -> Version:
        critic = self.learning.critic
        return Version(version=critic.version, step=critic.step, critic=self._card())

    def _card(self) -> dict[str, Any]:
        limits = {**asdict(self.limits), **asdict(self.learning_limits)}
        return {**self.learning.critic.describe(), **self.scorer.describe(), "limits": limits}

    def _too_many(self, responses: Sequence[Any]) -> Response | None:
        most = self.learning_limits.max_responses
        if len(responses) <= most:
            return None
        return refusal(413, f"{len(responses)} responses; at most {most} are read, split the step")

    async def _answer(self, work: Any, kept: bool) -> Response:
        """The reply of `work`, done in the critic's thread. `kept`: it is done even if nobody waits
        any more.
        """
        try:
            waiting = asyncio.wrap_future(self.worker.call(work))
        except Exception as error:
            return self._refused(error)
        late = "the same request again gets its reply" if kept else ""
        return await self._reply(asyncio.shield(waiting) if kept else waiting, late)

    async def _reply(self, waiting: asyncio.Future[Any], late: str) -> Response:
        """What is awaited, or the refusal that says why it did not come. `late`: how to get what
        goes on without this answer; empty where it ends with it.
        """
        seconds = self.limits.seconds
        try:
            return written(await asyncio.wait_for(waiting, seconds))
        except TimeoutError as error:
            if waiting.done() and not waiting.cancelled():  # the engine's or a worker's own
                return self._refused(error)
            if not late:
                return refusal(504, f"no answer within {seconds:g} s; ask for less at a time")
            text = f"no answer within {seconds:g} s, and it goes on: {late}"
            return refusal(504, text, **{"retry-after": "1"})
        except asyncio.CancelledError:
            if self.worker.alive:
                raise  # the client has gone
            return refusal(503, STOPPING, **{"retry-after": "5"})
        except Exception as error:
            return self._refused(error)

    def _refused(self, error: Exception) -> Response:
        """What the status of a failure is."""
        if isinstance(error, Full):
            waiting = f"{self.limits.max_queued} requests wait already; try again"
            return refusal(429, waiting, **{"retry-after": "1"})
        if isinstance(error, Stopped):
            return refusal(503, STOPPING, **{"retry-after": "5"})
        if isinstance(error, Broken):
            return refusal(503, str(error))
        if isinstance(error, Gone):
            return refusal(410, str(error))
        if isinstance(error, ValueError):
            return refusal(422, str(error))
        if isinstance(error, OSError) and not isinstance(error, SILENT):  # a full disk
            return refusal(507, str(error))
        return refusal(500, f"the critic failed ({type(error).__name__}); see the server's log")


def learnt(reply: Learnt) -> Response:
    """200 with a reply, 202 where it is to be fetched."""
    return written(reply, 202 if reply.status == "queued" else 200)


def written(reply: BaseModel | dict[str, Any], status: int = 200) -> Response:
    """JSON in ASCII."""
    if isinstance(reply, dict):
        return JSON(reply, status)
    text = reply.model_dump_json()
    if not text.isascii():
        return JSON(reply.model_dump(mode="json"), status)
    return Response(text, status, media_type="application/json")


async def read(request: Request, kind: type[Message]) -> Message | Response:
    """The message of a body, which is JSON by now; the refusal where it is another."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        return refusal(422, explained(error.errors(), numbers=True))


def taking(kind: type[BaseModel]) -> dict[str, Any]:
    """For the schema in /openapi.json."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}
