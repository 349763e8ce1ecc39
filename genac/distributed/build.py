"""Models where the hardware says: in this process, or on worker processes."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from genac import runtime
from genac.config.models import ActorConfig, CriticConfig
from genac.config.run import RunConfig
from genac.distributed.pool import pool_for
from genac.distributed.remote import (
    ModelFacts,
    ModelHandle,
    RemoteEngine,
    RemoteLearner,
    RemoteRuntime,
)
from genac.models.families import family_of
from genac.models.loading import load_tokenizer
from genac.runtime import Hardware, ModelSpec, Runtime


def build(spec: ModelSpec, hardware: Hardware, base: Runtime | None = None) -> Runtime:
    """The model of a spec, see genac.runtime.build."""
    if isinstance(base, RemoteRuntime):
        handle = ModelHandle(base.handle.pool)
        return remote(spec, handle, handle.all("build", spec, base.handle.number))
    if hardware.processes == 1:
        return runtime.build(spec, hardware, base)
    handle = new_handle(hardware)
    return remote(spec, handle, handle.all("build", spec, None))


def new_handle(hardware: Hardware) -> ModelHandle:
    where = hardware.device.type
    return ModelHandle(pool_for(hardware.processes, where, hardware.bf16, hardware.threads))


def remote(spec: ModelSpec, handle: ModelHandle, facts: dict[str, Any]) -> RemoteRuntime:
    model = ModelFacts(facts["parameters"], facts["config"], facts["generation_config"])
    tokenizer = load_tokenizer(spec.path, spec.load.chat_template_kwargs)
    engine = RemoteEngine(handle) if spec.head is None else None
    learner = RemoteLearner(handle, spec.loss)
    return RemoteRuntime(
        spec.role, model, tokenizer, learner, engine, facts["max_length"], handle=handle
    )


def require_supported(cfg: RunConfig, hardware: Hardware, *, critic: bool) -> None:
    """ValueError where a run on several processes would fail only after models were loaded.
    `critic`: whether the critic has a model of its own.
    """
    if hardware.processes == 1:
        return
    models: list[tuple[str, ActorConfig | CriticConfig]] = [("actor", cfg.actor)]
    if critic:
        models.append(("critic", cfg.critic))
    for role, model in models:
        if model.lora.rank or not model.model_name_or_path:
            continue
        try:
            family = AutoConfig.from_pretrained(model.model_name_or_path).model_type
        except (OSError, ValueError):  # loading it says what is wrong
            continue
        if not family_of(family).decodes:
            raise ValueError(unsupported(role, model.model_name_or_path, family))


def unsupported(role: str, path: str, family: str) -> str:
    return (
        f"{role}: {path!r} is of the family {family!r}, which has no fast decoder, so its weights "
        "cannot be divided over several processes; set hardware.processes to 1, or "
        f"{role}.lora.rank above 0 (then every process holds all weights)"
    )
