"""The HTTP endpoints of a critic: POST /score, GET /health, GET /card.

Every reply is JSON in ASCII, so that nothing a model writes (quotes, line breaks, half a surrogate
pair) can break it, and no reply repeats what the client sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genac.runs.files import encodable, plain
from genac.scoring import Judgement
from genac.serving.worker import Full, Item, Judge, Stopped, Unfit, Worker


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and how much may wait."""

    max_batch: int = 64  # items x thoughts of a request, and thoughts side by side in the engine
    max_characters: int = 20_000  # of problem + partial response of one item
    max_queued: int = 32  # requests that wait; the next one gets 429
    seconds: float = 60.0  # from arrival to answer; then 504

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")

    @property
    def max_bytes(self) -> int:
        """Of a request's body: a character takes at most 12 bytes in JSON (a pair of escapes)."""
        return 12 * self.max_batch * self.max_characters + 4096


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChatMessage(Strict):
    role: str
    content: str


class ScoreItem(Strict):
    """One partial response of a problem, which is a text or chat messages."""

    problem: str | Annotated[list[ChatMessage], Field(min_length=1)]
    partial_response: str
    success_rate: float | None = Field(default=None, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def characters(self) -> int:
        texts = (
            [self.problem] if isinstance(self.problem, str) else [m.content for m in self.problem]
        )
        return sum(map(len, texts)) + len(self.partial_response)

    def item(self) -> Item:
        problem = self.problem
        if not isinstance(problem, str):
            problem = [m.model_dump() for m in problem]
        return Item(problem, self.partial_response, self.success_rate, self.seed)


class ScoreOne(ScoreItem):
    """A request about one partial response."""

    thoughts: int | None = Field(default=None, ge=1)


class ScoreMany(Strict):
    """A request about several, judged together."""

    items: Annotated[list[ScoreItem], Field(min_length=1)]
    thoughts: int | None = Field(default=None, ge=1)


class JSON(Response):
    """JSON in ASCII: escapes even what UTF-8 cannot hold."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(plain(content), allow_nan=False).encode("ascii")


def refusal(status: int, message: str, **headers: str) -> JSON:
    return JSON({"error": encodable(message)}, status, headers)


def create_app(critic: Judge, card: dict[str, Any], limits: Limits | None = None) -> FastAPI:
    """The application of one critic. `card` is what GET /card returns beside the limits."""
    limits = limits or Limits()
    worker = Worker(critic, limits.max_batch, limits.max_queued)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="genac critic", lifespan=lifespan, default_response_class=JSON)
    app.state.worker = worker
    app.add_middleware(BodyLimit, max_bytes=limits.max_bytes)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSON:
        return refusal(422, explained(error.errors()))

    @app.post("/score")
    async def score(asked: ScoreOne | ScoreMany) -> Response:
        """One judgement, or {"judgements": [...]} for a request with `items`."""
        many = isinstance(asked, ScoreMany)
        items: list[ScoreItem] = list(asked.items) if isinstance(asked, ScoreMany) else [asked]
        thoughts = asked.thoughts or critic.thoughts
        if problem := beyond(items, thoughts, limits):
            return refusal(413, problem)
        found = await judgements(worker, [i.item() for i in items], thoughts, limits)
        if isinstance(found, Response):
            return found
        replies = [asdict(j) for j in found]
        return JSON({"judgements": replies} if many else replies[0])

    @app.get("/health")
    async def health() -> Response:
        """200 while the critic can answer, else 503."""
        status = "ok" if worker.alive else "stopped"
        return JSON({"status": status, "queued": worker.queued}, 200 if worker.alive else 503)

    @app.get("/card")
    async def about() -> Response:
        """What the critic is, how it is asked, and the limits of this server."""
        return JSON({**card, "limits": asdict(limits)})

    return app


async def judgements(
    worker: Worker, items: list[Item], thoughts: int, limits: Limits
) -> list[Judgement] | Response:
    """The judgements, or the refusal that says why there are none."""
    try:
        waiting = worker.submit(items, thoughts)
        return await asyncio.wait_for(asyncio.wrap_future(waiting), limits.seconds)
    except Full:
        return refusal(
            429, f"{limits.max_queued} requests wait already; try again", **{"retry-after": "1"}
        )
    except TimeoutError:
        return refusal(504, f"no answer within {limits.seconds:g} s; ask for less at a time")
    except Unfit as error:
        return refusal(413, str(error))
    except Stopped:
        return refusal(503, "the server is stopping")
    except asyncio.CancelledError:
        if worker.alive:
            raise  # the client has gone
        return refusal(503, "the server is stopping")
    except Exception as error:  # what the engine raised; the worker has logged it
        return refusal(500, f"the critic failed ({type(error).__name__}); see the server's log")


def beyond(items: list[ScoreItem], thoughts: int, limits: Limits) -> str:
    """Which limit a request passes; empty where none."""
    if len(items) * thoughts > limits.max_batch:
        return (
            f"{len(items)} items x {thoughts} thoughts is more than {limits.max_batch}; "
            "split the request"
        )
    longest = max(item.characters for item in items)
    if longest > limits.max_characters:
        return f"an item has {longest} characters; at most {limits.max_characters} are judged"
    return ""


def explained(errors: Any) -> str:
    """What is wrong with a request, without repeating it."""
    lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors]
    return "; ".join(dict.fromkeys(lines))[:1000]


class BodyLimit:
    """Refuses bodies beyond a size before they are read whole."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        body, more = b"", True
        while more:
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            body += part.get("body", b"")
            more = part.get("more_body", False)
            if len(body) > self.max_bytes:
                message = f"the request's body is larger than {self.max_bytes} bytes"
                return await refusal(413, message)(scope, receive, send)
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return parts.pop() if parts else await receive()

        await self.app(scope, replay, send)
