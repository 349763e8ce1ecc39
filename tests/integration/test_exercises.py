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
from genac.learner import Learner
from genac.runs.store import Run
from genac.stages import sft
from genac.stages.pipeline import prepare_until
from genac.stages.traces.files import Trace
from genac.tasks.word_problems.task import EXERCISED, WordProblemTask
from genac.types import Sample

CHECK = re.compile(r"Line (\d+): (\d+) ([-+*/]) (\d+) is (\d+), says (\d+)\. (Right|Wrong)\.")


def recipe(micro: Callable[..., Values], **stage: object) -> Values:
    values = word_problems(micro(), actor={"tiny": {"max_length": 512}})
    values["stages"]["sft"] |= {"save_every": 1} | stage
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


def test_they_stand_beside_the_traces_and_an_interrupted_training_ends_alike(
    micro: Callable[..., Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    exercises = sft.exercises

    def watched(cfg: RunConfig, tokenizer: Any, step: int) -> list[Sample]:
        if step == stops:
            raise RuntimeError("stopped")
        result = exercises(cfg, tokenizer, step)
        seen.append((step, len(result)))
        return result

    monkeypatch.setattr(sft, "exercises", watched)
    stops = -1
    plain = Path(prepare_until(resolve(recipe(micro)), "sft"))
    steps = len(Run.open(plain.parent).metrics("critic_sft"))
    assert seen == [(step, 0) for step in range(steps)]
    seen.clear()
    whole = Path(prepare_until(resolve(recipe(micro, exercises=3)), "sft"))
    assert whole != plain and seen == [(step, 3) for step in range(steps)]

    weights = load_file(whole / "model.safetensors")
    shutil.rmtree(whole.parent)
    seen.clear()
    stops = steps - 1
    with pytest.raises(RuntimeError, match="stopped"):
        prepare_until(resolve(recipe(micro, exercises=3)), "sft")
    stops = -1
    again = Path(prepare_until(resolve(recipe(micro, exercises=3)), "sft"))
    assert again == whole and [step for step, _ in seen] == [*range(steps)]
    repeated = load_file(again / "model.safetensors")
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)


def test_only_what_no_earlier_state_has_is_trained(
    micro: Callable[..., Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(ids: tuple[int, ...], reasoning: str, problem: str = "p") -> Trace:
        return Trace({"id": problem}, "", ids, 0.5, reasoning, 5, None)

    traces = [
        trace((), "Left: all.\n"),
        trace((1,), "Line 1: Right.\nLeft: b.\n"),
        trace((1, 2), "Line 1: Right.\nLine 2: Wrong.\n"),
        trace((1, 2, 3), "Line 1: Right.\nLine 2: Wrong.\n"),
        trace((9, 2), "Line 1: Right.\nLeft: b.\n"),  # another response
        trace((1, 2), "Line 1: Right.\n", "q"),
    ]
    one = len("Line 1: Right.\n")
    assert sft.repeated(traces) == [0, 0, one, len(traces[3].reasoning), 0, 0]

    trained: list[int] = []
    learn = Learner.learn

    def counted(self: Learner, samples: list[Sample], seed: int) -> dict[str, float]:
        trained.append(sum(int(sample.weights.sum()) for sample in samples))
        return learn(self, samples, seed)

    monkeypatch.setattr(Learner, "learn", counted)
    prepare_until(resolve(recipe(micro)), "synthesize")
    trained.clear()
    prepare_until(resolve(recipe(micro, epochs=2)), "sft")
    whole = sum(trained)
    trained.clear()
    prepare_until(resolve(recipe(micro, epochs=2, whole_traces=False)), "sft")
    assert 0 < sum(trained) < whole


def test_a_task_without_them_is_named(micro: Callable[..., Values]) -> None:
    with pytest.raises(ValueError, match=r"exercises is 3, but task 'arithmetic' has no exercises"):
        prepare_until(resolve(micro(stages={"sft": {"exercises": 3}})), "sft")
