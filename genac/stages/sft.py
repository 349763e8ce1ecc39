"""Stage 1: supervised fine-tuning of the critic on the oracle's traces."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from genac.config import RunConfig
from genac.critics.generative import GenerativeCritic
from genac.critics.parsing import CLOSE, OPEN
from genac.critics.prompts import Context
from genac.runs.store import Run, stable_hash
from genac.runtime import Runtime
from genac.sections import MEMORY, LoopStage
from genac.stages.contents import model_key
from genac.stages.loop import Loop
from genac.stages.outputs import ensure
from genac.stages.setup import Setup, save_critic
from genac.stages.traces import Trace, problem_of, read_traces
from genac.types import Sample


def key(cfg: RunConfig, traces: Path, start: Path) -> dict[str, Any]:
    return {
        "traces": traces.parent.name,
        "start": model_key(start),
        "seed": cfg.seed,
        "sft": cfg.stages.sft.model_dump(exclude={"optimizer": MEMORY}),
        "lora": cfg.critic.lora.model_dump(),
        "load": cfg.critic.load.model_dump(),
        "share_base": cfg.critic.share_base,
        "generative": cfg.critic.generative.model_dump(include={"prompt", "icc", "too_long"}),
    }


def sft_critic(setup: Setup, traces: Path, start: Path, actor: Runtime) -> Path:
    """Folder of the fine-tuned critic; trained unless it exists."""
    wanted = key(setup.cfg, traces, start)
    folder = ensure(
        setup.cfg.stages.folder,
        "critic_sft",
        wanted,
        lambda run: train(setup, run, traces, start, actor),
    )
    return folder / "model"


def train(setup: Setup, run: Run, file: Path, start: Path, actor: Runtime) -> None:
    """Shuffled epochs over the traces; cross-entropy on reasoning and score."""
    cfg, traces = setup.cfg.stages.sft, read_traces(file)
    per_epoch = max(1, len(traces) // cfg.batch_size)
    steps = cfg.epochs * per_epoch
    # 1 the model to fine-tune, and the prompts it will be asked with later
    model = setup.generative(start, actor, cfg.optimizer, steps)
    critic = GenerativeCritic(model, actor, setup.cfg.critic.generative, setup.cfg.seed)
    config_hash = stable_hash(key(setup.cfg, file, start))
    loop = Loop(
        run,
        "critic_sft",
        LoopStage(steps=steps, save_every=200),
        {"critic": model},
        None,
        config_hash,
    )
    for step in loop:
        # 2 a batch of traces
        epoch, part = divmod(step, per_epoch)
        order = list(range(len(traces)))
        random.Random(f"{setup.cfg.seed}/sft/{epoch}").shuffle(order)
        chosen = order[part * cfg.batch_size : (part + 1) * cfg.batch_size]
        samples = [trace_sample(critic, traces[i]) for i in chosen]
        fitting = [s for s in samples if len(s.ids) <= model.max_length]
        if not fitting:
            raise ValueError(
                f"no trace of batch {step} fits the critic's context of {model.max_length} tokens "
                f"(the longest has {max(len(s.ids) for s in samples)}); use a longer-context critic"
            )
        # 3 learn
        metrics = model.learner.learn(fitting, seed=step)
        loop.after(step, metrics | {"dropped": len(samples) - len(fitting)})
    save_critic(critic, setup.cfg, run.path / "model")


def trace_sample(critic: GenerativeCritic, trace: Trace) -> Sample:
    """Prompt as it will be asked in training, then reasoning and score."""
    context = Context(critic.actor_size, trace.success_rate) if critic.cfg.icc.enabled else None
    limit = critic.room if critic.cfg.too_long == "truncate" else None
    prompt = critic.prompts.render_ids(problem_of(trace), trace.partial_ids, context, limit)
    ids = (*prompt, *completion_ids(critic, trace.reasoning, trace.score))
    mask = np.zeros(len(ids), np.float32)
    mask[len(prompt) :] = 1.0
    return Sample(ids=ids, mask=mask, loss="sft")


def completion_ids(critic: GenerativeCritic, reasoning: str, score: int) -> tuple[int, ...]:
    """Reasoning, answer tag, and an end-of-sequence where the closing tag alone does not stop
    sampling.
    """
    assert critic.runtime is not None
    tokenizer = critic.runtime.tokenizer
    ids = tokenizer.encode(f"{reasoning}{OPEN}{score}{CLOSE}", add_special_tokens=False)
    closing = tokenizer.encode(CLOSE, add_special_tokens=False)
    return tuple(ids) if len(closing) == 1 else (*ids, tokenizer.eos_token_id)
