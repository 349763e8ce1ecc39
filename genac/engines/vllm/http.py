"""JSON over HTTP to one server: kept connections, and a deadline on every wait."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections import deque
from typing import Any
from urllib.parse import urlencode, urlsplit

IDLE = 2.0  # seconds that a connection is kept: servers close theirs after five


class NoAnswer(ConnectionError):
    """The server gave no whole answer, or failed. Another try may succeed."""


class Late(NoAnswer):
    """No answer came before the deadline."""


class Client:
    """Requests to one address, from any number of threads."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url, seconds
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._class = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port, self._prefix = parts.hostname or "", parts.port, parts.path
        self._idle: deque[tuple[float, http.client.HTTPConnection]] = deque()
        self._busy: set[http.client.HTTPConnection] = set()

    def post(self, path: str, body: Any = None, seconds: float | None = None, **query: str) -> Any:
        """What the server answers. ValueError where it refuses the request, NoAnswer where it
        fails or does not answer in time.
        """
        text = json.dumps({} if body is None else body)
        suffix = f"?{urlencode(query)}" if query else ""
        return self._call("POST", path + suffix, text, seconds)

    def get(self, path: str, seconds: float | None = None) -> Any:
        """As `post`."""
        return self._call("GET", path, None, seconds)

    def close(self) -> None:
        """Closes every connection; who waits on one gets NoAnswer."""
        while self._idle:
            self._idle.popleft()[1].close()
        for connection in list(self._busy):
            with contextlib.suppress(OSError):
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def _call(self, method: str, path: str, body: str | None, seconds: float | None) -> Any:
        limit = self.seconds if seconds is None else seconds
        connection = self._connection(limit)
        self._busy.add(connection)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
        except TimeoutError:
            connection.close()
            raise Late(f"{self.url}{path} did not answer within {limit:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer(f"{self.url}{path}: {type(error).__name__}: {error}") from None
        finally:
            self._busy.discard(connection)
        self._idle.append((time.monotonic(), connection))
        return answer(f"{self.url}{path}", status, text)

    def _connection(self, limit: float) -> http.client.HTTPConnection:
        """A connection that is open still, or a new one."""
        while self._idle:
            try:
                since, connection = self._idle.pop()
            except IndexError:  # another thread took the last
                break
            if time.monotonic() - since < IDLE and connection.sock is not None:
                connection.sock.settimeout(limit)
                return connection
            connection.close()
        return self._class(self._host, self._port, timeout=limit)


def answer(where: str, status: int, content: bytes) -> Any:
    """The JSON of a good answer, its text where it is none, None where it is empty."""
    text = content.decode("utf-8", "replace")
    if 400 <= status < 500:
        raise ValueError(f"{where} refused the request ({status}): {text[:600]}")
    if status != 200:
        raise NoAnswer(f"{where} failed ({status}): {text[:600]}")
    try:
        return json.loads(text) if text else None
    except json.JSONDecodeError:
        return text
