"""Real vLLM servers. They need an environment of their own (`make vllm-env`), whose interpreter
GENAC_VLLM_PYTHON names, and a minute of processor time for each of the five that are started.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vllm_record import ALPHABET

from genac.config.engines import VllmConfig
from genac.config.models import OptimizerConfig
from genac.engines.base import Request
from genac.engines.local import LocalEngine
from genac.engines.vllm import engine as engine_module
from genac.engines.vllm import guardian, servers
from genac.engines.vllm.engine import VllmEngine
from genac.engines.vllm.http import Client
from genac.engines.vllm.weights import WeightsDiffer
from genac.hardware import Hardware
from genac.models.tiny import save_tiny
from genac.runtime import ModelSpec, Runtime, build

PYTHON = os.environ.get("GENAC_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="GENAC_VLLM_PYTHON names no interpreter with vLLM"),
]
CONTEXT = 1024


def guardians() -> set[str]:
    """Our guardians that are running, by their command."""
    lines = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode().replace("\0", " ")
            if f"guardian.py {os.getpid()} " in line:
                lines.add(line)
    return lines


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A model of our own with a real server behind it."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder, ALPHABET, max_length=CONTEXT, hidden_size=64, layers=2, heads=2, seed=0)
    cfg = VllmConfig(python=PYTHON, startup_seconds=1200)
    hardware = Hardware(torch.device("cpu"), False, engine="vllm", vllm=cfg)
    spec = ModelSpec("actor", str(folder), OptimizerConfig(), folder=folder / "engines")
    runtime = build(spec, hardware)
    change(runtime, 6.0)
    runtime.publish(1)
    yield runtime
    own = servers_of(runtime)
    shared = guardian.shared_memory(server_of(own.pids[0]))
    own._finalizer()
    assert shared and not any(Path(file).exists() for file in shared) and not guardians()


def servers_of(runtime: Runtime) -> servers.Servers:
    assert isinstance(runtime.engine, VllmEngine)
    return runtime.engine.servers


def server_of(pid: int) -> int:
    """The server of a guardian, which is its group."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def change(runtime: Runtime, factor: float) -> None:
    """Other weights, far from uniform."""
    with torch.no_grad():
        for parameter in runtime.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)


def counters(client: Client) -> dict[str, float]:
    """What /metrics counts, by name."""
    lines = str(client.get("/metrics")).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name.split("{")[0]: float(value) for name, value in pairs}


def prompts(count: int, length: int, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(3, 30) for _ in range(length)) for _ in range(count)]


def local(runtime: Runtime) -> LocalEngine:
    return LocalEngine(runtime.model, CONTEXT, tokenizer=runtime.tokenizer)


def require_local_answers(runtime: Runtime, seed: int) -> None:
    """Greedy completions, their log-probabilities and named probabilities."""
    batch = [
        Request(p, 16, seed=0, temperature=0.0, token_prob_ids=(4, 9, 12), stop_ids=(5,))
        for p in prompts(8, 40, seed)
    ]
    for a, b in zip(runtime.sampler.generate(batch), local(runtime).generate(batch), strict=True):
        assert (a.ids, a.finish) == (b.ids, b.finish)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=2e-3)
        np.testing.assert_allclose(a.token_probs, b.token_probs, atol=2e-3)


def test_greedy_completions_are_those_of_the_local_engine(actor):
    require_local_answers(actor, 1)


def test_seeds_decide_the_tokens_whatever_else_is_in_the_batch(actor):
    batch = [Request(p, 24, seed=i) for i, p in enumerate(prompts(12, 40))]
    whole = [c.ids for c in actor.sampler.generate(batch)]
    assert [c.ids for c in actor.sampler.generate(batch[::-1])][::-1] == whole
    assert [actor.sampler.generate([r])[0].ids for r in batch[:3]] == whole[:3]


def test_the_states_of_a_response_hit_the_prefix_cache(actor):
    (response,) = prompts(1, 900, seed=3)
    question = prompts(1, 12, seed=4)[0]
    batch = [
        Request((*response[: 150 + 50 * i], *question), 8, seed=i, token_prob_ids=(4, 5))
        for i in range(16)
    ]
    client = servers_of(actor).clients[0]
    names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
    before = [counters(client)[name] for name in names]
    actor.sampler.generate(batch)
    hits, queries = (counters(client)[n] - b for n, b in zip(names, before, strict=True))
    print(f"prefix cache: {hits:.0f} of {queries:.0f} tokens, {hits / queries:.1%}")
    assert hits / queries > 0.8


def test_published_weights_answer_and_a_kept_cache_is_noticed(actor, monkeypatch):
    actor.sampler.generate([Request(p, 4, seed=0) for p in prompts(2, 200, seed=5)])
    change(actor, 1.1)
    actor.publish(2)  # whose probe compares with the learner
    require_local_answers(actor, 6)
    label = servers_of(actor).clients[0].get("/weight_info")["weight_version"]
    assert label.startswith("actor-") and label.endswith("-2")

    def reload_only(client: Any, folder: Path, version: int) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        client.post("/collective_rpc", body)

    actor.sampler.generate([Request(p, 4, seed=0) for p in prompts(2, 200, seed=7)])
    with monkeypatch.context() as patch:
        patch.setattr(servers, "load_weights", reload_only)
        patch.setattr(engine_module.VllmEngine, "_salt", label)
        change(actor, 1.2)
        with pytest.raises(WeightsDiffer):
            actor.publish(3)
    actor.publish(4)
    require_local_answers(actor, 8)


def test_a_killed_server_comes_back_with_the_published_weights(actor):
    require_local_answers(actor, 9)
    change(actor, 0.9)
    actor.publish(5)
    server = server_of(servers_of(actor).pids[0])
    time.sleep(guardian.LOOK + 1)
    shared = guardian.shared_memory(server)
    os.kill(server, signal.SIGKILL)
    with pytest.warns(UserWarning, match="started again with weights 5"):
        require_local_answers(actor, 9)
    assert shared and not any(Path(file).exists() for file in shared)


@pytest.fixture
def joint(run_micro, stages, tmp_path) -> Callable[..., list[dict[str, float]]]:
    """joint(steps, **models) -> the metrics of a joint stage whose models are on servers."""

    def run(steps: int, actor: Any, critic: Any, trained: bool) -> list[dict[str, float]]:
        tiny = {"hidden_size": 64, "layers": 1, "heads": 2}  # vLLM on CPU wants heads of 32
        run_micro(stages={"joint": {"steps": 1}}, actor={"tiny": tiny})
        newest = lambda name: max(stages.glob(name), key=lambda p: p.stat().st_mtime)  # noqa: E731
        base, learned = newest("base-*/model"), newest("critic_rl-*/model")
        before = guardians()
        result = run_micro(
            output_dir=str(tmp_path / "served"),
            actor={"model_name_or_path": str(base), **actor},
            critic={"model_name_or_path": str(learned) if trained else None, **critic},
            stages={"sft": {"epochs": 0}, "critic_rl": {"steps": 0}, "joint": {"steps": steps}},
            hardware={"engine": "vllm", "vllm": {"python": PYTHON, "startup_seconds": 1200}},
        )
        assert guardians() <= before
        rows = result.metrics("joint")
        assert [row["step"] for row in rows] == list(range(steps))
        for row in rows:
            assert row["sampling/sampling_logp_difference/mean"] < 2e-3
            assert row["critic/sampling/sampling_logp_difference/mean"] < 2e-3
            assert row["publish_changed"] > 0 or row["grad_norm"] == 0
        return rows

    return run


def test_a_joint_run_with_actor_and_critic_on_servers(joint):
    rows = joint(5, actor={}, critic={}, trained=True)
    assert all(row["critic/parse_failure_rate"] < 0.5 for row in rows)


def test_a_joint_run_with_two_adapters_on_one_server(joint):
    lora = {"rank": 4, "alpha": 8}
    joint(2, actor={"lora": lora}, critic={"lora": lora, "share_base": True}, trained=False)
