"""Stage 1: supervised fine-tuning of the critic on the oracle's traces.

Beside them may stand exercises of the task: what its reasoning needs and traces teach too slowly,
because most of what a critic reads is right and need only be repeated.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import RunConfig
from genac.config.stages import LoopStage
from genac.critics import is_taught
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
    """Shuffled epochs over the traces, or over their problems, with exercises beside them;
    cross-entropy on what is to be written.
    """
    seed, cfg, setup = inputs.cfg.seed, inputs.cfg.stages.sft, inputs.setup(with_world=False)
    traces = read_traces(inputs.traces.path)
    per_epoch = max(1, len(traces) // cfg.batch_size)
    steps = cfg.epochs * per_epoch
    read = [0] * len(traces) if cfg.whole_traces else repeated(traces)
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
        # 2 a batch of traces, and exercises
        epoch, part = divmod(step, per_epoch)
        order = epoch_order(traces, f"{seed}/sft/{epoch}", cfg.by_problem)
        chosen = order[part * cfg.batch_size : (part + 1) * cfg.batch_size]
        samples = [trace_sample(critic, traces[i], read[i]) for i in chosen]
        samples += exercises(inputs.cfg, model.tokenizer, step)
        fitting = [s for s in samples if len(s.ids) <= model.max_length]
        if not fitting:
            raise ValueError(
                f"no trace of batch {step} fits the critic's context of {model.max_length} tokens "
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
    if is_taught(cfg) and cfg.stages.sft.exercises and not isinstance(task, Exercises):
        raise ValueError(
            f"stages.sft.exercises is {cfg.stages.sft.exercises}, but task {task.name!r} has no "
            "exercises; set it to 0"
        )


def exercises(cfg: RunConfig, tokenizer: Any, step: int) -> list[Sample]:
    """Those of a step, pure in (seed, step), as prompts and responses."""
    if not cfg.stages.sft.exercises:
        return []
    task = make_task(cfg.task, cfg.seed)
    assert isinstance(task, Exercises)
    result = []
    for number in range(cfg.stages.sft.exercises):
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


def repeated(traces: Sequence[Trace]) -> list[int]:
    """How many characters of each reasoning, in whole lines, the trace of an earlier state of the
    same response has. A reasoning that checks line by line says of the first lines what those of
    all later states repeat, and most of what is repeated is right.
    """
    problems: dict[str, list[Trace]] = {}
    for trace in traces:
        problems.setdefault(trace.problem["id"], []).append(trace)
    result = []
    for trace in traces:
        earlier = (
            one.reasoning
            for one in problems[trace.problem["id"]]
            if len(one.partial_ids) < len(trace.partial_ids)
            and one.partial_ids == trace.partial_ids[: len(one.partial_ids)]
        )
        result.append(max((same_lines(one, trace.reasoning) for one in earlier), default=0))
    return result


def same_lines(first: str, second: str) -> int:
    """Characters of the whole lines with which both begin."""
    lines = zip(first.splitlines(keepends=True), second.splitlines(keepends=True), strict=False)
    return sum(len(a) for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], lines))


def trace_sample(critic: GenerativeCritic, trace: Trace, read: int = 0) -> Sample:
    """Prompt as in training, then reasoning and score; of a running critic behind
    every segment. The first `read` characters of the last reasoning are not trained.
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
        known = 0 if end != last[0] else tokens_of(critic, trace.reasoning[:read], written)
        weights += [*[0.0] * (len(prompt) + known), *[1.0] * (len(written) - known)]
        begin = end
    return Sample(ids=tuple(ids), weights=np.array(weights, np.float32), loss="sft")


def tokens_of(critic: GenerativeCritic, beginning: str, ids: Sequence[int]) -> int:
    """How many of the tokens `ids` write that beginning of their text."""
    assert critic.runtime is not None
    own = critic.runtime.tokenizer.encode(beginning, add_special_tokens=False) if beginning else ()
    return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(own, ids, strict=False)))


def completion_ids(critic: GenerativeCritic, reasoning: str, score: int) -> tuple[int, ...]:
    """Reasoning, answer tag, and an end-of-sequence where the closing tag alone does not stop
    sampling.
    """
    assert critic.runtime is not None
    tokenizer = critic.runtime.tokenizer
    ids = tokenizer.encode(f"{reasoning}{OPEN}{score}{CLOSE}", add_special_tokens=False)
    closing = tokenizer.encode(CLOSE, add_special_tokens=False)
    return tuple(ids) if len(closing) == 1 else (*ids, tokenizer.eos_token_id)
