"""Async rewards: one event loop per worker for its life, many responses at a time in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genac.tasks import verifier as verifying
from genac.tasks.files import FileTask
from genac.tasks.judging import IN_FLIGHT
from genac.tasks.rewards import load_reward
from genac.tasks.verifier import Outcome, Verifier
from genac.types import Problem

pytest.importorskip("httpx")
FILE = Path(__file__).parents[1] / "data" / "http_rewards.py"
PROBLEM = Problem("p", "2 + 3?", "5")


class Server(ThreadingHTTPServer):
    """Answers /N with N / 100, once `gate` requests are open at the same time."""

    daemon_threads, request_queue_size = True, 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.changed = threading.Condition()
        self.open, self.most, self.gate, self.connections = 0, 0, 1, 0

    @property
    def address(self) -> str:
        return f"http://localhost:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        server = self.server
        with server.changed:
            server.open += 1
            server.most = max(server.most, server.open)
            server.changed.notify_all()
            server.changed.wait_for(lambda: server.most >= server.gate, timeout=10)
        text = self.path.removeprefix("/")
        body = str(int(text) / 100 if text.isdigit() else 0.5).encode()
        with server.changed:
            server.open -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("GENAC_TEST_ADDRESS", server.address)
    monkeypatch.setenv("NO_PROXY", "*")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def task(tmp_path: Path, function: str = "ask") -> FileTask:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "2 + 3?", "answer": "5"}\n')
    return FileTask(str(data), reward=f"{FILE}:{function}")


def judged(verifier: Verifier, texts: list[str]) -> list[Outcome]:
    return verifier.verify([(PROBLEM, text) for text in texts])


@pytest.mark.parametrize("function", ["ask", "hides"])
def test_a_kept_client_answers_every_response(tmp_path, server, monkeypatch, function):
    monkeypatch.setattr(verifying, "WORKERS", 1)
    with Verifier(task(tmp_path, function)) as verifier:
        for _ in range(3):
            outcomes = judged(verifier, [str(n) for n in range(20)])
            assert outcomes == [Outcome(n / 100) for n in range(20)]
    assert server.connections <= IN_FLIGHT  # they are kept, from one call to the next


def test_one_worker_has_many_responses_under_way(tmp_path, server, monkeypatch):
    """The server answers nobody before as many ask as a worker may have under way."""
    monkeypatch.setattr(verifying, "WORKERS", 1)
    server.gate = IN_FLIGHT
    with Verifier(task(tmp_path), time_limit=8) as verifier:
        outcomes = judged(verifier, [str(n) for n in range(60)])
    assert outcomes == [Outcome(n / 100) for n in range(60)]
    assert server.most == IN_FLIGHT  # and never more


@pytest.mark.parametrize(
    "text",
    [
        "block",
        "sleep",
        *(
            pytest.param(t, marks=pytest.mark.slow)
            for t in ("callback", "stubborn", "thread", "child task")
        ),
    ],
)
def test_a_response_that_exceeds_its_time_costs_only_itself(tmp_path, server, monkeypatch, text):
    monkeypatch.setattr(verifying, "WORKERS", 1)
    texts = [str(n) for n in range(20)]
    texts[3] = text
    with Verifier(task(tmp_path), time_limit=1) as verifier:
        outcomes = judged(verifier, texts)
        assert judged(verifier, ["7"]) == [Outcome(0.07)]
    assert outcomes[3] == Outcome(None, "the verifier took more than 1 s and was stopped")
    del outcomes[3]
    assert outcomes == [Outcome(n / 100) for n in range(20) if n != 3]


@pytest.mark.parametrize("text", ["cancel", "close"])
def test_a_response_that_breaks_the_loop_costs_only_itself(
    tmp_path, server, monkeypatch, capfd, text
):
    """It cancels the others' tasks, or closes the line to the parent."""
    monkeypatch.setattr(verifying, "WORKERS", 1)
    texts = [str(n) for n in range(20)]
    texts[3] = text
    began = time.monotonic()
    with Verifier(task(tmp_path), time_limit=5) as verifier:
        outcomes = judged(verifier, texts)
    assert outcomes.pop(3).reward is None
    assert outcomes == [Outcome(n / 100) for n in range(20) if n != 3]
    assert time.monotonic() - began < 15 and "Traceback" not in capfd.readouterr().err


def test_what_one_response_blocks_does_not_count_for_the_others(tmp_path, server, monkeypatch):
    """Eight that block for 0.4 s each, longer together than the limit of any."""
    monkeypatch.setattr(verifying, "WORKERS", 1)
    texts = ["pause"] * 8 + [str(n) for n in range(8)]
    with Verifier(task(tmp_path), time_limit=1.5) as verifier:
        outcomes = judged(verifier, texts)
    assert [o.reward for o in outcomes] == [0.5] * 8 + [n / 100 for n in range(8)]


@pytest.mark.slow
def test_many_that_block_cost_only_themselves(tmp_path, server, monkeypatch):
    monkeypatch.setattr(verifying, "WORKERS", 1)
    texts = ["block" if n % 5 == 0 else str(n) for n in range(16)]
    with Verifier(task(tmp_path), time_limit=0.5) as verifier:
        outcomes = judged(verifier, texts)
    assert [o.reward for o in outcomes] == [None if n % 5 == 0 else n / 100 for n in range(16)]


def test_a_weighted_mean_with_an_async_part(tmp_path, server):
    data = task(tmp_path)
    data = FileTask(data.path, reward=f"0.5 * match + 0.5 * {FILE}:ask")
    problem = Problem("p", "2 + 3?", "50")
    with Verifier(data) as verifier:
        assert verifier.verify([(problem, "50")] * 12) == [Outcome(0.75)] * 12


def test_a_scorer_called_directly_keeps_its_loop(server, monkeypatch):
    score = load_reward(f"{FILE}:ask")
    score.function.__globals__["ADDRESS"] = server.address
    assert [score(PROBLEM, str(n)) for n in range(4)] == [0.0, 0.01, 0.02, 0.03]
    results: list[float] = []
    score.function.__globals__["CLIENT"] = None  # another thread has a loop of its own
    thread = threading.Thread(target=lambda: results.append(score(PROBLEM, "7")))
    thread.start()
    thread.join()
    assert results == [0.07]


def test_a_bug_ends_the_call_and_the_next_one_starts_anew(tmp_path, server):
    with Verifier(task(tmp_path)) as verifier:
        with pytest.raises(ValueError, match=r"http_rewards.py:ask' is 2\.0"):
            judged(verifier, ["200"] * 4 + [str(n) for n in range(30)])
        began = time.monotonic()
        assert judged(verifier, ["5"] * 4) == [Outcome(0.05)] * 4
        assert time.monotonic() - began < 30
