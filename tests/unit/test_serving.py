"""The HTTP endpoint through a real server: answers, limits, batching, faults, hostile text."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from genac.hosts import is_loopback
from genac.scoring import Ids, Judgement, Prompt
from genac.serving.app import Limits, create_app
from genac.serving.worker import Item, Stopped, Worker

NASTY = 'quote " brace } </answer>\n\x00\u2028 half \ud800 and \U0001f600'


class Scripted:
    """Judges by the length of the partial response; can be held up, and fails on demand."""

    rationales = 1

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.busy = threading.Event()

    def prompt(self, problem: Prompt, partial: str, success_rate: float | None = None) -> Ids:
        if partial == "too long":
            raise ValueError("the critic's prompt has 900 tokens; give a shorter problem")
        if partial == "odd":
            raise RuntimeError("a tokenizer's fault")
        texts = problem if isinstance(problem, str) else "".join(m["content"] for m in problem)
        return (len(texts), len(partial))

    def judge(
        self, prompts: Sequence[Ids], seeds: Sequence[int], rationales: int | None = None
    ) -> list[Judgement]:
        self.busy.set()
        assert self.open.wait(20)
        self.batches.append(len(prompts))
        if any(partial == 13 for _, partial in prompts):
            raise RuntimeError("out of memory")
        return [
            Judgement(partial / 100, NASTY, None, (NASTY,) * (rationales or 1), (seed / 10,))
            for (_, partial), seed in zip(prompts, seeds, strict=True)
        ]


@contextmanager
def serving(critic: Any, **limits: Any) -> Iterator[Callable[..., tuple[int, Any]]]:
    """call(path, body=None) -> (status, decoded JSON) against a server on a free port."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        app = create_app(critic, {"kind": "scripted"}, Limits(**limits))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        address = f"http://127.0.0.1:{place.getsockname()[1]}"

        def call(path: str, body: Any = None) -> tuple[int, Any]:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            request = urllib.request.Request(
                address + path, data, {"content-type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as reply:
                    return reply.status, json.loads(reply.read())
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())

        while not server.started:
            assert thread.is_alive()
        try:
            yield call
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def item(partial: str, **more: Any) -> dict[str, Any]:
    return {"problem": "2+3>", "partial_response": partial, **more}


def test_one_several_and_chat_messages():
    with serving(Scripted()) as call:
        status, one = call("/score", item("x" * 50, seed=7, rationales=2))
        assert status == 200
        assert one == {
            "value": 0.5,
            "spread": None,
            "rationale": NASTY,
            "rationales": [NASTY, NASTY],
            "values": [0.7],
        }
        chat = {"problem": [{"role": "user", "content": "2+3"}], "partial_response": "xx"}
        status, many = call("/score", {"items": [item("x"), chat]})
        assert status == 200 and [j["value"] for j in many["judgements"]] == [0.01, 0.02]


def test_health_and_card():
    with serving(Scripted(), max_batch=3) as call:
        assert call("/health") == (200, {"status": "ok", "queued": 0})
        status, card = call("/card")
        assert (status, card["kind"], card["limits"]["max_batch"]) == (200, "scripted", 3)


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        (item("x", rationales=9), 413, "1 items x 9 rationales is more than 8"),
        ({"items": [item("x")] * 9}, 413, "split the request"),
        (item("x" * 200), 413, "204 characters; at most 100"),
        (item("too long"), 413, "900 tokens"),
        (item("x", success_rate=2), 422, "less than or equal to 1"),
        ({"problem": "2+3>"}, 422, "partial_response: Field required"),
        (item("x", colour="red"), 422, "colour: Extra inputs are not permitted"),
        ({"items": []}, 422, "at least 1 item"),
        (b"x" * 20_000, 413, "larger than"),
        (item("x" * 13), 500, "RuntimeError"),
        (item("odd"), 500, "RuntimeError"),
    ],
)
def test_refusals(body, status, answer):
    with serving(Scripted(), max_batch=8, max_characters=100) as call:
        result, reply = call("/score", body)
        assert result == status and answer in reply["error"]
        assert call("/score", item("xx"))[1]["value"] == 0.02  # the next one is answered


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 5000, b"null"])
def test_what_is_no_json_is_refused(body):
    with serving(Scripted()) as call:
        assert call("/score", body)[0] in (400, 422)
        assert call("/health")[0] == 200


def test_hostile_text_neither_breaks_json_nor_comes_back():
    with serving(Scripted()) as call:
        assert call("/score", item(NASTY))[0] == 200
        status, reply = call("/score", {"problem": NASTY, "partial": NASTY})
        assert status == 422 and "half" not in reply["error"]


def test_what_waits_together_is_judged_together_and_the_queue_has_an_end():
    critic = Scripted()
    with serving(critic, max_queued=3) as call, ThreadPoolExecutor(8) as pool:
        critic.open.clear()
        first = pool.submit(call, "/score", item("x"))
        assert critic.busy.wait(20)
        waiting = [pool.submit(call, "/score", item("x" * n)) for n in (2, 3, 4)]
        while call("/health")[1]["queued"] < 3:
            pass
        status, reply = call("/score", item("x"))
        assert status == 429 and "3 requests wait already" in reply["error"]
        critic.open.set()
        results = [f.result(20) for f in (first, *waiting)]
        assert [(s, r["value"]) for s, r in results] == [
            (200, 0.01),
            (200, 0.02),
            (200, 0.03),
            (200, 0.04),
        ]
        assert critic.batches == [1, 3]


def test_batches_stay_within_their_limit_and_of_one_kind():
    critic = Scripted()
    with serving(critic, max_batch=4) as call, ThreadPoolExecutor(8) as pool:
        critic.open.clear()
        futures = [pool.submit(call, "/score", item("x"))]
        assert critic.busy.wait(20)
        bodies = [{"items": [item("xx")] * 3}, {"items": [item("xx")] * 2}, item("x", rationales=2)]
        for number, body in enumerate(bodies, 1):
            futures.append(pool.submit(call, "/score", body))
            while call("/health")[1]["queued"] < number:
                pass
        critic.open.set()
        assert [f.result(20)[0] for f in futures] == [200] * 4
        # 3 + 2 rows pass 4, and two rationales are another kind of call.
        assert critic.batches == [1, 3, 2, 1]


def test_a_request_that_waits_too_long_is_answered_and_never_judged():
    critic = Scripted()
    with serving(critic, seconds=0.3) as call, ThreadPoolExecutor(2) as pool:
        critic.open.clear()
        first = pool.submit(call, "/score", item("x"))
        assert critic.busy.wait(20)
        status, reply = call("/score", item("xx"))
        assert status == 504 and "0.3 s" in reply["error"]
        assert first.result(20)[0] == 504
        critic.open.set()
        assert call("/health")[0] == 200
    assert critic.batches == [1]  # the second was dropped when its turn came


def test_a_stopped_worker_takes_nothing_and_cancels_what_waits():
    critic = Scripted()
    critic.open.clear()
    worker = Worker(critic, max_batch=1, max_queued=4)
    worker.start()
    first, second = (worker.submit([Item("2+3>", "x", None, 0)], None) for _ in range(2))
    assert critic.busy.wait(20)
    ending = threading.Thread(target=worker.stop)
    ending.start()
    while not worker.ending:
        pass
    with pytest.raises(Stopped):
        worker.submit([], None)
    critic.open.set()
    ending.join(20)
    assert first.result(20)[0].value == 0.01 and second.cancelled() and not worker.alive


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_is_loopback(host, local):
    assert is_loopback(host) is local


@pytest.mark.parametrize("field", ["max_batch", "max_characters", "max_queued", "seconds"])
def test_limits_are_positive(field):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        Limits(**{field: 0})
