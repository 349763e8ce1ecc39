"""Stage 0 of a pretrained actor: supervised fine-tuning on demonstrations, before any RL.

A model that never meets the task's format is never rewarded, so RL has nothing to go on from. The
demonstrations are the task's own, or rows of a file: chats, or prompts with completions. Only
completions are trained, behind prompts as RL will write them: with `instruction` and `system` of
the task, where a row has not got its own. Adapters (actor.lora) are merged into
what is saved; RL goes on with new ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import RunConfig
from genac.config.stages import LoopStage, WarmupStage
from genac.models.chat import encode_prompt
from genac.runs.store import Run
from genac.stages.inputs import (
    ACTOR,
    ACTOR_DEFAULTS,
    ACTOR_PATH,
    HARDWARE,
    TASK,
    Artifact,
    StageInputs,
    stage_config,
)
from genac.stages.loop import Loop, warn
from genac.tasks import make_task
from genac.tasks.base import Task
from genac.tasks.files import dressed, shuffled
from genac.tasks.sources import rows
from genac.tasks.values import Row, as_text, chat, missing
from genac.types import Problem, Sample

Demonstration = tuple[Problem, str]  # the problem, and the response to imitate


@dataclass(frozen=True)
class WarmupInputs(StageInputs):
    """Of the task all where no file of demonstrations is named, else what its prompts wear."""

    stage = "warmup"

    start: Artifact  # the model to fine-tune

    @classmethod
    def of(cls, cfg: RunConfig, start: Path) -> WarmupInputs:
        """ValueError where a saved model is not as it was written."""
        source: tuple[str, ...] = TASK
        changes: dict[str, Any] = {ACTOR_PATH: str(start)}
        if cfg.stages.warmup.path:
            source, changes["task.options"] = ("seed", "task.options"), dress_of(cfg)
        reads = (*source, *ACTOR, "stages.warmup", *HARDWARE)
        defaults = (*ACTOR_DEFAULTS, "actor.engine", "hardware.engine")  # nothing is sampled here
        return cls(
            *stage_config(cfg, reads, changes, defaults),
            Artifact.model(start),
        )


def warm_actor(cfg: RunConfig, start: Path) -> Path:
    """Folder of the fine-tuned actor; trained unless it exists."""
    return WarmupInputs.of(cfg, start).folder(train) / "model"


def check(cfg: RunConfig) -> None:
    """ValueError where there are no demonstrations, before any model is made."""
    stage = cfg.stages.warmup
    if not stage.steps:
        return
    if stage.path is None:
        of_task(make_task(cfg.task, cfg.seed), cfg.seed, 0)
    else:
        of_file(cfg)


def train(inputs: WarmupInputs, run: Run) -> None:
    """Cross-entropy on the responses, in shuffled epochs over a file's rows."""
    seed, stage = inputs.cfg.seed, inputs.cfg.stages.warmup
    setup = inputs.setup(with_world=False)
    # 1 the model, and its demonstrations
    actor = setup.actor(inputs.start.path, stage.optimizer, stage.steps)
    samples = Samples(inputs.cfg, actor.tokenizer, actor.max_length)
    loop = Loop(
        run,
        "warmup",
        LoopStage(steps=stage.steps, save_every=stage.save_every),
        {"actor": actor},
        None,
        inputs.hash,
    )
    for step in loop:
        # 2 a batch, the same whenever the run was interrupted
        batch, dropped = samples.batch(step)
        # 3 learn
        with loop.cost.clock("actor_training", actor):
            metrics = actor.learner.learn(batch, seed=seed + step)
        loop.after(step, metrics | {"dropped": dropped})
    # 4 an ordinary Hugging Face folder
    actor.save_model(run.path / "model")


class Samples:
    """Batches by step. Of a file, rows beyond the context are left out once, with a warning; of a
    task, batch by batch.
    """

    def __init__(self, cfg: RunConfig, tokenizer: Any, limit: int) -> None:
        self.cfg, self.stage, self.limit = cfg, cfg.stages.warmup, limit
        self.tokenizer = tokenizer
        self.rows: list[Sample] = []
        self.task: Task | None = None
        if self.stage.path is None:
            self.task = make_task(cfg.task, cfg.seed)
            return
        samples = [response_sample(tokenizer, *pair) for pair in of_file(cfg)]
        self.rows = [sample for sample in samples if len(sample.ids) <= limit]
        longest = max(len(sample.ids) for sample in samples)
        if not self.rows:
            raise ValueError(
                f"no row of stages.warmup.path {self.stage.path!r} fits the actor's context of "
                f"{limit} tokens (the longest has {longest}); shorten them, or use an actor with a "
                "longer context"
            )
        if len(self.rows) < len(samples):
            warn(
                f"warm-up: {len(samples) - len(self.rows)} of {len(samples)} rows of "
                f"{self.stage.path!r} exceed the actor's context of {limit} tokens (the longest "
                f"has {longest}) and are left out"
            )

    def batch(self, step: int) -> tuple[list[Sample], int]:
        """The samples of a step, and how many demonstrations of the task were too long."""
        first, size = step * self.stage.batch_size, self.stage.batch_size
        if self.task is None:
            return [self.row(index) for index in range(first, first + size)], 0
        pairs = [of_task(self.task, self.cfg.seed, i) for i in range(first, first + size)]
        samples = [response_sample(self.tokenizer, *pair) for pair in pairs]
        fitting = [sample for sample in samples if len(sample.ids) <= self.limit]
        if not fitting:
            raise ValueError(
                f"no demonstration of warm-up step {step} fits the actor's context of {self.limit} "
                f"tokens (the longest has {max(len(s.ids) for s in samples)}); make the task's "
                "problems shorter, or use an actor with a longer context"
            )
        return fitting, len(samples) - len(fitting)

    def row(self, index: int) -> Sample:
        epoch, place = divmod(index, len(self.rows))
        return self.rows[shuffled(self.cfg.seed, "warmup", epoch, len(self.rows))[place]]


def response_sample(tokenizer: Any, problem: Problem, response: str) -> Sample:
    """Prompt as RL writes it, then the response and an end of sequence, which alone are trained."""
    prompt = encode_prompt(tokenizer, problem)
    body = tokenizer.encode(response, add_special_tokens=False)
    ids = (*prompt, *body, tokenizer.eos_token_id)
    weights = np.zeros(len(ids), np.float32)
    weights[len(prompt) :] = 1.0
    return Sample(ids=ids, weights=weights, loss="sft")


# --- demonstrations -------------------------------------------------------------------------------


def of_task(task: Task, seed: int, index: int) -> Demonstration:
    """A correct demonstration of the task, pure in (seed, index). ValueError where it has none."""
    problem = task.problem("train", index)
    rng = random.Random(f"{seed}/warmup/{index}")
    return problem, task.demonstration(problem, rng, 0.0)


def of_file(cfg: RunConfig) -> list[Demonstration]:
    """The rows of a file or data set, with prompts as RL writes them. ValueError naming what is
    there where columns are missing, and the row where one is empty."""
    stage, dress = cfg.stages.warmup, dress_of(cfg)
    assert stage.path is not None
    result = demonstrations(rows(stage.path), stage)
    return [(as_prompted(problem, **dress), response) for problem, response in result]


def dress_of(cfg: RunConfig) -> dict[str, str]:
    """What a file task writes around its prompts; other tasks have no such options."""
    return {k: v for k, v in cfg.task.options.items() if k in ("instruction", "system") and v}


def as_prompted(problem: Problem, instruction: str = "", system: str = "") -> Problem:
    """A row's prompt with both, but for a system's message or an instruction that it has itself."""
    prompt = problem.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    own = any(message["role"] == "system" for message in messages)
    last = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    return dressed(problem, "" if instruction in last else instruction, "" if own else system)


def demonstrations(result: list[Row], stage: WarmupStage) -> Iterator[Demonstration]:
    names = (stage.prompt_column, stage.completion_column)
    chats = stage.messages_column in result[0]
    if not chats and not all(name in result[0] for name in names):
        raise ValueError(
            f"stages.warmup.path {stage.path!r} has neither the column {stage.messages_column!r} "
            f"nor {names[0]!r} and {names[1]!r}, only {list(result[0])}; name its columns by "
            "stages.warmup.messages_column, or prompt_column and completion_column"
        )
    for number, row in enumerate(result, 1):
        where = f"row {number} of {stage.path!r}"
        yield of_chat(row, stage, where) if chats else of_columns(row, stage, where)


def of_columns(row: Row, stage: WarmupStage, where: str) -> Demonstration:
    """A prompt (text or messages) and a completion (text, or one message of the assistant)."""
    for column in (stage.prompt_column, stage.completion_column):
        if missing(row.get(column)):
            raise ValueError(f"{where}: {column!r} is empty; remove the row, or fill it in")
    prompt, completion = chat(row[stage.prompt_column]), row[stage.completion_column]
    if isinstance(completion, list):
        messages = chat(completion)
        messages = messages if isinstance(messages, list) else []
        completion = messages[0]["content"] if len(messages) == 1 else None
    if prompt is None or not isinstance(completion, str | bytes):
        raise ValueError(
            f"{where}: the prompt has to be a text or a list of messages {{'role': ..., "
            "'content': text}, the completion a text or one such message"
        )
    return Problem(where, prompt, ""), as_text(completion)


def of_chat(row: Row, stage: WarmupStage, where: str) -> Demonstration:
    """A conversation whose last message, the assistant's, is the response."""
    messages = chat(row.get(stage.messages_column))
    if (
        not isinstance(messages, list)
        or len(messages) < 2
        or messages[-1]["role"] != "assistant"
        or not messages[-1]["content"]
    ):
        raise ValueError(
            f"{where}: {stage.messages_column!r} has to be a list of messages {{'role': ..., "
            "'content': text}} of which the last is the assistant's; remove the row, or correct it"
        )
    return Problem(where, messages[:-1], ""), messages[-1]["content"]
