"""The critic's server against requests that are too large, too slow, no JSON, or of other sites."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from test_serving import Scripted, item

from genac.hosts import HostGuard, in_url
from genac.serving.app import MESSAGES, Limits, create_app
from genac.serving.command import Impatient
from genac.serving.guard import Outline

KIND = {"content-type": "application/json"}
REFUSED = 400  # for another Host


class Client:
    """Raw requests to one server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and decoded JSON. `body` is bytes, an iterator (sent in chunks) or an object."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        try:
            connection.request(method, path, data, KIND if headers is None else headers)
            reply = connection.getresponse()
            text = reply.read()
            return reply.status, json.loads(text) if text else None
        finally:
            connection.close()

    def score(self, body: Any, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send("POST", "/score", body, KIND | named)


@contextmanager
def server(host: str = "127.0.0.1", names: tuple[str, ...] = (), **limits: Any) -> Iterator[Client]:
    """A server as `genac serve` makes it; it must still answer at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = create_app(Scripted(), {"kind": "scripted"}, Limits(**limits), host, names)
        quick = type("Quick", (Impatient,), {"seconds": 0.3})
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", http=quick, ws="none"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        client = Client(listening.getsockname()[1])
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.005)  # a loop without a pause takes the processor from the server
        try:
            yield client
            assert client.score(item("xx"))[1]["value"] == 0.02
        finally:
            running.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


# --- size ----------------------------------------------------------------------------------------


def test_many_empty_messages_are_refused_at_once_and_take_no_memory() -> None:
    empty = b'{"role":"","content":""}'
    messages = b",".join([empty] * 400_000)
    body = b'{"problem": [%s], "partial_response": "x"}' % messages
    with server() as client:
        tracemalloc.start()
        started = time.monotonic()
        for _ in range(10):
            status, reply = client.score(body)
            assert status == 413 and "messages" in reply["error"]
        assert time.monotonic() - started < 5.0
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20  # of bodies of 10 MB
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2_000_000,
        b'{"a":' * 500_000,
        b'{"items": [' + b"{}," * 1_000_000 + b"{}]}",
        b'{"items": [' + b"[]," * 1_000_000 + b"[]]}",
        b'{"items": [' + b"1," * 2_000_000 + b"1]}",
        b'{"items": [' + b'"",' * 1_000_000 + b'""]}',
        b'{"items": {' + b'"a":1,' * 1_000_000 + b'"b":1}}',
        b'"" ' * 1_000_000,
    ],
    ids=["lists", "objects", "empty", "empty lists", "numbers", "texts", "fields", "quotes"],
)
def test_a_million_values_of_any_kind_are_refused(body: bytes) -> None:
    with server() as client:
        started = time.monotonic()
        status, reply = client.score(body)
        assert status == 413 and "split it" in reply["error"]
        assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_are_limited_with_and_without_a_length(chunked: bool) -> None:
    with server(max_batch=1, max_characters=100) as client:
        large = b"x" * 20_000
        status, reply = client.score(iter([large[:9000], large[9000:]]) if chunked else large)
        assert status == 413 and "larger than 5296 bytes" in reply["error"]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 413),
        ("POST", {"content-type": "text/plain"}, 415),
        ("POST", {"origin": "https://evil.example"}, 403),
        ("POST", {"host": "evil.example"}, 400),
        ("PUT", {}, 405),
        ("GET", {}, 405),
    ],
    ids=str,
)
def test_a_body_without_end_is_cut_off(method: str, headers: dict[str, str], status: int) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65_536

    with server(max_batch=1, max_characters=100) as client:
        try:
            answered, _ = client.send(method, "/score", endless(), KIND | headers)
        except OSError:  # the server closed the connection while the client went on sending
            return
        assert answered == status


def test_as_much_as_is_allowed_is_answered() -> None:
    """Texts full of what the count goes by: it stands inside strings, so it does not count."""
    hard = '{[,:"\\' * 3000
    with server() as client:
        rows = [{**item(hard), "success_rate": 0.5, "seed": 1} for _ in range(64)]
        assert client.score({"items": rows})[0] == 200
        chat = [{"role": "user", "content": hard[:9]}] * MESSAGES
        assert client.score({"problem": chat, "partial_response": ""})[0] == 200
        chat = [{"role": "user", "content": ""}] * (MESSAGES // 64)
        many = {"items": [{"problem": chat, "partial_response": "x"}] * 64}
        assert client.score(many)[0] == 200


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_the_count_is_the_same_however_a_body_arrives(size: int) -> None:
    body = json.dumps({"a": ['\\" {[,:', '\\\\"', "\\"], "b": {"c": "\u00e9\\"}}).encode()
    whole, parts = Outline(), Outline()
    whole.feed(body, 10**6)
    for start in range(0, len(body), size):
        parts.feed(body[start : start + size], 10**6)
    # 2 objects, 1 list, 3 commas, 3 colons, 7 strings with two quotes each
    assert parts.values == whole.values == 2 + 1 + 3 + 3 + 14


def test_messages_and_roles_count() -> None:
    with server(max_characters=100) as client:
        chat = [{"role": "user", "content": ""}] * (MESSAGES + 1)
        status, reply = client.score({"problem": chat, "partial_response": ""})
        assert status == 413 and f"at most {MESSAGES}" in reply["error"]
        chat = [{"role": "r" * 200, "content": ""}]
        status, reply = client.score({"problem": chat, "partial_response": ""})
        assert status == 413 and "200 characters" in reply["error"]


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        "POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: 50\r\n\r\n{",
        "POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["length", "chunked"],
)
def test_a_body_that_never_comes_is_not_waited_for(head: str) -> None:
    with (
        server(seconds=0.3) as client,
        socket.create_connection(("127.0.0.1", client.port), 20) as slow,
    ):
        slow.sendall(head.encode())
        reply = b"".join(iter(lambda: slow.recv(4096), b""))  # until the server closes
        assert reply.startswith(b"HTTP/1.1 408") and b"in time" in reply


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: "])
def test_headers_that_never_come_are_not_waited_for(head: bytes) -> None:
    with (
        server() as client,
        socket.create_connection(("127.0.0.1", client.port), 20) as slow,
    ):
        slow.sendall(head)
        assert slow.recv(4096) == b""


# --- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"problem": "p", "partial_response": "x", "success_rate": NaN}', "NaN"),
        (b'{"problem": "p", "partial_response": "x", "success_rate": -Infinity}', "Infinity"),
        (b'{"problem": "p", "partial_response": "x", "success_rate": 1e999}', "success_rate"),
        (b'{"problem": "p", "partial_response": "x", "seed": %s}' % (b"1" * 400), "seed"),
        (b'{"problem": "p", "partial_response": "x", "seed": %s}' % (b"1" * 9000), "JSON"),
        (
            b'{"problem": "p", "partial_response": "x", "rationales": %s}' % (b"9" * 99),
            "rationales",
        ),
        (b'{"problem": "p", "partial_response": "x", "problem": "q"}', "twice"),
        (b'{"problem": "\xff", "partial_response": "x"}', "UTF-8"),
        ('{"problem": "p", "partial_response": "x"}'.encode("utf-16"), "UTF-8"),
        ('{"problem": "p", "partial_response": "x"}'.encode("utf-16-le"), "JSON"),
        (b"[" * 5000 + b"]" * 5000, "deep"),
        (b"", "JSON"),
        (b"null", "score"),
        (b'{"problem": "p", "partial_response": "x"} {}', "JSON"),
    ],
    ids=str,
)
def test_what_is_no_strict_json_is_refused_with_the_reason(body: bytes, words: str) -> None:
    with server() as client:
        status, reply = client.score(body)
        assert status == 422 and len(reply["error"]) <= 1000
        assert words == "score" or words in reply["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_only_json_is_read(kind: str) -> None:
    with server() as client:
        body = json.dumps(item("x")).encode()
        status, reply = client.send("POST", "/score", body, {"content-type": kind})
        assert status == 415 and "application/json" in reply["error"]
        assert client.score(item("x"), content_encoding="gzip")[0] == 415
        assert client.score(item("x"), content_type="Application/JSON; charset=utf-8")[0] == 200


# --- who calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::1"},
        {"origin": "http://localhost:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
    ids=str,
)
def test_a_page_of_another_site_is_refused(headers: dict[str, str]) -> None:
    with server() as client:
        status, reply = client.score(item("x"), **headers)
        assert status == 403 and "another site" in reply["error"]
        own = f"http://127.0.0.1:{client.port}"
        assert client.score(item("x"), origin=own, sec_fetch_site="same-origin")[0] == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "8.8.8.8", "", "["]
)
@pytest.mark.parametrize("path", ["/health", "/card", "/openapi.json", "/%68ealth", "/nothing"])
def test_another_host_name_is_refused_on_every_path(name: str, path: str) -> None:
    with server() as client:
        assert client.send("GET", path, headers={"Host": name})[0] == REFUSED
        assert client.send("OPTIONS", path, headers={"Host": f"{name}:80"})[0] == REFUSED


def test_a_host_header_given_twice_or_not_at_all_is_refused() -> None:
    with server() as client:
        for lines in ("Host: localhost\r\nHost: evil.example\r\n", ""):
            with socket.create_connection(("127.0.0.1", client.port), 20) as plain:
                plain.sendall(f"GET /health HTTP/1.1\r\n{lines}\r\n".encode())
                assert plain.recv(4096).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("bound", "header", "allowed"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LocalHost:8077", True),
        ("127.0.0.1", "127.0.0.1:8077", True),
        ("127.0.0.1", "[::1]:8077", True),
        ("127.0.0.1", "proxy.example", True),
        ("127.0.0.1", "10.0.0.5:8077", False),
        ("127.0.0.1", "localhost:8077:1", False),
        ("127.0.0.1", "localhost@evil.example", False),
        ("127.0.0.1", "localhost:port", False),
        ("::1", "[::1]", True),
        ("10.0.0.5", "10.0.0.5:8077", True),
        ("0.0.0.0", "10.0.0.5:8077", True),
        ("0.0.0.0", "[fe80::1]:8077", True),
        ("0.0.0.0", socket.gethostname(), True),
        ("0.0.0.0", "evil.example", False),
        ("critic.example", "Critic.Example:8077", True),
        ("critic.example", "evil.example", False),
    ],
)
def test_which_names_are_answered(bound: str, header: str, allowed: bool) -> None:
    async def app(*_: Any) -> None:
        raise AssertionError

    assert HostGuard(app, bound, ["proxy.example"]).allows(header) is allowed


@pytest.mark.parametrize("host", ["::1", "::", "127.0.0.1", "localhost", "critic.example"])
def test_the_address_that_is_printed_is_one_that_is_answered(host: str) -> None:
    async def app(*_: Any) -> None:
        raise AssertionError

    address = urlsplit(f"http://{in_url(host)}:8077/score")
    assert (address.hostname, address.port) == (host, 8077)
    assert HostGuard(app, host).allows(address.netloc)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_no_page_loads_scripts_of_another_site_and_the_schema_stays(path: str) -> None:
    with server() as client:
        assert client.send("GET", path)[0] == 404
        status, schema = client.send("GET", "/openapi.json")
        assert status == 200 and "/score" in schema["paths"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/score", 405),
        ("OPTIONS", "/score", 405),
        ("PUT", "/score", 405),
        ("GET", "/%73core", 405),
        ("POST", "/health", 405),
        ("POST", "/nothing", 404),
        ("POST", "/%73core", 200),
        ("GET", "/..%2f..%2fetc%2fpasswd", 404),
    ],
)
def test_other_methods_and_paths_are_answered_in_json(method: str, path: str, status: int) -> None:
    with server() as client:
        answered, reply = client.send(method, path, item("x"))
        assert answered == status
        assert method == "HEAD" or status == 200 or reply.keys() == {"error"}
