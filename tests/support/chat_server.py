"""A chat-completions server for tests, with faults on demand. It counts every request.

    with ChatServer(lambda prompt, number: says("fine <answer>7</answer>")) as server:
        server.url, server.prompts, server.keys

`script(prompt, number)` decides what happens to the number-th request (from 0) of a prompt.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any


@dataclass(frozen=True)
class Act:
    """What the server does with one request."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut_at: int | None = None  # bytes of the body after which the connection is reset


def completion(text: str | None, tokens: tuple[int, int] | None = (10, 5)) -> str:
    """The JSON of a chat completion."""
    message = {"role": "assistant", "content": text}
    result: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "stop"}]}
    if tokens is not None:
        result["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return json.dumps(result)


def says(text: str | None, tokens: tuple[int, int] | None = (10, 5)) -> Act:
    return Act(body=completion(text, tokens))


Script = Callable[[str, int], Act]


class ChatServer:
    """Serves on a free port of this machine while it is open."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.prompts: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = self._now = 0  # requests at the same time
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def count(self) -> int:
        return len(self.requests)

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, body: dict[str, Any], key: str | None) -> Act:
        """Notes a request and looks up what to do with it."""
        prompt = body["messages"][0]["content"]
        with self._lock:
            number = self.prompts[prompt]
            self.prompts[prompt] += 1
            self.requests.append(body)
            self.keys.append(key)
            self._now += 1
            self.most = max(self.most, self._now)
        return self.script(prompt, number)

    def done(self) -> None:
        with self._lock:
            self._now -= 1

    def _handler(owner) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                act = owner.take(body, self.headers.get("Authorization"))
                time.sleep(act.delay)
                owner.done()
                try:
                    self.send(act)
                except OSError:  # the client has gone: that is what some tests are about
                    self.close_connection = True

            def send(self, act: Act) -> None:
                data = act.body.encode()
                self.send_response(act.status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in act.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if act.cut_at is None:
                    self.wfile.write(data)
                    return
                self.wfile.write(data[: act.cut_at])
                self.wfile.flush()
                reset = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                self.connection.close()
                self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                return None

        return Handler


Pieces = Iterable[bytes | float | None]  # bytes are sent, seconds waited, None closes


class RawServer:
    """Sends what a script says byte by byte, and counts the connections that clients hold open."""

    def __init__(self, script: Callable[[str, int], Pieces]) -> None:
        self.script = script
        self.prompts: Counter[str] = Counter()
        self.most_open = self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                self.most_open = max(self.most_open, sum(not has_left(c, 0.0) for c in self._open))
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as requests:
                while self._answer(connection, requests):
                    pass
        except OSError:  # the client has gone
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
                connection.close()

    def _answer(self, connection: socket.socket, requests: IO[bytes]) -> bool:
        """Answers one request; False once the connection is to be closed."""
        length = 0
        while (line := requests.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if not line:
            return False
        prompt = json.loads(requests.read(length))["messages"][0]["content"]
        with self._lock:
            number = self.prompts[prompt]
            self.prompts[prompt] += 1
        for piece in self.script(prompt, number):
            if piece is None or (isinstance(piece, float) and has_left(connection, piece)):
                return False
            if isinstance(piece, bytes):
                connection.sendall(piece)
        return True


def has_left(connection: socket.socket, seconds: float) -> bool:
    """Waits, and says whether the client closed the connection meanwhile, whatever it sent."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(seconds * 1000))


def http(body: str | bytes, head: str = "HTTP/1.1 200 OK", length: int | None = None) -> bytes:
    """An answer as it goes over the wire; `length` where the header is to say another one."""
    data = body.encode() if isinstance(body, str) else body
    size = len(data) if length is None else length
    return f"{head}\r\nContent-Length: {size}\r\n\r\n".encode() + data
