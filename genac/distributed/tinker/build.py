"""Runtimes whose models a Tinker service holds, and what a config may not ask of one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, GenerationConfig

from genac.config.models import LoraConfig
from genac.config.run import RunConfig
from genac.config.tinker import TinkerConfig
from genac.distributed.remote import ModelFacts
from genac.distributed.tinker.account import LEDGER
from genac.distributed.tinker.adapter import Adapter, read_pointer
from genac.distributed.tinker.dialects import DIALECTS, limits, require_sdk
from genac.distributed.tinker.engine import RESERVED, TinkerEngine
from genac.distributed.tinker.learner import TinkerLearner
from genac.distributed.tinker.service import Service, connect, sdk
from genac.models.heads import vocabulary
from genac.models.loading import context_of, load_tokenizer, on_meta, parameter_count
from genac.reach import at_hand
from genac.runs.manifest import POINTER
from genac.runtime import ModelSpec, Runtime

ALPHA = 32  # of every adapter of a service, which takes no other
MODULES = set(LoraConfig().target_modules)  # those that a service trains, its default
SEEDS = 2**31


@dataclass(kw_only=True)
class TinkerRuntime(Runtime):
    """A runtime whose model is at a service."""

    adapter: Adapter

    def probe(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        """(T - 1,) probabilities of the prompt's own tokens: one call, which every server answers.
        NaN where the server has no longer the published weights.
        """
        engine = self.engine
        assert isinstance(engine, TinkerEngine)
        return engine.prompt_probs(prompt_ids)

    def fingerprint(self) -> str:
        return self.adapter.identity

    def base(self) -> str:
        return self.adapter.base_model

    def save_model(self, folder: Path, whole: Any = None) -> None:
        """Configuration, tokenizer, and where the service keeps the weights."""
        del whole
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        learner = self.learner
        assert isinstance(learner, TinkerLearner)
        pointer = {
            "path": self.adapter.save(learner.steps),
            "base_model": self.adapter.base_model,
            "rank": self.adapter.rank,
        }
        (folder / POINTER).write_text(json.dumps(pointer, indent=1))

    def load_weights(self, folder: Path) -> None:
        """Nothing: weights come with the moments, by `learner.load`."""


def build(spec: ModelSpec, cfg: TinkerConfig) -> TinkerRuntime:
    """Adapters of a spec: new ones on a base model, or those of a folder with a pointer. Models of
    one base share it at the service anyway.
    """
    if spec.head is not None:
        raise ValueError(no_heads(spec.role))
    service, dialect = connect(cfg), DIALECTS[cfg.dialect]
    pointer = read_pointer(spec.path) or {}
    base_model = pointer.get("base_model") or cfg.base_model or spec.path
    served = service.context_of(base_model)
    adapter = Adapter(
        service,
        base_model,
        spec.role,
        pointer.get("rank") or spec.lora.rank,
        spec.adapter_seed % SEEDS,
        pointer.get("path"),
    )
    tokenizer = load_tokenizer(spec.path, spec.load.chat_template_kwargs)
    model = facts(spec.path)
    limit = min(context_of(model.config, tokenizer), served or 2**31)
    limit -= RESERVED if dialect.named_probs else 0
    account = LEDGER.open(spec.role)
    engine = TinkerEngine(adapter, tokenizer, dialect, account, vocabulary(model), limit)
    learner = TinkerLearner(adapter, spec.optimizer, spec.loss, dialect, account, spec.decay_steps)
    return TinkerRuntime(spec.role, model, tokenizer, learner, engine, limit, adapter=adapter)


@lru_cache(maxsize=8)
def facts(path: str) -> ModelFacts:
    """Size and configuration of a model that is named or saved as `path`, without its weights."""
    path = at_hand(path)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    model = on_meta(config)
    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:  # not every model has one
        generation = model.generation_config
    return ModelFacts(parameter_count(model), config, generation)


# --- what a config may not ask -------------------------------------------------------------------


def require_supported(cfg: RunConfig, *, critic: bool) -> None:
    """ValueError for what the API or the configured server cannot do, before anything is loaded;
    a warning for what it does otherwise. `critic`: whether the critic has a model of its own.
    """
    installed = sdk()
    for problem in problems(cfg, critic):
        raise ValueError(f"hardware.backend is 'tinker': {problem}")
    require_sdk(cfg.hardware.tinker.dialect, installed.__version__)
    service = connect(cfg.hardware.tinker)
    for name in dict.fromkeys(base_models(cfg, critic, service)):
        service.context_of(name)
    say_limits(cfg)


def say_limits(cfg: RunConfig) -> None:
    for limit in limits(cfg):
        warnings.warn(f"tinker dialect {cfg.hardware.tinker.dialect}: {limit}", stacklevel=3)


def problems(cfg: RunConfig, critic: bool) -> Iterator[str]:
    """What is wrong with the config itself, each with its remedy."""
    hardware = cfg.hardware
    if hardware.processes != 1:
        yield f"hardware.processes is {hardware.processes}, but nothing is computed here; set 1"
    engines = {"hardware": hardware.engine, "actor": cfg.actor.engine, "critic": cfg.critic.engine}
    for section, engine in engines.items():
        if engine not in (None, "auto", "local"):
            yield f"{section}.engine is {engine!r}, but the service samples; leave it out"
    if critic and cfg.critic.kind != "generative":
        yield no_heads("critic")
    if critic and cfg.critic.generative.form != "per_state":
        yield (
            f"critic.generative.form is {cfg.critic.generative.form!r}, which was not run with a "
            "service; set it to per_state"
        )
    if cfg.actor.model_name_or_path is None and hardware.tinker.base_model is None:
        yield (
            "no model is named that the service could have; set actor.model_name_or_path (its "
            "tokenizer and configuration are read) and, where the service has another name for "
            "it, hardware.tinker.base_model"
        )
    own = cfg.critic.model_name_or_path if critic else None
    named = own not in (None, cfg.actor.model_name_or_path) and not read_pointer(own or "")
    if named and hardware.tinker.base_model is not None:
        yield (
            f"hardware.tinker.base_model names one model, but critic.model_name_or_path {own!r} "
            "is another than the actor's; leave one of them out"
        )
    sampled = [("rollout.temperature", cfg.rollout.temperature)]
    if critic:
        sampled.append(("critic.generative.temperature", cfg.critic.generative.temperature))
    for key, temperature in sampled:
        if temperature != 1:
            yield (
                f"{key} is {temperature}, but the service's log-probabilities are those at "
                "temperature 1, which importance ratios and score probabilities need; set 1"
            )
    for role, model in (("actor", cfg.actor), *([("critic", cfg.critic)] if critic else [])):
        yield from of_model(role, model.lora, model.loss.entropy_coef)


def of_model(role: str, lora: LoraConfig, entropy_coef: float) -> Iterator[str]:
    if not lora.rank:
        yield (
            f"{role}.lora.rank is 0, but a service trains adapters only, never all weights; set a "
            f"rank, e.g. {role}.lora.rank 32"
        )
    if lora.alpha != ALPHA:
        yield f"{role}.lora.alpha is {lora.alpha}, but a service's is always {ALPHA}; set that"
    if set(lora.target_modules) != MODULES:
        yield (
            f"{role}.lora.target_modules is {sorted(lora.target_modules)}, but a service chooses "
            f"them itself; leave the default, {sorted(MODULES)}"
        )
    if entropy_coef:
        yield (
            f"{role}.loss.entropy_coef is {entropy_coef}, but a service tells no entropies; set 0 "
            "(a KL term, actor.loss.beta, can be had)"
        )


def no_heads(role: str) -> str:
    return (
        f"the {role} has a value head (critic.kind discriminative, algorithm ppo), which the "
        "Tinker API has not; use critic.kind generative, monte_carlo or none"
    )


def base_models(cfg: RunConfig, critic: bool, service: Service) -> Iterator[str]:
    """The names of what the run's models start from, as the service must know them."""
    paths = [cfg.actor.model_name_or_path]
    if critic:
        paths.append(cfg.critic.model_name_or_path)
    for path in paths:
        pointer = read_pointer(path) if path else None
        if pointer is not None:
            yield pointer["base_model"]
        elif service.cfg.base_model is not None:
            yield service.cfg.base_model
        elif path is not None:
            yield path
