"""A server of a learning critic in this process, on a free port, and requests to it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from genac.client.messages import Response, Responses
from genac.config.run import HardwareConfig
from genac.scoring import Critic
from genac.service import LearningCritic
from genac.serving.app import Limits
from genac.serving.learning import Learning
from genac.serving.learning_app import LearningLimits, LearningServer

DEADLINE = 30.0
PROBLEMS = ("6 a+3>", "5 a+4>", "2 a+7>")


def load(place: Path, folder: Path | None = None, **settings: Any) -> LearningCritic:
    hardware = HardwareConfig(device="cpu", threads=1)
    return LearningCritic.from_pretrained(place, folder=folder, hardware=hardware, **settings)


def batch(number: int, **more: Any) -> Responses:
    """Responses to three problems, two each, of which one is right."""
    responses = [
        Response(problem=p, text=f"a+{number % 10}={i}\n{i}", group=p, reward=float(i))
        for p in PROBLEMS
        for i in (0, 1)
    ]
    return Responses(responses=tuple(responses), **more)


class Server:
    """One server under test."""

    def __init__(self, server: LearningServer, port: int) -> None:
        self.server, self.address = server, f"http://127.0.0.1:{port}"
        self.key: str | None = None
        self._open: threading.Event | None = None

    def send(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body (text where it is no JSON), headers."""
        if hasattr(body, "model_dump_json"):
            body = body.model_dump_json().encode()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} | headers
        if self.key is not None:
            sent.setdefault("authorization", f"Bearer {self.key}")
        request = urllib.request.Request(self.address + path, data, sent)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
                return reply.status, content(reply), dict(reply.headers)
        except urllib.error.HTTPError as error:
            return error.code, content(error), dict(error.headers)

    def post(self, path: str, body: Any) -> Any:
        """The reply; it must be one."""
        status, reply, _ = self.send(path, body)
        assert status == 200, reply
        return reply

    def refused(self, path: str, body: Any) -> tuple[int, str]:
        status, reply, _ = self.send(path, body)
        assert status >= 400 and reply.keys() == {"error"}, reply
        return status, reply["error"]

    def learnt(self, request_id: str) -> Any:
        """The reply to a request that was queued, once there is one."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            status, reply, _ = self.send(f"/learn/{request_id}")
            assert status == 200, reply
            if reply["status"] != "queued":
                return reply
            time.sleep(0.01)
        raise TimeoutError(request_id)

    def hold(self) -> None:
        """Keeps the critic's thread busy until `release`."""
        self._open, busy = threading.Event(), threading.Event()
        opened = self._open

        def work() -> None:
            busy.set()
            assert opened.wait(DEADLINE)

        self.server.worker.call(work)
        assert busy.wait(DEADLINE)

    def release(self) -> None:
        if self._open is not None:
            self._open.set()


def content(reply: Any) -> Any:
    text = reply.read()
    return (
        json.loads(text) if reply.headers["content-type"] == "application/json" else text.decode()
    )


@contextmanager
def learning_server(
    critic: LearningCritic,
    *,
    key: str | None = None,
    names: Sequence[str] = (),
    learning_limits: LearningLimits | None = None,
    **limits: Any,
) -> Iterator[Server]:
    import socket

    place = socket.create_server(("127.0.0.1", 0))
    own = Limits(**{"max_queued": 16, "seconds": 20.0, **limits})
    learning = Learning(critic, own.max_queued)
    server = LearningServer(
        learning,
        Critic(critic.critic),
        own,
        learning_limits or LearningLimits(),
        names=names,
        key=key,
    )
    running = uvicorn.Server(uvicorn.Config(server.app, log_level="error", ws="none"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [place]})
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.005)
    client = Server(server, place.getsockname()[1])
    client.key = key
    try:
        yield client
    finally:
        client.release()
        running.should_exit = True
        thread.join(DEADLINE)
        place.close()
    assert not thread.is_alive()
