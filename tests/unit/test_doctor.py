"""The doctor finds each kind of trouble before anything is loaded, with a number and a remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, Qwen3Config, Qwen3ForCausalLM

from genac.commands.doctor import machine, memory, model_bytes, placement
from genac.commands.doctor.findings import Findings
from genac.commands.doctor.lengths import candidates, measure
from genac.commands.doctor.machine import examine_machine
from genac.commands.doctor.report import examine
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.engines import local
from genac.engines.cache import READ_AT_ONCE, row_bytes
from genac.engines.local import LocalEngine
from genac.models.loading import on_meta
from genac.models.tiny import save_tiny
from genac.tasks import make_task
from genac.tasks.arithmetic import ArithmeticTask
from genac.tasks.check import Proof, check, corrupt

FUNCTIONS = Path(__file__).parents[1] / "data" / "user_rewards.py"
GIB = 2**30
TINY = {"hidden_size": 32, "layers": 1, "heads": 2, "max_length": 128}
Recipe = dict[str, Any]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A healthy recipe under overrides."""
    healthy: Recipe = {
        "output_dir": str(tmp_path / "run"),
        "stages": {"folder": str(tmp_path / "stages")},
        "rollout": {"max_completion_length": 48, "max_rows": 8},
        "actor": {"tiny": TINY},
        "critic": {"generative": {"prompt": "compact", "max_new_tokens": 32}},
        "hardware": {"device": "cpu"},
    }
    return lambda **overrides: merge(healthy, overrides)


@pytest.fixture
def diagnose(recipe: Callable[..., Recipe]) -> Callable[..., list[str]]:
    """diagnose(**overrides) -> the lines that are not ok; the verdict agrees with them."""

    def call(**overrides: Any) -> list[str]:
        lines, healthy = examine(resolve(recipe(**overrides)))
        assert all(line[:5] in ("ok   ", "warn ", "FAIL ") for line in lines)
        assert all("\n" not in line for line in lines)
        assert healthy == (not any(line.startswith("FAIL") for line in lines))
        return [line for line in lines if not line.startswith("ok")]

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local model of the arithmetic task."""
    path = tmp_path / "model"
    save_tiny(path, ArithmeticTask().alphabet(), seed=0, **TINY)
    return path


@pytest.mark.parametrize("algorithm", ["genac", "ppo", "vineppo", "grpo"])
def test_a_healthy_recipe_has_no_findings(algorithm: str, diagnose) -> None:
    assert diagnose(algorithm=algorithm) == []


def test_a_local_folder_is_as_good_as_a_tiny_model(diagnose, folder: Path) -> None:
    assert diagnose(actor={"model_name_or_path": str(folder)}) == []


def test_nothing_is_written(diagnose, tmp_path: Path) -> None:
    diagnose()
    assert list(tmp_path.iterdir()) == []


# --- the machine ---


def test_versions_outside_the_range_fail(monkeypatch) -> None:
    installed = {"torch": "2.9.0", "transformers": "5.23.0"}

    def version(name: str) -> str:
        if name == "numpy":
            raise machine.metadata.PackageNotFoundError(name)
        return installed[name]

    needs = ["torch>=2.11", "transformers<6,>=5.5", "numpy>=2", "ruff>=1; extra == 'dev'"]
    monkeypatch.setattr(machine.metadata, "requires", lambda _: needs)
    monkeypatch.setattr(machine.metadata, "version", version)
    result = Findings()
    machine.versions(result)
    assert result.lines[1:] == [
        "FAIL torch 2.9.0; pip install 'torch>=2.11'",
        "ok   transformers 5.23.0",
        "FAIL numpy is missing; pip install 'numpy>=2'",
    ]


def test_more_threads_than_cores_is_a_warning(diagnose) -> None:
    (line,) = [n for n in diagnose(hardware={"threads": 1000}) if "threads" in n]
    assert line.startswith("warn threads: 1000 on ") and "set hardware.threads" in line


@pytest.fixture(autouse=True)
def threads_are_put_back():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_fails(diagnose) -> None:
    (line,) = diagnose(hardware={"device": "cuda"})
    assert line.startswith("FAIL device: ") and "use 'cpu' or 'auto'" in line


def test_memory_that_does_not_fit_names_keys_and_numbers(diagnose, monkeypatch, recipe) -> None:
    monkeypatch.setattr(local, "free_ram", lambda: 64 * 2**20)
    rollout = {"max_completion_length": 48, "max_rows": 65536}
    (line,) = diagnose(rollout=rollout, algorithm="grpo")
    assert line.startswith("FAIL memory: about ") and "64 MiB free; lower " in line
    assert "no result changes" in line
    rows = int(line.split("rollout.max_rows to ")[1].split(",")[0].split(";")[0])
    # The remedy works.
    rollout["max_rows"] = rows
    small = {"tokens_per_microbatch": 128}
    overrides = {
        "actor": {"tiny": TINY, "optimizer": small},
        "stages": merge(recipe()["stages"], {"base": {"optimizer": small}}),
    }
    assert rows < 65536 and diagnose(rollout=rollout, algorithm="grpo", **overrides) == []
    monkeypatch.setattr(local, "free_ram", lambda: 2**10)
    assert "models alone are too large" in diagnose()[0]


def test_a_full_disk_fails(diagnose, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda _: usage)
    (line,) = diagnose()
    assert line.startswith("FAIL disk: about ") and "move output_dir" in line


def test_only_the_stage_under_way_has_checkpoints(diagnose, recipe, monkeypatch) -> None:
    """Models of base, SFT and critic RL and both of the run; three checkpoints of both."""
    cfg = resolve(recipe(critic={"generative": {"prompt": "compact", "max_new_tokens": 32}}))
    models = candidates(cfg)
    count = memory.demands(cfg, models, measure(cfg, models), bf16=False)[0].parameters
    need = (5 * 4 + 3 * 2 * 12) * count
    for free, fails in ((need + 1, False), (need - 1, True)):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(placement.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert [line.startswith("FAIL disk") for line in diagnose()] == [True] * fails


# --- the task ---


def file_task(tmp_path: Path, answer: str = "5", **more: Any) -> Recipe:
    rows = [{"prompt": f"{i} + 3", "answer": answer} for i in range(40)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return {
        "task": {"name": "file", "path": str(path)} | more,
        "evaluate": {"num_problems": 1},
        "stages": {"base": {"check_fraction": 0.0}, "synthesize": {"oracle": "outcome"}},
    }


def test_a_data_file_without_an_oracle(diagnose, tmp_path: Path) -> None:
    assert diagnose(**file_task(tmp_path)) == []
    lines = diagnose(**(file_task(tmp_path) | {"stages": {}, "evaluate": {}}))
    assert any(n.startswith("warn evaluate.num_problems is 160") for n in lines)
    (line,) = [n for n in lines if n.startswith("FAIL")]
    assert line.startswith("FAIL oracle: ") and "stages.synthesize.oracle: outcome" in line


def test_a_missing_file_and_a_missing_reward_fail_once(diagnose, tmp_path: Path) -> None:
    recipe = file_task(tmp_path)
    (line,) = diagnose(**merge(recipe, {"task": {"path": "nowhere.jsonl"}}))
    assert line.startswith("FAIL task: ") and "does not exist" in line
    (line,) = diagnose(**merge(recipe, {"task": {"reward": f"{FUNCTIONS}:absent"}}))
    assert "no function 'absent'" in line
    (line,) = diagnose(**merge(recipe, {"task": {"options": {"heldout_fraction": 0.0}}}))
    assert line.startswith("FAIL task: 0 heldout problems; add rows")


def test_a_reward_that_rejects_gold_or_accepts_all_is_reported(diagnose, tmp_path: Path) -> None:
    always = tmp_path / "always.py"
    always.write_text("def one(completions): return [1.0]\ndef zero(completions): return [0.0]\n")
    (line,) = diagnose(**file_task(tmp_path, reward=f"{always}:one"))
    assert line.startswith("warn reward ") and "8 of 8 corrupted answers score as high" in line
    first, _ = diagnose(**file_task(tmp_path, reward=f"{always}:zero"))
    assert "0 of 8 gold answers score 1; one gets 0" in first
    always.write_text("def big(completions): return [2.0]\n")
    (line,) = diagnose(**file_task(tmp_path, reward=f"{always}:big"))
    assert line.startswith("FAIL task: ") and "not a number in [0, 1]" in line


def test_gold_is_proven_and_corrupted() -> None:
    for name in ("arithmetic", "exact", "sums"):
        task = make_task(resolve({"task": {"name": name}}).task, 0)
        assert check(task) == Proof(8, 8, 0)
    texts = ("ans=9", "so 12, yes", "Paris", "")
    assert [corrupt(t) for t in texts] == ["ans=0", "so 13, yes", "Pari", ""]


# --- the models ---


def test_models_that_cannot_be_loaded_fail(diagnose, folder: Path, tmp_path: Path) -> None:
    (line,) = diagnose(actor={"model_name_or_path": str(tmp_path / "absent")})
    assert line.startswith("FAIL models: no causal LM in ")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (line,) = diagnose(actor={"model_name_or_path": str(folder)})
    assert line.startswith("FAIL models: no tokenizer")
    (folder / "model.safetensors").unlink()
    (line,) = diagnose(actor={"model_name_or_path": str(folder)})
    assert "no *.safetensors" in line


def test_a_tokenizer_larger_than_the_embedding_fails(diagnose, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 50}))
    lines = diagnose(actor={"model_name_or_path": str(folder)})
    assert any("its embedding has 50 rows only" in line for line in lines)


def test_a_value_head_needs_the_actors_tokens(diagnose, tmp_path: Path) -> None:
    save_tiny(tmp_path / "other", ["x"], seed=0, **TINY)
    critic = {"model_name_or_path": str(tmp_path / "other")}
    (line,) = diagnose(algorithm="ppo", critic=critic)
    assert line.startswith("FAIL critic: not the vocabulary of the actor; ")


def test_contexts(diagnose) -> None:
    # Actor: a prompt and 128 tokens to write do not fit into 128.
    lines = diagnose(rollout={"max_completion_length": 128}, algorithm="grpo")
    assert len(lines) == 1 and "lower rollout.max_completion_length to 1" in lines[0]
    # Answers of the task are cut off.
    (line,) = diagnose(rollout={"max_completion_length": 4}, algorithm="grpo")
    assert line.startswith("warn actor: the longest gold answer takes ")
    assert " of 4 tokens; raise rollout.max_completion_length to " in line
    # Critic: nothing fits, or only short responses do.
    (line,) = diagnose(critic={"generative": {"prompt": "compact", "max_new_tokens": 127}})
    assert line.startswith("FAIL critic context: ") and "nothing fits" in line
    (line,) = diagnose(critic={"generative": {"prompt": "compact", "max_new_tokens": 60}})
    assert line.startswith("warn critic context: ") and "no value behind token" in line
    (line,) = diagnose(critic={"generative": {"prompt": "paper", "max_new_tokens": 32}})
    assert "set prompt compact" in line


# --- the estimate ---


def test_parameters_and_caches_are_those_of_the_real_thing(recipe) -> None:
    cfg = resolve(recipe(critic={"generative": {"prompt": "compact", "max_new_tokens": 32}}))
    models = candidates(cfg)
    needs = memory.demands(cfg, models, measure(cfg, models), bf16=False)
    vocabulary = models["actor"].vocabulary
    config = Qwen3Config.from_dict(models["actor"].model.config.to_dict())
    real = Qwen3ForCausalLM(config)
    count = sum(p.numel() for p in real.parameters())
    assert [d.parameters for d in needs] == [count, count] and vocabulary == config.vocab_size
    engine = LocalEngine(real, 128)
    assert engine.decoder is not None
    assert model_bytes.cache_bytes(real, 50, bf16=False) == row_bytes(engine.decoder, 50)
    # fp32 weights, gradients, two moments, and the engine's copy
    assert needs[0].held == 5 * 4 * count
    assert memory.checkpoint_bytes(needs[:1]) == 3 * 12 * count
    assert memory.stored_bytes(needs[:1]) == 4 * count


def test_large_models_cost_no_memory_here() -> None:
    shape = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
    config = Qwen3Config(**shape, vocab_size=151_936, tie_word_embeddings=True)
    model = on_meta(config)
    assert all(p.device.type == "meta" for p in model.parameters())
    demand = memory.language(model, "actor", (1000, 2000, 1000), rows=8, bf16=True)
    assert 5e9 < demand.parameters < 9e9
    # 16 bytes per parameter, and a bf16 engine that copies the tied head as well
    extra = 151_936 * 4096
    assert demand.held == 18 * demand.parameters + 2 * extra
    assert memory.smaller([demand], 10 * GIB) is None


def test_an_engine_without_a_decoder_of_ours_copies_the_model_as_it_is() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = on_meta(GPTNeoXConfig(**shape, num_attention_heads=4, vocab_size=50))
    demand = memory.language(model, "actor", (10, 20, 10), rows=8, bf16=True)
    # fp32 weights, gradients, two moments, and the copy that bf16 does not shrink
    assert demand.held == 5 * 4 * demand.parameters


def test_on_a_gpu_reading_holds_scores_in_fp32_as_well() -> None:
    model = on_meta(Qwen3Config(hidden_size=64, num_hidden_layers=2, vocab_size=50))
    read = {
        cpu: memory.language(
            model,
            "actor",
            (500, 600, 100),
            8,
            False,
            model_bytes.Trained(where=model_bytes.Spread(cpu=cpu)),
        ).reading
        for cpu in (True, False)
    }
    heads = model.config.num_attention_heads
    assert read[False] - read[True] == (READ_AT_ONCE + 500) * 500 * model_bytes.SCORES * heads


@pytest.mark.parametrize("where", [model_bytes.Spread(cpu=False), model_bytes.Spread(2)])
def test_fused_layers_count_where_they_run(where, monkeypatch) -> None:
    """What another machine's GPU needs does not depend on the compiler of this one."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = on_meta(Qwen3Config(**shape, num_attention_heads=2, head_dim=32, vocab_size=64))
    ask = lambda w: model_bytes.activation_bytes(model, False, model_bytes.Trained(where=w))  # noqa: E731
    monkeypatch.setattr(model_bytes, "library", lambda: object())
    here, there = ask(model_bytes.ALONE), ask(where)
    monkeypatch.setattr(model_bytes, "library", lambda: None)
    assert here < there == ask(where) == ask(model_bytes.ALONE)


def test_what_each_of_several_processes_holds() -> None:
    shape = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
    model = on_meta(Qwen3Config(**shape, vocab_size=151_936, tie_word_embeddings=False))
    sizes, gpus = (1000, 2000, 1000), model_bytes.Spread(8, resting=True)
    one = memory.language(model, "actor", sizes, 8, True, model_bytes.Trained(checkpointing=True))
    full = memory.language(
        model, "actor", sizes, 8, True, model_bytes.Trained(checkpointing=True, where=gpus)
    )
    count = full.parameters
    assert full.held == 16 * count // 8 and full.kept == 0
    # The engine has all weights, on the device while it samples only; so have its caches.
    assert full.engine == 2 * count
    assert full.row == one.row + one.cache
    # While learning: embedding and head with gradients and a copy of these, and a few layers.
    outside = 2 * 151_936 * 4096 + 4096
    layer = (count - outside) // 36
    assert full.gathered == 4 * (3 * outside + 4 * layer) and one.gathered == 0
    loose = model_bytes.Trained(where=gpus).gathered(model, bf16=True)
    assert loose == full.gathered + 2 * count  # what autocast keeps of each layer
    # Under adapters every process has the whole base, and the adapters with their moments.
    lora = model_bytes.Trained(stored=2, adapters=1000, checkpointing=True, where=gpus)
    assert memory.language(model, "actor", sizes, 8, True, lora).held == 2 * count + 16 * 1000


def test_the_doctor_says_how_many_gpus_would_do(recipe) -> None:
    large = {"tiny": {"hidden_size": 1024, "layers": 8, "heads": 8, "max_length": 128}}
    optimizer = {"gradient_checkpointing": True, "tokens_per_microbatch": 128}
    stages = {"base": {"optimizer": optimizer}}
    cfg = resolve(recipe(algorithm="grpo", actor=large | {"optimizer": optimizer}, stages=stages))
    gib = 2.0
    (line,) = [n for n in examine(cfg, gib)[0] if "needed" in n]
    assert line.startswith("FAIL memory: about ") and "use hardware.processes 2, one GPU" in line
    several = cfg.model_copy(update={"hardware": cfg.hardware.model_copy(update={"processes": 2})})
    lines, healthy = examine(several, gib)
    assert healthy and any("needed by each of 2 processes" in n for n in lines), lines
    assert "ok   device: 2 processes, each on a GPU of 2 GiB, bf16" in lines
    every = cfg.model_copy(update={"hardware": cfg.hardware.model_copy(update={"processes": 0})})
    assert any("say how many that machine has" in n for n in examine(every, gib)[0])


def test_without_a_recipe_no_library_of_models_is_imported():
    code = (
        "import sys; from genac.cli import main; main(['doctor']); "
        "print([m for m in ('transformers', 'torch._dynamo', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("examines a run on this machine\n[]\n"), done


def test_without_a_recipe_the_machine_is_examined():
    lines, healthy = examine_machine()
    assert healthy, lines
    text = "\n".join(lines)
    for part in (
        "python ",
        "torch ",
        "threads: ",
        "device: ",
        "memory: ",
        "compiler: ",
        "extras: ",
    ):
        assert part in text
    assert "context" not in text and "reward" not in text
