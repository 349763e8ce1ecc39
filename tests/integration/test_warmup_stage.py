"""The warm-up as a stage: it teaches, its folder is an ordinary model, a killed one is resumed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf_files import tiny_llama, write_gguf
from killing import kill_when_logged
from micro import Answer, Values, copy_stages, results
from transformers import AutoModelForCausalLM

from genac.config.algorithms import merge
from genac.config.recipes import from_command_line, resolve
from genac.runs.store import Run
from genac.stages.base_model import base_model
from genac.stages.pipeline import prepare_until, train

Runs = Callable[..., Run]
Recipe = Callable[..., str]
# The base stage ends on faulty demonstrations, so correct ones leave something to learn.
WARMUP = {"steps": 40, "batch_size": 8, "save_every": 10, "optimizer": {"learning_rate": 3e-3}}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of these tests alone, which look into it."""
    return tmp_path_factory.mktemp("stages")


def stage_of(run: Run, stages: Path, name: str) -> Path:
    """The folder of a stage that the run used: the newest."""
    return max(stages.glob(f"{name}-*"), key=lambda p: p.stat().st_mtime)


def test_the_actor_learns_and_the_run_starts_from_it(run_micro: Runs, stages: Path) -> None:
    run = run_micro(algorithm="grpo", stages={"warmup": WARMUP})
    losses = [line["loss"] for line in run.metrics("warmup")]
    assert len(losses) == 40 and sum(losses[-10:]) < 0.95 * sum(losses[:10])
    folder = stage_of(run, stages, "warmup") / "model"
    AutoModelForCausalLM.from_pretrained(folder)
    assert "Actor warm-up" in (run.path / "report.html").read_text()


def test_adapters_are_merged_and_the_run_goes_on_with_new_ones(
    run_micro: Runs, stages: Path
) -> None:
    lora = {"rank": 4, "alpha": 8}
    run = run_micro(algorithm="genac", actor={"lora": lora}, stages={"warmup": WARMUP})
    base, warm = (stage_of(run, stages, name) / "model" for name in ("base", "warmup"))
    models = [AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (base, warm)]
    changed = {name for name in models[0] if not torch.equal(models[0][name], models[1][name])}
    assert changed and all("proj" in name for name in changed)
    assert len(run.metrics("joint")) == 3


@pytest.mark.parametrize("own", [True, False])
def test_a_critic_with_a_model_of_its_own_is_not_warmed_up(
    own: bool, micro: Callable[..., Values], stages: Path
) -> None:
    base = base_model(resolve(micro()))
    values = micro(
        critic={"model_name_or_path": str(base) if own else None}, stages={"warmup": WARMUP}
    )
    critic = prepare_until(resolve(values), "sft")
    key = json.loads((Path(critic).parent / "config.json").read_text())
    assert key["inputs"]["start"].startswith("base-" if own else "warmup-")


def test_a_file_of_ones_own_is_counted_by_what_it_holds(
    run_micro: Runs, stages: Path, tmp_path: Path
) -> None:
    def folder(rows: int, name: str) -> str:
        file = tmp_path / name
        row = {"prompt": "6 a+3>", "completion": "a+3=9\n9"}
        file.write_text((json.dumps(row) + "\n") * rows)
        warmup = {"steps": 2, "batch_size": 2, "path": str(file)}
        run = run_micro(
            algorithm="grpo", output_dir=str(tmp_path / name[:-6]), stages={"warmup": warmup}
        )
        assert len(run.metrics("warmup")) == 2
        digests = json.loads((run.path / "environment.json").read_text())["contents"]
        return digests["stages.warmup.path"]

    one, same, other = folder(1, "a.jsonl"), folder(1, "b.jsonl"), folder(2, "c.jsonl")
    assert one == same != other


def test_a_recipe_with_bad_rows_trains_nothing(
    recipe: Recipe, genac: Callable[..., Answer], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "2+3", "answer": "5"}')
    warmup = {"steps": 2, "path": str(rows)}
    own = str(tmp_path / "stages")
    answer = genac("train", recipe(stages={"warmup": warmup, "folder": own}))
    assert answer.code != 0 and "has neither the column 'messages'" in answer.err
    assert not Path(own).exists()


def test_a_run_from_a_finished_one_is_not_warmed_up_again(
    run_micro: Runs, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "run" / "actor").mkdir(parents=True)
    file = recipe(stages={"warmup": WARMUP})
    cfg = from_command_line([file, "--from", str(tmp_path / "run")], "genac train")
    assert cfg.stages.warmup.steps == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_warm_up_goes_on_bit_by_bit(
    micro: Callable[..., Values], recipe: Recipe, run_micro: Runs, stages: Path, tmp_path: Path
) -> None:
    long = merge(WARMUP, {"steps": 60, "save_every": 5})
    run_micro(algorithm="grpo", output_dir=str(tmp_path / "whole"), stages={"warmup": long})
    whole = stage_of(Run.open(tmp_path / "whole"), stages, "warmup")
    own = copy_stages(stages, tmp_path / "own", "base")
    changed = {"algorithm": "grpo", "stages": {"warmup": long, "folder": str(own)}}
    code = kill_when_logged(recipe(**changed), "warmup", 12, tmp_path, "own/warmup-*/metrics.jsonl")
    assert code == -signal.SIGKILL, "the run ended before it could be killed"
    train(resolve(micro(**changed)))
    again = stage_of(Run.open(tmp_path / "run"), own, "warmup")
    assert [e["stage"] for e in Run.open(again).events("resumed")] == ["warmup"]
    assert results(Run.open(again)) == results(Run.open(whole))
    files = [p / "model" / "model.safetensors" for p in (again, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_gguf_file_goes_through_all_stages(run_micro: Runs, tmp_path: Path) -> None:
    """As actor and critic: nothing else has to be configured."""
    file = str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), quantised=True))
    run = run_micro(
        actor={"model_name_or_path": file},
        critic={"model_name_or_path": file, "generative": {"prompt": "paper"}},
        stages={"warmup": {"steps": 2, "batch_size": 2}, "sft": {"epochs": 1}},
    )
    assert len(run.metrics("joint")) == 3
    assert run.config()["actor"]["model_name_or_path"] == file
    assert "tiny.gguf" in (run.path / "actor" / "README.md").read_text()


def test_generate_and_doctor_take_a_gguf_file(
    recipe: Recipe, genac: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # stage outputs lie below the working folder
    file = str(write_gguf(tmp_path / "tiny.gguf", tiny_llama()))
    answer = genac("generate", file, "2+3=?", "--max-tokens", "5")
    assert answer.code == 0 and "2+3=?" in answer.out
    answer = genac("doctor", recipe(actor={"model_name_or_path": file}))
    assert "actor: 0.1M parameters" in answer.out or "context 1024" in answer.out
    (tmp_path / "cut.gguf").write_bytes(Path(file).read_bytes()[:5000])
    answer = genac("doctor", recipe(actor={"model_name_or_path": str(tmp_path / "cut.gguf")}))
    assert answer.code == 2 and "is truncated or damaged" in answer.out
