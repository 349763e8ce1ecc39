"""The client against a real server that misbehaves: nothing lost, nothing sent twice, no key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from chat_server import Act, ChatServer, completion, says

from genac.config.stages import EndpointConfig
from genac.endpoint.client import Endpoint
from genac.endpoint.replies import Reply, plan, seconds

KEY = "sk-Very-Secret-0123456789"
PROMPTS = [f"question {i}" for i in range(12)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_KEY", KEY)


def client(server: ChatServer, rows: list[str] | None = None, **values: Any) -> Endpoint:
    cfg = {"backoff": 0.01, "timeout": 5.0, "api_key_env": "ORACLE_KEY", **values}
    heard = [] if rows is None else rows
    return Endpoint(EndpointConfig(base_url=server.url, model="wise", **cfg), heard.append)


def test_every_prompt_is_answered_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with ChatServer(lambda prompt, number: says(f"about {prompt}")) as server:
        endpoint = client(server, price_input=2.0, price_output=10.0)
        replies, bill = endpoint.ask([*PROMPTS, PROMPTS[0]], file)
        assert {p: r.text for p, r in replies.items()} == {p: f"about {p}" for p in PROMPTS}
        assert server.count == 12 and set(server.keys) == {f"Bearer {KEY}"}
        assert (bill.prompts, bill.new, bill.prompt_tokens, bill.completion_tokens) == (
            12,
            12,
            120,
            60,
        )
        assert bill.cost == pytest.approx((2.0 * 120 + 10.0 * 60) / 1e6)
        again, second = endpoint.ask(PROMPTS, file)
        assert server.count == 12 and again == replies
        assert second.new == 0 and second.new_cost == 0 and second.cost == bill.cost


def test_the_request_says_what_the_config_says(tmp_path: Path) -> None:
    fields = {"max_completion_tokens": 9, "max_tokens": None, "reasoning_effort": "low"}
    with ChatServer(lambda prompt, number: says("x")) as server:
        client(server, temperature=0.5, request=fields).ask(["p"], tmp_path / "a.jsonl")
        assert server.requests == [
            {
                "model": "wise",
                "messages": [{"role": "user", "content": "p"}],
                "temperature": 0.5,
                "max_completion_tokens": 9,
                "reasoning_effort": "low",
            }
        ]


FAULTS = {
    "429": Act(429, "slow down", {"Retry-After": "0.2"}),
    "500": Act(500, '{"error": {"message": "sorry"}}'),
    "503": Act(503),
    "time-out": Act(body=completion("late"), delay=3.0),
    "cut": Act(body=completion("half an answer"), cut_at=30),
    "malformed": Act(body='{"choices": [{"mess'),
    "no choices": Act(body='{"choices": []}'),
    "list": Act(body="[1, 2]"),
    "number": Act(body='{"choices": [{"message": {"content": 7}}]}'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_loses_nothing(fault: str, tmp_path: Path) -> None:
    file, rows = tmp_path / "answers.jsonl", []
    hit = set(PROMPTS[::3])

    def script(prompt: str, number: int) -> Act:
        return FAULTS[fault] if prompt in hit and number == 0 else says(prompt)

    with ChatServer(script) as server:
        replies, bill = client(server, rows, timeout=2.0 if fault == "time-out" else 20.0).ask(
            PROMPTS, file
        )
        assert {p: r.text for p, r in replies.items()} == {p: p for p in PROMPTS}
        assert dict(server.prompts) == {p: 1 + (p in hit) for p in PROMPTS}
        assert bill.retries == len(hit) and bill.unanswered == 0
    assert len(file.read_text().splitlines()) == len(PROMPTS)
    assert rows and all("trying again" in line for line in rows)


def test_all_faults_at_once_then_resume_sends_only_what_is_missing(tmp_path: Path) -> None:
    file, kinds = tmp_path / "answers.jsonl", list(FAULTS.values())

    faults = [3 if i in (3, 11) else i % 3 for i in range(12)]

    def script(prompt: str, number: int) -> Act:
        place = PROMPTS.index(prompt)
        return kinds[(place + number) % len(kinds)] if number < faults[place] else says(prompt)

    with ChatServer(script) as server:
        endpoint = client(server, timeout=2.0, max_retries=2)
        first, bill = endpoint.ask(PROMPTS, file)
        lost = [p for p in PROMPTS if p not in first]
        assert lost == [PROMPTS[3], PROMPTS[11]]  # three faults each, and too few for another round
        assert bill.unanswered == len(lost) and bill.new == 12 - len(lost)
        second, _ = endpoint.ask(PROMPTS, file)
        assert {p: r.text for p, r in second.items()} == {p: p for p in PROMPTS}
        assert dict(server.prompts) == {p: faults[i] + 1 for i, p in enumerate(PROMPTS)}
        kept = [json.loads(line)["id"] for line in file.read_text().splitlines()]
        assert len(kept) == len(set(kept)) == 12
        before = server.count
        endpoint.ask(PROMPTS, file)
        assert server.count == before


def test_silence_is_an_answer(tmp_path: Path) -> None:
    """A null content (a refusal, or all tokens spent on thinking) is paid: sent once."""
    with ChatServer(lambda prompt, number: says(None, tokens=None)) as server:
        replies, bill = client(server).ask(PROMPTS, tmp_path / "a.jsonl")
        assert {r.text for r in replies.values()} == {""} and server.count == 12
        assert bill.uncounted == 12 and bill.retries == 0


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (Act(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'), ["ORACLE_KEY", "[key]"]),
        (Act(403, "no"), ["ORACLE_KEY", "403"]),
        (Act(404, '{"error": "no model wise"}'), ["'wise'", "no model wise", "base_url"]),
        (Act(402, "pay"), ["credit"]),
        (Act(429, '{"error": {"code": "insufficient_quota"}}'), ["credit"]),
        (Act(302, "", {"Location": "http://127.0.0.1:1/"}), ["302", "base_url"]),
        (Act(429, "later", {"Retry-After": "86400"}), ["86400", "later"]),
    ],
    ids=["401", "403", "404", "402", "quota", "302", "long wait"],
)
def test_what_cannot_be_helped_stops_at_once(act: Act, words: list[str], tmp_path: Path) -> None:
    rows: list[str] = []
    with ChatServer(lambda prompt, number: act) as server:
        with pytest.raises(ValueError) as caught:
            client(server, rows).ask(PROMPTS, tmp_path / "a.jsonl")
        assert server.count == 1
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert KEY not in message + "".join(rows) + repr(caught.value)
    assert caught.value.__cause__ is None


def test_half_a_surrogate_pair_is_sent_as_a_question_mark(tmp_path: Path) -> None:
    prompts = [*PROMPTS[:3], "odd \ud800 text"]
    with ChatServer(lambda prompt, number: says(prompt)) as server:
        endpoint, file = client(server), tmp_path / "a.jsonl"
        replies, bill = endpoint.ask(prompts, file)
        assert replies[prompts[3]].text == "odd ? text" and bill.unanswered == 0
        assert endpoint.identify(prompts[3]) == endpoint.identify("odd ? text")
        assert endpoint.ask(prompts, file)[0] == replies and server.count == 4


def test_a_refused_prompt_is_kept_as_such(tmp_path: Path) -> None:
    def script(prompt: str, number: int) -> Act:
        long = prompt == PROMPTS[3]
        return Act(400, '{"error": {"message": "too long"}}') if long else says("x")

    with ChatServer(script) as server:
        endpoint, file = client(server), tmp_path / "a.jsonl"
        replies, bill = endpoint.ask(PROMPTS, file)
        assert replies[PROMPTS[3]].refused == "400: too long" and bill.refused == 1
        endpoint.ask(PROMPTS, file)
        assert server.count == 12


def test_a_prompt_that_moderation_rejects_is_refused_and_the_key_is_not(tmp_path: Path) -> None:
    no = Act(403, '{"error": {"message": "flagged"}}')
    with ChatServer(lambda p, number: no if p == PROMPTS[3] else says(p)) as server:
        endpoint, file = client(server), tmp_path / "a.jsonl"
        replies, bill = endpoint.ask(PROMPTS, file)
        assert replies[PROMPTS[3]].refused == "403: flagged" and bill.refused == 1
        endpoint.ask(PROMPTS, file)
        assert len(replies) == server.count == 12


def test_a_key_that_is_good_for_one_answer_only_is_not_used_on(tmp_path: Path) -> None:
    def script(prompt: str, number: int) -> Act:
        return says("x") if prompt == PROMPTS[0] else Act(403, "no")

    with ChatServer(script) as server:
        with pytest.raises(ValueError, match=r"refuses every request.*403: no"):
            client(server, concurrency=1).ask(PROMPTS, tmp_path / "a.jsonl")
        assert server.count <= 6


def test_a_server_that_refuses_everything_gets_no_more_requests(tmp_path: Path) -> None:
    act = Act(400, '{"error": {"message": "Unsupported parameter: max_tokens"}}')
    with ChatServer(lambda prompt, number: act) as server:
        with pytest.raises(ValueError, match=r"refuses every request.*max_tokens"):
            client(server, concurrency=1).ask(PROMPTS, tmp_path / "a.jsonl")
        assert server.count <= 5


def test_a_dead_server_is_given_up(tmp_path: Path) -> None:
    with ChatServer(lambda prompt, number: says("x")) as server:
        endpoint = client(server, max_retries=1)
    with pytest.raises(ValueError, match=r"3 prompts in a row .* 2 tries .*ConnectError"):
        endpoint.ask(PROMPTS, tmp_path / "a.jsonl")


def test_lost_prompts_that_come_last_together_are_sent_once_more(tmp_path: Path) -> None:
    """They were tried longest, so that they follow each other says nothing of the server."""
    bad, first = set(PROMPTS[1:8]), threading.Event()

    def script(prompt: str, number: int) -> Act:
        if prompt in bad and number < 2:
            first.wait(5.0)  # until all others are answered, or about to be
            return Act(500)
        if prompt == PROMPTS[-1]:
            first.set()
        return says(prompt)

    with ChatServer(script) as server:
        endpoint = client(server, max_retries=1, concurrency=len(PROMPTS), timeout=10.0)
        replies, bill = endpoint.ask(PROMPTS, tmp_path / "a.jsonl")
        assert set(replies) == set(PROMPTS) and bill.unanswered == 0
        assert {server.prompts[p] for p in bad} == {3}


@pytest.mark.parametrize(("dies_at", "concurrency"), [(20, 4), (33, 8), (30, 16)])
def test_a_server_that_dies_under_way_is_given_up(
    dies_at: int, concurrency: int, tmp_path: Path
) -> None:
    many, lock, given = [f"q{i}" for i in range(40)], threading.Lock(), iter(range(dies_at))

    def script(prompt: str, number: int) -> Act:
        with lock:
            return Act(503) if next(given, None) is None else says(prompt)

    with ChatServer(script) as server, pytest.raises(ValueError, match="3 prompts in a row"):
        client(server, max_retries=1, concurrency=concurrency).ask(many, tmp_path / "a.jsonl")
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == dies_at


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("bad", [range(3), range(5, 8), range(9, 16), range(17, 24)], ids=str)
def test_neighbours_that_the_server_never_answers_stop_nothing(
    bad: range, concurrency: int, tmp_path: Path
) -> None:
    many, file = [f"q{i}" for i in range(24)], tmp_path / "a.jsonl"
    poison = {many[i] for i in bad}
    with ChatServer(lambda p, number: Act(500) if p in poison else says(p)) as server:
        for _ in range(2):  # the second time only they are left
            endpoint = client(server, max_retries=1, concurrency=concurrency)
            replies, bill = endpoint.ask(many, file)
            assert {p: r.text for p, r in replies.items()} == {p: p for p in {*many} - poison}
            assert bill.unanswered == len(bad)
    assert len(file.read_text().splitlines()) == 24 - len(bad)


def test_a_few_poisonous_prompts_of_many_do_not_block_a_resume(tmp_path: Path) -> None:
    many = [f"q{i}" for i in range(300)]
    bad = set(many[50:53])
    with ChatServer(lambda p, number: Act(500) if p in bad else says(p)) as server:
        endpoint, file = client(server, max_retries=1), tmp_path / "a.jsonl"
        rest = [Reply(endpoint.identify(p), p) for p in many if p not in bad]
        file.write_text("".join(json.dumps(asdict(r)) + "\n" for r in rest))
        replies, bill = endpoint.ask(many, file)
        assert len(replies) == 297 and bill.unanswered == 3
        assert server.count == 6  # no other round for so few


def test_concurrency_is_limited(tmp_path: Path) -> None:
    slow = Act(body=completion("x"), delay=0.05)
    with ChatServer(lambda prompt, number: slow) as server:
        client(server, concurrency=3).ask(PROMPTS, tmp_path / "a.jsonl")
        assert server.most == 3


def test_requests_per_minute(tmp_path: Path) -> None:
    times: list[float] = []

    def script(prompt: str, number: int) -> Act:
        times.append(time.monotonic())
        return says("x")

    with ChatServer(script) as server:
        client(server, requests_per_minute=600).ask(PROMPTS[:6], tmp_path / "a.jsonl")
    assert max(times) - min(times) > 0.4  # five gaps of a tenth; more on a busy machine


def test_a_torn_last_line_is_sent_again(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with ChatServer(lambda prompt, number: says(prompt)) as server:
        endpoint = client(server, concurrency=1)
        endpoint.ask(PROMPTS[:4], file)
        file.write_bytes(file.read_bytes()[:-10])
        replies, bill = endpoint.ask(PROMPTS[:4], file)
        assert len(replies) == 4 and bill.new == 1 and server.count == 5


KILLED = """
import sys
from pathlib import Path
from genac.endpoint.client import Endpoint
from genac.config.stages import EndpointConfig
cfg = EndpointConfig(base_url=sys.argv[1], model="wise", concurrency=2, api_key_env="ORACLE_KEY")
Endpoint(cfg).ask([f"question {i}" for i in range(12)], Path(sys.argv[2]))
"""


def test_killed_in_the_middle_and_resumed(tmp_path: Path) -> None:
    file, six = tmp_path / "a.jsonl", threading.Event()

    def script(prompt: str, number: int) -> Act:
        if server.count > 6 and not six.is_set():
            six.set()
        return Act(body=completion(prompt), delay=30.0 if server.count in (7, 8) else 0.0)

    with ChatServer(script) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(file)])
        assert six.wait(60)
        deadline = time.monotonic() + 30
        while server.count < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = len(file.read_text().splitlines())
        assert kept == 6
        _, bill = client(server).ask(PROMPTS, file)
        assert bill.new == 6
        # Only the two that were under way when the process died were sent twice.
        assert sorted(server.prompts.values()) == [1] * 10 + [2] * 2


def test_the_key_is_in_no_file_and_no_message(tmp_path: Path) -> None:
    """Not even where the server repeats it."""
    rows: list[str] = []

    def script(prompt: str, number: int) -> Act:
        return Act(500, f"oops {KEY}") if number == 0 else says(f"your key is {KEY}")

    with ChatServer(script) as server:
        endpoint = client(server, rows)
        replies, _ = endpoint.ask(PROMPTS, tmp_path / "a.jsonl")
    everything = (tmp_path / "a.jsonl").read_text() + "".join(rows) + repr(vars(endpoint))
    assert KEY not in everything and replies[PROMPTS[0]].text == "your key is [key]"


@pytest.mark.parametrize("short", ["1", "token", "EMPTY", "content"])
def test_a_short_key_leaves_answers_as_they_are(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a word like others; only error texts are cleaned of it."""
    monkeypatch.setenv("ORACLE_KEY", short)
    rows: list[str] = []

    def script(prompt: str, number: int) -> Act:
        return Act(500, f"no {short}") if number == 0 else says(f"the {short}", (1100, 51))

    with ChatServer(script) as server:
        replies, bill = client(server, rows).ask(["p"], tmp_path / "a.jsonl")
    assert replies["p"].text == f"the {short}" and replies["p"].finish == "stop"
    assert (bill.prompt_tokens, bill.completion_tokens) == (1100, 51)
    assert rows[0].startswith("endpoint: 500: no [key]; trying again")


@pytest.mark.parametrize("place", ["answer", "error", "cut"])
def test_an_escaped_key_is_detected(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk/Very/Secret/0123456789"
    monkeypatch.setenv("ORACLE_KEY", secret)
    escaped, rows = secret.replace("/", r"\/"), []
    bodies = {
        "answer": Act(body=completion("your KEY").replace("KEY", escaped)),
        "error": Act(500, f'{{"error": "your {escaped}"}}'),
        "cut": Act(body=f'{{"error": "{"x" * 60} {escaped}'),
    }
    with ChatServer(lambda p, n: bodies[place] if n == 0 else says("your [key]")) as server:
        replies, _ = client(server, rows).ask(["p"], tmp_path / "a.jsonl")
    assert replies["p"].text == "your [key]"
    text = "".join(rows)
    assert "Secret" not in text and "Very" not in text
    assert ("[key]" in text) is (place != "answer")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base_url": "localhost:8000/v1"}, ["localhost:8000/v1", "http://localhost"]),
        ({"base_url": ""}, ["base_url", "https://"]),
        ({"base_url": "https://me:pw@host.example/v1"}, ["user name", "api_key_env"]),
        ({"base_url": "https://host.example/v1?key=pw"}, ["query", "api_key_env"]),
        ({"model": ""}, ["model"]),
        ({"base_url": "https://api.example.com/v1"}, ["api_key_env", "'none'"]),
        ({"api_key_env": "NO_SUCH_KEY"}, ["NO_SUCH_KEY", "export"]),
        ({"api_key_env": "ODD_KEY"}, ["ODD_KEY", "characters"]),
    ],
    ids=str,
)
def test_bad_addresses_and_keys(
    values: dict[str, str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_KEY", "sk-\u00e4")
    cfg = {"base_url": "http://localhost:1/v1", "model": "wise"} | values
    with pytest.raises(ValueError) as caught:
        Endpoint(EndpointConfig(**cfg))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "pw" not in message and "sk-" not in message


def test_a_key_in_place_of_its_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError) as caught:
        EndpointConfig(base_url="http://localhost:1", model="m", api_key_env=KEY)
    assert KEY not in str(caught.value)


def test_no_key_is_sent_where_none_is_named(tmp_path: Path) -> None:
    with ChatServer(lambda prompt, number: says("x")) as server:
        client(server, api_key_env="").ask(["p"], tmp_path / "a.jsonl")
        client(server, api_key_env="none").ask(["q"], tmp_path / "a.jsonl")
        assert server.keys == [None, None]


def test_identity_is_what_decides_an_answer() -> None:
    cfg = EndpointConfig(base_url="http://a", model="m")
    same = {"base_url": "http://b", "concurrency": 1, "price_input": 1, "dry_run": True}
    assert EndpointConfig(**(cfg.model_dump() | same)).identity() == cfg.identity()
    for change in ({"model": "n"}, {"temperature": 0}, {"max_tokens": 5}, {"notes": "x"}):
        assert EndpointConfig(**(cfg.model_dump() | change)).identity() != cfg.identity()


def test_plan_counts_what_is_missing() -> None:
    cfg = EndpointConfig(base_url="http://a", model="m", max_tokens=10, price_output=1e6)
    text = plan(cfg, ["aaa", "bbb", "aaa"], ["aaa"])
    assert "1 requests (2 different prompts, 1 of them answered" in text
    assert (
        "about 1 prompt tokens" in text and "at most about 10.0000" in text and text.endswith("bbb")
    )
    with pytest.raises(AssertionError):
        Endpoint(EndpointConfig(**cfg.model_dump() | {"dry_run": True})).ask(["p"], Path("x"))


def test_retry_after_is_a_number_or_a_date() -> None:
    assert seconds("1.5") == 1.5 and seconds(None) == 0 and seconds("soon") == 0
    assert seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert seconds("Wed, 21 Oct 2099 07:28:00 GMT") > 1e9
