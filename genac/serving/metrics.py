"""Counts and durations of a server in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

BUCKETS = (0.01, 0.05, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Counted:
    """ASGI middleware: counts replies by path and status, and how long they took.

    Paths that the server does not have are one, or a client could make any number of series.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], counts: Counts) -> None:
        self.app, self.paths, self.counts = app, paths, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin, status = time.monotonic(), 499  # where the client goes before there is a reply

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            self.counts.add(self._name(scope["path"]), status, time.monotonic() - begin)

    def _name(self, path: str) -> str:
        if path.startswith("/learn/"):
            return "/learn/{request_id}"
        return path if path in self.paths else "other"


class Counts:
    """Replies so far."""

    def __init__(self) -> None:
        self.replies: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)  # in sum, by path
        self.within: Counter[tuple[str, float]] = Counter()  # not cumulative

    def add(self, path: str, status: int, seconds: float) -> None:
        self.replies[path, status] += 1
        self.seconds[path] += seconds
        limit = next((b for b in BUCKETS if seconds <= b), float("inf"))
        self.within[path, limit] += 1

    def lines(self) -> list[str]:
        result = header("genac_requests_total", "counter", "Replies by path and status.")
        for (path, status), count in sorted(self.replies.items()):
            result.append(sample("genac_requests_total", count, path=path, status=str(status)))
        result += header("genac_request_seconds", "histogram", "Seconds from arrival to reply.")
        for path in sorted(self.seconds):
            total = 0
            for limit in (*BUCKETS, float("inf")):
                total += self.within[path, limit]
                bound = "+Inf" if limit == float("inf") else f"{limit:g}"
                name = "genac_request_seconds_bucket"
                result.append(sample(name, total, path=path, le=bound))
            result.append(sample("genac_request_seconds_sum", self.seconds[path], path=path))
            result.append(sample("genac_request_seconds_count", total, path=path))
        return result


def gauge(name: str, text: str, value: float | None) -> list[str]:
    """Nothing where the value is not known."""
    return [] if value is None else [*header(name, "gauge", text), sample(name, value)]


def counter(name: str, text: str, value: float) -> list[str]:
    return [*header(name, "counter", text), sample(name, value)]


def named(name: str, text: str, values: Mapping[str, float]) -> list[str]:
    """One gauge with a label for each of the values."""
    rows = [sample(name, value, name=key) for key, value in sorted(values.items())]
    return [*header(name, "gauge", text), *rows] if rows else []


def header(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def sample(name: str, value: float, /, **labels: str) -> str:
    inner = ",".join(f'{key}="{text.translate(ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}"


def resident_bytes() -> int | None:
    """Memory of this process; None where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
