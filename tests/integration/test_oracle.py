"""Traces and zero-shot values by an endpoint: the command line against a real server."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Act, ChatServer, says
from micro import MICRO, Answer, Values

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs.store import Run
from genac.stages.base_model import base_model
from genac.stages.traces.files import Trace, read_traces

KEY = "sk-Never-Write-Me-Down"
Recipe = Callable[..., str]
Genac = Callable[..., Answer]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_KEY", KEY)


@pytest.fixture
def folder(stages: Path, tmp_path: Path) -> Path:
    """Stage folders of this test alone, with the session's base model."""
    base = base_model(resolve(merge(MICRO, {"stages": {"folder": str(stages)}}))).parent
    own = tmp_path / "own"
    own.mkdir()
    (own / base.name).symlink_to(base)
    return own


def stage(server: ChatServer, folder: Path, **values: Any) -> Values:
    """Recipe values of an endpoint oracle on the micro recipe."""
    endpoint = {
        "base_url": server.url,
        "model": "wise",
        "api_key_env": "ORACLE_KEY",
        "backoff": 0.01,
        "price_input": 2.0,
        "price_output": 8.0,
        **values.pop("endpoint", {}),
    }
    made = {"oracle": "endpoint", "num_states": 24, "endpoint": endpoint, **values}
    return {"stages": {"folder": str(folder), "synthesize": made}}


def score_of(prompt: str) -> int:
    return hashlib.sha256(prompt.encode()).digest()[0] % 11


def reasoned(prompt: str, number: int = 0) -> Act:
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return says(f"<think>hm</think>Seen {mark}.\n<answer>{score_of(prompt)}</answer> bye")


def traces_of(folder: Path) -> list[Trace]:
    return read_traces(only(folder, "traces-*") / "traces.jsonl")


def only(folder: Path, pattern: str) -> Path:
    (result,) = folder.glob(pattern)
    return result


def counts(folder: Path) -> dict[str, Any]:
    return Run.open(only(folder, "traces-*")).metrics("synthesize")[0]


def everything_written(root: Path) -> str:
    files = [f for f in root.rglob("*") if f.is_file() and f.stat().st_size < 10**7]
    return "".join(f.read_bytes().decode("latin-1") for f in files)


def test_the_oracles_words_become_traces(
    recipe: Recipe, genac: Genac, folder: Path, tmp_path: Path
) -> None:
    with ChatServer(reasoned) as server:
        file = recipe(**stage(server, folder))
        answer = genac("synthesize", file)
        assert answer.code == 0 and "24 of 24 traces kept" in answer.out
        prompts = set(server.prompts)
        assert len(prompts) == 24 and server.count == 24
        traces = traces_of(folder)
        expected = {
            (f"Seen {hashlib.sha256(p.encode()).hexdigest()[:8]}.\n", score_of(p)) for p in prompts
        }
        assert {(t.reasoning, t.score) for t in traces} == expected
        assert all("for you alone" not in p and "success rate" in p for p in prompts)
        # the prompt sent is what the trace is about
        assert all(any(t.problem["prompt"] in p for p in prompts) for t in traces)
        result = counts(folder)
        assert result["oracle/new_answers"] == 24 and result["oracle/prompt_tokens"] == 240
        assert result["oracle/cost"] == pytest.approx((2 * 240 + 8 * 120) / 1e6)
        # neither speed nor price is part of what the traces are
        faster = stage(server, folder, endpoint={"concurrency": 2, "price_input": 0.0})
        assert genac("synthesize", recipe(**faster)).code == 0 and server.count == 24
        # another temperature sends anew; another tolerance does not
        hotter = stage(server, folder, endpoint={"temperature": 0.3})
        assert genac("synthesize", recipe(**hotter)).code == 0 and server.count == 48
        looser = stage(server, folder, tolerance=0.9)
        assert genac("synthesize", recipe(**looser)).code == 0 and server.count == 48
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in everything_written(tmp_path) + answer.out + answer.err


def test_the_reference_answer_is_shown_on_purpose_only(
    recipe: Recipe, genac: Genac, folder: Path
) -> None:
    with ChatServer(reasoned) as server:
        values = stage(server, folder, see_answer=True)
        assert genac("synthesize", recipe(**values)).code == 0
        assert all("for you alone" in p for p in server.prompts)


def test_filters_drop_and_count(recipe: Recipe, genac: Genac, folder: Path) -> None:
    order: list[str] = []
    bad = [
        says("no score"),
        says("<answer>5</answer>"),
        says("Too high. <answer>12</answer>"),
        says(None),
        Act(400, '{"error": "too long"}'),
        Act(503),
    ]

    def script(prompt: str, number: int) -> Act:
        if prompt not in order:
            order.append(prompt)
        place = order.index(prompt)
        return bad[place] if place < len(bad) else reasoned(prompt)

    with ChatServer(script) as server:
        values = stage(server, folder, endpoint={"concurrency": 1, "max_retries": 1}, num_states=9)
        values["stages"]["synthesize"]["num_requests"] = 24
        assert genac("synthesize", recipe(**values)).code == 0
    result = {k.removeprefix("dropped/"): v for k, v in counts(folder).items() if "dropped" in k}
    assert result == {
        "unanswered": 1,
        "refused": 1,
        "unparsable": 3,
        "no_reasoning": 1,
        "disagrees": 0,
        "duplicate": 0,
        "unbalanced": 24 - 6 - 9,
    }
    assert len(traces_of(folder)) == 9


def test_scores_far_from_the_continuations_are_dropped(
    recipe: Recipe, genac: Genac, folder: Path
) -> None:
    with ChatServer(reasoned) as server:
        values = stage(server, folder, continuations=4, tolerance=0.3)
        assert genac("synthesize", recipe(**values)).code == 0
    traces, result = traces_of(folder), counts(folder)
    assert 0 < len(traces) < 24 and result["dropped/disagrees"] == 24 - len(traces)
    assert all(abs(t.score / 10 - t.target) <= 0.3 + 1e-9 for t in traces)
    assert {round(4 * t.target, 6) % 1 for t in traces} == {0.0}  # means of four outcomes


def test_nothing_left_is_an_error_that_says_why_and_keeps_the_answers(
    recipe: Recipe, refused: Refused, folder: Path
) -> None:
    with ChatServer(lambda prompt, number: says("I cannot say.")) as server:
        file = recipe(**stage(server, folder))
        message = refused("synthesize", file)
        assert "24 unparsable" in message and "endpoint.notes" in message
        refused("synthesize", file)
        assert server.count == 24
    assert not list(folder.glob("traces-*/done.json"))


def test_dry_run_sends_nothing_and_is_right(recipe: Recipe, genac: Genac, folder: Path) -> None:
    with ChatServer(reasoned) as server:
        flag = "--stages.synthesize.endpoint.dry-run"
        values = stage(server, folder, endpoint={"max_tokens": 50, "api_key_env": "NOT_SET"})
        answer = genac("synthesize", recipe(**values), flag)
        assert answer.code == 0 and server.count == 0
        assert "24 requests" in answer.out and "at most 1200 answer tokens" in answer.out
        assert "Partial solution" in answer.out and not list(folder.glob("traces-*"))
        values = stage(server, folder, endpoint={"max_tokens": 50})
        assert genac("synthesize", recipe(**values)).code == 0 and server.count == 24
        assert any(" ".join(p.split()) in answer.out for p in server.prompts)
        assert "0 requests" in genac("synthesize", recipe(**values), flag).out
        stopped = genac("train", recipe(**values), flag)
        assert stopped.code == 2 and "dry_run" in stopped.err and server.count == 24


@pytest.mark.slow
def test_killed_and_resumed(recipe: Recipe, genac: Genac, folder: Path) -> None:
    reached = threading.Event()

    def script(prompt: str, number: int) -> Act:
        if server.count >= 10:
            reached.set()
        stuck = server.count in (9, 10) and not number
        return Act(body=reasoned(prompt).body, delay=60.0 if stuck else 0.0)

    with ChatServer(script) as server:
        file = recipe(**stage(server, folder, endpoint={"concurrency": 2}))
        command = [sys.executable, "-m", "genac.cli", "synthesize", file]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        assert reached.wait(90)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = only(folder, "answers/*.jsonl").read_text().splitlines()
        assert len(kept) == 8
        assert genac("synthesize", file).code == 0
        # Two requests were under way at the kill; everything else was sent once.
        assert sorted(server.prompts.values()) == [1] * 22 + [2] * 2
    assert len(traces_of(folder)) == 24


def test_monte_carlo_without_an_api(recipe: Recipe, genac: Genac, folder: Path) -> None:
    """The base model writes no scores, so bare ones are all there is."""
    made = {"oracle": "monte_carlo", "continuations": 4, "num_states": 24}
    values = {"stages": {"folder": str(folder), "synthesize": made}}
    answer = genac("synthesize", recipe(**values))
    assert answer.code == 2 and "unparsable" in answer.err
    values["stages"]["synthesize"]["bare_scores"] = True
    assert genac("synthesize", recipe(**values)).code == 0
    done = [f.parent for f in folder.glob("traces-*/done.json")]
    traces = read_traces(done[0] / "traces.jsonl")
    assert all(t.reasoning == "" and t.score == int(10 * t.target + 0.5) for t in traces)
    assert len({t.score for t in traces}) > 1
    assert Run.open(done[0]).metrics("synthesize")[0]["bare"] == len(traces)


@pytest.mark.slow
def test_a_critic_that_can_score_keeps_its_own_words(
    recipe: Recipe, genac: Genac, folder: Path
) -> None:
    """Here the critic of a usual stage 1 plays the model that follows its prompt already."""
    assert genac("sft", recipe(stages={"folder": str(folder)})).code == 0
    critic = only(folder, "critic_sft-*") / "model"
    made = {"oracle": "monte_carlo", "continuations": 4, "num_states": 24}
    values = {"stages": {"folder": str(folder), "synthesize": made}}
    values["critic"] = {"model_name_or_path": str(critic)}
    before = set(folder.glob("traces-*"))
    assert genac("synthesize", recipe(**values)).code == 0
    (made_now,) = set(folder.glob("traces-*")) - before
    traces = read_traces(made_now / "traces.jsonl")
    assert traces and all(t.reasoning.strip() and "<answer>" not in t.reasoning for t in traces)
    assert all(t.score == int(10 * t.target + 0.5) for t in traces)
    result = Run.open(made_now).metrics("synthesize")[0]
    dropped = sum(v for k, v in result.items() if k.startswith("dropped/"))
    assert result["bare"] == 0 and dropped == result["candidates"] - len(traces) > 0


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ({"base_url": "localhost:8000"}, ["stages.synthesize.endpoint", "localhost:8000", "http"]),
        ({"model": ""}, ["stages.synthesize.endpoint", "model"]),
        ({"api_key_env": "NO_SUCH"}, ["NO_SUCH", "export"]),
        ({"base_url": "https://api.example.com/v1", "api_key_env": ""}, ["api_key_env", "'none'"]),
        ({"api_key_env": KEY}, ["api_key_env", "NAME"]),
    ],
    ids=["scheme", "model", "key", "remote", "key itself"],
)
def test_bad_endpoints_are_refused_before_anything_is_done(
    endpoint: Values, words: list[str], recipe: Recipe, refused: Refused, tmp_path: Path
) -> None:
    with ChatServer(reasoned) as server:
        file = recipe(**stage(server, tmp_path / "none", endpoint=endpoint))
        for verb in ("synthesize", "train"):
            message = refused(verb, file)
            assert all(word in message for word in words) and KEY not in message, message
        assert server.count == 0 and not (tmp_path / "none").exists()


def test_a_wrong_key_and_an_unknown_model_stop_at_once(
    recipe: Recipe, refused: Refused, folder: Path, tmp_path: Path
) -> None:
    with ChatServer(lambda prompt, number: Act(401, f'{{"error": "no {KEY}"}}')) as server:
        message = refused("synthesize", recipe(**stage(server, folder)))
        assert "ORACLE_KEY" in message and KEY not in message and server.count == 1
    with ChatServer(lambda prompt, number: Act(404, '{"error": "no such model"}')) as server:
        message = refused("synthesize", recipe(**stage(server, folder)))
        assert "'wise'" in message and "no such model" in message and server.count == 1
    assert KEY not in everything_written(tmp_path)


@pytest.mark.slow
def test_zero_shot_critics_next_to_the_runs_own(
    run_micro: Callable[..., Run], genac: Genac, refused: Refused, tmp_path: Path
) -> None:
    run = run_micro()
    sizes = ["--problems", "3", "--continuations", "2"]
    with ChatServer(reasoned) as server:
        name = f"openai:wise@{server.url}"
        plan = genac("eval", "critic", str(run.path), name, *sizes, "--dry-run")
        assert plan.code == 0 and server.count == 0
        expected = int(re.findall(r"(\d+) requests", plan.out)[0])
        answer = genac("eval", "critic", str(run.path), name, *sizes)
        assert answer.code == 0 and server.count == expected > 0
        cells = json.loads((run.path / "critics.json").read_text())["in distribution"]
        assert cells[name]["parse_rate"] == 1.0 and cells[name]["new_answers"] == expected
        assert set(cells) == {str(run.path), name}
        endpoint = tmp_path / "judge.yaml"
        endpoint.write_text(f"base_url: {server.url}\nmodel: wise\napi_key_env: ORACLE_KEY\n")
        assert genac("eval", "critic", str(run.path), str(endpoint), *sizes).code == 0
        assert server.count == expected  # the same model at the same settings: answered already
        endpoint.write_text(f"base_url: {server.url}\nmodell: wise\n")
        assert "modell" in refused("eval", "critic", str(run.path), str(endpoint))
        assert "openai:MODEL@URL" in refused("eval", "critic", str(run.path), "openai:wise")
        away = "openai:wise@https://api.example.com/v1"
        assert "api_key_env" in refused("eval", "critic", str(run.path), away)
        assert server.count == expected


def test_the_usual_oracles_keep_their_stage_folders(recipe: Recipe) -> None:
    """Keys that an oracle does not read are no part of its stage's identity."""
    from genac.config.stages import SynthesizeStage

    assert set(SynthesizeStage().identity()) == {
        "oracle",
        "num_prompts",
        "num_generations",
        "num_states",
        "vary_success_rate",
        "options",
        "demonstrations",
        "fault_rate",
    }
    with pytest.raises(ValueError, match="continuations is 0"):
        SynthesizeStage(oracle="monte_carlo")
