"""Bad input: exit code 2 and one message that names the value and the remedy, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import Answer, Values

from genac.commands.early import require_inputs
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.models.tiny import save_tiny
from genac.runs.store import Run
from genac.tasks.files import FileTask

DATA = Path(__file__).parents[1] / "data" / "gym_chain_sum.jsonl"
SHAPE = {"hidden_size": 16, "layers": 1, "heads": 2, "seed": 0}

Refused = Callable[..., str]
Recipe = Callable[..., str]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"actr": 1}, ["actr", "unknown key", "--help"]),
        ({"actor": {"tiny": {"width": 3}}}, ["actor.tiny.width", "unknown key"]),
        ({"seed": "many"}, ["seed", "many", "integer"]),
        ({"rollout": {"temperature": -1}}, ["rollout.temperature", "-1", "greater than 0"]),
        ({"algorithm": "dpo"}, ["algorithm", "dpo", "genac", "grpo"]),
        (
            {"rollout": {"top_p": 0.9}},
            ["rollout.top_p is 0.9", "importance", "set rollout.top_p to 1"],
        ),
        ({"critic": {"kind": "none"}}, ["critic.kind", "none", "set algorithm to 'grpo'"]),
        ({"algorithm": "rloo", "rollout": {"num_generations": 1}}, ["1", "at least 2"]),
        ({"actor": {"tiny": {"heads": 3}}}, ["hidden_size 32", "heads 3", "divides"]),
        ({"task": {"name": "chess"}}, ["task.name", "chess", "arithmetic"]),
        ({"task": {"options": {"min_steps": 9}}}, ["9", "min_steps"]),
        ({"task": {"options": {"speed": 9}}}, ["task.options.speed", "no option", "max_steps"]),
        ({"task": {"options": {"min_steps": "x"}}}, ["task.options.min_steps", "integer", "'x'"]),
        (
            {"stages": {"critic_rl": {"options": {"max_step": 9}}}},
            ["stages.critic_rl.options.max_step", "did you mean max_steps"],
        ),
        ({"task": {"shift": {"far": {"stepps": 9}}}}, ["task.shift.far.stepps", "min_steps"]),
        ({"critic": {"generative": {"prompt": "long"}}}, ["long", "compact", "paper"]),
        (
            {"critic": {"generative": {"max_new_tokens": 64}}},
            ["max_new_tokens 64", "context of 64", "lower it"],
        ),
        ({"rollout": {"max_completion_length": 64}}, ["64 new tokens", "context of 64", "shorten"]),
    ],
    ids=str,
)
def test_recipe(
    overrides: Values, words: list[str], recipe: Recipe, refused: Refused, tmp_path: Path
) -> None:
    own = {"stages": {"folder": str(tmp_path / "own")}} if "actor" in overrides else {}
    message = refused("train", recipe(**overrides, **own))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--actor.tiny.width", "3"], ["unknown key", "--actor.tiny.width", "--help"]),
        (["--rollout.temprature", "1"], ["--rollout.temprature", "--rollout.temperature"]),
        (["--seed", "many"], ["seed: ", "'many'", "integer"]),
        (["--rollout.temperature", "-1"], ["temperature", "-1", "greater than 0"]),
        (["--algorithm", "dpo"], ["algorithm", "dpo", "vineppo"]),
        (["--critic.kind", "none"], ["critic.kind", "set algorithm to 'grpo'"]),
        (
            ["--critic.model_name_or_path", "openai:m@http://x/v1"],
            ["'openai:m", "cannot be trained"],
        ),
        (["--task.options.min_steps"], ["--task.options.min_steps", "needs a value"]),
        (["--rollout.num_prompts"], ["--rollout.num_prompts", "needs a value"]),
        (["more"], ["'more'", "--dotted.key value"]),
    ],
    ids=str,
)
def test_command_line(
    arguments: list[str], words: list[str], recipe: Recipe, refused: Refused
) -> None:
    message = refused("train", recipe(), *arguments)
    assert all(word in message for word in words), message
    assert message.startswith("genac train: ") and "╭" not in message


TASK = """
import sys
from genac.cli import main
code = main(["train", "arithmetic", *sys.argv[1:]])
print(code, "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task.name gym", "task.options.min_steps is no option of task 'gym'; it has config, "),
        ("--task.name exact", "multiplication_rate is no option of task 'exact'; it has max_steps"),
        ("--task.name file --task.path x.jsonl", "min_steps is no option of task 'file'; it has"),
        (
            "--task.options.min_steps many",
            "task.options.min_steps: Input should be a valid integer",
        ),
        ("--task.name exat", "task.name is 'exat'; use one of ['arithmetic', 'exact', 'file'"),
    ],
    ids=str,
)
def test_options_of_another_task_are_named_with_the_choices_before_torch_is_imported(
    arguments: str, message: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", TASK, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("2 False\n", 0), done.stderr
    assert message in done.stderr and "__init__" not in done.stderr


def test_adapters_without_their_library_are_refused_before_any_stage(
    recipe: Recipe, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("genac.commands.early.find_spec", lambda name: None)
    message = refused("train", recipe(), "--critic.lora.rank", "8")
    assert "critic.lora.rank needs peft" in message and "genac[lora]" in message
    assert not (tmp_path / "run").exists()
    # An algorithm without a critic needs neither its library nor its model.
    absent = {"lora": {"rank": 8}, "model_name_or_path": "nowhere/at/all"}
    require_inputs(resolve({"algorithm": "grpo", "critic": absent}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": {"reward": "0.9 * math + 0.1 * short"}}, r"reward 'math' needs .*genac\[math\]"),
        ({"hardware": {"processes": 2}}, r"more than one process .* needs ray: .*genac\[ray\]"),
        ({"hardware": {"cluster": "auto"}}, r"more than one process .*genac\[ray\]"),
        ({"hardware": {"backend": "tinker"}}, r"'tinker' needs tinker: .*genac\[tinker\]"),
        ({"actor": {"model_name_or_path": "a.gguf"}}, r"actor.model.* needs gguf.*genac\[gguf\]"),
    ],
    ids=str,
)
def test_a_library_that_a_key_asks_for_is_named_at_once(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genac.commands.early.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        require_inputs(resolve({"task": {"name": "file"}}, values))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nowhere.yaml"], ["nowhere.yaml", "genac recipes"]),
        (["trian"], ["trian", "did you mean train?"]),
        (["eval"], ["usage", "RUN"]),
        (["eval", "nowhere"], ["nowhere", "no run"]),
        (["report", "nowhere"], ["nowhere"]),
        (["score", "nowhere", "3 a+4>", ""], ["nowhere", "critic.json"]),
    ],
    ids=str,
)
def test_other_verbs(arguments: list[str], words: list[str], refused: Refused) -> None:
    message = refused(*arguments)
    assert all(word in message for word in words), message


def test_files_that_are_no_recipes(tmp_path: Path, refused: Refused) -> None:
    broken, listed = tmp_path / "broken.yaml", tmp_path / "list.yaml"
    broken.write_text("a: [1,")
    listed.write_text("- 1\n")
    assert "no valid YAML" in refused("train", str(broken))
    assert "keys and values" in refused("train", str(listed))


def test_a_process_says_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "genac.cli", "train", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("genac train: there is no recipe 'nowhere.yaml'")
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


# --- the user's data, models and reward functions ------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder that knows the words of the data file."""
    save_tiny(tmp_path / "model", FileTask(str(DATA)).alphabet(), max_length=64, **SHAPE)
    return tmp_path / "model"


@pytest.fixture
def own(micro: Callable[..., Values], model: Path, tmp_path: Path) -> Callable[..., str]:
    """own({task settings}, ...) -> recipe of a run on the user's data file and model folder."""

    def write(task: Values | None = None, **overrides: Any) -> str:
        actor = {"model_name_or_path": str(model)}
        values = micro(**merge({"actor": actor, "algorithm": "grpo"}, overrides))
        values["task"] = {"name": "file", "path": str(DATA), **(task or {})}
        file = tmp_path / "own.yaml"
        file.write_text(yaml.safe_dump(values))
        return str(file)

    return write


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"path": None}, ["task.path", "not set"]),
        ({"path": "nowhere.jsonl"}, ["nowhere.jsonl", "does not exist"]),
        ({"path": "data.xls"}, ["data.xls", ".jsonl"]),
        ({"reward": "nowhere.py:score"}, ["nowhere.py", "does not exist"]),
        ({"reward": "no_such_package:score"}, ["no_such_package", "install"]),
        ({"reward": "guess"}, ["guess", "match"]),
        ({"verify_seconds": 0}, ["task.verify_seconds", "greater than 0"]),
    ],
    ids=str,
)
def test_data_and_reward(
    task: Values, words: list[str], own: Callable[..., str], refused: Refused
) -> None:
    message = refused("train", own(task))
    assert all(word in message for word in words), message


def test_an_empty_data_file(own: Callable[..., str], refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    message = refused("train", own({"path": str(tmp_path / "empty.jsonl")}))
    assert "empty.jsonl" in message and "no rows" in message


def test_a_file_without_heldout_rows(
    own: Callable[..., str], refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    task = {"path": str(tmp_path / "one.jsonl"), "options": {"heldout_fraction": 0.0}}
    assert "held-out" in refused("train", own(task))


def reward_file(folder: Path, body: str) -> str:
    file = folder / "closeness.py"
    file.write_text(f"import time\n\n\ndef score(completions, **columns):\n    {body}\n")
    return f"{file}:score"


def test_a_reward_outside_0_and_1(
    own: Callable[..., str], refused: Refused, tmp_path: Path
) -> None:
    reward = reward_file(tmp_path, "return [1.5]")
    message = refused("train", own({"reward": reward}))
    assert "1.5" in message and "[0, 1]" in message and "rescale" in message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('unit')", "raised KeyError"),
        ("time.sleep(60)", "more than 0.5 s"),
        ("return [None]", "cannot judge"),
    ],
)
def test_a_failing_verifier_costs_its_own_rollout_only(
    body: str, reason: str, own: Callable[..., str], genac: Callable[..., Answer], tmp_path: Path
) -> None:
    """It fails on the responses of some lengths."""
    body = f"if len(completions[0]) % 7 == 0:\n        {body}\n    return [0.5]"
    task = {"reward": reward_file(tmp_path, body), "verify_seconds": 0.5}
    small = {"num_problems": 1, "num_samples": 1}
    steps = {"joint": {"steps": 1, "eval_every": 0}}
    answer = genac("train", own(task, evaluate=small, stages=steps))
    assert answer.code == 0, answer
    run = Run.open(tmp_path / "run")
    rows = run.table("rollouts", "joint", 0)
    for row in rows:
        if len(row["response"]) % 7 == 0:
            assert row["reward"] is None and reason in row["reason"]
        else:
            assert row["reward"] == 0.5
    failed = [row for row in rows if row["reward"] is None]
    assert 0 < len(failed) < len(rows)
    assert run.metrics("joint")[0]["reward_none_rate"] == pytest.approx(len(failed) / len(rows))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (("tokenizer.json", "tokenizer_config.json"), ["no tokenizer", "save_pretrained"]),
        (("config.json",), ["config.json", "save_pretrained"]),
        (("model.safetensors",), ["no causal LM", "Hugging Face"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["actor", "critic"])
def test_an_incomplete_model_folder(
    missing: tuple[str, ...],
    words: list[str],
    role: str,
    own: Callable[..., str],
    refused: Refused,
    model: Path,
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        if file.name not in missing:
            (broken / file.name).write_bytes(file.read_bytes())
    kind = {"algorithm": "ppo"} if role == "critic" else {}
    file = own(**kind)
    message = refused("train", file, f"--{role}.model_name_or_path", str(broken))
    assert all(word in message for word in [*words, str(broken)]), message


def test_a_model_name_that_is_no_folder(own: Callable[..., str], refused: Refused) -> None:
    message = refused("train", own(), "--actor.model_name_or_path", "./no/such/model")
    assert "no/such/model" in message


def test_a_prompt_longer_than_the_context(
    own: Callable[..., str], refused: Refused, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    rows = [f'{{"prompt": "{" + ".join("1" * n)} =", "answer": "{n}"}}\n' for n in range(60, 90)]
    long.write_text("".join(rows))
    message = refused("train", own({"path": str(long)}))
    assert "exceeds the context of 64" in message and "shorten the prompt" in message


def test_a_device_that_is_not_there(recipe: Recipe, refused: Refused) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "hardware.device" in refused("train", recipe(hardware={"device": "cuda"}))
