"""How long a run's texts are, in tokens of models that are not loaded.

models = candidates(cfg)            # shapes from configs, tokenizers where they are local
measure(cfg, models)                # Lengths(prompt=33, gold=41, ...)
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from genac.config.models import LoadConfig
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.critics.prompts import Context, PromptBuilder
from genac.critics.running_prompt import prompt_of
from genac.evals.room import fitting, skips
from genac.models.chat import encode_prompt
from genac.models.heads import positions, vocabulary
from genac.models.loading import context_length, load_tokenizer, on_meta
from genac.models.tiny import build_model, build_tokenizer
from genac.reach import at_hand
from genac.stages.local_models import local_model
from genac.tasks import make_task
from genac.tasks.base import SPLITS, Task
from genac.types import Problem

MEASURED = 64  # problems per split and setting
LETTERS = 3  # characters per token where no tokenizer is at hand


@dataclass(frozen=True)
class Candidate:
    """A model that a run will load: its shape, and its tokenizer where that is at hand."""

    model: Any
    tokenizer: Any | None

    @property
    def limit(self) -> int:
        """Tokens that it can read at once."""
        if self.tokenizer is not None:
            return context_length(self.model, self.tokenizer)
        return positions(self.model.config)

    @property
    def vocabulary(self) -> int:
        return vocabulary(self.model)

    def prompt(self, problem: Problem) -> int:
        """Tokens of a prompt."""
        if self.tokenizer is None:
            return guess(problem.text)
        return len(encode_prompt(self.tokenizer, problem))

    def count(self, text: str) -> int:
        """Tokens of a plain text."""
        if self.tokenizer is None:
            return guess(text)
        return len(self.tokenizer.encode(text, add_special_tokens=False))


@dataclass(frozen=True)
class Lengths:
    """Longest in tokens: the actor's prompt, a demonstration, the critic's prompt about nothing."""

    prompt: int
    gold: int = 0
    question: int = 0


def guess(text: str) -> int:
    return len(text) // LETTERS + 1


def candidates(cfg: RunConfig) -> dict[str, Candidate]:
    """The models by role; a critic without a name starts from the actor's."""
    models = {"actor": candidate(cfg, cfg.actor.model_name_or_path, cfg.actor.load)}
    if critic_class(cfg.critic.kind).learns:
        own = cfg.critic.model_name_or_path
        models["critic"] = candidate(cfg, own, cfg.critic.load) if own else models["actor"]
    return models


def candidate(cfg: RunConfig, path: str | None, load: LoadConfig) -> Candidate:
    """A named model from its config alone, or the tiny one that the base stage will build."""
    if path is None:
        tiny = cfg.actor.tiny
        task = make_task(cfg.task, cfg.seed, **cfg.stages.base.options)
        tokenizer = build_tokenizer(task.alphabet(), tiny.max_length)
        with torch.device("meta"):
            model = build_model(len(tokenizer), **tiny.model_dump(), seed=0)
        return Candidate(model, tokenizer)
    path = local_model(path, cfg.stages.folder, load.dtype)
    local = Path(path).is_dir()
    if local and not any(Path(path).glob("*.safetensors")):
        raise ValueError(f"{path!r} holds no *.safetensors; write it with model.save_pretrained")
    place = at_hand(path)
    try:
        model = on_meta(AutoConfig.from_pretrained(place, trust_remote_code=False))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"no causal LM in {path!r} ({reason:.200}); give a Hugging Face folder or a hub name"
        ) from error
    return Candidate(model, load_tokenizer(path, load.chat_template_kwargs) if local else None)


def measure(cfg: RunConfig, models: Mapping[str, Candidate]) -> Lengths:
    """Over the first problems of the task, of its shifts, and of what the critic learns from."""
    stages = cfg.stages
    settings = [{}, stages.synthesize.options, stages.critic_rl.options, *cfg.task.shift.values()]
    tasks = [
        as_run(cfg, models["actor"], make_task(cfg.task, cfg.seed, **setting))
        for setting in settings
    ]
    problems = [
        (task, task.problem(split, i))
        for task in tasks
        for split in SPLITS
        if task.size(split) != 0
        for i in range(MEASURED)
    ]
    return Lengths(
        max(models["actor"].prompt(problem) for _, problem in problems),
        max(models["actor"].count(demonstration(task, problem)) for task, problem in problems),
        longest_question(cfg, models, [problem for _, problem in problems]),
    )


def as_run(cfg: RunConfig, actor: Candidate, task: Task) -> Task:
    """The task without the prompts that a run leaves out as too long."""
    if not skips(task) or actor.tokenizer is None:
        return task
    return fitting(task, actor.tokenizer, actor.limit, cfg.rollout.max_completion_length)


def demonstration(task: Task, problem: Problem) -> str:
    try:
        return task.demonstration(problem, random.Random(0), 0.0)
    except ValueError:  # a task need not know how
        return ""


def longest_question(
    cfg: RunConfig, models: Mapping[str, Candidate], problems: list[Problem]
) -> int:
    """The generative critic's prompt before the actor has written anything."""
    if not critic_class(cfg.critic.kind).needs_traces:
        return 0
    generative, critic = cfg.critic.generative, models["critic"]
    chosen, actor = prompt_of(generative), models["actor"].tokenizer
    if critic.tokenizer is None or actor is None:
        longest = max(guess(problem.text) for problem in problems)
        return guess(chosen.text + chosen.icc) + longest
    builder = PromptBuilder(chosen, critic.tokenizer, actor)
    context = Context("1.23B", 0.5) if generative.icc.enabled else None
    return max(len(builder.assemble(problem, (), context)) for problem in problems)
