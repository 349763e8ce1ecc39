"""From a folder to a critic that learns: a saved generative critic goes on, any other language
model begins as one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.config.algorithms import merge
from genac.config.models import CriticConfig, GenerativeConfig, OptimizerConfig
from genac.config.run import CreditConfig, HardwareConfig, RunConfig, StatesConfig
from genac.critics.generative import GenerativeCritic, require_per_state
from genac.critics.saved import critic_of_checkpoint
from genac.distributed.build import build, require_supported
from genac.engines import SERVED
from genac.engines.vllm.checks import require_vllm
from genac.hardware import Hardware
from genac.models.loading import load_tokenizer
from genac.runs.files import sweep
from genac.runs.manifest import require_saved
from genac.runtime import ModelSpec, Runtime
from genac.scoring.generative import critic_config, local_folder
from genac.scoring.scorer import card_of


@dataclass(frozen=True)
class Source:
    """Where the critic's weights come from, and what is known of it; no card of a fresh one."""

    place: Path
    card: dict[str, Any]


def source_of(name: str | Path) -> Source:
    """The critic in a folder, a run, a checkpoint or on the hub, or the language model there.

    ValueError where it is another kind of critic, or a run without one.
    """
    place = critic_of_checkpoint(name) or local_folder(name)
    if not card_of(place) and card_of(place / "critic"):
        place = place / "critic"
    card = card_of(place)
    if card and card["kind"] != "generative":
        raise ValueError(
            f"the critic in {place} is {card['kind']}; only a generative critic learns as a service"
        )
    if not card and (place / "actor").is_dir():
        raise ValueError(
            f"{place} is a run without a critic; name a run that trained one, or a language model"
        )
    require_saved(place)
    return Source(place, card)


def critic_settings(
    source: Source,
    generative: GenerativeConfig | None,
    optimizer: OptimizerConfig | None,
    actor_size: str | None,
) -> CriticConfig:
    """How the critic was asked and trained, or what the caller says instead."""
    # A card may lack what its stage did not read: these keys are as a run's, not the class's.
    own = merge(RunConfig().critic.model_dump(), source.card.get("config", {}))
    cfg = critic_config({"config": own}, source.place)
    settings = generative or cfg.generative
    size = actor_size or settings.icc.actor_size or source.card.get("actor_size")
    icc = settings.icc.model_copy(update={"actor_size": size})
    changes = {
        "kind": "generative",
        "model_name_or_path": str(source.place),
        "generative": settings.model_copy(update={"icc": icc}),
        "optimizer": optimizer or cfg.optimizer,
        "share_base": False,  # there is no actor here
        "engine": None,  # hardware says what samples; the card speaks of another machine
    }
    return cfg.model_copy(update=changes)


def tidy(folder: Path) -> None:
    """The folder, without what killed writers left."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for unfinished in folder.glob(".step-*.tmp"):  # the service alone writes checkpoints here
        shutil.rmtree(unfinished, ignore_errors=True)


def newest(root: Path, seed: int) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint under `root` and its state. ValueError where there is none, or one of
    another seed."""
    checkpoints = checkpoint.complete(root)
    if not checkpoints:
        raise ValueError(f"{root} holds no checkpoint of a critic; name a folder of `save`")
    state = checkpoint.saved_state(checkpoints[-1])
    if state.get("seed") != seed or "learnt" not in state:
        raise ValueError(
            f"{checkpoints[-1]} was written with the seed {state.get('seed')}, this critic has "
            f"{seed}; load it with the same seed"
        )
    return checkpoints[-1], state


def run_config(
    critic: CriticConfig,
    credit: CreditConfig,
    states: StatesConfig,
    hardware: HardwareConfig,
    seed: int,
) -> RunConfig:
    """The sections together, checked as a run's are."""
    return RunConfig(critic=critic, credit=credit, states=states, hardware=hardware, seed=seed)


def build_critic(
    cfg: RunConfig, source: Source, actor_tokenizer: Any, batch_size: int, folder: Path | None
) -> GenerativeCritic:
    """The critic where the hardware says. ValueError, before a model is loaded, where the machine
    has not got that."""
    require_per_state(cfg.critic.generative, "a critic service")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; use at least 1")
    hardware = Hardware.resolve(cfg.hardware)
    require_supported(cfg, hardware, critic=True)
    if hardware.tinker is None and hardware.engine_of(cfg.critic.engine) in SERVED:
        require_vllm(cfg.hardware.vllm, ("critic",))
    if isinstance(actor_tokenizer, str | Path):
        actor_tokenizer = load_tokenizer(str(actor_tokenizer))
    spec = ModelSpec(
        "critic",
        str(source.place),
        cfg.critic.optimizer,
        cfg.critic.loss,
        load=cfg.critic.load,
        lora=cfg.critic.lora,
        max_rows=batch_size,
        seed=cfg.seed,
        engine=cfg.critic.engine,
        folder=folder / "engines" if folder else None,
    )
    runtime = build(spec, hardware)
    # Of the actor only its tokenizer is known; its size, unless somebody says it, is the critic's.
    actor = Runtime(
        "actor",
        runtime.model,
        actor_tokenizer or runtime.tokenizer,
        runtime.learner,
        None,
        runtime.max_length,
    )
    critic = GenerativeCritic(runtime, actor, cfg.critic.generative, cfg.seed)
    if source.card:
        critic.require_prompt(source.card.get("prompt_hash"))
    assert critic.room  # which raises where a rationale leaves no room for a prompt
    return critic
