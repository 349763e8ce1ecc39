"""What a request must be before anything is built of it: ASGI middleware in front of the routes.

A body is judged as it arrives, by its bytes and by how many values its JSON holds, since a million
empty objects take hundreds of bytes each once they are parsed. Requests that a web page of another
site could send unnoticed are refused.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genac.runs.files import encodable, plain

READ = 20.0  # seconds in which a body must have arrived, unless bounds say otherwise
DRAINED = 8  # times the limit that is read and dropped, so that the client can read the refusal
WAITING = 4  # times the limit that all requests together may hold


class JSON(Response):
    """JSON in ASCII: escapes even what UTF-8 cannot hold."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(plain(content), allow_nan=False).encode("ascii")


def refusal(status: int, message: str, **headers: str) -> JSON:
    return JSON({"error": encodable(message)}, status, headers)


class Outline:
    """Counts the values of a JSON text as it arrives: what opens, separates and quotes them."""

    def __init__(self) -> None:
        self.values = 0
        self._quoted = False  # whether what comes next lies inside a string
        self._rest = b""  # a backslash whose partner has not arrived

    def feed(self, part: bytes, most: int) -> None:
        """Counts on until there are more than `most`; counting stops there."""
        part = self._rest + part
        odd = (len(part) - len(part.rstrip(b"\\"))) % 2
        self._rest, part = part[len(part) - odd :], part[: len(part) - odd]
        part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        start = 0
        while start <= len(part) and self.values <= most:
            quote = part.find(b'"', start)
            end = len(part) if quote < 0 else quote
            if not self._quoted:
                self.values += sum(
                    part.count(mark, start, end) for mark in (b"{", b"[", b",", b":")
                )
            if quote >= 0:
                self.values += 1
                self._quoted = not self._quoted
            start = end + 1


@dataclass(frozen=True)
class Bounds:
    """What a body may be."""

    max_bytes: int
    max_values: int  # of its JSON, as `Outline` counts them
    seconds: float  # until the reply must have been sent
    read_seconds: float = READ  # until it must have arrived, if that is sooner


Refuse = Callable[[Scope, Headers], Response | None]


class Guard:
    """Passes on POST requests whose body is JSON within bounds; other methods have no body."""

    def __init__(self, app: ASGIApp, bounds: Bounds, refuse: Refuse | None = None) -> None:
        """`refuse`: what else is refused, whatever its body."""
        self.app, self.bounds = app, bounds
        self.refuse = refuse or (lambda scope, headers: None)
        self._held = 0  # bytes of the bodies of all requests under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        refused = self.refuse(scope, headers)
        if scope["method"] != "POST":
            body_follows = "transfer-encoding" in headers or "content-length" in headers
            target = self.app if refused is None else refused
            return await target(scope, receive, closing(send) if body_follows else send)
        body = bytearray()
        try:
            refused = await self._limited(receive, body, refused or unwelcome(headers))
            if refused is not None:
                return await refused(scope, receive, send)
            parts: list[Message] = [
                {"type": "http.request", "body": bytes(body), "more_body": False}
            ]

            async def replay() -> Message:
                return parts.pop() if parts else await receive()

            await self.app(scope, replay, send)
        except ClientDisconnect:
            return
        finally:
            self._held -= len(body)

    async def _limited(
        self, receive: Receive, body: bytearray, refused: Response | None
    ) -> Response | None:
        """Reads the body; the refusal where it is not in time, not within bounds or no JSON."""
        try:
            async with asyncio.timeout(min(self.bounds.read_seconds, self.bounds.seconds)):
                return await self._read(receive, body, refused) or unreadable(body)
        except TimeoutError:
            return refusal(408, "the request's body did not arrive in time", connection="close")

    async def _read(
        self, receive: Receive, body: bytearray, refused: Response | None
    ) -> Response | None:
        """Reads the body; where it is refused, or passes a limit, drops it and returns the refusal.

        A client that still sends would not see a refusal that comes before it has finished.
        """
        bounds, outline, arrived = self.bounds, Outline(), 0
        more = True
        while more and arrived <= DRAINED * bounds.max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            arrived += len(part)
            if refused is None:
                outline.feed(part, bounds.max_values)
                refused = self._beyond(arrived, outline.values, len(part))
            if refused is None:
                body += part
                self._held += len(part)
            else:
                self._held -= len(body)
                body.clear()
        if refused is not None and more:
            refused.headers["connection"] = "close"  # the rest will not be read
        return refused

    def _beyond(self, arrived: int, values: int, more: int) -> Response | None:
        """The refusal where a limit is passed."""
        bounds = self.bounds
        if arrived > bounds.max_bytes:
            return refusal(413, f"the request's body is larger than {bounds.max_bytes} bytes")
        if values > bounds.max_values:
            return refusal(413, "the request holds too many items, messages or fields; split it")
        if self._held + more > WAITING * bounds.max_bytes:
            return refusal(429, "too much waits already; try again", **{"retry-after": "1"})
        return None


def without_key(headers: Headers, key: str) -> Response | None:
    """The refusal of a request that does not bring the API key."""
    kind, _, sent = headers.get("authorization", "").partition(" ")
    # Over bytes, since it takes no other text; in a time that does not depend on how much is right.
    equal = hmac.compare_digest(sent.strip().encode("latin-1"), key.encode())
    if kind.lower() == "bearer" and equal:
        return None
    message = "send the server's API key: 'authorization: Bearer KEY'"
    return refusal(401, message, **{"www-authenticate": "Bearer"})


def unwelcome(headers: Headers) -> Response | None:
    """The refusal of a request by its headers: what a page of another site sends, or no JSON."""
    origin, host = headers.get("origin"), headers.get("host", "")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") or (
        origin is not None and netloc(origin) != host.lower()
    ):
        return refusal(403, "requests of web pages from another site are not answered")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        return refusal(415, "send JSON, with the header 'content-type: application/json'")
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        return refusal(415, "send the body as it is, without a content-encoding")
    return None


def closing(send: Send) -> Send:
    """`send` for an answer to a request whose body is not read: the connection ends with it."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
        await send(message)

    return sending


def netloc(origin: str) -> str:
    """Host and port of an Origin header; empty where it names none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def unreadable(body: bytearray) -> Response | None:
    """The refusal of what is no strict JSON, which says nothing of what was sent."""
    try:
        json.loads(
            body.decode("utf-8"), object_pairs_hook=without_repeats, parse_constant=no_number
        )
    except UnicodeDecodeError:
        return refusal(422, "the request's body is not UTF-8")
    except json.JSONDecodeError as error:
        return refusal(422, f"the request's body is no JSON: {error.msg} at {error.pos}")
    except RecursionError:
        return refusal(422, "the request's body is nested too deeply")
    except ValueError as error:  # of the two functions below, or an integer of 5,000 digits
        return refusal(422, f"the request's body is no JSON: {str(error)[:80]}")
    return None


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, where no key is given twice: which of the two would hold?"""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("an object has the same key twice")
    return dict(pairs)


def no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")
