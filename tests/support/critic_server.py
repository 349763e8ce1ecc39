"""The contract of a critic service over HTTP around any object with its methods, for tests, with
faults on demand.

    with CriticServer(critic, faults=[Fault(503, retry_after="0.1"), CUT]) as server:
        Client(server.url)

Each fault answers (or cuts) one request, in order; `before=False` lets the critic work first, as
where an answer is lost.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel, ValidationError

from genac.client.errors import Gone
from genac.client.messages import Learn, Responses, SuccessRate, Version

BODIES: dict[str, tuple[str, type[BaseModel]]] = {
    "/values": ("values", Responses),
    "/advantages": ("advantages", Responses),
    "/learn": ("learn", Learn),
    "/success-rate": ("set_success_rate", SuccessRate),
}


@dataclass(frozen=True)
class Fault:
    """What happens to one request; without a status its connection is cut."""

    status: int | None = None
    retry_after: str | None = None
    before: bool = True  # instead of the critic's work, else behind it
    text: str = '{"error": "on purpose"}'


@dataclass
class CriticServer:
    critic: Any
    faults: list[Fault] = field(default_factory=list)
    key: str | None = None

    def __post_init__(self) -> None:
        self.requests: list[tuple[str, str]] = []  # method and path, in order
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CriticServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        """Status and text of a request; the critic is one thread's at a time."""
        try:
            with self._lock:
                return self._answer(method, path, body)
        except Gone as error:
            return 410, json.dumps({"error": str(error)})
        except (ValueError, ValidationError) as error:
            return 422, json.dumps({"error": str(error)})

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        if method == "POST" and path in BODIES:
            name, kind = BODIES[path]
            reply = getattr(self.critic, name)(kind.model_validate_json(body))
            return 200, "null" if reply is None else reply.model_dump_json()
        if path in ("/version", "/checkpoint"):
            if path == "/checkpoint":
                self.critic.save()
            reply = Version(version=self.critic.version, step=self.critic.step)
            return 200, reply.model_dump_json()
        if path == "/metrics":
            return 200, f'# HELP step\ngenac_critic_step{{role="a b"}} {self.critic.step}\n'
        if path.startswith("/learn/"):
            reply = self.critic.learnt(path.removeprefix("/learn/"))
            return (404, "{}") if reply is None else (200, reply.model_dump_json())
        return 404, json.dumps({"error": f"nothing at {path}"})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve("GET")

            def do_POST(self) -> None:
                self._serve("POST")

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _serve(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                server.requests.append((method, self.path))
                fault = server.faults.pop(0) if server.faults else None
                if server.key and self.headers.get("authorization") != f"Bearer {server.key}":
                    return self._send(401, '{"error": "no such key"}')
                status, text = 0, ""
                if fault is None or not fault.before:
                    status, text = server.answer(method, self.path, body)
                if fault is None:
                    return self._send(status, text)
                if fault.status is None:
                    self.close_connection = True
                    return self.connection.close()
                self._send(fault.status, fault.text, fault.retry_after)

            def _send(self, status: int, text: str, retry_after: str | None = None) -> None:
                content = text.encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                if retry_after is not None:
                    self.send_header("retry-after", retry_after)
                self.end_headers()
                self.wfile.write(content)

        return Handler
