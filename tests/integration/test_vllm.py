"""Runs whose models are sampled by servers with vLLM's routes, over our own local engine: they give
what runs in one process give.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import vllm_fake
from micro import Answer, Values, results
from vllm_fake import Fake, serve
from vllm_local import Local, interpreter

from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.stages.setup import evaluated_here

FAKE = "an interpreter whose vLLM is the fake"
ADAPTERS = {"rank": 4, "alpha": 8}


@pytest.fixture
def server() -> Iterator[Callable[[Path, str], str]]:
    """server(folder, role) -> the address of a server of that model."""
    running = []

    def make(folder: Path, role: str) -> str:
        running.append(serve(Fake(str(folder), role, Local())))
        return f"http://127.0.0.1:{running[-1].server_address[1]}"

    yield make
    for one in running:
        one.shutdown()
        one.server_close()


def joint(actor: Path, critic: Path, tmp_path: Path, name: str, **hardware: Any) -> Values:
    """Overrides for a run of the joint stage alone."""
    return {
        "output_dir": str(tmp_path / name),
        "actor": {"model_name_or_path": str(actor)},
        "critic": {"model_name_or_path": str(critic)},
        "stages": {"sft": {"epochs": 0}, "critic_rl": {"steps": 0}},
        "hardware": hardware,
    }


def require_alike(one: Run, other: Run) -> None:
    """Metrics but for counts of the work, and for entropies, which servers do not report."""
    for row, expected in zip(results(one, "joint"), results(other, "joint"), strict=True):
        for key, value in expected.items():
            if isinstance(value, float) and not key.startswith("cost/"):
                assert row[key] == pytest.approx(value, abs=2e-4), key


def test_a_run_on_servers_gives_what_a_local_run_gives(run_micro, prepared, server, tmp_path):
    actor, critic = prepared.actor, prepared.critic
    local = run_micro(**joint(actor, critic, tmp_path, "local"))
    urls = [server(actor, "actor"), server(critic, "critic")]
    both = joint(actor, critic, tmp_path, "both", engine="vllm", vllm={"urls": urls})
    served = run_micro(**both)
    require_alike(served, local)
    assert not list((served.path / "engines").iterdir())
    assert run_micro(**both).path == served.path  # which is finished
    one = joint(actor, critic, tmp_path, "one", vllm={"urls": [server(critic, "critic")]})
    one["critic"]["engine"] = "vllm"
    require_alike(run_micro(**one), local)


def test_weights_that_a_server_does_not_take_end_the_run_with_a_message(
    recipe, refused, prepared, server, monkeypatch, tmp_path
):
    monkeypatch.setattr(Fake, "collective_rpc", lambda self, body: (200, {"results": [None]}))
    actor, critic = prepared.actor, prepared.critic
    urls = [server(actor, "actor"), server(critic, "critic")]
    values = joint(actor, critic, tmp_path, "stuck", engine="vllm", vllm={"urls": urls})
    message = refused("train", recipe(**values))
    assert "genac train: http://127.0.0.1" in message and "from other weights" in message


@pytest.mark.slow
def test_adapters_of_one_base_on_one_server(run_micro, prepared, server, tmp_path):
    actor = prepared.actor
    runs = []
    for name, hardware in (
        ("local", {}),
        ("served", {"engine": "vllm", "vllm": {"urls": [server(actor, "actor")]}}),
    ):
        values = joint(actor, actor, tmp_path, name, **hardware)
        values["actor"]["lora"] = values["critic"]["lora"] = ADAPTERS
        values["critic"] |= {"share_base": True, "model_name_or_path": None}
        runs.append(run_micro(**values))
    require_alike(*runs[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, ADAPTERS])
def test_learners_on_two_workers_and_sampling_on_servers(
    run_micro, prepared, server, tmp_path, lora
):
    actor, critic = prepared.actor, prepared.critic
    runs = []
    for name, processes in (("one", 1), ("two", 2)):
        urls = [server(actor, "actor"), server(critic, "critic")]
        values = joint(
            actor, critic, tmp_path, name, engine="vllm", vllm={"urls": urls}, processes=processes
        )
        values["actor"]["lora"] = values["critic"]["lora"] = lora
        runs.append(run_micro(**values))
    require_alike(*runs)


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ({"engine": "vllm", "vllm": {"python": "/no/python"}}, "does not run as a Python"),
        ({"engine": "vllm", "vllm": {"urls": ["http://127.0.0.1:9"]}}, "does not answer"),
        ({"engine": "vllm", "vllm": {"urls": ["host"]}}, "write it as http://HOST:PORT"),
        ({"engine": "vllm"}, "has no vLLM"),
        ({"engine": "vllm", "vllm": {"python": FAKE}}, "attention heads have 16 dimensions"),
    ],
)
def test_what_cannot_sample_is_named_before_a_model_is_made(
    hardware: Values,
    message: str,
    recipe: Callable[..., str],
    genac: Callable[..., Answer],
    tmp_path: Path,
) -> None:
    if hardware.get("vllm", {}).get("python") == FAKE:
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S {vllm_fake.__file__} "$@"\n')
        python.chmod(0o755)
        hardware = {**hardware, "vllm": {"python": str(python)}}
    file = recipe(hardware=hardware, stages={"folder": str(tmp_path / "none")})
    answer = genac("train", file)
    assert answer.code == 2 and message in answer.err
    assert not (tmp_path / "none").exists()


def test_a_finished_run_is_evaluated_by_the_local_engine_where_its_servers_are_gone(
    run_micro, prepared, server, tmp_path, genac
):
    actor, critic = prepared.actor, prepared.critic
    first = serve(Fake(str(actor), "actor", Local()))
    urls = [f"http://127.0.0.1:{first.server_address[1]}", server(critic, "critic")]
    values = joint(actor, critic, tmp_path, "served", engine="vllm", vllm={"urls": urls})
    values["critic"]["engine"] = "vllm"  # which its card says too
    run = run_micro(**values)
    assert evaluated_here(RunConfig(**run.config())).hardware.engine == "vllm"
    first.shutdown()
    first.server_close()
    for answer in (
        genac("eval", str(run.path)),
        genac("generate", str(run.path), "1+1=", "--search", "best-of-n", "--n", "2"),
    ):
        assert answer.code == 0, answer.err
        assert "the local engine samples instead" in answer.err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_critics_of_a_run_and_of_its_evaluation_take_turns_on_one_server(
    run_micro, tmp_path, genac
):
    run = run_micro(
        actor={"tiny": {"hidden_size": 64}},  # heads that vLLM's CPU build knows
        evaluate={"panel_problems": 2, "num_samples": 4, "num_problems": 16},
        stages={"folder": str(tmp_path / "stages")},
        hardware={"engine": "vllm", "vllm": {"python": interpreter(tmp_path)}},
    )
    assert set(run.summary()["critic"]["stages"]) == {"sft", "rl"}

    def starts(role: str) -> int:
        log = run.path / "engines" / f"{role}-0.log"
        return log.read_text().count("ready [")

    assert (starts("actor"), starts("critic")) == (1, 1)
    others = [str(folder.parent) for folder in (tmp_path / "stages").glob("critic_*/model")]
    answer = genac("eval", "critic", str(run.path), *others, "--problems", "2")
    assert answer.code == 0, answer.err
    assert len(others) == 2 and (starts("actor"), starts("critic")) == (2, 2)
    assert [file.name for file in (run.path / "engines").iterdir() if file.is_dir()] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bench_of_faults_kills_as_often_as_configured(tmp_path):
    file = tmp_path / "rows.jsonl"
    bench = Path(__file__).parents[2] / "bench" / "faults_vllm.py"
    command = [sys.executable, str(bench), "--python", interpreter(tmp_path)]
    command += ["--results", str(file), "--kills", "3", "--per-run", "2", "--within", "0.5"]
    subprocess.run(command, check=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sum(len(row["killed"]) for row in rows) == 3 and len(rows) >= 2
    assert all(row["recovered"] and row["equal"] and not row["left"] for row in rows)
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # all is there
    assert "server" in done.stdout and file.read_text().count("\n") == len(rows)
