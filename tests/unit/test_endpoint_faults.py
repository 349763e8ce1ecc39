"""Servers that break the protocol: no try outlasts its limit, no answer goes to another prompt."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chat_server import Pieces, RawServer, completion, http

from genac.config.stages import EndpointConfig
from genac.endpoint import transport
from genac.endpoint.address import checked_url
from genac.endpoint.client import Endpoint
from genac.endpoint.replies import NO_TEXT, Bill, Reply, complaint, seconds

PROMPTS = [f"question {i}" for i in range(24)]
OK = b"HTTP/1.1 200 OK\r\n"
LATE = "no answer within 0.6 s"


def ask(
    url: str, folder: Path, prompts: list[str], **values: Any
) -> tuple[dict[str, Reply], Bill, list[str]]:
    rows: list[str] = []
    cfg = {"backoff": 0.01, "timeout": 20.0, "api_key_env": "none", "max_retries": 0} | values
    endpoint = Endpoint(EndpointConfig(base_url=url, model="wise", **cfg), rows.append)
    replies, bill = endpoint.ask(prompts, folder / "answers.jsonl")
    return replies, bill, rows


def one(pieces: Pieces, folder: Path, **values: Any) -> tuple[Reply | None, Bill, str]:
    """What comes of a single prompt that is answered with the pieces each time."""
    with RawServer(lambda prompt, number: pieces) as server:
        replies, bill, answer = ask(server.url, folder, ["p"], **values)
    return replies.get("p"), bill, " ".join(answer)


@pytest.mark.parametrize("again", [1, 3])
def test_answers_sent_more_than_once_reach_no_other_prompt(again: int, tmp_path: Path) -> None:
    with RawServer(lambda prompt, number: [http(completion(prompt)) * (1 + again)]) as server:
        replies, _, _ = ask(server.url, tmp_path, PROMPTS, concurrency=4)
        assert {p: r.text for p, r in replies.items()} == {p: p for p in PROMPTS}
        assert server.connections == len(PROMPTS)


def test_what_is_sent_behind_an_answer_later_on_reaches_no_other_prompt(tmp_path: Path) -> None:
    def script(prompt: str, number: int) -> Pieces:
        return [http(completion(prompt)), 0.02, http(completion(f"late {prompt}"))]

    with RawServer(script) as server:
        replies, _, _ = ask(server.url, tmp_path, PROMPTS, concurrency=1)
        assert {p: r.text for p, r in replies.items()} == {p: p for p in PROMPTS}


def drip(*start: bytes, piece: bytes) -> Pieces:
    return [*start, *(part for _ in range(200) for part in (piece, 0.05)), None]


DRIPS: dict[str, Callable[[], Pieces]] = {
    "silence": lambda: [20.0],
    "headers": lambda: drip(OK, piece=b"x-more: y\r\n"),
    "one header": lambda: drip(OK + b"x-long: ", piece=b"y"),
    "status line": lambda: drip(b"HTTP/1.1 200 ", piece=b"O"),
    "interim answers": lambda: drip(piece=b"HTTP/1.1 102 Processing\r\n\r\n"),
    "body": lambda: drip(OK + b"Content-Length: 900\r\n\r\n", piece=b"x"),
    "chunks": lambda: drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", piece=b"1\r\nx\r\n"),
    # An answer that is whole, but whose end cannot be known: what was cut must not pass for it.
    "no length": lambda: drip(OK + b"\r\n" + completion("x").encode(), piece=b" "),
    # Empty blocks: the compressed body goes on and yields nothing.
    "gzip": lambda: drip(
        OK + b"Content-Encoding: gzip\r\nContent-Length: 9000\r\n\r\n" + gzip.compress(b"")[:10],
        piece=b"\x00\x00\x00\xff\xff",
    ),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_try_ends_at_its_deadline_whatever_drips(kind: str, tmp_path: Path) -> None:
    started = time.monotonic()
    reply, bill, answer = one(DRIPS[kind](), tmp_path, timeout=0.6)
    assert reply is None and bill.unanswered == 1 and LATE in answer
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("piece", [b"", b"\x16"], ids=["silent", "dripping"])
def test_a_handshake_ends_at_the_deadline_too(piece: bytes, tmp_path: Path) -> None:
    """The server speaks no TLS: nothing comes, or one byte of an endless record now and then."""
    done = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):  # the client has gone
            for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" if piece else ():
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
            while not done.wait(0.1):
                if piece:
                    connection.sendall(b"\x00")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        started = time.monotonic()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/v1"
        replies, _, answer = ask(url, tmp_path, ["p"], timeout=0.6)
        assert not replies and LATE in " ".join(answer) and time.monotonic() - started < 5.0
        done.set()
        thread.join(5.0)
        assert not thread.is_alive()  # its connection was closed


def test_a_silent_server_gets_one_request_at_a_time(tmp_path: Path) -> None:
    with RawServer(lambda prompt, number: [20.0]) as server:
        with pytest.raises(ValueError, match=r"3 prompts in a row .* no answer within 0\.1 s"):
            ask(server.url, tmp_path, PROMPTS, timeout=0.1, concurrency=4, max_retries=1)
        assert server.connections == 6 and server.most_open == 1


def test_no_more_connections_are_open_than_allowed_when_the_server_falls_silent(
    tmp_path: Path,
) -> None:
    def script(prompt: str, number: int) -> Pieces:
        return [http(completion(prompt))] if prompt == PROMPTS[0] and not number else [20.0]

    with RawServer(script) as server:
        with pytest.raises(ValueError, match="3 prompts in a row"):
            ask(server.url, tmp_path, PROMPTS, timeout=0.2, concurrency=4, max_retries=1)
        assert server.most_open == 4 and server.connections > 8


def packed(data: bytes, encoding: str = "gzip") -> bytes:
    return http(data, f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}")


def zeros(size: int) -> bytes:
    """A gzip of that many spaces, a thousand times smaller than they are."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(b" " * size) + packer.flush()


WHOLE = completion("x").encode()
BROKEN: dict[str, tuple[bytes | None, str]] = {
    "deep": (http("[" * 200_000), "no chat completion"),
    "deep error": (http('{"error":' * 50_000, "HTTP/1.1 500 no"), "500: "),
    "deep in a choice": (http(f'{{"choices": [{"[" * 5000}{"]" * 5000}]}}'), "no chat completion"),
    "bomb": (packed(zeros(40 * 2**20)), "larger than 32 MiB"),
    "large": (http(b" " * (33 * 2**20)), "larger than 32 MiB"),
    "cut gzip": (packed(gzip.compress(WHOLE)[:-9]), "cut gzip"),
    "no gzip": (packed(WHOLE), "damaged gzip"),
    "brotli": (packed(WHOLE, "br"), "packed as 'br'"),
    "twice": (packed(gzip.compress(gzip.compress(WHOLE)), "gzip, gzip"), "packed as"),
    "shorter": (http(WHOLE, length=10), "no chat completion"),
    "two lengths": (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345", "Content-Length"),
    "negative length": (OK + b"Content-Length: -1\r\n\r\n", "Content-Length"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "ProtocolError"),
    "endless headers": (OK + b"x: " + b"y" * 200_000, "ProtocolError"),
    "stream": (http('data: {"choices": []}\n\ndata: [DONE]\n\n'), "stream of events"),
    "error in a 200": (http('{"error": {"message": "overloaded"}}'), "an error: overloaded"),
    "error with choices": (http('{"error": {"message": "busy"}, "choices": []}'), "an error: busy"),
    "null choice": (http('{"choices": [null]}'), "no chat completion"),
    "text message": (http('{"choices": [{"message": "hi"}]}'), "no chat completion"),
    "number": (http(f'{{"choices": [{{"message": {{"content": {"9" * 6000}}}}}]}}'), "not text"),
    "year": (
        http("", "HTTP/1.1 429 no\r\nRetry-After: Wed, 21 Oct 999999999999 07:28:00 GMT"),
        "429",
    ),
    "closed": (None, "disconnected"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_is_a_failed_try_that_says_why(kind: str, tmp_path: Path) -> None:
    sent, words = BROKEN[kind]
    reply, bill, answer = one([sent, None], tmp_path)
    assert reply is None and bill.unanswered == 1
    assert words in answer and len(answer) < 500


def changed(old: str, new: str) -> bytes:
    text = completion("x")
    assert old in text
    return http(text.replace(old, new))


READABLE: dict[str, tuple[bytes, Reply]] = {
    "usage of 400 digits": (changed(": 10,", f": {'1' * 400},"), Reply("", "x", "stop", None, 5)),
    "usage of 9000 digits": (changed(": 5}", f": {'1' * 9000}}}"), Reply("", "x", "stop", 10)),
    "negative usage": (changed(": 10,", ": -10,"), Reply("", "x", "stop", None, 5)),
    "usage NaN": (changed(": 10,", ": NaN,"), Reply("", "x", "stop", None, 5)),
    "usage true": (changed(": 10,", ": true,"), Reply("", "x", "stop", None, 5)),
    "usage a list": (http(completion("x", None)[:-1] + ', "usage": [1]}'), Reply("", "x", "stop")),
    "half a pair": (changed('"x"', r'"\ud800x"'), Reply("", "?x", "stop", 10, 5)),
    "half a reason": (changed('"stop"', r'"\udfff"'), Reply("", "x", "?", 10, 5)),
    "long reason": (changed('"stop"', f'"{"z" * 999}"'), Reply("", "x", "z" * 80, 10, 5)),
    "byte order mark": (http(b"\xef\xbb\xbf" + WHOLE), Reply("", "x", "stop", 10, 5)),
    "gzip": (packed(gzip.compress(WHOLE)), Reply("", "x", "stop", 10, 5)),
    "deflate": (packed(zlib.compress(WHOLE), "Deflate"), Reply("", "x", "stop", 10, 5)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE, Reply("", "x", "stop", 10, 5)),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + http(WHOLE), Reply("", "x", "stop", 10, 5)),
}


@pytest.mark.parametrize("kind", READABLE)
def test_an_odd_answer_is_read(kind: str, tmp_path: Path) -> None:
    sent, expected = READABLE[kind]
    reply, bill, _ = one([sent, None], tmp_path, price_input=1.0)
    assert reply is not None and bill.unanswered == 0
    assert {**vars(reply), "id": ""} == vars(expected)


PARTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "text": ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", ""),
    "output_text": ({"content": [{"type": "output_text", "text": "a"}]}, "a", ""),
    "value": ({"content": [{"type": "text", "text": {"value": "a"}}]}, "a", ""),
    "strings": ({"content": ["a", "b"]}, "ab", ""),
    "one part": ({"content": {"type": "text", "text": "a"}}, "a", ""),
    "thinking first": (
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]},
        "a",
        "",
    ),
    "empty text": ({"content": [{"type": "text", "text": ""}]}, "", ""),
    "refusal part": ({"content": [{"type": "refusal", "refusal": "no"}]}, "", "refusal"),
    "image": ({"content": [{"type": "image_url"}, {"type": "audio"}]}, "", "audio, image_url"),
    "text is null": ({"content": [{"type": "text", "text": None}]}, "", "text"),
    "no parts": ({"content": []}, "", "none"),
    "parts of nothing": ({"content": [7, None]}, "", "none"),
    "refused": ({"content": None, "refusal": "I can't"}, "", "declined: I can't"),
    "thought only": ({"content": None, "reasoning_content": "hm"}, "", "only reasoning_content"),
    "thought, empty": ({"content": "", "reasoning": "hm"}, "", "only reasoning"),
    "no content": ({"tool_calls": [{"id": "1"}]}, "", "only tool_calls"),
    "text and thought": ({"content": "a", "reasoning_content": "hm"}, "a", ""),
    "null": ({"content": None, "refusal": None}, "", ""),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_of_text_are_joined_and_a_reply_without_text_is_recorded(
    kind: str, tmp_path: Path
) -> None:
    message, text, why = PARTS[kind]
    body = {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }
    with RawServer(lambda prompt, number: [http(json.dumps(body))]) as server:
        prompts = PROMPTS[:5]
        for _ in range(2):  # it is paid: the second time it is read from the file
            replies, bill, _ = ask(server.url, tmp_path, prompts, price_output=1e6)
            assert {r.text for r in replies.values()} == {text} and bill.cost == 20.0
            assert bill.refused == (5 if why else 0)
            for reply in replies.values():
                assert why in reply.refused and reply.refused.startswith(NO_TEXT if why else "")
        assert server.prompts.total() == 5


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/v1",
        f"http://{'a' * 64}.example/v1",
        f"http://{'abcdefg.' * 40}example/v1",
        "http://.example/v1",
        "http://h:0/v1",
        "http://h:65536/v1",
        "http://h:-1/v1",
        "http://h:abc/v1",
        "http://[::1/v1",
        "http://[::g]/v1",
        "http://::1:8000/v1",
        "http://h h/v1",
        "http://h\n/v1",
        "http://h/v1\r\nx: y",
        "http://h\\evil/v1",
        "http://h%31/v1",
        "http://\u2024/v1",
        "ftp://h/v1",
        "http:///v1",
        "//h/v1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="for example https://api"):
        checked_url(EndpointConfig(base_url=url, model="m"))


@pytest.mark.parametrize(
    "url", ["me:pw@h/v1", "http://me:pw@[::1/v1", "http://h/v1#pw", "http://pw@h:99999/v1"]
)
def test_what_may_be_a_key_in_an_address_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="api_key_env") as caught:
        checked_url(EndpointConfig(base_url=url, model="m"))
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000", "http://b\u00fccher.example/v1", "https://a_b-c.example./x/@cf"]
)
def test_an_unusual_address_is_taken(url: str) -> None:
    assert checked_url(EndpointConfig(base_url=url, model="m")) == f"{url}/chat/completions"


def test_a_host_that_only_the_library_refuses_stops_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="correct base_url"):
        ask("http://\u2488com.b/v1", tmp_path, ["p"])


@pytest.mark.parametrize("proxy", ["nonsense://h", "socks5://h"])
def test_a_proxy_that_cannot_be_used_is_named_and_its_password_is_not(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("//", "//me:pw@"))
    with pytest.raises(ValueError, match="HTTP_PROXY") as caught:
        ask("http://far.example/v1", tmp_path, ["p"])
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("status", [405, 407])
def test_what_is_no_fault_of_the_prompt_is_not_recorded_as_its_refusal(
    status: int, tmp_path: Path
) -> None:
    with (
        RawServer(lambda prompt, number: [http("", f"HTTP/1.1 {status} no")]) as server,
        pytest.raises(ValueError, match=f"{status}.*correct base_url"),
    ):
        ask(server.url, tmp_path, ["p"])
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_redirect_to_another_host_is_not_followed_so_the_key_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_KEY", "sk-Very-Secret-0123456789")
    with RawServer(lambda prompt, number: [http(completion("x"))]) as other:
        to = f"HTTP/1.1 307 go\r\nLocation: {other.url}/chat/completions"
        with (
            RawServer(lambda prompt, number: [http("", to)]) as server,
            pytest.raises(ValueError, match="307"),
        ):
            ask(server.url, tmp_path, ["p"], api_key_env="ORACLE_KEY")
        assert other.connections == 0


@pytest.mark.parametrize("key", ["sk-1\r\nX-Admin: 1", "sk-1\n2", "sk-\u20281"])
def test_a_key_that_would_be_two_headers_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_KEY", key)
    cfg = EndpointConfig(base_url="http://h/v1", model="m", api_key_env="ORACLE_KEY")
    with pytest.raises(ValueError, match="ORACLE_KEY") as caught:
        Endpoint(cfg)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", 120.0),
        (" 0.5 ", 0.5),
        ("-5", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1e9", 0.0),
        ("9" * 400, 1e10),
        ("9" * 9000, 1e10),
        ("\u0663", 0.0),
        ("5, 5", 0.0),
        ("", 0.0),
        ("Wed, 21 Oct 999999999999 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2099 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2099 07:28:00 +9999999999", 0.0),
        ("Wed, 21 Oct 2015 07:28:00", 0.0),
    ],
)
def test_retry_after_is_seconds_whatever_it_says(header: str, expected: float) -> None:
    assert seconds(header) == expected


def test_a_complaint_is_one_short_line_that_can_be_written() -> None:
    assert complaint('{"error": {"message": "a\\n b \\ud800"}}', str) == "a b ?"
    assert len(complaint('{"error":' * 900 + "1" + "}" * 900, str)) <= 300
    assert len(complaint("[" * 10**6, str)) == 300


def test_the_deadline_closes_what_is_opened_after_it() -> None:
    """A connection that comes about when the time is up already does not live on."""
    first, second = socket.socketpair()

    class Stream:
        def get_extra_info(self, name: str) -> socket.socket:
            return first

    with first, second, transport.Deadline(0.01) as deadline:
        limit = time.monotonic() + 5.0
        while not deadline.over and time.monotonic() < limit:
            time.sleep(0.005)
        deadline.trace("connection.connect_tcp.complete", {"return_value": Stream()})
        second.settimeout(5.0)
        assert second.recv(1) == b""


def test_replies_without_text_show_that_a_server_lives(tmp_path: Path) -> None:
    """Some prompts are lost, all others are answered by thoughts alone: nothing stops."""
    thought = json.dumps({"choices": [{"message": {"content": None, "reasoning": "hm"}}]})
    bad = set(PROMPTS[-5:])

    def script(prompt: str, number: int) -> Pieces:
        return [http("", "HTTP/1.1 500 no") if prompt in bad else http(thought)]

    with RawServer(script) as server:
        replies, bill, _ = ask(server.url, tmp_path, PROMPTS, concurrency=1)
        assert set(replies) == set(PROMPTS) - bad and bill.unanswered == 5
