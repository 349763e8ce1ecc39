"""From a config to the objects of a run: hardware, world, actor, critic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genac.config import RunConfig
from genac.critics.base import Critic, NoCritic
from genac.critics.discriminative import DiscriminativeCritic
from genac.critics.exact import ExactCritic
from genac.critics.generative import GenerativeCritic
from genac.critics.monte_carlo import MonteCarloCritic
from genac.critics.prompts import Context, PromptBuilder, template
from genac.distributed.build import critic_beside, language_model, require_supported, value_model
from genac.evals.room import fitting, require_room, skips, splits_of, unasked
from genac.models.loading import load_context, load_tokenizer
from genac.models.tiny import build_tokenizer
from genac.models.value_head import HEAD_FILE
from genac.rollout import World
from genac.runs.store import atomic_write
from genac.runtime import Hardware, Runtime
from genac.sections import OptimizerConfig
from genac.stages.loop import warn
from genac.stages.saved import checkpoint_card
from genac.tasks import make_task
from genac.tasks.verifier import Verifier


@dataclass(frozen=True)
class Setup:
    """What stages are built from: config, hardware, and the world under its rollout settings."""

    cfg: RunConfig
    hardware: Hardware
    world: World

    @classmethod
    def of(cls, cfg: RunConfig) -> Setup:
        hardware = Hardware.resolve(cfg.hardware)
        require_supported(cfg, hardware)
        return cls(cfg, hardware, make_world(cfg))

    def actor(self, path: str | Path) -> Runtime:
        cfg = self.cfg
        return language_model(
            "actor",
            str(path),
            self.hardware,
            cfg.actor.optimizer,
            cfg.loss,
            max_rows=cfg.rollout.max_rows,
            lora=cfg.actor.lora,
            load=cfg.actor.load,
            seed=cfg.seed,
        )

    def critic(
        self,
        path: str | Path | None,
        actor: Runtime,
        learning_rate: float | None = None,
        decay_steps: int | None = None,
    ) -> Critic:
        """The configured critic from a folder; the optimiser may differ by stage."""
        cfg, kind = self.cfg.critic, self.cfg.critic.kind
        optimizer = cfg.optimizer
        if learning_rate is not None:
            optimizer = optimizer.model_copy(update={"learning_rate": learning_rate})
        if kind == "none":
            return NoCritic()
        if kind == "monte_carlo":
            return MonteCarloCritic(actor, self.world, cfg.num_continuations)
        if kind == "exact":
            return ExactCritic(actor, self.world)
        assert path is not None
        card = critic_card(path)
        if card and card["kind"] != kind:
            raise ValueError(
                f"the critic in {path} is {card['kind']}, but critic.kind is {kind!r}; set "
                "critic.kind to what it is, or start from a language model"
            )
        if kind == "generative":
            runtime = self.generative(path, actor, optimizer, decay_steps)
            critic = GenerativeCritic(runtime, actor, cfg.generative, self.cfg.seed)
            if card:
                critic.require_prompt(card.get("prompt_hash"))
            return critic
        trained = (Path(path) / HEAD_FILE).exists()
        head = cfg.discriminative
        runtime = value_model(
            str(path),
            self.hardware,
            optimizer,
            head.head,
            head.bins,
            trained=trained,
            decay_steps=decay_steps,
            lora=cfg.lora,
            load=cfg.load,
            seed=self.cfg.seed,
        )
        return DiscriminativeCritic(runtime, head, self.cfg.credit.gamma, self.cfg.seed)

    def generative(
        self,
        path: str | Path,
        actor: Runtime,
        optimizer: OptimizerConfig,
        decay_steps: int | None,
    ) -> Runtime:
        """The generative critic's model: its own, or adapters on the actor's base."""
        cfg, card = self.cfg.critic, critic_card(path)
        options: dict[str, Any] = {
            "max_rows": self.cfg.rollout.max_rows,
            "decay_steps": decay_steps,
            "load": cfg.load,
            "seed": self.cfg.seed,
        }
        # Adapters belong to the weights they were trained on: those of the actor as it was loaded
        # for training. A finished run's actor is another base, so its critic comes by itself.
        start = not card and str(path) == actor.tokenizer.name_or_path
        trained = bool(card) and card.get("base") == actor.base()
        if cfg.share_base and (start or trained):
            return critic_beside(
                actor, str(path), self.hardware, optimizer, trained=trained, **options
            )
        return language_model(
            "critic", str(path), self.hardware, optimizer, lora=cfg.lora, **options
        )


def evaluated_here(cfg: RunConfig) -> RunConfig:
    """A finished run's config on this machine, which may have fewer GPUs than the run had."""
    processes = min(cfg.hardware.processes, max(1, torch.cuda.device_count()))
    hardware = cfg.hardware.model_copy(update={"processes": processes})
    return cfg.model_copy(update={"hardware": hardware})


def critic_card(folder: str | Path) -> dict[str, Any]:
    """critic.json of a folder that this library saved, or what it would say of the critic in a
    checkpoint; empty for any other model.
    """
    file = Path(folder) / "critic.json"
    return json.loads(file.read_text()) if file.exists() else checkpoint_card(Path(folder))


def save_critic(critic: Critic, cfg: RunConfig, folder: Path) -> None:
    """The critic's model and, in critic.json, how it was asked in training."""
    assert critic.runtime is not None
    critic.runtime.save_model(folder)
    card = {"kind": cfg.critic.kind, "config": cfg.critic.model_dump(), **critic.state()}
    if cfg.critic.share_base:
        card["base"] = critic.runtime.base()
    atomic_write(folder / "critic.json", json.dumps(card, indent=1))


def prepared_config(cfg: RunConfig) -> RunConfig:
    """The config under which the stages before joint training run: with their own seed, if any."""
    return cfg if cfg.stages.seed is None else cfg.model_copy(update={"seed": cfg.stages.seed})


def reader(cfg: RunConfig) -> tuple[Any, int]:
    """Tokenizer and context of the actor that training starts from, which need not exist yet."""
    path, tiny = cfg.actor.model_name_or_path, cfg.actor.tiny
    if path is None:
        task = make_task(cfg.task, cfg.seed, **cfg.stages.base.options)
        return build_tokenizer(task.alphabet(), tiny.max_length), tiny.max_length
    tokenizer = load_tokenizer(path, cfg.actor.load.chat_template_kwargs)
    return tokenizer, load_context(path, tokenizer)


def critic_reader(cfg: RunConfig, tokenizer: Any, context: int) -> tuple[Any, int]:
    """The same of the critic; the actor's where the critic is no model of its own."""
    path = cfg.critic.model_name_or_path or cfg.actor.model_name_or_path
    if path is None or cfg.critic.kind not in ("generative", "discriminative"):
        return tokenizer, context
    own = load_tokenizer(path, cfg.critic.load.chat_template_kwargs)
    return own, load_context(path, own)


def require_fitting(setup: Setup) -> None:
    """ValueError naming the rows of a data task whose prompts are too long to be answered, before
    anything is trained; a warning where only the critic cannot be asked about some."""
    cfg, problems = setup.cfg, splits_of(setup.world.task)
    if not any(problems.values()):
        return
    tokenizer, context = reader(cfg)
    new_tokens = cfg.rollout.max_completion_length
    require_room(problems, tokenizer, context, new_tokens, "actor")
    own, limit = critic_reader(cfg, tokenizer, context)
    if cfg.critic.kind == "discriminative":
        require_room(problems, tokenizer, limit, new_tokens, "critic")
    if cfg.critic.kind == "generative":
        generative = cfg.critic.generative
        builder = PromptBuilder(template(generative.prompt), own, tokenizer)
        conditioning = (
            Context(generative.icc.actor_size or "1.23B", 0.5) if generative.icc.enabled else None
        )
        if rows := unasked(problems, builder, limit - generative.max_new_tokens, conditioning):
            warn(
                f"the critic's prompt about {rows} exceeds its context of {limit} beside a thought "
                f"of {generative.max_new_tokens} tokens: their states get no value; lower "
                "critic.generative.max_new_tokens or use a critic with a longer context"
            )


def make_world(cfg: RunConfig, **overrides: Any) -> World:
    """Task (with overridden generator settings), verifier and sampling settings."""
    task = make_task(cfg.task, cfg.seed, **overrides)
    if skips(task):
        tokenizer, context = reader(cfg)
        if cfg.critic.kind == "discriminative":  # it reads all that the actor does
            context = min(context, critic_reader(cfg, tokenizer, context)[1])
        task = fitting(task, tokenizer, context, cfg.rollout.max_completion_length)
    return World(task, Verifier(task, cfg.task.verify_seconds), cfg.rollout, cfg.seed)
