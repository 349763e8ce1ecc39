"""kill -9 at any moment, a full disk, a damaged checkpoint: what a rerun does, and what it
refuses.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from killing import kill_when_logged
from micro import MICRO, Answer, Values, copy_stages, results, weights

from genac import checkpoint
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.critics import prompts
from genac.runs.files import alone
from genac.runs.store import Run
from genac.stages.pipeline import BEFORE, train

STEPS = {"critic_rl": {"steps": 6, "save_every": 2}, "joint": {"steps": 6, "save_every": 2}}

Refused = Callable[..., str]
Recipe = Callable[..., str]


@pytest.mark.timeout(300)  # two imports of torch and a whole run, on a machine that may be busy
@pytest.mark.parametrize(
    ("algorithm", "kills"),
    [
        ("genac", {"critic_rl": 3, "joint": 2}),
        pytest.param("ppo", {"joint": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_in_each_stage_goes_on_bit_by_bit(
    algorithm: str,
    kills: dict[str, int],
    micro: Callable[..., Values],
    recipe: Recipe,
    stages: Path,
    tmp_path: Path,
) -> None:
    values = micro(algorithm=algorithm, stages=STEPS, output_dir=str(tmp_path / "whole"))
    whole = Run.open(train(resolve(values)))
    # Only the stages before the critic's RL are taken over; that one is done again.
    own = copy_stages(stages, tmp_path / "own", "base", "traces", "critic_sft")
    changed = {"algorithm": algorithm, "stages": {**STEPS, "folder": str(own)}}
    for stage, step in kills.items():
        watched = "run/metrics.jsonl" if stage == "joint" else "own/critic_rl-*/metrics.jsonl"
        code = kill_when_logged(recipe(**changed), stage, step, tmp_path, watched)
        assert code == -signal.SIGKILL, f"{stage} ended before it could be killed"
        assert not (tmp_path / "run" / "summary.json").exists()

    again = Run.open(train(resolve(micro(**changed))))

    folders = [again.path, *own.glob("critic_rl-*")]
    events = [e for folder in folders for e in Run.open(folder).events("resumed")]
    resumed = {e["stage"] for e in events}
    assert resumed == set(kills), "a stage started anew instead of resuming"
    assert results(again) == results(whole)
    assert weights(again) == weights(whole)
    for table in ("rollouts", "estimates"):
        assert rows(again, table) == rows(whole, table)
    for part in ("success_before", "success_after", "tokens", "flops"):
        assert again.summary()[part] == whole.summary()[part]
    # Each stage by its own record: copied ones are older than the run, and none counts twice.
    own_cost, whole_cost = again.summary()["stages_cost"], whole.summary()["stages_cost"]
    own_stages = [name for name, stage in own_cost.items() if stage.get("reused") is False]
    assert own_stages == ["critic_rl"] and list(own_cost) == list(whole_cost)
    for stage, cost in own_cost.items():
        for kind in ("tokens", "flops"):
            assert cost[kind] == whole_cost[stage][kind] > 0, (stage, kind)


def rows(run: Run, table: str) -> dict[tuple[str, int], str]:
    return {key: repr(run.table(table, *key)) for key in run.tables(table)}


def test_two_processes_never_write_into_one_run(
    micro: Callable[..., Values], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    cfg = resolve(micro(algorithm="grpo", output_dir=str(folder)))
    with ThreadPoolExecutor(1) as pool:
        with alone(folder, inside=True):
            second = pool.submit(train, cfg)
            text = ""
            while f"waiting for the process that works on {folder}" not in text:
                assert not second.done(), "it did not wait"
                time.sleep(0.05)
                text += capsys.readouterr().err
            assert not Run.exists(folder)
        assert second.result() == folder and (folder / "summary.json").exists()


def test_a_full_disk_leaves_the_previous_checkpoint(
    recipe: Recipe,
    refused: Refused,
    genac: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genac("train", recipe(algorithm="grpo", output_dir=str(tmp_path / "whole")))
    file = recipe(algorithm="grpo")
    save = torch.save

    def full_disk(error: Exception) -> Callable[[Any, Path], None]:
        def write(obj: Any, path: Path) -> None:
            if "joint" in str(path) and "000002" in str(path):
                Path(path).write_bytes(b"half a file")
                raise error
            save(obj, path)

        return write

    # As Python says it, and as torch's own writer does.
    for error in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")):
        with monkeypatch.context() as patched:
            patched.setattr(torch, "save", full_disk(error))
            message = refused("train", file)
        assert "previous checkpoint is intact" in message and "free some disk space" in message
        assert "No space left on device" in message or "write failed" in message
    joint = tmp_path / "run" / "checkpoints" / "joint"
    assert [p.name for p in joint.iterdir()] == ["step-000001"]
    assert (tmp_path / "run" / BEFORE).exists()
    resumed = genac("train", file)
    assert resumed.code == 0
    # Once, after training: what was measured before it was kept.
    assert resumed.err.count("held-out success: ") - resumed.err.count("each: ") == 1
    assert not (tmp_path / "run" / BEFORE).exists()
    again, whole = Run.open(tmp_path / "run"), Run.open(tmp_path / "whole")
    assert again.summary()["success_before"] == whole.summary()["success_before"]
    assert {e["step"] for e in again.events("resumed")} == {1}
    assert results(again) == results(whole)
    assert weights(again) == weights(whole)


def without_critic(folder: Path) -> None:
    """As a run without a critic would have written it: whole, but for the critic."""
    shutil.rmtree(folder / "critic")
    (folder / "critic.optimizer.pt").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    kept = {name: digest for name, digest in manifest.items() if not name.startswith("critic")}
    (folder / "manifest.json").write_text(json.dumps(kept))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "critic weights missing": (
        lambda f: (f / "critic" / "model.safetensors").unlink(),
        r"damaged: critic/model.safetensors is missing",
    ),
    "critic weights changed": (
        lambda f: flip(f / "critic" / "model.safetensors"),
        r"damaged: critic/model.safetensors is missing or differs",
    ),
    "optimiser changed": (
        lambda f: flip(f / "critic.optimizer.pt"),
        "damaged: critic.optimizer.pt is missing or differs",
    ),
    "no critic": (without_critic, "holds no critic"),
}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory, stages: Path) -> Path:
    """A folder with a recipe of two joint steps, `run`, and a copy of that finished run."""
    folder = tmp_path_factory.mktemp("resume")
    own = {"folder": str(stages), "joint": {"steps": 2}}
    values = merge(MICRO, {"output_dir": str(folder / "run"), "stages": own})
    (folder / "micro.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(train(resolve(values)), folder / "copy")
    return folder


@pytest.fixture
def almost(two_steps: Path) -> tuple[str, Path]:
    """A run killed just before its summary: (recipe, newest checkpoint)."""
    path = two_steps / "run"
    shutil.rmtree(path)
    shutil.copytree(two_steps / "copy", path)
    (path / "summary.json").unlink()
    newest = checkpoint.complete(Run.open(path).checkpoints / "joint")[-1]
    return str(two_steps / "micro.yaml"), newest


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_serves(
    almost: tuple[str, Path], refused: Refused, genac: Callable[..., Answer], tmp_path: Path
) -> None:
    file, newest = almost
    whole = tmp_path / "whole"
    shutil.copytree(newest, whole)
    for damage, message in DAMAGE.values():
        damage(newest)
        assert message in refused("train", file)
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
    flip(newest / "actor" / "model.safetensors")
    assert "delete that folder" in refused("train", file)
    shutil.rmtree(newest)
    assert genac("train", file).code == 0
    assert newest.exists(), "the last step was done again"


def test_a_critic_is_not_used_under_another_prompt(
    almost: tuple[str, Path], refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stages before are made anew under the edited one, in a folder of their own here."""
    edited = dataclasses.replace(prompts.TEMPLATES["compact"], version=2)
    monkeypatch.setitem(prompts.TEMPLATES, "compact", edited)
    apart = ("--stages.folder", str(tmp_path / "apart"))
    assert "critic.generative.prompt" in refused("train", almost[0], *apart)


def test_another_config_is_refused(
    almost: tuple[str, Path], refused: Refused, genac: Callable[..., Answer]
) -> None:
    file, _ = almost
    message = refused("train", file, "--seed", "5", "--rollout.temperature", "0.5")
    assert "seed: 0 -> 5" in message and "rollout.temperature: 1.0 -> 0.5" in message
    assert "output_dir" in message
    assert genac("train", file, "--name", "renamed").code == 0


def test_a_run_that_never_began_gives_way_to_the_corrected_config(
    recipe: Recipe, refused: Refused, genac: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    file = recipe(algorithm="rloo", stages={"joint": {"steps": 1}})
    refused("train", file, "--actor.model_name_or_path", str(tmp_path / "empty"))
    assert genac("train", file).code == 0
