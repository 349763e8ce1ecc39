"""A chat-completions server for tests, with faults on demand. It counts every request.

    with ChatServer(lambda prompt, number: says("fine <answer>7</answer>")) as server:
        server.url, server.prompts, server.keys

`script(prompt, number)` decides what happens to the number-th request (from 0) of a prompt.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
    found: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "stop"}]}
    if tokens is not None:
        found["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return json.dumps(found)


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
