"""The examples do what they say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from learning_server import learning_server
from service import micro_start

from genac.client import Client
from genac.config.recipes import resolve
from genac.stages.pipeline import train
from genac.tasks.arithmetic import ArithmeticTask

EXAMPLES = Path(__file__).parents[2] / "examples"


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_the_loop_trains_actor_and_critic(micro: Callable[..., dict[str, Any]], capsys) -> None:
    rewards = loaded("genac_loop").train(resolve(micro()))
    assert len(rewards) == 3 and all(0 <= reward <= 1 for reward in rewards)
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("step ")]  # not the stages' progress
    assert len(lines) == 5 and all("of" in line and "values missing" in line for line in lines)


def test_any_trainer_learns_the_same_with_a_critic_over_http(stages: Path, capsys) -> None:
    start, train = micro_start(stages, steps=0), loaded("any_trainer").train
    task = ArithmeticTask(seed=1, min_steps=1, max_steps=2, operators="+")
    printed = []
    for over_http in (False, True):
        torch.manual_seed(0)
        critic = start.load()
        capsys.readouterr()
        with learning_server(critic) as server, Client(server.address) as client:
            rewards = train(str(start.actor), client if over_http else critic, task, 2)
        assert critic.step == len(rewards) == 2
        printed.append(capsys.readouterr().out)
    # The critic's measurements too, to the last digit.
    assert printed[0] == printed[1] and "critic/loss" in printed[0]


def test_rows_and_a_reward_function_train(tmp_path: Path, capsys) -> None:
    keys = {
        "output_dir": str(tmp_path / "run"),
        "stages.folder": str(tmp_path / "stages"),
        "stages.synthesize.num_prompts": 16,
        "stages.sft.epochs": 1,
        "stages.critic_rl.steps": 1,
        "stages.joint": {"steps": 10, "eval_every": 0},
        "evaluate": {"num_problems": 8, "panel_problems": 0},
        "hardware.threads": 1,
    }
    run = loaded("own_reward").main(**keys)
    assert len(run.metrics("joint")) == 10
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("before: {'eval/success'", "step 10: reward", "after:"))


def test_a_right_and_a_wrong_line_are_judged_by_both_kinds_of_critic(
    micro: Callable[..., dict[str, Any]], tmp_path: Path, capsys
) -> None:
    runs = []
    for algorithm in ("genac", "ppo"):
        cfg = resolve(micro(), {"algorithm": algorithm, "output_dir": str(tmp_path / algorithm)})
        runs.append(str(train(cfg)))
    capsys.readouterr()
    example = loaded("compare_critics")
    task = ArithmeticTask(min_steps=1, max_steps=2, operators="+")
    for problem, right, wrong in example.pairs(task, 20):
        assert task.lines_right(problem, right) == right.count("\n")
        assert task.lines_right(problem, wrong) is None
    example.main(runs, task, number=20)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(runs[0]) and second.startswith(runs[1])
    assert " tokens" in first and "of 20 " in second
