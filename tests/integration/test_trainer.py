"""genac.Trainer: a Python program's rows, functions and models, over the loop of all runs."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from sum_reward import right_sum
from transformers import AutoModelForCausalLM, AutoTokenizer

import genac
from genac.config.recipes import resolve
from genac.models.tiny import save_tiny
from genac.stages.objects import stored_model, stored_rows
from genac.tasks.callables import REGISTERED, reward_name, reward_spec
from genac.tasks.files import FileTask
from genac.tasks.rewards import RewardError, load_reward
from genac.tasks.verifier import Verifier
from genac.types import Problem

ROWS = [{"prompt": f"{a} + {b} =", "sum": str(a + b)} for a in range(6) for b in range(6)]
WORDS = [*"0123456789+= \n"]


def tiny(folder: Path, seed: int = 0) -> Path:
    save_tiny(folder, WORDS, hidden_size=32, layers=1, heads=2, max_length=96, seed=seed)
    return folder


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Any]:
    """What a run of a few seconds needs, as a user writes it."""
    return {
        "algorithm": "rloo",
        "output_dir": str(tmp_path / "run"),
        "stages.folder": str(tmp_path / "stages"),
        "rollout": {"num_prompts": 3, "num_generations": 4, "max_completion_length": 4},
        "stages.joint": {"steps": 3, "save_every": 100, "eval_every": 2},
        "evaluate": {"num_problems": 4, "num_samples": 2, "during": 2, "panel_problems": 0},
        "hardware": {"device": "cpu", "threads": 1},
    }


@pytest.fixture
def made(tmp_path: Path, keys: dict[str, Any]) -> Callable[..., genac.Trainer]:
    """made(**arguments) -> a trainer of a tiny model on ROWS."""
    model = str(tiny(tmp_path / "model"))

    def trainer(args: dict[str, Any] | None = None, **arguments: Any) -> genac.Trainer:
        usual: dict[str, Any] = {"model": model, "reward_funcs": right_sum, "train_dataset": ROWS}
        return genac.Trainer(**usual | arguments, args=keys | (args or {}))

    return trainer


# --- whole runs -----------------------------------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self.calls.append(("step", step))
        assert metrics["stage"] == "joint" and metrics["step"] == step - 1

    def on_evaluate(self, step: int, metrics: dict[str, Any]) -> None:
        self.calls.append(("evaluate", step))
        assert 0 <= metrics["eval/success"] <= 1

    def on_save(self, step: int, folder: Path) -> None:
        self.calls.append(("save", step))
        assert (folder / "manifest.json").exists()

    def on_end(self, run: genac.Run) -> None:
        self.calls.append(("end", (run.path / "report.html").exists()))


def test_objects_of_a_program_train_and_every_callback_is_heard(
    made: Callable[..., genac.Trainer], tmp_path: Path
) -> None:
    heard, steps = Heard(), []
    trainer = made(callbacks=[heard, lambda step, metrics: steps.append(step)])
    run = trainer.train()
    assert heard.calls == [
        *(("evaluate", 0), ("step", 1), ("step", 2), ("evaluate", 2), ("step", 3), ("save", 3)),
        *(("evaluate", 3), ("end", True)),
    ]
    assert steps == [1, 2, 3] and [m["step"] for m in trainer.log_history] == [0, 1, 2]
    rewards = {row["reward"] for step in (0, 2) for row in run.table("rollouts", "joint", step)}
    assert rewards <= {0.0, 0.5} and None not in rewards
    after = trainer.evaluate()
    assert after["eval/success"] == run.summary()["success_after"]["mean"]
    assert trainer.evaluate(ROWS[:3]).keys() == after.keys()
    trainer.save_model(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").num_parameters() > 0
    assert made().train().path == run.path  # finished: the same objects mean the same run


def test_a_loaded_model_and_critic_train_with_all_stages(
    made: Callable[..., genac.Trainer], tmp_path: Path
) -> None:
    model, critic = (
        AutoModelForCausalLM.from_pretrained(tiny(tmp_path / str(i), seed=i)) for i in (1, 2)
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "1")
    generative = {
        "algorithm": "genac",
        "critic.generative": {"prompt": "compact", "max_new_tokens": 8},
        "critic.num_continuations": 2,
        "stages.synthesize": {"oracle": "outcome", "num_prompts": 8, "num_states": 16},
        "stages.sft.epochs": 1,
        "stages.critic_rl.steps": 1,
    }
    arguments = {"model": model, "critic_model": critic, "processing_class": tokenizer}
    trainer = made(generative, **arguments)
    names = [trainer.args.actor.model_name_or_path, trainer.args.critic.model_name_or_path]
    assert len(set(names)) == 2 and all(Path(str(name)).is_dir() for name in names)
    run = trainer.train()
    stages = list(dict.fromkeys(line["stage"] for line in run.metrics()))
    assert stages == ["synthesize", "critic_sft", "critic_rl", "joint"]
    trainer.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "critic" / "critic.json").exists()


# --- callbacks that end a run ---------------------------------------------------------------------


def test_stop_training_ends_the_run_as_if_that_step_were_the_last(
    made: Callable[..., genac.Trainer],
) -> None:
    def enough(step: int, metrics: dict[str, Any]) -> None:
        if step == 2:
            raise genac.StopTraining("good enough")

    run = made(callbacks=[enough]).train()
    assert [line["step"] for line in run.metrics("joint")] == [0, 1]
    assert run.summary()["stopped"] == {"step": 2, "reason": "good enough"}
    (run.path / "actor" / "model.safetensors").unlink()
    again = made().train()  # made again from the checkpoint, not trained further
    assert (again.path / "actor" / "model.safetensors").exists()
    assert [line["step"] for line in again.metrics("joint")] == [0, 1]


def test_an_error_of_a_callback_comes_out_behind_a_checkpoint(
    made: Callable[..., genac.Trainer],
) -> None:
    def broken(step: int, metrics: dict[str, Any]) -> None:
        raise KeyError("no such metric")

    with pytest.raises(KeyError) as caught:
        made(callbacks=[broken]).train()
    assert "behind step 1 of joint, which is saved" in caught.value.__notes__[0]
    run = made().train()
    assert [event["step"] for event in run.events("resumed")] == [1]
    assert [line["step"] for line in run.metrics("joint")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("callback", "says"),
    [
        (3, "has none of the methods"),
        (Heard, "give an object, Heard"),
        (lambda step: None, r"cannot be called as on_step\(step, metrics\)"),
        (transformers.TrainerCallback(), "one of transformers"),
    ],
)
def test_what_is_no_callback_is_refused_first(callback: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        genac.Trainer(callbacks=[callback])


# --- rewards --------------------------------------------------------------------------------------

PROBLEM = Problem("p", "2 + 3 =", "5", "file", {"sum": "5"})


def starts_with(letter: str) -> Callable[..., list[float]]:
    return lambda completions, **columns: [float(text.startswith(letter)) for text in completions]


def test_a_function_that_others_can_import_is_named_by_its_module() -> None:
    assert reward_name(right_sum) == "sum_reward:right_sum"
    assert load_reward(reward_spec([right_sum]))(PROBLEM, "5") == 0.5


def test_what_lives_in_this_process_is_named_by_its_source_and_closure() -> None:
    a, again, b = starts_with("5"), starts_with("5"), starts_with("6")
    assert reward_name(a) == reward_name(again) != reward_name(b)
    assert load_reward(reward_name(a))(PROBLEM, "5") == 1.0
    # a line with two lambdas, and constants that only one of them has
    one, other = (lambda completions: [1.0]), (lambda completions: [0.0])
    assert reward_name(one) != reward_name(other)
    some, others = (lambda completions: ["a" in ("a",)]), (lambda completions: ["a" in ("b",)])
    assert reward_name(some) != reward_name(others)
    half, whole = (functools.partial(scaled, factor=f) for f in (0.5, 1.0))
    assert reward_name(half) != reward_name(whole)
    assert load_reward(reward_name(half))(PROBLEM, "5") == 0.5


def scaled(completions: list[str], factor: float) -> list[float]:
    return [factor for _ in completions]


def test_several_rewards_are_a_weighted_mean() -> None:
    mean = load_reward(reward_spec([right_sum, starts_with("5")], [3, 1]))
    assert mean(PROBLEM, "5") == pytest.approx(0.75 * 0.5 + 0.25)
    with pytest.raises(ValueError, match="2 reward_weights for 1 reward_funcs"):
        reward_spec(right_sum, [1, 2])
    with pytest.raises(ValueError, match="must not be negative"):
        reward_spec([right_sum, "match"], [1, -1])


def test_another_process_gets_the_functions_file() -> None:
    spec = reward_name(lambda completions: [1.0])
    REGISTERED.pop(spec)
    with pytest.raises(ValueError, match=r"function of another Python process.*file of its own"):
        load_reward(spec)


def test_a_reward_outside_the_unit_interval_is_refused_with_its_value(tmp_path: Path) -> None:
    data = stored_rows(ROWS, tmp_path, "train_dataset")
    task = FileTask(data, reward=reward_name(lambda completions: [1.5]))
    with Verifier(task) as verifier, pytest.raises(RewardError, match=r"is 1\.5, not a number in"):
        verifier.verify([(task.problem("train", 0), "3")])


def test_data_without_answers_need_a_function_as_reward(tmp_path: Path) -> None:
    data = stored_rows(ROWS, tmp_path, "train_dataset")
    with pytest.raises(ValueError, match="no 'answer'"):
        FileTask(data)
    task = FileTask(data, reward="sum_reward:right_sum")
    assert task.problem("train", 0).answer == ""
    with pytest.raises(ValueError, match="has no answers, so nothing can be imitated"):
        task.demonstration(task.problem("train", 0), None, 0.0)  # type: ignore[arg-type]


# --- rows and models as files ---------------------------------------------------------------------


def test_rows_are_written_once_whatever_holds_them(tmp_path: Path) -> None:
    file = stored_rows(ROWS, tmp_path, "train_dataset")
    assert [json.loads(line) for line in Path(file).read_text().splitlines()] == ROWS
    assert stored_rows(iter(ROWS), tmp_path, "train_dataset") == file
    datasets = pytest.importorskip("datasets")
    assert stored_rows(datasets.Dataset.from_list(ROWS), tmp_path, "train_dataset") == file
    both = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(ValueError, match=r"DatasetDict \(its splits: \['train'\]\)"):
        stored_rows(both, tmp_path, "train_dataset")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no rows"),
        (7, "is a int"),
        (["a"], "row 1 of train_dataset is 'a'"),
        ([{"prompt": "a", "image": object()}], "the column 'image' holds <object"),
    ],
)
def test_rows_that_cannot_be_written_are_named(rows: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        stored_rows(rows, tmp_path, "train_dataset")


def test_a_loaded_model_is_stored_by_its_contents(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    path = stored_model(model, None, tmp_path, "model")  # the tokenizer of where it came from
    assert stored_model(AutoModelForCausalLM.from_pretrained(folder), None, tmp_path, "m") == path
    model.get_input_embeddings().weight.data[0, 0] += 1
    assert stored_model(model, None, tmp_path, "model") != path
    own = AutoTokenizer.from_pretrained(folder)
    assert stored_model(str(folder), own, tmp_path, "model") == str(folder)
    own.chat_template = "{{ messages }}"
    with pytest.raises(ValueError, match="processing_class is not the tokenizer of model"):
        stored_model(str(folder), own, tmp_path, "model")
    with pytest.raises(ValueError, match="model is a int"):
        stored_model(3, None, tmp_path, "model")


# --- arguments ------------------------------------------------------------------------------------


def test_args_may_be_a_config_a_recipe_or_keys_over_one(tmp_path: Path) -> None:
    keys = {"recipe": "arithmetic", "actor.optimizer.learning_rate": 1e-5}
    cfg = resolve(genac.read_recipe("arithmetic"), {"actor.optimizer.learning_rate": 1e-5})
    assert genac.Trainer(args=keys).args == genac.Trainer(args=cfg).args
    assert genac.Trainer(args="arithmetic").args.name == cfg.name
    with pytest.raises(ValueError, match=r"args is a builtins\.int"):
        genac.Trainer(args=3)  # type: ignore[arg-type]


def test_arguments_that_do_not_fit_are_refused(made: Callable[..., genac.Trainer]) -> None:
    with pytest.raises(ValueError, match="algorithm 'rloo' trains no critic"):
        made(critic_model="somewhere")
    with pytest.raises(ValueError, match="makes and judges its own problems"):
        genac.Trainer(args="arithmetic", reward_funcs=right_sum)
    with pytest.raises(ValueError, match="model is a int"):
        made(model=5)
    with pytest.raises(ValueError, match="holds no run"):
        print(made().run)
