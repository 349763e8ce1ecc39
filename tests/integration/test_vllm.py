"""Runs whose models are sampled by servers with vLLM's routes, over our own local engine: they give
what runs in one process give.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vllm_fake
from micro import Answer, Values, results
from safetensors.torch import load_file
from vllm_fake import Fake, reply, serve

from genac.config.run import RunConfig
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.models.loading import context_length, load_model, load_tokenizer
from genac.runs.store import Run
from genac.stages.setup import evaluated_here

Runs = Callable[..., Run]
FAKE = "an interpreter whose vLLM is the fake"
ADAPTERS = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these tests alone, which look into it."""
    return tmp_path_factory.mktemp("stages")


class Local:
    """The server's model: our own engine over a folder."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def load(self, folder: str) -> LocalEngine:
        self.folder = folder
        return self.engine(load_model(folder))

    def engine(self, model: Any) -> LocalEngine:
        tokenizer = load_tokenizer(self.folder)
        return LocalEngine(model, context_length(model, tokenizer), tokenizer=tokenizer)

    def adapt(self, weights: LocalEngine, folder: str) -> LocalEngine:
        """The base with an adapter merged in, by what PEFT's two files say."""
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
        model = load_model(self.folder)
        for name, a in tensors.items():
            if not name.endswith(".lora_A.weight"):
                continue
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            scale = config["lora_alpha"] / config["r"]
            model.get_submodule(module).weight.data += scale * (b @ a)
        return self.engine(model)

    def complete(self, weights: LocalEngine, body: dict[str, Any]) -> dict[str, Any]:
        names = tuple(body.get("logprob_token_ids", ()))
        request = Request(
            tuple(body["prompt"]),
            body["max_tokens"],
            body["seed"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            stop_ids=tuple(body["stop_token_ids"]),
            stop=tuple(body["stop"]),
            token_prob_ids=names,
        )
        with self.lock:
            (done,) = weights.generate([request])
        top = [
            {f"token_id:{n}": float(np.log(max(p, 1e-30))) for n, p in zip(names, row, strict=True)}
            for row in done.token_probs
        ]
        return reply(
            list(done.ids), done.logprobs.tolist(), top, done.finish, len(request.prompt_ids)
        )


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


@pytest.fixture
def prepared(run_micro: Runs, stages: Path) -> tuple[Path, Path]:
    """Folders of an actor and of a critic that were trained here."""
    run_micro(stages={"joint": {"steps": 1}})
    newest = lambda name: max(stages.glob(name), key=lambda p: p.stat().st_mtime)  # noqa: E731
    return newest("base-*/model"), newest("critic_rl-*/model")


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
    """Metrics but for what is counted of the work, and for entropies, which servers do not tell."""
    for row, expected in zip(results(one, "joint"), results(other, "joint"), strict=True):
        for key, value in expected.items():
            if isinstance(value, float) and not key.startswith("cost/"):
                assert row[key] == pytest.approx(value, abs=2e-4), key


def test_a_run_on_servers_gives_what_a_local_run_gives(run_micro, prepared, server, tmp_path):
    actor, critic = prepared
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


@pytest.mark.slow
def test_adapters_of_one_base_on_one_server(run_micro, prepared, server, tmp_path):
    actor, _ = prepared
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
    actor, critic = prepared
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
    actor, critic = prepared
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
