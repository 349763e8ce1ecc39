"""The client of a critic service: what it repeats, what it raises, and that it needs no torch."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from critic_server import CriticServer, Fault
from pydantic import ValidationError

from genac.client import (
    AsyncClient,
    Client,
    Gone,
    Learn,
    Learnt,
    Response,
    Responses,
    ServiceError,
    SuccessRate,
    Values,
)
from genac.client.messages import ResponseValues

CUT = Fault()
REQUEST = Responses(responses=(Response(problem="a+3>", tokens=(5, 6, 7), reward=1.0),), id="a")


class Counting:
    """A critic whose value is the share of a response's tokens; it counts its calls."""

    def __init__(self) -> None:
        self.step, self.version, self.saves, self.rates = 0, 0, 0, []
        self.replies: dict[str, Learnt] = {}

    def values(self, request: Responses) -> Values:
        rows = [
            ResponseValues(boundaries=(0,), values=(len(r.tokens or ()) / 10,), spreads=(None,))
            for r in request.responses
        ]
        return Values(responses=tuple(rows), version=self.version)

    def learn(self, request: Learn) -> Learnt:
        if request.estimates == "gone":
            raise Gone("the estimates 'gone' are not kept")
        if request.request_id not in self.replies:
            self.step += 1
            reply = Learnt(request_id=request.request_id, status="done", step=self.step)
            self.replies[request.request_id] = reply
        return self.replies[request.request_id]

    def learnt(self, request_id: str) -> Learnt | None:
        return self.replies.get(request_id)

    def set_success_rate(self, request: SuccessRate) -> None:
        self.rates.append(request.rate)

    def save(self) -> None:
        self.saves += 1


class Blocking:
    """An `AsyncClient` as if it were a `Client`, so that one test proves both."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.make = lambda: AsyncClient(*args, **settings)
        self.make()  # which refuses what it cannot use

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any) -> Any:
            async with self.make() as client:
                return await getattr(client, name)(*args)

        return lambda *args: asyncio.run(call(*args))


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Client]:
    monkeypatch.setattr("genac.client.exchange.FIRST", 0.002)
    return request.param


def test_every_call_of_the_contract_arrives(make: Callable[..., Client]) -> None:
    critic = Counting()
    with CriticServer(critic, key="secret") as server:
        client = make(server.url + "/", api_key="secret")
        assert client.values(REQUEST).responses[0].values == (0.3,)
        assert client.learn(Learn(request_id="l/1", estimates="a")).step == 1
        assert client.learnt("l/1") is None  # the test's server does not decode paths
        assert client.learn(Learn(request_id="l", estimates="a")).step == 2
        assert client.learnt("l") == critic.replies["l"]
        client.set_success_rate(SuccessRate(rate=None))
        client.set_success_rate(SuccessRate(rate=0.25))
        assert client.version().step == client.checkpoint().step == 2
        assert client.metrics() == {'genac_critic_step{role="a b"}': 2.0}
    assert critic.rates == [None, 0.25] and critic.saves == 1
    assert ("GET", "/learn/l%2F1") in server.requests


@pytest.mark.parametrize(
    "faults",
    [
        [CUT],
        [Fault(503, retry_after="0.01")],
        [Fault(429), Fault(502), Fault(504, before=False)],
        [CUT, Fault(before=False), Fault(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")],
    ],
)
def test_a_lost_answer_is_requested_again_and_learnt_once(
    make: Callable[..., Client], faults: list[Fault]
) -> None:
    critic, count = Counting(), len(faults)
    with CriticServer(critic, list(faults)) as server:
        learnt = make(server.url).learn(Learn(request_id="l", estimates="a"))
    assert learnt.step == critic.step == 1 and len(server.requests) == count + 1


def test_the_servers_retry_after_is_honoured(make: Callable[..., Client]) -> None:
    with CriticServer(Counting(), [Fault(429, retry_after="0.3")]) as server:
        began = time.monotonic()
        # A server that says when to come back is no failure: no retry is used up.
        make(server.url, retries=0).values(REQUEST)
        assert 0.3 <= time.monotonic() - began < 5


def test_a_refusal_is_a_value_error_and_not_repeated(make: Callable[..., Client]) -> None:
    with CriticServer(Counting(), [Fault(413)]) as server:
        with pytest.raises(ValueError, match=r"refused the request \(413\): on purpose"):
            make(server.url).values(REQUEST)
        with pytest.raises(Gone, match="the estimates 'gone' are not kept"):
            make(server.url).learn(Learn(request_id="l", estimates="gone"))
        assert len(server.requests) == 2
    refused = pytest.raises(ValueError, match=r"\(401\): no such key")
    with CriticServer(Counting(), key="secret") as server, refused:
        make(server.url, api_key="other").version()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(500), r"failed \(500\): on purpose; its log says more"),
        (Fault(302), r"failed \(302\)"),
        (Fault(200, text='{"version": 1}'), "the answer is no Values .*same version"),
        (Fault(200, text="<html>"), "the answer is no Values"),
    ],
)
def test_a_failure_names_its_remedy(
    make: Callable[..., Client], fault: Fault, message: str
) -> None:
    with CriticServer(Counting(), [fault]) as server, pytest.raises(ServiceError, match=message):
        make(server.url).values(REQUEST)


def test_a_request_that_failed_to_be_learnt_is_an_error(make: Callable[..., Client]) -> None:
    failed = Learnt(request_id="l", status="failed", error="loss nan")
    fault = Fault(200, text=failed.model_dump_json())
    expected = pytest.raises(ServiceError, match="'l' could not be learnt: loss nan")
    with CriticServer(Counting(), [fault]) as server, expected:
        make(server.url).learn(Learn(request_id="l", estimates="a"))


def test_a_silent_address_ends_in_an_error_with_what_was_tried(
    make: Callable[..., Client],
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServiceError, match="no answer within 2 retries: ConnectError"):
            make(url, retries=2).version()
    with CriticServer(Counting(), [Fault(503, retry_after="60")] * 2) as server:
        began = time.monotonic()
        with pytest.raises(ServiceError, match="no answer within 30 s: status 503, on purpose"):
            make(server.url, timeout=30).version()
        assert time.monotonic() - began < 30  # a pause beyond the deadline is not begun


def test_a_server_that_says_nothing_is_given_up_in_time(make: Callable[..., Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ServiceError, match=r"no answer within 0\.4 s: ReadTimeout"):
            make(url, timeout=0.4).version()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["critic:8077", "ftp://critic", "http://", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(make: Callable[..., Client], url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a service"):
        make(url)


def test_settings_out_of_range_are_refused(make: Callable[..., Client]) -> None:
    with pytest.raises(ValueError, match="timeout is 0"):
        make("http://critic", timeout=0)
    with pytest.raises(ValueError, match="api_key holds characters"):
        make("http://critic", api_key="a\nb")


def test_the_client_imports_no_torch() -> None:
    code = "import sys, genac.client; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "fields",
    [
        {"problem": "a"},
        {"problem": "a", "tokens": (1,), "text": "b"},
        {"problem": "a", "tokens": (1,), "reward": 1.5},
        {"problem": "a", "tokens": (-1,)},
        {"problem": (), "tokens": (1,)},
    ],
)
def test_a_message_that_makes_no_sense_is_never_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Response(**fields)
