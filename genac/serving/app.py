"""The HTTP endpoints of a critic: POST /score, GET /health, GET /card.

Every reply is JSON in ASCII, so that nothing a model writes (quotes, line breaks, half a surrogate
pair) can break it, and no reply repeats what the client sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from genac.hosts import HostGuard
from genac.scoring import Judgement
from genac.serving.guard import JSON, Bounds, Guard, Refuse, refusal
from genac.serving.options import MESSAGES, Limits
from genac.serving.worker import Full, Item, Judge, Stopped, Unfit, Worker


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


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
        texts = [self.problem] if isinstance(self.problem, str) else self.problem
        sizes = [len(t) if isinstance(t, str) else len(t.role) + len(t.content) for t in texts]
        return sum(sizes) + len(self.partial_response)

    @property
    def messages(self) -> int:
        return 0 if isinstance(self.problem, str) else len(self.problem)

    def item(self) -> Item:
        problem = self.problem
        if not isinstance(problem, str):
            problem = [m.model_dump() for m in problem]
        return Item(problem, self.partial_response, self.success_rate, self.seed)


class ScoreOne(ScoreItem):
    """A request about one partial response."""

    rationales: int | None = Field(default=None, ge=1, lt=2**31)


class ScoreMany(Strict):
    """A request about several, judged together."""

    items: Annotated[list[ScoreItem], Field(min_length=1)]
    rationales: int | None = Field(default=None, ge=1, lt=2**31)


def create_app(
    critic: Judge,
    card: dict[str, Any],
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
) -> FastAPI:
    """The application of one critic. `card` is what GET /card returns beside the limits, `host` the
    address that is listened on, `names` further names that the server answers to.
    """
    limits = limits or Limits()
    worker = Worker(critic, limits.max_batch, limits.max_queued)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = guarded_app(lifespan, bounds_of(limits), host, names)
    app.state.worker = worker
    add_scoring(app, worker, critic.rationales, limits)
    add_card(app, lambda: {**card, "limits": asdict(limits)})

    @app.get("/health")
    async def health() -> Response:
        """200 while the critic can answer, else 503."""
        status = "ok" if worker.alive else "stopped"
        return JSON({"status": status, "queued": worker.queued}, 200 if worker.alive else 503)

    return app


def bounds_of(limits: Limits) -> Bounds:
    return Bounds(limits.max_bytes, limits.max_values, limits.seconds)


def guarded_app(
    lifespan: Any, bounds: Bounds, host: str, names: Sequence[str], refuse: Refuse | None = None
) -> FastAPI:
    """An application without endpoints. `refuse`: what else its guard refuses."""
    app = FastAPI(
        title="genac critic",
        lifespan=lifespan,
        default_response_class=JSON,
        docs_url=None,  # these pages load scripts from other sites; /openapi.json has the same
        redoc_url=None,
    )
    app.add_middleware(Guard, bounds=bounds, refuse=refuse)
    app.add_middleware(HostGuard, bound=host, also=names)
    _failures(app)
    return app


def add_card(app: FastAPI, card: Callable[[], dict[str, Any]]) -> None:
    @app.get("/card")
    async def about() -> Response:
        """What the critic is, how it is asked, and the limits of this server."""
        return JSON(card())


def _failures(app: FastAPI) -> None:
    """Every refusal has the form of the others."""

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSON:
        return refusal(error.status_code, str(error.detail), **(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSON:
        return refusal(422, explained(error.errors()))


def add_scoring(app: FastAPI, worker: Worker, usual: int, limits: Limits) -> None:
    """`usual` is the number of rationales per item where a request names none."""

    @app.post("/score")
    async def score(queries: ScoreOne | ScoreMany) -> Response:
        """One judgement, or {"judgements": [...]} for a request with `items`."""
        many = isinstance(queries, ScoreMany)
        items: list[ScoreItem] = (
            list(queries.items) if isinstance(queries, ScoreMany) else [queries]
        )
        rationales = queries.rationales or usual
        if problem := beyond(items, rationales, limits):
            return refusal(413, problem)
        result = await judgements(worker, [i.item() for i in items], rationales, limits)
        if isinstance(result, Response):
            return result
        replies = [asdict(j) for j in result]
        return JSON({"judgements": replies} if many else replies[0])


async def judgements(
    worker: Worker, items: list[Item], rationales: int, limits: Limits
) -> list[Judgement] | Response:
    """The judgements, or the refusal that says why there are none."""
    try:
        waiting = worker.submit(items, rationales)
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


def beyond(items: list[ScoreItem], rationales: int, limits: Limits) -> str:
    """Which limit a request passes; empty where none."""
    if len(items) * rationales > limits.max_batch:
        return (
            f"{len(items)} items x {rationales} rationales is more than {limits.max_batch}; "
            "split the request"
        )
    messages = sum(item.messages for item in items)
    if messages > MESSAGES:
        return f"{messages} messages; at most {MESSAGES} are read in one request"
    longest = max(item.characters for item in items)
    if longest > limits.max_characters:
        return f"an item has {longest} characters; at most {limits.max_characters} are judged"
    return ""


def explained(errors: Any, numbers: bool = False) -> str:
    """What is wrong with a request, without repeating it, but for `numbers`."""
    lines = []
    # What does not fit is left out, so a list may be too short as well; that says nothing more.
    places = [e["loc"] for e in errors]
    inner = lambda at: any(len(p) > len(at) and p[: len(at)] == at for p in places)  # noqa: E731
    for e in [e for e in errors if e["type"] != "too_short" or not inner(e["loc"])]:
        sent = e.get("input") if numbers else None
        value = f", not {sent!r:.24}" if type(sent) in (int, float) else ""
        lines.append(f"{'.'.join(map(str, e['loc']))}: {e['msg']}{value}")
    return "; ".join(dict.fromkeys(lines))[:1000]
