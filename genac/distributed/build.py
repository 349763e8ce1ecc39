"""Models where the hardware says: in this process, or on worker processes.

The functions have the names, arguments and results of those in genac/runtime.py.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from genac import runtime
from genac.config import (
    ActorConfig,
    CriticConfig,
    LoadConfig,
    LoraConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
)
from genac.distributed.pool import pool_for
from genac.distributed.remote import Link, Outline, RemoteEngine, RemoteLearner, RemoteRuntime
from genac.engines.decoder import FAMILIES
from genac.models.loading import load_tokenizer
from genac.runtime import Hardware, Runtime


def language_model(
    role: str,
    path: str,
    hardware: Hardware,
    optimizer: OptimizerConfig,
    loss: LossConfig | None = None,
    *,
    max_rows: int = 512,
    decay_steps: int | None = None,
    lora: LoraConfig | None = None,
    load: LoadConfig | None = None,
    seed: int = 0,
) -> Runtime:
    """Actor, generative critic or reference."""
    if hardware.processes == 1:
        return runtime.language_model(
            role, path, hardware, optimizer, loss, max_rows=max_rows, decay_steps=decay_steps,
            lora=lora, load=load, seed=seed,
        )  # fmt: skip
    load = load or LoadConfig()
    tokenizer = load_tokenizer(path, load.chat_template_kwargs)
    link = linked(hardware)
    facts = link.all(
        "language_model", role, path, optimizer, loss, max_rows, decay_steps,
        lora or LoraConfig(), load, seed,
    )  # fmt: skip
    return remote(role, link, facts, tokenizer, loss, RemoteEngine(link))


def critic_beside(
    actor: Runtime,
    path: str,
    hardware: Hardware,
    optimizer: OptimizerConfig,
    *,
    trained: bool,
    max_rows: int = 512,
    decay_steps: int | None = None,
    load: LoadConfig | None = None,
    seed: int = 0,
) -> Runtime:
    """A generative critic as a second set of adapters on the actor's weights."""
    load = load or LoadConfig()
    if not isinstance(actor, RemoteRuntime):
        return runtime.critic_beside(
            actor, path, hardware, optimizer, trained=trained, max_rows=max_rows,
            decay_steps=decay_steps, load=load, seed=seed,
        )  # fmt: skip
    tokenizer = load_tokenizer(path, load.chat_template_kwargs)
    link = Link(actor.link.pool)
    facts = link.all(
        "critic_beside", actor.link.number, path, optimizer, trained, max_rows, decay_steps, load,
        seed,
    )  # fmt: skip
    return remote("critic", link, facts, tokenizer, None, RemoteEngine(link))


def value_model(
    path: str,
    hardware: Hardware,
    optimizer: OptimizerConfig,
    head: str,
    bins: int,
    *,
    trained: bool,
    decay_steps: int | None = None,
    lora: LoraConfig | None = None,
    load: LoadConfig | None = None,
    seed: int = 0,
) -> Runtime:
    """A discriminative critic."""
    if hardware.processes == 1:
        return runtime.value_model(
            path, hardware, optimizer, head, bins, trained=trained, decay_steps=decay_steps,
            lora=lora, load=load, seed=seed,
        )  # fmt: skip
    load = load or LoadConfig()
    tokenizer = load_tokenizer(path, load.chat_template_kwargs)
    link = linked(hardware)
    facts = link.all(
        "value_model", path, optimizer, head, bins, trained, decay_steps, lora or LoraConfig(),
        load, seed,
    )  # fmt: skip
    return remote("critic", link, facts, tokenizer, None, None)


def linked(hardware: Hardware) -> Link:
    where = hardware.device.type
    return Link(pool_for(hardware.processes, where, hardware.bf16, hardware.threads))


def remote(
    role: str,
    link: Link,
    facts: dict[str, Any],
    tokenizer: Any,
    loss: LossConfig | None,
    engine: RemoteEngine | None,
) -> RemoteRuntime:
    model = Outline(facts["parameters"], facts["config"], facts["generation_config"])
    learner = RemoteLearner(link, loss)
    return RemoteRuntime(role, model, tokenizer, learner, engine, facts["max_length"], link=link)


def require_supported(cfg: RunConfig, hardware: Hardware) -> None:
    """ValueError where a run on several processes would fail only after models were loaded."""
    if hardware.processes == 1:
        return
    models: list[tuple[str, ActorConfig | CriticConfig]] = [("actor", cfg.actor)]
    if cfg.critic.kind in ("generative", "discriminative"):
        models.append(("critic", cfg.critic))
    for role, model in models:
        if model.lora.rank or not model.model_name_or_path:
            continue
        try:
            family = AutoConfig.from_pretrained(model.model_name_or_path).model_type
        except (OSError, ValueError):  # loading it says what is wrong
            continue
        if family not in FAMILIES:
            raise ValueError(unsupported(role, model.model_name_or_path, family))


def unsupported(role: str, path: str, family: str) -> str:
    return (
        f"{role}: {path!r} is of the family {family!r}, which has no fast decoder, so its weights "
        "cannot be divided over several processes; set hardware.processes to 1, or "
        f"{role}.lora.rank above 0 (then every process holds all weights)"
    )
