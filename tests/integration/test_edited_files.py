"""An edited reward or data file: nothing that the old one taught is used, no run mixes the two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import Answer, results, weights

from genac.cli import main
from genac.models.tiny import save_tiny
from genac.runs.store import Run
from genac.tasks.files import FileTask

ROWS = [{"prompt": f"{a} + {b} =", "answer": str(a + b)} for a in range(9) for b in range(9)]
REWARD = """from helper import FACTOR

def fn(completions, answer, **columns):
    return [FACTOR * any(c in completions[0] for c in answer[0])]
"""
Refused = Callable[..., str]
Genac = Callable[..., Answer]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A user's folder with a finished run, and a copy of it: runs name their files in full."""
    folder = tmp_path_factory.mktemp("user") / "here"
    folder.mkdir()
    assert main(["train", *command(folder)]) == 0
    return folder, shutil.copytree(folder, folder.parent / "whole")


@pytest.fixture
def folder(trained: tuple[Path, Path]) -> Path:
    """The folder with data, a reward, a model and a finished run, as if no test had been there."""
    here, whole = trained
    shutil.rmtree(here)
    return shutil.copytree(whole, here)


@pytest.fixture
def user(folder: Path) -> list[str]:
    return arguments(folder)


def command(folder: Path) -> list[str]:
    """Writes what a user has; the command line of the run."""
    (folder / "code").mkdir()
    (folder / "code" / "rewards.py").write_text(
        "import sys\nsys.path.insert(0, __file__.rpartition('/')[0])\n" + REWARD
    )
    (folder / "code" / "helper.py").write_text("FACTOR = 1.0\n")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "seed": 0}
    save_tiny(folder / "model", FileTask(str(data)).alphabet(), max_length=96, **shape)
    return arguments(folder)


def arguments(folder: Path) -> list[str]:
    keys = {
        "output_dir": folder / "run",
        "task.name": "file",
        "task.path": folder / "rows.jsonl",
        "task.reward": f"{folder / 'code' / 'rewards.py'}:fn",
        "task.options.heldout_fraction": 0.2,
        "actor.model_name_or_path": folder / "model",
        "critic.generative.prompt": "compact",
        "critic.generative.max_new_tokens": 6,
        "rollout.num_prompts": 2,
        "rollout.num_generations": 2,
        "rollout.max_completion_length": 4,
        "states.splitter": "window",
        "states.window": 2,
        "stages.folder": folder / "stages",
        "stages.synthesize.oracle": "outcome",
        "stages.synthesize.num_prompts": 8,
        "stages.synthesize.num_states": 16,
        "stages.sft.epochs": 1,
        "stages.critic-rl.steps": 1,
        "stages.joint.steps": 2,
        "stages.joint.save-every": 1,
        "stages.joint.eval-every": 0,
        "evaluate.num-problems": 2,
        "evaluate.num-samples": 2,
        "evaluate.panel-problems": 0,
        "hardware.device": "cpu",
        "hardware.threads": 1,
    }
    return [word for key, value in keys.items() for word in (f"--{key}", str(value))]


def unfinished(run: Path) -> None:
    """As if it had been killed behind its last step."""
    for name in ("summary.json", "done.json"):
        (run / name).unlink()


EDITS = {
    "task.path": (
        "rows.jsonl",
        '{"prompt": "0 + 0 =", "answer": "0"}',
        '{"prompt": "0 + 0 =", "answer": "7"}',
    ),
    "task.reward/rewards.py": ("code/rewards.py", "any(", "all("),
    "task.reward/helper.py": ("code/helper.py", "1.0", "0.5"),
    "actor.model_name_or_path": ("model/config.json", "", " "),
}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1) if old else text + new)


@pytest.mark.parametrize("ended", [False, True], ids=["interrupted", "finished"])
def test_a_run_whose_files_were_edited_is_refused_by_their_names(
    ended: bool, user: list[str], genac: Genac, refused: Refused, folder: Path
) -> None:
    run = folder / "run"
    if not ended:
        unfinished(run)
    before = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    for key, (name, old, new) in EDITS.items():
        text = (folder / name).read_text()
        edit(folder / name, old, new)
        message = refused("train", *user)
        assert f"{key}: what " in message and "was changed" in message and "output_dir" in message
        assert str(folder / name.split("/config")[0]) in message
        assert {f: f.read_bytes() for f in run.rglob("*") if f.is_file()} == before
        (folder / name).write_text(text)
    assert genac("train", *user).code == 0
    assert (run / "done.json").exists()


def test_the_stages_that_an_edited_reward_teaches_are_made_anew(
    user: list[str], genac: Genac, folder: Path
) -> None:
    """A reward that gives half: the traces' scores and the critic's returns follow it."""
    old = {p.name for p in (folder / "stages").iterdir() if p.is_dir()}
    edit(folder / "code" / "helper.py", "1.0", "0.5")
    again = genac("train", *user, "--output_dir", str(folder / "again"))
    assert again.code == 0, again
    new = {p.name for p in (folder / "stages").iterdir() if p.is_dir()} - old
    assert sorted(n.split("-")[0] for n in new) == ["critic_rl", "critic_sft", "traces"]
    traces = next(folder / "stages" / n for n in new if n.startswith("traces"))
    first = next(folder / "stages" / n for n in old if n.startswith("traces"))
    assert max(targets(first)) > 0.5 >= max(targets(traces)) > 0


def targets(traces: Path) -> list[float]:
    lines = (traces / "traces.jsonl").read_text().splitlines()
    return [json.loads(line)["target"] for line in lines]


def test_moved_files_and_the_remedies_for_memory_let_a_run_go_on(
    user: list[str], genac: Genac, folder: Path
) -> None:
    whole = Run.open(folder / "run")
    expected = results(whole), weights(whole)
    unfinished(whole.path)
    shutil.rmtree(whole.path / "actor")
    newest = max((whole.path / "checkpoints" / "joint").iterdir())
    shutil.rmtree(newest)
    for name in ("code", "model", "rows.jsonl"):
        shutil.move(folder / name, folder / f"moved-{name}")
    moved = [
        word.replace(f"{folder}/{name}", f"{folder}/moved-{name}")
        for word in user
        for name in [next((n for n in ("code", "model", "rows.jsonl") if n in word), "?")]
    ]
    memory = {
        "rollout.max-rows": "1",
        "actor.optimizer.tokens-per-microbatch": "16",
        "critic.optimizer.tokens-per-microbatch": "16",
        "stages.sft.optimizer.tokens-per-microbatch": "16",
    }
    flags = [word for key, value in memory.items() for word in (f"--{key}", value)]
    answer = genac("train", *moved, *flags, "--actor.optimizer.gradient-checkpointing")
    assert answer.code == 0, answer
    assert [e["step"] for e in whole.events("resumed")] == [1]
    again = results(whole)
    assert [line["stage"] for line in again] == [line["stage"] for line in expected[0]]
    for line, other in zip(again, expected[0], strict=True):
        assert line["reward" if "reward" in line else "loss"] == pytest.approx(
            other["reward" if "reward" in other else "loss"], abs=1e-5
        )
