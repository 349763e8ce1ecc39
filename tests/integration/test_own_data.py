"""A user's own data file, models and reward function, named on the command line; all stages.

The data are a reasoning-gym generator's output (chain_sum, seed 20260729), which this library did
not invent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from micro import Answer
from transformers import AutoTokenizer

from genac.models.tiny import save_tiny
from genac.runs.store import Run
from genac.tasks.files import FileTask

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "gym_chain_sum.jsonl"
REWARD = '''
def close(completions, answer, **columns):
    """1 for the answer, 0.5 for any of its characters, 0 else; TRL's signature."""
    text = completions[0].strip()
    return [1.0 if text == answer[0] else 0.5 * any(c in text for c in answer[0])]
'''


def model(folder: Path, seed: int) -> str:
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "seed": seed}
    save_tiny(folder, FileTask(str(DATA)).alphabet(), max_length=96, **shape)
    return str(folder)


@pytest.fixture
def user(tmp_path: Path) -> list[str]:
    """The command line of a user who has no recipe file."""
    (tmp_path / "closeness.py").write_text(REWARD)
    keys = {
        "output_dir": tmp_path / "run",
        "task.name": "file",
        "task.path": DATA,
        "task.options.heldout_fraction": 0.2,
        "actor.model_name_or_path": model(tmp_path / "actor", seed=0),
        "critic.model_name_or_path": model(tmp_path / "critic", seed=1),
        "critic.generative.prompt": "compact",
        "critic.generative.max_new_tokens": 8,
        "rollout.num_prompts": 4,
        "rollout.num_generations": 4,
        "rollout.max_completion_length": 6,
        "states.splitter": "window",
        "states.window": 2,
        "stages.folder": tmp_path / "stages",
        "stages.synthesize.oracle": "outcome",
        "stages.synthesize.num_prompts": 16,
        "stages.synthesize.num_states": 64,
        "stages.sft.epochs": 8,
        "stages.critic-rl.steps": 2,
        "stages.joint.steps": 3,
        "stages.joint.eval-every": 0,
        "stages.joint.log-rollouts-every": 1,
        "evaluate.num-problems": 8,
        "evaluate.panel-problems": 0,
        "hardware.threads": 1,
    }
    return [word for key, value in keys.items() for word in (f"--{key}", str(value))]


def require_judged(run: Run, halves: bool) -> None:
    """Every response has a reward; 0.5 is one of the user's function alone."""
    rows = [row for step in range(3) for row in run.table("rollouts", "joint", step)]
    assert rows and all(row["reward"] is not None for row in rows)
    assert any(row["reward"] == 0.5 for row in rows) == halves
    assert all("=" in row["prompt"] for row in rows)


def test_all_stages(user: list[str], genac: Callable[..., Answer], tmp_path: Path) -> None:
    answer = genac("train", *user, "--task.reward", f"{tmp_path}/closeness.py:close")
    assert answer.code == 0, answer
    run = Run.open(tmp_path / "run")
    stages = list(dict.fromkeys(line["stage"] for line in run.metrics()))
    assert stages == ["synthesize", "critic_sft", "critic_rl", "joint"]
    require_judged(run, halves=True)
    assert any(m["critic/parse_failure_rate"] < 1 for m in run.metrics("joint"))
    for role in ("actor", "critic"):
        assert AutoTokenizer.from_pretrained(run.path / role).get_vocab()


def test_a_task_without_an_oracle_names_the_remedy(
    user: list[str], refused: Callable[..., str]
) -> None:
    place = user.index("--stages.synthesize.oracle")
    message = refused("train", *user[:place], *user[place + 2 :])
    assert "stages.synthesize.oracle" in message and "outcome" in message


@pytest.mark.parametrize(
    ("algorithm", "reward"), [("ppo", None), ("vineppo", "closeness:close"), ("rloo", None)]
)
def test_other_algorithms_and_rewards_that_are_built_in_or_of_a_module(
    algorithm: str,
    reward: str | None,
    user: list[str],
    genac: Callable[..., Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ["--task.reward", reward] if reward else []
    more = ["--algorithm", algorithm, "--critic.num-continuations", "2", *own]
    answer = genac("train", *user, *more)
    assert answer.code == 0, answer
    run = Run.open(tmp_path / "run")
    assert len(run.metrics("joint")) == 3
    require_judged(run, halves=reward is not None)


def test_the_generator_itself(
    user: list[str], genac: Callable[..., Answer], tmp_path: Path
) -> None:
    """The same problems from reasoning-gym instead of a file of them."""
    pytest.importorskip("reasoning_gym")
    place = user.index("--task.name")
    task = ["--task.name", "gym", "--task.options.dataset", "chain_sum"]
    answer = genac("train", *user[:place], *task, *user[place + 6 :], "--algorithm", "rloo")
    assert answer.code == 0, answer
    assert len(Run.open(tmp_path / "run").metrics("joint")) == 3
