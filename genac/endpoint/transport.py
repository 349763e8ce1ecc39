"""One request over HTTP: a deadline for all of it, a limit on its size, a connection of its own.

The library's time-outs count from one byte to the next, so a server that drips outlasts them. Here
a timer cuts the connection at the deadline, whatever the library waits for: the handshake, headers,
interim answers, or a compressed body that never grows. Only the look-up of a name has the system's
limit.

A connection carries one request. What a server sends beyond the answer, or twice, can then never be
taken for the answer to another request.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pydantic import SecretStr

from genac.endpoint.replies import Pointless, Retry

LARGEST = 32 * 2**20  # bytes of an answer, as sent and unpacked; a long one with log-probs has 2 MB
CONNECT = 20.0  # seconds until an address is given up; a name may have several


@dataclass(frozen=True)
class Answer:
    """What the server sent: its status, its text and its header Retry-After."""

    status: int
    text: str
    retry_after: str | None


class Deadline:
    """Cuts the connections that `trace` sees once the time is up, and closes them at the end.

    with Deadline(5.0) as deadline:
        client.post(url, extensions={"trace": deadline.trace})
    """

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._cut()
            for own in self._sockets:
                own.close()
            self._sockets.clear()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpcore at each step of a request."""
        if not event.endswith("connect_tcp.complete"):
            return
        # A descriptor of our own stays valid when TLS takes the socket over or the library closes
        # it, and shutting it down ends the connection itself.
        own = info["return_value"].get_extra_info("socket").dup()
        with self._lock:
            self._sockets.append(own)
            if self.over:
                self._cut()

    def _expire(self) -> None:
        with self._lock:
            self.over = True
            self._cut()

    def _cut(self) -> None:
        for own in self._sockets:
            with contextlib.suppress(OSError):  # the server has closed it already
                own.shutdown(socket.SHUT_RDWR)


class Transport:
    """Sends requests to one address."""

    def __init__(
        self, url: str, secret: SecretStr | None, timeout: float, concurrency: int
    ) -> None:
        self.url, self.timeout, self.concurrency = url, timeout, concurrency
        self._secret = secret

    @contextmanager
    def open(self) -> Iterator[Any]:
        """A client of the HTTP library; Pointless where the environment's proxy will not do."""
        http = load_http()
        headers = {"Connection": "close", "Accept-Encoding": "identity"}
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret.get_secret_value()}"
        connect = min(CONNECT, self.timeout / 2)  # a name with two addresses stays in time
        try:
            client = http.Client(
                headers=headers,
                timeout=http.Timeout(self.timeout, connect=connect),
                limits=http.Limits(max_connections=self.concurrency, max_keepalive_connections=0),
            )
        except (ValueError, ImportError, http.InvalidURL) as error:
            # The text is left out: a proxy's address may hold a password.
            raise Pointless(
                f"the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used "
                f"({type(error).__name__}); correct or unset it (SOCKS needs httpx2[socks])"
            ) from None
        with client:
            yield client

    def post(self, client: Any, body: dict[str, Any]) -> Answer:
        """One request. Raises Retry where no whole answer came in time, Pointless where the
        address is none.
        """
        http = load_http()
        with Deadline(self.timeout) as deadline:
            try:
                status, headers, content = self._exchange(client, body, deadline)
            except (http.InvalidURL, UnicodeError):
                raise Pointless(f"{self.url} is no address; correct base_url") from None
            except http.TransportError as error:
                if deadline.over or isinstance(error, http.TimeoutException):
                    raise self._late() from None
                raise Retry(f"{type(error).__name__}: {error}") from None
            if deadline.over:  # without a length the cut looks like the end of the body
                raise self._late()
        text = unpacked(content, headers.get("content-encoding", ""))
        return Answer(status, text.decode("utf-8-sig", "replace"), headers.get("retry-after"))

    def _exchange(
        self, client: Any, body: dict[str, Any], deadline: Deadline
    ) -> tuple[int, Any, bytes]:
        """Status, headers and the body's bytes as they were sent."""
        content = bytearray()
        extensions = {"trace": deadline.trace}
        with client.stream("POST", self.url, json=body, extensions=extensions) as response:
            # Not unpacked by the library: a piece of it could become gigabytes.
            for piece in response.iter_raw():
                content += piece
                if len(content) > LARGEST:
                    raise too_large()
        return response.status_code, response.headers, bytes(content)

    def _late(self) -> Retry:
        return Retry(f"no answer within {self.timeout:g} s")


def unpacked(content: bytes, encoding: str) -> bytes:
    """The body as it was before gzip or deflate, which servers use unrequested. Raises
    Retry for other encodings, damaged ones, and more than LARGEST bytes.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return content
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Retry(f"the answer is packed as {encoding[:40]!r}, which was not requested")
    unzip = zlib.decompressobj(32 + zlib.MAX_WBITS)  # the header says which of the two it is
    try:
        text = unzip.decompress(content, LARGEST + 1)
    except zlib.error as error:
        raise Retry(f"the answer is damaged {encoding}: {error}") from None
    if len(text) > LARGEST:
        raise too_large()
    if not unzip.eof:
        raise Retry(f"the answer is cut {encoding}")
    return text


def too_large() -> Retry:
    return Retry(f"the answer is larger than {LARGEST >> 20} MiB")


def load_http() -> Any:
    """The HTTP library; ValueError where it is not installed."""
    try:
        import httpx2
    except ImportError as error:
        raise ValueError(
            "asking an endpoint needs httpx2, which is not installed; pip install httpx2"
        ) from error
    return httpx2
