"""GenACTrainer with a real critic: what it computes is what the joint stage computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from micro import MICRO
from safetensors.torch import load_file

pytest.importorskip("trl")

from datasets import Dataset
from learning_server import learning_server
from service import weights
from trl_runs import Recording, config, trainer

from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.service import LearningCritic
from genac.stages.pipeline import Prepared, prepare, train
from genac.stages.setup import Setup, prepared_config

STEPS, ROWS = 5, 16


@pytest.fixture(scope="module")
def joint(
    tmp_path_factory: pytest.TempPathFactory, stages: Path
) -> tuple[RunConfig, Run, Prepared]:
    """A joint run of five steps, and what it started from."""
    places = {
        "output_dir": str(tmp_path_factory.mktemp("joint") / "run"),
        "stages": {"folder": str(stages), "joint": {"steps": STEPS}},
    }
    cfg = resolve(merge(MICRO, places))
    return cfg, Run.open(train(cfg)), prepare(Setup.of(prepared_config(cfg)))


@pytest.fixture
def critic_of(joint: tuple[RunConfig, Run, Prepared]) -> Callable[..., LearningCritic]:
    """The critic that the joint stage started from, with the run's settings."""
    cfg, _, start = joint
    assert start.critic is not None
    settings = {"credit": cfg.credit, "states": cfg.states, "hardware": cfg.hardware}
    return lambda **more: LearningCritic.from_pretrained(
        start.critic, seed=cfg.seed, **(settings | more)
    )


def replayed(run: Run, actor: Path, critic: Any, output: Path, **changes: Any) -> Recording:
    """A trainer whose responses and rewards are those of the run, step by step."""
    tables = [run.table("rollouts", "joint", step) for step in range(STEPS)]

    def rollout(prompts: Sequence[str], own: Any) -> dict[str, list[Any]]:
        taken = tables[own.state.global_step]
        assert prompts == [row["prompt"] for row in taken]
        return {
            "prompt_ids": own.processing_class(text=list(prompts))["input_ids"],
            "completion_ids": [row["response_ids"] for row in taken],
            "logprobs": [row["logprobs"] for row in taken],
            "recorded": [row["reward"] for row in taken],
        }

    def reward(completions: Sequence[str], recorded: list[float], **_: Any) -> list[float]:
        return recorded

    sizes = {"per_device_train_batch_size": ROWS, "num_generations": 4, "max_steps": STEPS}
    data = Dataset.from_dict({"prompt": [row["prompt"] for t in tables for row in t[::4]]})
    args = config(output, **sizes | {"max_completion_length": 14} | changes)
    return trainer(actor, critic, args, reward, train_dataset=data, rollout_func=rollout)


def test_advantages_and_critic_are_those_of_the_joint_stage(
    joint: tuple[RunConfig, Run, Prepared],
    critic_of: Callable[..., LearningCritic],
    tmp_path: Path,
) -> None:
    _, run, start = joint
    own = replayed(run, start.actor, critic_of(), tmp_path)
    own.train()
    for step, inputs in enumerate(own.losses):
        rows = run.table("rollouts", "joint", step)
        read = own.processing_class(text=[row["prompt"] for row in rows])["input_ids"]
        expected = {
            (tuple(ids), tuple(row["response_ids"])): stream(run, step, row)
            for ids, row in zip(read, rows, strict=True)
        }
        assert len(inputs["advantages"]) == len(rows)
        for prompt, mask, ids, width, advantages in zip(
            inputs["prompt_ids"],
            inputs["prompt_mask"],
            inputs["completion_ids"],
            inputs["completion_mask"].sum(-1),
            inputs["advantages"],
            strict=True,
        ):
            key = tuple(prompt[mask.bool()].tolist()), tuple(ids[:width].tolist())
            assert torch.allclose(advantages[:width], expected[key], atol=1e-5)
    own.save_model(str(tmp_path / "final"))
    ours = load_file(tmp_path / "final" / "critic" / "model.safetensors")
    theirs = load_file(run.path / "critic" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-5) for k in ours)
    assert start.critic is not None
    before = load_file(start.critic / "model.safetensors")
    assert any(not torch.allclose(ours[k], before[k], atol=1e-3) for k in ours)  # it did learn


def stream(run: Run, step: int, row: dict[str, Any]) -> torch.Tensor:
    """(T,) the advantages that the joint stage stored of a response."""
    out = torch.zeros(len(row["response_ids"]))
    for estimate in run.table("estimates", "joint", step):
        if (estimate["group"], estimate["member"]) == (row["group"], row["member"]):
            out[estimate["start"] : estimate["end"]] = estimate["advantage"]
    return out


def test_a_critic_resumes_with_its_trainer_to_the_bit(
    joint: tuple[RunConfig, Run, Prepared],
    critic_of: Callable[..., LearningCritic],
    tmp_path: Path,
) -> None:
    _, run, start = joint
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = replayed(run, start.actor, critic_of(), tmp_path / "whole", **saving)
    whole.train()
    again = replayed(run, start.actor, critic_of(), tmp_path / "again", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for one, other in ((whole, "whole"), (again, "again")):
        one.save_model(str(tmp_path / other / "final"))
    for model in ("critic/model.safetensors", "model.safetensors"):
        first, second = (load_file(tmp_path / n / "final" / model) for n in ("whole", "again"))
        assert all(torch.equal(first[k], second[k]) for k in first), model


@pytest.mark.slow
def test_a_service_trains_the_same_critic_and_resumes_with_its_trainer(
    joint: tuple[RunConfig, Run, Prepared],
    critic_of: Callable[..., LearningCritic],
    tmp_path: Path,
) -> None:
    _, run, start = joint
    own = critic_of()
    replayed(run, start.actor, own, tmp_path / "own", max_steps=3).train()
    saving = {"save_strategy": "steps", "save_steps": 2}
    served = critic_of(folder=tmp_path / "kept")
    with learning_server(served) as server:
        first = replayed(run, start.actor, server.address, tmp_path / "a", max_steps=2, **saving)
        first.train()
        again = replayed(run, start.actor, server.address, tmp_path / "b", max_steps=3)
        again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
        ours, theirs = weights(own, tmp_path / "ours"), weights(served, tmp_path / "theirs")
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
        late = replayed(run, start.actor, server.address, tmp_path / "c", max_steps=3)
        with pytest.warns(UserWarning, match=r"goes with step 2 .* is at step 3"):
            late.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    with learning_server(critic_of(folder=tmp_path / "empty")) as server:
        lost = replayed(run, start.actor, server.address, tmp_path / "d", max_steps=3)
        with pytest.raises(ValueError, match=r"step 2 .* is at step 0 .*--checkpoints"):
            lost.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    with (
        learning_server(critic_of()) as server,
        pytest.raises(ValueError, match="no folder for checkpoints"),
    ):
        replayed(run, start.actor, server.address, tmp_path / "e", **saving)


def test_a_folder_becomes_a_critic_that_knows_the_actor(
    joint: tuple[RunConfig, Run, Prepared], tmp_path: Path
) -> None:
    _, run, start = joint
    own = replayed(run, start.actor, str(start.critic), tmp_path, max_steps=1)
    own.train()
    (line,) = [line for line in own.state.log_history if "critic/mse" in line]
    expected = run.metrics("joint")[0]
    for name in ("critic/mse", "critic/reward"):
        assert line[name] == pytest.approx(expected[name], abs=1e-5)


@pytest.mark.slow
def test_the_example_trains_an_actor_and_saves_its_critic(
    joint: tuple[RunConfig, Run, Prepared], tmp_path: Path
) -> None:
    cfg, _, _ = joint
    rewards = example("trl_genac").train(cfg.model_copy(update={"output_dir": str(tmp_path)}), 2)
    assert len(rewards) == 2 and all(0 <= reward <= 1 for reward in rewards)
    assert LearningCritic.from_pretrained(tmp_path / "trl" / "critic").step == 0  # it loads


def example(name: str) -> ModuleType:
    """The script as a module."""
    file = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
