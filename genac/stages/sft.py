"""Stage 1: supervised fine-tuning of the critic on the oracle's traces.

Before them may stand exercises of the task: what its reasoning needs and traces teach too slowly,
because most of what a critic reads is right and need only be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import RunConfig
from genac.config.stages import LoopStage
from genac.critics.generative import GenerativeCritic
from genac.critics.prompts import Context
from genac.critics.running_prompt import prompt_of
from genac.critics.scores import CLOSE, OPEN
from genac.runs.store import Run
from genac.stages.inputs import (
    ACTOR,
    ACTOR_DEFAULTS,
    ACTOR_PATH,
    CRITIC_QUERY,
    HARDWARE,
    TASK,
    Artifact,
    StageInputs,
    stage_config,
)
from genac.stages.loop import Loop
from genac.stages.setup import save_critic
from genac.stages.traces.files import Trace, problem_of, read_traces
from genac.stages.warmup import response_sample
from genac.tasks import make_task
from genac.tasks.base import Exercises, Task
from genac.types import Problem, Sample

CRITIC = tuple(f"critic.{name}" for name in ("kind", "loss", "lora", "load", "share_base"))


@dataclass(frozen=True)
class SFTInputs(StageInputs):
    """The critic's own settings are those by which it is prompted: critic.json says them."""

    stage = "critic_sft"

    traces: Artifact  # their file; counts by the folder's name
    start: Artifact  # the model to fine-tune
    actor: Artifact
    prompt: str  # hash of the critic's template

    @classmethod
    def of(cls, cfg: RunConfig, traces: Path, start: Path, actor: Path) -> SFTInputs:
        """ValueError where a saved model is not as it was written."""
        task = TASK if cfg.stages.sft.exercises else ("seed",)
        reads = (*task, "stages.sft", *CRITIC, *CRITIC_QUERY, *ACTOR, *HARDWARE)
        return cls(
            # Nothing samples from the critic here.
            *stage_config(cfg, reads, {ACTOR_PATH: str(actor)}, (*ACTOR_DEFAULTS, "critic.engine")),
            Artifact(traces, traces.parent.name),
            Artifact.model(start),
            Artifact.model(actor),
            prompt_of(cfg.critic.generative).hash,
        )


def sft_critic(cfg: RunConfig, traces: Path, start: Path, actor: Path) -> Path:
    """Folder of the fine-tuned critic; trained unless it exists."""
    return SFTInputs.of(cfg, traces, start, actor).folder(train) / "model"


def train(inputs: SFTInputs, run: Run) -> None:
    """Exercises, then shuffled epochs over the traces, or over their problems; cross-entropy on
    what is to be written.
    """
    seed, cfg, setup = inputs.cfg.seed, inputs.cfg.stages.sft, inputs.setup(with_world=False)
    traces = read_traces(inputs.traces.path)
    per_epoch = max(1, len(traces) // cfg.batch_size)
    steps = cfg.exercises + cfg.epochs * per_epoch
    # 1 the model to fine-tune, and the prompts that it will read later
    actor = setup.actor(inputs.actor.path)
    parts = setup.critic_inputs(inputs.start.path, actor, cfg.optimizer, steps)
    model = GenerativeCritic.model_of(parts)
    generative = inputs.cfg.critic.generative
    critic = GenerativeCritic.of_form(generative)(model, actor, generative, seed)
    loop = Loop(
        run,
        "critic_sft",
        LoopStage(steps=steps, save_every=cfg.save_every),
        {"critic": model},
        critic,
        inputs.hash,
    )
    for step in loop:
        # 2 a batch of exercises or traces
        if step < cfg.exercises:
            samples = exercises(inputs.cfg, model.tokenizer, step)
        else:
            epoch, part = divmod(step - cfg.exercises, per_epoch)
            order = epoch_order(traces, f"{seed}/sft/{epoch}", cfg.by_problem)
            chosen = order[part * cfg.batch_size : (part + 1) * cfg.batch_size]
            samples = [trace_sample(critic, traces[i]) for i in chosen]
        fitting = [s for s in samples if len(s.ids) <= model.max_length]
        if not fitting:
            raise ValueError(
                f"no sample of batch {step} fits the critic's context of {model.max_length} tokens "
                f"(the longest has {max(len(s.ids) for s in samples)}); use a longer-context critic"
            )
        # 3 learn
        with loop.cost.clock("critic_training", model):
            metrics = model.learner.learn(fitting, seed=step)
        loop.after(step, metrics | {"dropped": len(samples) - len(fitting)})
    # What whoever loads it states where nothing else is known: no critic learned without a rate.
    critic.set_success_rate(sum(trace.success_rate for trace in traces) / len(traces))
    save_critic(critic, inputs.cfg, run.path / "model")


def check(cfg: RunConfig, task: Task) -> None:
    """ValueError where exercises are asked of a task that has none, before any model is made."""
    if cfg.stages.sft.exercises and not isinstance(task, Exercises):
        raise ValueError(
            f"stages.sft.exercises is {cfg.stages.sft.exercises}, but task {task.name!r} has no "
            "exercises; set it to 0"
        )


def exercises(cfg: RunConfig, tokenizer: Any, step: int) -> list[Sample]:
    """A batch of them, pure in (seed, step), as prompts and responses."""
    task = make_task(cfg.task, cfg.seed)
    assert isinstance(task, Exercises)
    result = []
    for number in range(cfg.stages.sft.exercises_per_step):
        rng = random.Random(f"{cfg.seed}/exercise/{step}/{number}")
        instruction, text = task.exercise(rng)
        problem = Problem(id="", prompt=[{"role": "user", "content": instruction}], answer="")
        result.append(response_sample(tokenizer, problem, text))
    return result


def epoch_order(traces: Sequence[Trace], seed: str, by_problem: bool) -> list[int]:
    """Places of the traces, shuffled; by problem, the problems are, and inside one the traces
    that begin alike stand side by side.
    """
    order = list(range(len(traces)))
    random.Random(seed).shuffle(order)
    if not by_problem:
        return order
    problems: dict[str, list[int]] = {}
    for i in order:
        problems.setdefault(traces[i].problem["id"], []).append(i)
    return [
        i
        for places in problems.values()
        for i in sorted(places, key=lambda i: traces[i].partial_ids)
    ]


def trace_sample(critic: GenerativeCritic, trace: Trace) -> Sample:
    """Prompt as in training, then reasoning and score; of a running critic behind
    every segment.
    """
    context = Context(critic.actor_size, trace.success_rate) if critic.cfg.icc.enabled else None
    limit = critic.room if critic.cfg.too_long == "truncate" else None
    last = (len(trace.partial_ids), trace.reasoning, trace.score)
    ids: list[int] = []
    weights: list[float] = []
    begin = 0
    for end, reasoning, score in (*trace.earlier, last):
        segment = trace.partial_ids[begin:end]
        if ids:
            prompt = critic.prompts.segment_ids(segment, context)
        else:
            prompt = critic.prompts.render_ids(problem_of(trace.problem), segment, context, limit)
        written = completion_ids(critic, reasoning, score)
        if end != last[0] and written[-1] == critic.runtime.tokenizer.eos_token_id:
            written = written[:-1]  # sampling stops at the tag's text, so no later note sees one
        ids += [*prompt, *written]
        weights += [*[0.0] * len(prompt), *[1.0] * len(written)]
        begin = end
    return Sample(ids=tuple(ids), weights=np.array(weights, np.float32), loss="sft")


def completion_ids(critic: GenerativeCritic, reasoning: str, score: int) -> tuple[int, ...]:
    """Reasoning, answer tag, and an end-of-sequence where the closing tag alone does not stop
    sampling.
    """
    assert critic.runtime is not None
    tokenizer = critic.runtime.tokenizer
    ids = tokenizer.encode(f"{reasoning}{OPEN}{score}{CLOSE}", add_special_tokens=False)
    closing = tokenizer.encode(CLOSE, add_special_tokens=False)
    return tuple(ids) if len(closing) == 1 else (*ids, tokenizer.eos_token_id)
