"""The viewer's HTTP server: the page, and the run as JSON. It only reads."""

from __future__ import annotations

import json
import re
import socket
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import TypeAdapter, ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from genac.hosts import in_url, is_loopback
from genac.runs.store import Run
from genac.runs.trajectory import Trajectory
from genac.ui.viewer.answers import describe, member_of, same_state, with_siblings
from genac.ui.viewer.filters import Filters
from genac.ui.viewer.index import Index
from genac.ui.viewer.page import KATEX, STATIC
from genac.ui.viewer.tree import tree

BUDGET = 0.15  # seconds that a request may spend on reading the run before it answers


class StrictJSON(JSONResponse):
    """JSON as browsers read it: no NaN, and lone surrogates, which a name may hold, replaced."""

    def render(self, content: Any) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


HEADERS = {
    # Even if text of a model became markup, the browser would run and fetch nothing.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FILTERS = TypeAdapter(Filters)  # from the strings of an address
EXPORTS: dict[str, tuple[str, Callable[[Trajectory, bool], str]]] = {
    "html": ("text/html; charset=utf-8", Trajectory.to_html),
    "md": ("text/markdown; charset=utf-8", Trajectory.to_markdown),
}


def make_app(run: Run, host: str = "127.0.0.1") -> FastAPI:
    """The application for one run folder, which need not be complete."""
    app, index = guarded(host), Index(run)
    _run_routes(app, run, index)
    _response_routes(app, run, index)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.mount("/katex", StaticFiles(directory=KATEX), name="katex")
    return app


def guarded(host: str) -> FastAPI:
    """An application that answers this machine only, and whose pages load nothing else."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    if is_loopback(host):
        # A page elsewhere could point a name of its own at this port; its Host header shows it.
        names = ["127.0.0.1", "localhost", "[::1]", "testserver", host]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    _failures(app)
    return app


def _failures(app: FastAPI) -> None:
    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(ValueError)
    @app.exception_handler(OSError)
    def refused(request: Request, error: Exception) -> JSONResponse:
        text = str(error)
        if isinstance(error, ValidationError):
            text = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return StrictJSON({"detail": text}, 422)


def _run_routes(app: FastAPI, run: Run, index: Index) -> None:
    """What the page requests of the run as a whole."""

    @app.get("/api/run")
    def overview() -> Response:
        index.refresh(BUDGET)
        return StrictJSON(describe(run, index))

    @app.get("/api/rollouts")
    def rollouts(request: Request) -> Response:
        filters = FILTERS.validate_python(dict(request.query_params))
        if not index.indexed()[1]:
            index.refresh(BUDGET)
        return StrictJSON(index.page(filters, BUDGET))


def _response_routes(app: FastAPI, run: Run, index: Index) -> None:
    """What the page requests of single responses and their groups."""

    def opened(stage: str, step: int, group: int) -> list[Trajectory]:
        """The responses of a group; what could not be read of them is noted for the page."""
        result = run.group(stage, step, group)
        index.note((stage, step), result[0].problems)
        return result

    @app.get("/api/trajectory/{stage}/{step}/{group}/{member}")
    def trajectory(stage: str, step: int, group: int, member: int) -> Response:
        siblings = opened(stage, step, group)
        one = member_of(siblings, member)
        return StrictJSON(with_siblings(one, siblings))

    @app.get("/api/tree/{stage}/{step}/{group}")
    def siblings(stage: str, step: int, group: int) -> Response:
        result = opened(stage, step, group)
        about = {"problem_id": result[0].problem_id, "prompt": result[0].prompt}
        return StrictJSON(about | {"answer": result[0].answer, "nodes": tree(result)})

    @app.get("/api/history")
    def history(problem: str) -> Response:
        if not index.indexed()[1]:
            index.refresh(BUDGET)
        return StrictJSON(index.history(problem))

    @app.get("/api/versions/{stage}/{step}/{group}/{member}")
    def versions(stage: str, step: int, group: int, member: int, start: int) -> Response:
        return StrictJSON(same_state(run, index, (stage, step, group, member), start))

    @app.get("/api/export/{stage}/{step}/{group}/{member}")
    def export(
        stage: str, step: int, group: int, member: int, format: str = "html", tokens: bool = False
    ) -> Response:
        if format not in EXPORTS:
            raise ValueError(f"format is {format!r}; it can be {', '.join(EXPORTS)}")
        kind, write = EXPORTS[format]
        one = member_of(opened(stage, step, group), member)
        # a stage is named by a file, which may hold what a header must not
        name = re.sub(r"[^A-Za-z0-9._-]", "-", one.address)
        disposition = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
        text = write(one, tokens).encode("utf-8", "replace")
        return Response(text, media_type=kind, headers=disposition)


def serve(app: FastAPI, what: Path, host: str, port: int, browser: bool) -> None:
    """Serves a run, or a folder of runs, until interrupted; prints the address, and opens it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:  # in use or forbidden; no port at all
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"cannot listen on {in_url(host)}:{port} ({reason}): choose another --port, or "
            "--port 0 for any free one"
        ) from error
    address = f"http://{in_url(host)}:{listening.getsockname()[1]}/"
    listening.listen(128)  # a browser that is faster than the server waits
    print(f"{what} at {address} (Ctrl-C ends it)", flush=True)
    if not is_loopback(host):
        print(f"anyone who can reach {host} can read these runs", flush=True)
    if browser:
        webbrowser.open(address)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    with suppress(KeyboardInterrupt):  # which is how it ends
        uvicorn.Server(config).run(sockets=[listening])
