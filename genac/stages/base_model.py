"""Stage 0: the base model, trained on imperfect demonstrations and on checking.

It stands in for a pretrained language model: it can do the task with systematic faults, which RL
has to unlearn, and it has seen solutions being checked, so that both kinds of critic start from the
same base.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import RunConfig
from genac.config.stages import BaseStage, LoopStage
from genac.hardware import Hardware
from genac.models.chat import encode_prompt
from genac.models.tiny import save_tiny
from genac.runs.store import Run
from genac.runtime import ModelSpec, build
from genac.seeding import derive_seed
from genac.stages.inputs import HARDWARE, TASK, StageInputs, stage_config
from genac.stages.loop import Loop
from genac.tasks import make_task
from genac.tasks.base import Task
from genac.types import Problem, Sample

CHECK = "<check>"


@dataclass(frozen=True)
class BaseInputs(StageInputs):
    """The task's options are those of the run under `stages.base.options`."""

    stage = "base"

    @classmethod
    def of(cls, cfg: RunConfig) -> BaseInputs:
        own = (f"stages.base.{name}" for name in BaseStage.model_fields if name != "options")
        options = {**cfg.task.options, **cfg.stages.base.options}
        reads = (*TASK, "actor.tiny", *own, *HARDWARE)
        # Trained here and never sampled from, whatever trains the run's models and samples.
        here = ("hardware.backend", "hardware.tinker", "hardware.engine")
        return cls(*stage_config(cfg, reads, {"task.options": options}, here))


def base_model(cfg: RunConfig) -> Path:
    """Folder of the trained base model; built unless it exists."""
    return BaseInputs.of(cfg).folder(train) / "model"


def train(inputs: BaseInputs, run: Run) -> None:
    """Clean demonstrations first, faulty ones last; checking traces throughout."""
    cfg = inputs.cfg
    stage, task = cfg.stages.base, make_task(cfg.task, cfg.seed)
    start = run.path / "init"
    shape = cfg.actor.tiny.model_dump()
    # 1 the untrained model and its tokenizer
    save_tiny(start, task.alphabet(), seed=derive_seed(cfg.seed, "init"), **shape)
    model = build(
        ModelSpec("base", str(start), stage.optimizer, decay_steps=stage.steps),
        Hardware.resolve(cfg.hardware),
    )
    loop = Loop(
        run,
        "base",
        LoopStage(steps=stage.steps, save_every=200),
        {"base": model},
        None,
        inputs.hash,
    )
    for step in loop:
        # 2 examples of this step
        first = step * stage.batch_size
        examples = [
            example(cfg, task, model.tokenizer, i, step)
            for i in range(first, first + stage.batch_size)
        ]
        # 3 learn
        with loop.cost.clock("actor_training", model):
            metrics = model.learner.learn(examples, seed=step)
        loop.after(step, metrics)
    # 4 an ordinary Hugging Face folder
    model.save_model(run.path / "model")


def example(cfg: RunConfig, task: Task, tokenizer: Any, index: int, step: int) -> Sample:
    """A demonstration or a checking trace, pure in (seed, index)."""
    stage = cfg.stages.base
    rng = random.Random(f"{cfg.seed}/base/{index}")
    problem = task.problem("train", index)
    prompt = list(encode_prompt(tokenizer, problem))
    if rng.random() < stage.check_fraction:
        partial = partial_response(task, problem, rng)
        prompt += tokenizer.encode(partial + CHECK, add_special_tokens=False)
        body = task.oracle(problem, partial, None).reasoning
    else:
        clean = step < stage.clean_fraction * stage.steps
        body = task.demonstration(problem, rng, 0.0 if clean else stage.fault_rate)
    ids = (*prompt, *tokenizer.encode(body, add_special_tokens=False), tokenizer.eos_token_id)
    weights = np.zeros(len(ids), np.float32)
    weights[len(prompt) :] = 1.0
    return Sample(ids=tuple(ids), weights=weights, loss="sft")


def partial_response(task: Task, problem: Problem, rng: random.Random) -> str:
    """The first lines of a faulty demonstration, each with its line break."""
    lines = task.demonstration(problem, rng, 1.0).split("\n")
    return "".join(line + "\n" for line in lines[: rng.randrange(len(lines))])
