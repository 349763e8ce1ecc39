"""Several runs behind one address: their list at /, each on its own at /run/NAME/, two side by side
at /pair.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import RedirectResponse

from genac.runs.listing import list_runs
from genac.runs.store import Run
from genac.ui.viewer.page import STATIC
from genac.ui.viewer.server import StrictJSON, guarded, make_app

OPEN = 6  # runs whose index is kept; another one closes the one that was used longest ago
OF_A_RUN = ("environment.json", "rollouts", "estimates", "metrics.jsonl")


def holds_run(folder: Path) -> bool:
    """Whether a folder holds anything of a run: a model has a config.json too."""
    return any((folder / name).exists() for name in OF_A_RUN)


def is_library(folder: Path) -> bool:
    """Whether a folder is no run itself and holds some."""
    own = holds_run(folder) or (folder / "config.json").exists()
    return not own and bool(list_runs(folder))


class Library:
    """The runs below a folder by their names; "a/b" is a~b in an address."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder, self.host = folder, host
        self._apps: OrderedDict[str, FastAPI] = OrderedDict()

    def runs(self) -> list[dict[str, Any]]:
        """What is known of each run, the one that was written last first."""
        rows = [
            {
                "name": self._name(one.path),
                "status": one.state,
                "algorithm": one.algorithm,
                "stage": one.stage,
                "step": one.step,
                "steps": one.steps,
                "result": one.result,
                "updated": one.updated,
            }
            for one in list_runs(self.folder)
        ]
        return sorted(rows, key=lambda row: -(row["updated"] or 0))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder)).replace("/", "~")

    def _app(self, name: str) -> FastAPI | None:
        if name not in self._apps:
            paths = {self._name(one.path): one.path for one in list_runs(self.folder)}
            if name not in paths:
                return None
            self._apps[name] = make_app(Run(paths[name]), self.host)
        self._apps.move_to_end(name)
        while len(self._apps) > OPEN:
            self._apps.popitem(last=False)
        return self._apps[name]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """/run/NAME/... as the page of that run."""
        root = scope.get("root_path", "")
        name, slash, _ = scope["path"].removeprefix(root).lstrip("/").partition("/")
        app = self._app(name)
        if app is None:
            text = f"{self.folder} holds no run {name!r}"
            return await StrictJSON({"detail": text}, 404)(scope, receive, send)
        if not slash:
            return await RedirectResponse(f"{root}/{name}/")(scope, receive, send)
        return await app({**scope, "root_path": f"{root}/{name}"}, receive, send)


def make_library(folder: Path, host: str = "127.0.0.1") -> FastAPI:
    """The application for a folder of runs."""
    app, library = guarded(host), Library(folder, host)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "runs.html")

    @app.get("/pair")
    def pair() -> FileResponse:
        return FileResponse(STATIC / "pair.html")

    @app.get("/api/runs")
    def runs() -> Response:
        return StrictJSON({"folder": str(folder), "runs": library.runs()})

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.mount("/run", library)
    return app
