"""Models where the hardware says: in this process, or on worker processes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from genac import runtime
from genac.config.models import ActorConfig, CriticConfig, LoraConfig
from genac.config.run import RunConfig
from genac.distributed.cluster import require_ray
from genac.distributed.pool import pool_for
from genac.distributed.remote import (
    ModelFacts,
    ModelHandle,
    RemoteEngine,
    RemoteLearner,
    RemoteRuntime,
)
from genac.distributed.tinker import build as tinker
from genac.hardware import Hardware
from genac.models.families import family_of
from genac.models.gguf import is_gguf, require_gguf, spelled
from genac.models.loading import load_tokenizer
from genac.reach import at_hand
from genac.runtime import ModelSpec, Runtime


def build(spec: ModelSpec, hardware: Hardware, base: Runtime | None = None) -> Runtime:
    """The model of a spec, see genac.runtime.build."""
    if hardware.tinker is not None:
        return tinker.build(spec, hardware.tinker)
    if not hardware.remote and not isinstance(base, RemoteRuntime):
        return runtime.build(spec, hardware, base)
    spec = replace(spec, engine=hardware.engine_of(spec.engine))  # workers know of no servers
    if Path(spec.path).exists():  # workers have a folder of their own to start from
        spec = replace(spec, path=str(Path(spec.path).absolute()))
    shared = base if isinstance(base, RemoteRuntime) else None
    handle = ModelHandle(shared.handle.pool if shared else pool_for(hardware, spec.role))
    facts = handle.all("build", spec, shared.handle.number if shared else None)
    export = partial(export_remote, handle, spec.lora, facts["bf16"])
    return runtime.with_servers(remote(spec, handle, facts), spec, hardware, export, base)


def export_remote(handle: ModelHandle, lora: LoraConfig, bf16: bool, folder: Path) -> None:
    """The workers gather what a server loads; see genac.runtime.export_weights."""
    if lora.rank:
        handle.all("save_adapters", folder.absolute())
    else:
        handle.all("save_model", folder.absolute(), bf16)


def remote(spec: ModelSpec, handle: ModelHandle, facts: dict[str, Any]) -> RemoteRuntime:
    model = ModelFacts(facts["parameters"], facts["config"], facts["generation_config"])
    tokenizer = load_tokenizer(spec.path, spec.load.chat_template_kwargs)
    engine = RemoteEngine(handle) if spec.head is None else None
    learner = RemoteLearner(handle, spec.loss)
    return RemoteRuntime(
        spec.role,
        model,
        tokenizer,
        learner,
        engine,
        facts["max_length"],
        bf16=facts["bf16"],
        handle=handle,
    )


def require_supported(cfg: RunConfig, hardware: Hardware, *, critic: bool) -> None:
    """ValueError where a run on several processes or at a service would fail only after models
    were loaded. `critic`: whether the critic has a model of its own.
    """
    if hardware.tinker is not None:
        return tinker.require_supported(cfg, critic=critic)
    if not hardware.remote:
        return
    require_ray(f"hardware.processes {hardware.processes}")
    cores = os.cpu_count() or 1
    if hardware.device.type == "cpu" and not hardware.cluster and hardware.workers > 4 * cores:
        raise ValueError(
            f"hardware.processes is {hardware.processes} ({hardware.workers} workers) but this "
            f"machine computes on {cores} CPU cores, which one process uses as well; set 1, or a "
            "machine with as many GPUs"
        )
    if critic and cfg.critic.share_base and hardware.placement == "separate":
        raise ValueError(
            "hardware.placement is 'separate' but critic.share_base is set: one base cannot lie on "
            "two pools of workers; use colocated, or switch off critic.share_base"
        )
    models: list[tuple[str, ActorConfig | CriticConfig]] = [("actor", cfg.actor)]
    if critic:
        models.append(("critic", cfg.critic))
    for role, model in models:
        if model.lora.rank or not model.model_name_or_path:
            continue
        family = family_name(model.model_name_or_path)
        if family is not None and not family_of(family).decodes:
            raise ValueError(unsupported(role, model.model_name_or_path, family))


def family_name(path: str) -> str | None:
    """The family of a model, of a GGUF file by its header; None where loading it says what is
    wrong."""
    if is_gguf(path):  # what it becomes is not there yet
        return spelled(require_gguf(Path(path).expanduser())["general.architecture"])
    try:
        return AutoConfig.from_pretrained(at_hand(path)).model_type
    except (OSError, ValueError):
        return None


def require_shared(hardware: Hardware, folders: Sequence[Path]) -> None:
    """Starts the workers of a cluster. ValueError where one of them does not see what this process
    writes into a folder of the run."""
    if not hardware.remote or hardware.cluster is None:
        return
    text = secrets.token_hex(8)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder.absolute() / f".probe-{text}"
        probe.write_text(text)
        try:
            for role in ("actor", "critic"):
                pool = pool_for(hardware, role)
                seen = pool.call("sees", [(probe, text)] * pool.size)
                blind = sorted(
                    {s.address for s, ok in zip(pool.spots, seen, strict=True) if not ok}
                )
                if blind:
                    raise ValueError(
                        f"workers on {', '.join(blind)} do not see what this process writes into "
                        f"{folder.absolute()}; several machines need output_dir and stages.folder "
                        "on a file system that all of them share"
                    )
        finally:
            probe.unlink(missing_ok=True)


def unsupported(role: str, path: str, family: str) -> str:
    return (
        f"{role}: {path!r} is of the family {family!r}, which has no fast decoder, so its weights "
        "cannot be divided over several processes; set hardware.processes to 1, or "
        f"{role}.lora.rank above 0 (then every process holds all weights)"
    )
