"""Parts of the learning server: its queue on disk, keys, counts, calls of the critic's thread."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from test_serving import Scripted

from genac.client.messages import Learn, Response
from genac.serving.accepted import Accepted, require_settings
from genac.serving.guard import without_key
from genac.serving.learning_command import api_key
from genac.serving.metrics import Counts, gauge, named
from genac.serving.worker import Full, Item, Stopped, Worker

NASTY = 'line\nbreak, "quote", \\ and \U0001f600'


# --- the queue on disk ---------------------------------------------------------------------------


def test_accepted_requests_come_back_in_order_with_their_estimates(tmp_path: Path) -> None:
    responses = (Response(problem=NASTY, text=NASTY, reward=0.1),)
    requests = [Learn(request_id=f"r{i}", responses=responses) for i in range(3)]
    first = Accepted(tmp_path)
    for number, data in ((11, b""), (9, b"\n\x00\n"), (10, b"abc")):
        first.put(number, requests[number - 9], data)
    (tmp_path / "queue" / ".000000000012.learn.1.tmp").write_text("half")  # a killed writer's
    again = Accepted(tmp_path)
    assert again.numbers() == [9, 10, 11]
    assert [again.read(n) for n in again.numbers()] == [
        (requests[0], b"\n\x00\n"),
        (requests[1], b"abc"),
        (requests[2], b""),
    ]
    again.drop(9)
    again.drop(9)  # a second time is no matter
    assert Accepted(tmp_path).numbers() == [10, 11]


def test_settings_must_stay_and_what_differs_is_named(tmp_path: Path) -> None:
    settings = {"seed": 0, "credit": {"lam": 0.9, "gate": "none"}, "size": None}
    require_settings(tmp_path / "new", {**settings, "seed": 7})  # of a start that failed
    require_settings(tmp_path / "new", settings)
    (tmp_path / "new/step-000000").mkdir()
    (tmp_path / "new/step-000000/manifest.json").touch()
    require_settings(tmp_path / "new", settings)
    with pytest.raises(ValueError, match=r"credit\.lam 0\.9, now 0\.8, size None, now '1B'"):
        credit = {"lam": 0.8, "gate": "none"}
        require_settings(tmp_path / "new", {**settings, "credit": credit, "size": "1B"})


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer key-1", True),
        ("bearer  key-1 ", True),
        ("Bearer key-", False),
        ("Bearer key-12", False),
        ("Bearer \xfc", False),
        ("Basic key-1", False),
        ("key-1", False),
        ("", False),
    ],
)
def test_only_the_whole_key_opens(header: str, allowed: bool) -> None:
    refused = without_key(Headers({"authorization": header}), "key-1")
    assert (refused is None) is allowed
    assert refused is None or refused.status_code == 401
    assert without_key(Headers({}), "key-1") is not None


@pytest.mark.parametrize("value", [None, "", "two words", "schl\xfcssel", "line\nbreak"])
def test_a_variable_without_a_usable_key_is_refused(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match="--api-key-env SOME_KEY"):
        api_key("SOME_KEY", "127.0.0.1")
    monkeypatch.setenv("SOME_KEY", "right")
    assert api_key("SOME_KEY", "0.0.0.0") == "right"
    assert api_key(None, "localhost") is None
    with pytest.raises(ValueError, match="reached from outside"):
        api_key(None, "0.0.0.0")


# --- counts --------------------------------------------------------------------------------------


def test_counts_are_written_as_prometheus_reads_them() -> None:
    counts = Counts()
    for seconds in (0.02, 0.3, 700.0):
        counts.add("/values", 200, seconds)
    counts.add("/learn", 429, 0.001)
    lines = counts.lines()
    assert 'genac_requests_total{path="/values",status="200"} 3' in lines
    assert 'genac_requests_total{path="/learn",status="429"} 1' in lines
    buckets = [line.split()[-1] for line in lines if 'bucket{path="/values"' in line]
    # up to 0.01, 0.05, 0.25, 1, 5, 30, 120, 600 s, and any
    assert buckets == ["0", "1", "1", "2", "2", "2", "2", "2", "3"]
    assert 'genac_request_seconds_sum{path="/values"} 700.32' in lines
    assert 'genac_request_seconds_count{path="/values"} 3' in lines
    types = [line for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == 2
    assert gauge("x", "Some.", None) == []
    assert named("x", "Some.", {'a"\\\n': 0.5})[-1] == 'x{name="a\\"\\\\\\n"} 0.5'


# --- the thread ----------------------------------------------------------------------------------


def waiting(critic: Scripted, worker: Worker, *works: Any) -> list[Future[Any]]:
    """Calls behind a judgement that is held."""
    critic.open.clear()
    worker.start()
    worker.submit([Item("2+3>", "x", None, 0)], None)
    assert critic.busy.wait(20)
    return [worker.call(work) for work in works]


def test_calls_are_done_alone_and_in_their_turn_between_judgements() -> None:
    critic, order = Scripted(), []
    worker = Worker(critic, max_batch=8, max_queued=8)
    first, _ = waiting(critic, worker, lambda: order.append("a") or 7, lambda: order.append("b"))
    items = [worker.submit([Item("2+3>", "xx", None, 0)], None) for _ in range(2)]
    last = worker.call(lambda: order.append(f"{len(critic.batches)} batches"))
    critic.open.set()
    last.result(20)
    assert order == ["a", "b", "2 batches"] and critic.batches == [1, 2]
    assert first.result(0) == 7 and all(f.done() for f in items)
    worker.stop()


def test_a_failing_call_fails_alone() -> None:
    worker = Worker(Scripted(), max_batch=1, max_queued=4)
    worker.start()
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(20)
    assert worker.call(lambda: 5).result(20) == 5
    worker.stop()


def test_what_must_be_done_is_taken_by_a_full_queue() -> None:
    critic = Scripted()
    worker = Worker(critic, max_batch=1, max_queued=1)
    waiting(critic, worker, lambda: None)
    with pytest.raises(Full):
        worker.call(lambda: None)
    last = worker.call(lambda: 3, always=True)
    critic.open.set()
    assert last.result(20) == 3
    worker.stop()


def test_draining_does_what_waits_and_takes_no_more() -> None:
    critic = Scripted()
    worker = Worker(critic, max_batch=1, max_queued=4)
    calls = waiting(critic, worker, lambda: 1, lambda: 2)
    draining = threading.Thread(target=worker.drain)
    draining.start()
    critic.open.set()
    draining.join(20)
    assert [c.result(0) for c in calls] == [1, 2] and not worker.alive
    with pytest.raises(Stopped):
        worker.call(lambda: 3)
