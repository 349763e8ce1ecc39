"""The doctor knows what vLLM's servers take, and which model lies where."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from genac.commands.doctor import engines, memory, placement
from genac.commands.doctor.findings import Findings
from genac.commands.doctor.lengths import Candidate, candidates, measure
from genac.commands.doctor.report import examine
from genac.config.algorithms import merge
from genac.config.engines import VllmConfig
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.engines import local
from genac.hardware import Hardware
from genac.models.loading import on_meta
from genac.stages.setup import roles_of_servers, served_roles

GIB = 2**30
TINY = {"hidden_size": 32, "layers": 1, "heads": 2, "max_length": 128}
GPU = Hardware(torch.device("cuda"), bf16=True, engine="vllm")


def qwen3_17b() -> Candidate:
    """The published shape, with a context of 4095 tokens."""
    shape: dict[str, Any] = {
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151_936, "max_position_embeddings": 4095, "tie_word_embeddings": True,
    }  # fmt: skip
    return Candidate(on_meta(Qwen3Config(**shape)), None)


def server(rows: int = 32, longest: int = 2000, hardware: Hardware = GPU, **vllm: Any):
    cfg = resolve({"algorithm": "grpo", "rollout": {"max_rows": rows}})
    hardware = Hardware(hardware.device, hardware.bf16, engine="vllm", vllm=VllmConfig(**vllm))
    (result,) = engines.servers_of(cfg, {"actor": qwen3_17b()}, {"actor": longest}, hardware)
    return result


def test_a_cache_worked_out_by_hand() -> None:
    s = server(kv_cache_gb=4.0)
    # keys and values, 28 layers, 8 heads of 128, bf16: 112 KiB
    assert s.token == 2 * 28 * 8 * 128 * 2 == 114_688
    # 1.72 B weights of two bytes; the LM head is the embedding
    assert s.weights == 2 * 1_720_574_976
    # 2000 tokens are 125 blocks of 16, and one block more is vLLM's: 32 rows take 6.84 GiB
    assert s.bytes_of(32, 2000) == (32 * 125 + 1) * 16 * 114_688
    # 4 GiB are 2340 blocks of 1.75 MiB; 2339 of them hold 18 rows
    assert 4 * GIB // (16 * 114_688) == 2340 and s.fitting(4 * GIB) == 18
    # one sequence of the whole context, and the token that Launch adds: 256 blocks
    assert s.context == 4096 and s.least == 257 * 16 * 114_688


def test_fp32_and_blocks_of_32_on_a_cpu() -> None:
    s = server(hardware=Hardware(torch.device("cpu"), bf16=False))
    assert (s.block, s.token, s.cache) == (32, 2 * 114_688, GIB)
    assert s.weights == 4 * 1_720_574_976
    assert engines.on_cpu([s]) == engines.OVERHEAD + s.weights + GIB


def test_the_last_argument_counts_and_devices_divide() -> None:
    args = ["--gpu-memory-utilization", "0.5", "--gpu-memory-utilization=0.3"]
    s = server(args=[*args, "--tensor_parallel_size", "2", "--max-model-len", "3000"])
    assert (s.share, s.devices, s.context) == (0.3, 2, 3000)
    assert s.token == 114_688 // 2 and s.cache_within(80 * GIB) == int(0.3 * 80 * GIB) - s.weights
    with pytest.raises(ValueError, match="--block-size is 'many'; write a plain number"):
        server(args=["--block-size", "many"])


def test_adapters_have_room_for_two_in_the_server() -> None:
    cfg = resolve({"algorithm": "grpo", "actor": {"lora": {"rank": 10}}})
    (s,) = engines.servers_of(cfg, {"actor": qwen3_17b()}, {"actor": 100}, GPU)
    # rank 10 is allocated as 16; per layer q and o 2048+2048, k and v 2048+1024, MLP 3 x 8192
    per_layer = 2 * 4096 + 2 * 3072 + 3 * 8192
    assert s.weights == 2 * 1_720_574_976 + 2 * (28 * 16 * per_layer) * 2


def capacity(s: engines.Served, gpu: int | None = 80 * GIB, elsewhere: bool = False) -> str:
    result = Findings()
    engines.capacity(result, [s], gpu, elsewhere)
    (line,) = result.lines
    return line


def test_rows_that_do_not_fit_are_reported_with_a_remedy_that_works() -> None:
    line = capacity(server(kv_cache_gb=4.0))
    assert line.startswith("warn vllm: actor takes 3.2 GiB of weights and 112 KiB per token; ")
    assert "32 rows of 2000 tokens 6.8 GiB; 18 fit into 4.0 GiB; " in line
    assert "kv_cache_gb to 6.9 or rollout.max_rows to 18" in line
    assert capacity(server(kv_cache_gb=6.9)).startswith("ok")
    assert capacity(server(18, kv_cache_gb=4.0)).startswith("ok")


def test_a_cache_in_which_vllm_does_not_start_fails() -> None:
    line = capacity(server(1, 1000, kv_cache_gb=0.3))
    assert (
        line.startswith("FAIL vllm: ") and "wants 450 MiB, which one of 4096 tokens takes" in line
    )
    assert "kv_cache_gb to 0.5, or add --max-model-len 1001 to hardware.vllm.args" in line
    short = ["--max-model-len", "1001"]
    assert capacity(server(1, 1000, kv_cache_gb=0.3, args=short)).startswith("ok")
    line = capacity(server(1, 1500, args=short))
    assert line.startswith("FAIL vllm: ") and "add --max-model-len 1501" in line


def test_blocks_that_the_cpu_build_does_not_know_fail() -> None:
    cpu = Hardware(torch.device("cpu"), bf16=False)
    line = capacity(server(hardware=cpu, args=["--block-size", "48"]), gpu=None)
    assert line.startswith("FAIL vllm: ") and "--block-size is 48; on a CPU" in line
    assert "--block-size" not in capacity(server(hardware=cpu), gpu=None)


def test_of_servers_behind_addresses_the_need_and_the_command_are_reported() -> None:
    result = Findings()
    engines.capacity(result, [server(kv_cache_gb=0.1)], 80 * GIB, True)
    line, command = result.lines
    assert line.startswith("ok   vllm: ") and "the cache has to hold 0" not in line
    assert "450 MiB at least" in line
    start = "such a server is started by: VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 "
    assert (
        command.startswith(f"ok   vllm: {start}") and "vllm serve MODEL --served-model" in command
    )
    assert "--max-model-len 4096" in command and "--dtype bfloat16" in command


def test_a_critics_server_may_start_from_the_critics_model() -> None:
    cfg = RunConfig.model_validate({
        "actor": {"model_name_or_path": "a/b"}, "critic": {"model_name_or_path": "c/d"},
    })  # fmt: skip
    assert [engines.model_of(cfg, role) for role in ("actor", "critic")] == ["a/b", "c/d"]
    alone = cfg.model_copy(update={"critic": RunConfig().critic})
    assert engines.model_of(alone, "critic") == "a/b"


def on_gpu(learners: float, replicas: int = 1, **vllm: Any) -> str:
    result = Findings()
    s = server(replicas=replicas, **vllm)
    engines.on_gpu(result, [s], round(learners * GIB), 80 * GIB)
    (line,) = result.lines
    return line


def test_vllms_default_share_leaves_no_room_for_learners() -> None:
    line = on_gpu(40.0)
    assert line.startswith("FAIL vllm: 1 server (0.92 of the GPU) and learners of 40.0 GiB")
    assert "113.6 GiB of 80.0 GiB; add --gpu-memory-utilization 0.37 to hardware.vllm.args" in line
    share = ["--gpu-memory-utilization", "0.37"]
    assert on_gpu(40.0, args=share).startswith("ok")
    assert "--gpu-memory-utilization 0.18" in on_gpu(40.0, replicas=2, args=share)
    assert on_gpu(45.0, args=share).startswith("warn")  # estimates are rough
    assert "name them in hardware.vllm.urls" in on_gpu(62.0)


def test_a_set_cache_does_not_spare_the_share_that_is_free_at_a_start() -> None:
    line = on_gpu(40.0, kv_cache_gb=7.0)
    assert line.startswith("FAIL") and "0.92 of the GPU free at every start" in line
    assert "--gpu-memory-utilization 0.37" in line
    assert on_gpu(40.0, kv_cache_gb=7.0, args=["--gpu-memory-utilization", "0.37"])[:2] == "ok"


def test_servers_are_spread_over_gpus_a_critics_behind_an_actors() -> None:
    pair = [server(replicas=2), replace(server(replicas=2), role="critic")]
    assert [engines.numbers(s, 4) for s in pair] == [[0, 1], [2, 3]]
    assert [engines.numbers(s, 3) for s in pair] == [[0, 1], [2, 0]]
    wide = server(replicas=2, args=["--tensor-parallel-size", "2"])
    assert engines.numbers(wide, 4) == [0, 1, 2, 3]
    result, half = Findings(), ["--gpu-memory-utilization", "0.4"]
    pair = [server(args=half), replace(server(args=half), role="critic")]
    engines.on_gpu(result, pair, 45 * GIB, 80 * GIB, gpus=2, workers=1)
    assert "1 server (0.4 of the GPU) and learners of 45.0 GiB share GPU 0" in result.lines[0]
    engines.on_gpu(result, pair, 45 * GIB, 80 * GIB, gpus=1, workers=1)
    assert "2 servers (0.4 of the GPU each) and learners of 45.0 GiB share" in result.lines[1]


# --- whole recipes ---


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., RunConfig]:
    healthy: dict[str, Any] = {
        "output_dir": str(tmp_path / "run"),
        "stages": {"folder": str(tmp_path / "stages")},
        "rollout": {"max_completion_length": 48, "max_rows": 8},
        "actor": {"tiny": TINY},
        "critic": {"generative": {"prompt": "compact", "max_new_tokens": 32}},
        "hardware": {"device": "cpu"},
    }
    return lambda **overrides: resolve(merge(healthy, overrides))


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], str]:
    """python(version) -> what answers like an interpreter beside that version of vLLM."""

    def make(version: str) -> str:
        path = tmp_path / f"python-{version}"
        path.write_text(f"#!/bin/sh\necho '\"{version}\"'\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def lines(cfg: RunConfig, word: str, gib: float | None = None) -> list[str]:
    return [line for line in examine(cfg, gib)[0] if word in line]


def test_the_interpreter_and_its_version_are_checked(recipe, python) -> None:
    good = {"engine": "vllm", "vllm": {"python": python("0.32.1")}}
    (line,) = lines(recipe(hardware=good), "attention heads")
    assert line.startswith("FAIL vllm: ") and "have 16 dimensions" in line
    heads = {"tiny": TINY | {"heads": 1}}
    assert lines(recipe(hardware=good, actor=heads), "vllm 0.32.1") == [
        f"ok   vllm 0.32.1 in {good['vllm']['python']}"
    ]
    old = recipe(hardware={"engine": "vllm", "vllm": {"python": python("0.9.0")}})
    (line,) = lines(old, "0.9.0; supported")
    assert line.startswith("FAIL vllm: hardware.vllm.python ")
    (line,) = lines(recipe(critic={"engine": "vlm"}), "critic.engine")
    assert line.startswith("FAIL ")


def test_an_address_that_does_not_answer_fails(recipe) -> None:
    cfg = recipe(hardware={"engine": "vllm", "vllm": {"urls": ["http://127.0.0.1:9"]}})
    (line,) = lines(cfg, "which does not answer")
    assert line.startswith("FAIL vllm: hardware.vllm.urls names http://127.0.0.1:9")
    cfg = recipe(hardware={"cluster": "127.0.0.1:9", "processes": 2})
    (line,) = lines(cfg, "no Ray cluster answers")
    assert line.startswith("FAIL workers: ")


def test_servers_on_a_cpu_take_memory_besides_the_learners(recipe, python, monkeypatch) -> None:
    monkeypatch.setattr(local, "free_ram", lambda: 100 * GIB)
    cfg = recipe(hardware={"engine": "vllm", "vllm": {"python": python("0.32.0")}})
    shown = examine(cfg)[0]
    place = "placement: 1 server of vLLM with actor on this machine, 1 server of vLLM with critic"
    assert any(place in line for line in shown)
    taken = 2 * (engines.OVERHEAD / GIB + 1)
    assert f"ok   memory: 2 of vLLM's servers take about {taken:.1f} GiB" in "\n".join(shown)
    assert any("actor holds" in line and "is sampled by vLLM" in line for line in shown)
    assert any(f"needed, {100 - taken:.1f} GiB free" in line for line in shown)
    monkeypatch.setattr(local, "free_ram", lambda: 3 * GIB)
    (line,) = lines(cfg, "2 of vLLM's servers")
    assert line.startswith("FAIL memory: ") and "lower hardware.vllm.kv_cache_gb" in line


def test_weights_that_servers_read_take_room_on_the_disk(recipe) -> None:
    cfg = recipe(critic={"lora": {"rank": 4}})
    models = candidates(cfg)
    needs = memory.demands(cfg, models, measure(cfg, models), bf16=True)
    actor = next(d.parameters for d in needs if d.role == "actor")
    # Two versions of the actor's; the critic's adapters are small.
    assert placement.published(cfg, needs, ["actor", "critic"], 2) == 2 * 2 * actor > 0
    assert placement.published(cfg, needs, [], 2) == 0


def test_a_shared_base_has_one_server_and_engines_may_differ(recipe) -> None:
    lora = {"lora": {"rank": 4}}
    shared = recipe(actor=lora, critic=lora | {"share_base": True}, hardware={"engine": "vllm"})
    hardware = Hardware(torch.device("cpu"), bf16=False, engine="vllm")
    assert roles_of_servers(shared, hardware) == ["actor"]
    assert served_roles(shared, hardware) == ["actor", "critic"]
    longest = {"actor": 60, "critic": 90}
    (s,) = engines.servers_of(shared, candidates(shared), longest, hardware)
    assert (s.role, s.longest, s.replicas) == ("actor and critic", 90, 1)
    mixed = recipe(critic={"engine": "vllm"}, hardware={"engine": "local"})
    assert roles_of_servers(mixed, Hardware(torch.device("cpu"), bf16=False)) == ["critic"]
    assert roles_of_servers(recipe(algorithm="ppo"), hardware) == ["actor"]


def test_what_vllm_samples_has_no_engine_in_the_learners_process(recipe) -> None:
    cfg = recipe(actor={"loss": {"beta": 0.1}})
    models = candidates(cfg)
    ask = lambda *served: {  # noqa: E731
        d.role: d
        for d in memory.demands(cfg, models, measure(cfg, models), bf16=False, served=served)
    }
    both, neither = ask("actor", "critic"), ask()
    count = both["actor"].parameters
    assert both["actor"].held == 4 * 4 * count and neither["actor"].held == 5 * 4 * count
    assert both["reference"].held == 4 * count  # it never samples, and starts no server
    assert both["critic"].kept == 0 and ask("actor")["critic"] == neither["critic"]


def test_separate_pools_count_each_for_itself(recipe) -> None:
    cfg = recipe(actor={"loss": {"beta": 0.1}}, hardware={"processes": 2, "placement": "separate"})
    models = candidates(cfg)
    together, apart = (
        memory.demands(cfg, models, measure(cfg, models), bf16=True, separate=separate)
        for separate in (False, True)
    )
    actor, critic, reference = apart
    assert (actor.pool, critic.pool, reference.pool) == ("actor", "critic", "actor")
    pools = [memory.total([actor, reference]), memory.total([critic])]
    assert memory.total(apart) == max(pools) < memory.total(together)
    (line,) = lines(cfg, "placement: ", gib=1.0)
    assert line == (
        "ok   placement: 2 workers with actor and reference, 2 workers with critic; 4 GPUs in all"
    )
    assert lines(cfg, "device: ", gib=1.0)[0].startswith("ok   device: 4 processes, each on a GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_clusters_gpus_are_not_known_here(recipe) -> None:
    cfg = recipe(hardware={"cluster": "127.0.0.1:9", "device": "cuda", "processes": 4})
    assert lines(cfg, "ask with --gpu GIB")[0].startswith("warn memory: ")
