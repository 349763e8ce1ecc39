"""From a config to the objects of a run: hardware, world, actor, critic."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from genac.config.models import OptimizerConfig
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.critics.base import Critic, CriticInputs, engine_folder
from genac.critics.prompts import Context, PromptBuilder
from genac.critics.running_prompt import prompt_of
from genac.critics.saved import CARD, critic_card
from genac.distributed.build import (
    build,
    require_supported,
)
from genac.engines import SERVED, require_engine
from genac.engines.vllm.checks import require_gpus, require_heads, require_vllm
from genac.evals.room import beyond_context, fitting, require_room, skips, splits_of
from genac.hardware import Hardware, visible_gpus
from genac.models.loading import load_context, load_tokenizer
from genac.models.tiny import build_tokenizer
from genac.rollout import World
from genac.runs.store import atomic_write
from genac.runtime import ModelSpec, Runtime
from genac.stages.local_models import local_model, require_models
from genac.stages.loop import warn
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
        require_models(cfg)
        kind_class = critic_class(cfg.critic.kind)
        require_supported(cfg, hardware, critic=kind_class.learns)
        require_engines(cfg, hardware)
        return cls(cfg, hardware, make_world(cfg))

    def without_critic_rl(self) -> Setup:
        """The same run whose critic is prepared up to stage 1 only."""
        stages = self.cfg.stages
        rl = stages.critic_rl.model_copy(update={"steps": 0})
        stages = stages.model_copy(update={"critic_rl": rl})
        return replace(self, cfg=self.cfg.model_copy(update={"stages": stages}))

    def actor(
        self,
        path: str | Path,
        optimizer: OptimizerConfig | None = None,
        decay_steps: int | None = None,
    ) -> Runtime:
        """The actor from a folder, a hub name or a GGUF file; the optimiser may differ by stage
        (None = actor.optimizer).
        """
        cfg = self.cfg
        return build(
            ModelSpec(
                "actor",
                local_model(path, cfg.stages.folder, cfg.actor.load.dtype),
                optimizer or cfg.actor.optimizer,
                cfg.actor.loss,
                max_rows=cfg.rollout.max_rows,
                lora=cfg.actor.lora,
                load=cfg.actor.load,
                decay_steps=decay_steps,
                seed=cfg.seed,
                engine=cfg.actor.engine,
                folder=engine_folder(cfg),
            ),
            self.hardware,
        )

    def critic(
        self,
        path: str | Path | None,
        actor: Runtime,
        optimizer: OptimizerConfig | None = None,
        decay_steps: int | None = None,
    ) -> Critic:
        """The configured critic from a folder; the optimiser may differ by stage (None =
        critic.optimizer).
        """
        kind = self.cfg.critic.kind
        kind_class, card = critic_class(kind), critic_card(path) if path is not None else {}
        if kind_class.learns and card and card["kind"] != kind:
            raise ValueError(
                f"the critic in {path} is {card['kind']}, but critic.kind is {kind!r}; set "
                "critic.kind to what it is, or start from a language model"
            )
        return kind_class.build(self.critic_inputs(path, actor, optimizer, decay_steps))

    def critic_optimizer(self, learning_rate: float | None) -> OptimizerConfig:
        """critic.optimizer with a stage's own learning rate, where it has one."""
        change = {} if learning_rate is None else {"learning_rate": learning_rate}
        return self.cfg.critic.optimizer.model_copy(update=change)

    def critic_inputs(
        self,
        path: str | Path | None,
        actor: Runtime,
        optimizer: OptimizerConfig | None = None,
        decay_steps: int | None = None,
    ) -> CriticInputs:
        cfg, place = self.cfg, None
        if path is not None:
            place = Path(local_model(path, cfg.stages.folder, cfg.critic.load.dtype))
        return CriticInputs(cfg, self.hardware, self.world, actor, place, optimizer, decay_steps)


def served_roles(cfg: RunConfig, hardware: Hardware) -> list[str]:
    """The models that vLLM samples from."""
    if hardware.tinker is not None:  # the service samples
        return []
    kind = critic_class(cfg.critic.kind)
    engines = {"actor": cfg.actor.engine}
    if kind.learns and not kind.reads_actor_tokens:
        engines["critic"] = cfg.critic.engine
    return [role for role, engine in engines.items() if hardware.engine_of(engine) in SERVED]


def roles_of_servers(cfg: RunConfig, hardware: Hardware) -> list[str]:
    """Those with servers of their own: one base under two sets of adapters has one."""
    return served_roles(cfg, hardware)[: 1 if cfg.critic.share_base else None]


def require_engines(cfg: RunConfig, hardware: Hardware) -> None:
    """ValueError where what is to sample cannot, before a model is loaded."""
    for role, engine in (("actor", cfg.actor.engine), ("critic", cfg.critic.engine)):
        if engine is not None:
            require_engine(engine, f"{role}.engine")
    roles = roles_of_servers(cfg, hardware)
    if not roles:
        return
    require_vllm(cfg.hardware.vllm, tuple(roles))
    if hardware.device.type == "cuda":
        require_gpus(cfg.hardware.vllm, len(visible_gpus()))
    tiny, own = cfg.actor.tiny, cfg.critic.model_name_or_path is not None
    made = cfg.actor.model_name_or_path is None and not (roles == ["critic"] and own)
    if made and hardware.device.type == "cpu" and not cfg.hardware.vllm.urls:
        require_heads(tiny.hidden_size // tiny.heads)


def evaluated_here(cfg: RunConfig) -> RunConfig:
    """A finished run's config on this machine, which may have fewer GPUs than the run had, and no
    vLLM: then the local engine samples, with a warning.
    """
    processes = min(cfg.hardware.processes, max(1, torch.cuda.device_count()))
    hardware = cfg.hardware.model_copy(
        update={"processes": processes, "cluster": None, "placement": "colocated"}
    )
    cfg = cfg.model_copy(update={"hardware": hardware})
    resolved = Hardware.resolve(hardware)
    try:
        require_engines(cfg, resolved)
    except ValueError as error:
        warn(f"{error}; here the local engine samples instead")
        own = {"engine": "local"}
        return cfg.model_copy(
            update={
                name: getattr(cfg, name).model_copy(update=own)
                for name in ("hardware", "actor", "critic")
            }
        )
    return cfg


def save_critic(critic: Critic, cfg: RunConfig, folder: Path) -> None:
    """The critic's model and, in critic.json, how it was asked in training."""
    assert critic.runtime is not None
    critic.runtime.save_model(folder)
    card = {"kind": cfg.critic.kind, "config": cfg.critic.model_dump(), **critic.state()}
    if cfg.critic.share_base:
        card["base"] = critic.runtime.base()
    atomic_write(folder / CARD, json.dumps(card, indent=1))


def prepared_config(cfg: RunConfig) -> RunConfig:
    """The config under which the stages before joint training run: with their own seed, if any."""
    return cfg if cfg.stages.seed is None else cfg.model_copy(update={"seed": cfg.stages.seed})


def reader(cfg: RunConfig) -> tuple[Any, int]:
    """Tokenizer and context of the actor that training starts from, which need not exist yet."""
    path = cfg.actor.model_name_or_path
    if path is None:
        task = make_task(cfg.task, cfg.seed, **cfg.stages.base.options)
        limit = cfg.actor.tiny.max_length
        return build_tokenizer(task.alphabet(), limit), limit
    path = local_model(path, cfg.stages.folder, cfg.actor.load.dtype)
    tokenizer = load_tokenizer(path, cfg.actor.load.chat_template_kwargs)
    return tokenizer, load_context(path, tokenizer)


def critic_reader(cfg: RunConfig, tokenizer: Any, context: int) -> tuple[Any, int]:
    """The same of the critic; the actor's where the critic is no model of its own."""
    path = cfg.critic.model_name_or_path or cfg.actor.model_name_or_path
    if path is None or not critic_class(cfg.critic.kind).learns:
        return tokenizer, context
    path = local_model(path, cfg.stages.folder, cfg.critic.load.dtype)
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
    kind = critic_class(cfg.critic.kind)
    own, limit = critic_reader(cfg, tokenizer, context)
    if kind.reads_actor_tokens:
        require_room(problems, tokenizer, limit, new_tokens, "critic")
    if kind.needs_traces:
        generative = cfg.critic.generative
        builder = PromptBuilder(prompt_of(generative), own, tokenizer)
        conditioning = (
            Context(generative.icc.actor_size or "1.23B", 0.5) if generative.icc.enabled else None
        )
        if rows := beyond_context(
            problems, builder, limit - generative.max_new_tokens, conditioning
        ):
            warn(
                f"the critic's prompt about {rows} exceeds its context of {limit} beside a "
                f"rationale of {generative.max_new_tokens} tokens: their states get no value; "
                "lower critic.generative.max_new_tokens or use a critic with a longer context"
            )


def make_world(cfg: RunConfig, **overrides: Any) -> World:
    """Task (with overridden generator settings), verifier and sampling settings."""
    task = make_task(cfg.task, cfg.seed, **overrides)
    if skips(task):
        tokenizer, context = reader(cfg)
        # A value head reads all that the actor does. Stages that have none do not know its kind.
        kind = getattr(getattr(cfg, "critic", None), "kind", "none")
        if critic_class(kind).reads_actor_tokens:
            context = min(context, critic_reader(cfg, tokenizer, context)[1])
        task = fitting(task, tokenizer, context, cfg.rollout.max_completion_length)
    return World(task, Verifier(task, cfg.task.verify_seconds), cfg.rollout, cfg.seed)
