"""A critic learns the task's exercises before its traces."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import Values
from safetensors.torch import load_file
from test_word_problems import word_problems

from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.stages import sft
from genac.stages.pipeline import prepare_until
from genac.tasks.word_problems.task import EXERCISED, WordProblemTask
from genac.types import Sample

CHECK = re.compile(r"Line (\d+): (\d+) ([-+*/]) (\d+) is (\d+), says (\d+)\. (Right|Wrong)\.")


def recipe(micro: Callable[..., Values], **stage: object) -> Values:
    values = word_problems(micro(), actor={"tiny": {"max_length": 512}})
    values["stages"]["sft"] |= {"exercises_per_step": 2, "save_every": 1} | stage
    return values


def test_half_the_results_are_wrong_and_the_checks_are_right() -> None:
    task = WordProblemTask(max_number=30)
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    wrong, operators = [], set()
    for i in range(50):
        instruction, text = task.exercise(random.Random(i))
        claims = instruction.splitlines()[2:]
        checks = CHECK.findall(text)
        assert len(claims) == len(checks) == len(text.splitlines()) == EXERCISED
        for claim, (_, a, operator, b, true, said, verdict) in zip(claims, checks, strict=True):
            assert claim == f"{a} {operator} {b} = {said}."
            assert compute[operator](int(a), int(b)) == int(true) and 1 <= int(true) <= 30
            assert (verdict == "Right") == (true == said)
            wrong.append(true != said)
            operators.add(operator)
    assert 0.4 < sum(wrong) / len(wrong) < 0.6
    assert operators == set(task.operators)


def test_they_come_first_and_an_interrupted_training_repeats_none_of_its_steps(
    micro: Callable[..., Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    exercises = sft.exercises

    def watched(cfg: RunConfig, tokenizer: Any, step: int) -> list[Sample]:
        if step == stops:
            raise RuntimeError("stopped")
        seen.append(step)
        return exercises(cfg, tokenizer, step)

    monkeypatch.setattr(sft, "exercises", watched)
    stops = -1
    plain = Path(prepare_until(resolve(recipe(micro)), "sft"))
    assert not seen
    whole = Path(prepare_until(resolve(recipe(micro, exercises=3)), "sft"))
    assert seen == [0, 1, 2] and whole != plain
    steps = len(Run.open(plain.parent).metrics("critic_sft"))
    assert len(Run.open(whole.parent).metrics("critic_sft")) == 3 + steps

    weights = load_file(whole / "model.safetensors")
    shutil.rmtree(whole.parent)
    seen.clear()
    stops = 2
    with pytest.raises(RuntimeError, match="stopped"):
        prepare_until(resolve(recipe(micro, exercises=3)), "sft")
    stops = -1
    again = Path(prepare_until(resolve(recipe(micro, exercises=3)), "sft"))
    assert again == whole and seen == [0, 1, 2]
    repeated = load_file(again / "model.safetensors")
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)


def test_a_task_without_them_is_named(micro: Callable[..., Values]) -> None:
    with pytest.raises(ValueError, match=r"exercises is 3, but task 'arithmetic' has no exercises"):
        prepare_until(resolve(micro(stages={"sft": {"exercises": 3}})), "sft")
