"""Where and how precisely the models of a run compute, as resolved on this machine.

What imports transformers is imported on use: 'genac doctor' alone needs none of it.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field
from typing import Any

import torch

from genac.config.engines import VllmConfig
from genac.config.run import HardwareConfig, RunConfig
from genac.config.tinker import TinkerConfig
from genac.models.bf16 import uses_bf16

# Of mallopt(3), and the variables that say the same.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MALLOC_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@dataclass(frozen=True)
class Hardware:
    """Resolved device, precision and engine."""

    device: torch.device  # without a number where there are several processes
    bf16: bool
    processes: int = 1  # workers with one device each; 1 = everything in this process
    threads: int = 0  # of a process, 0 = torch's choice
    engine: str = "local"  # a key of ENGINES or one of SERVED
    vllm: VllmConfig = field(default_factory=VllmConfig, hash=False)
    cluster: str | None = None  # address of the Ray cluster with the workers; None = started here
    placement: str = "colocated"  # "separate": `processes` workers for each of actor and critic
    tinker: TinkerConfig | None = None  # the service that samples and trains; None = we do
    auto_bf16: bool = False  # large models compute in bf16 where this processor is faster in it

    def computes_bf16(self, model: Any) -> bool:
        """What a model computes in: bf16, else fp32. It may be on the meta device."""
        from genac.models.loading import parameter_count

        return self.bf16 or (self.auto_bf16 and uses_bf16(parameter_count(model)))

    @property
    def remote(self) -> bool:
        """Whether models live on workers."""
        return self.processes > 1 or self.cluster is not None or self.placement == "separate"

    @property
    def workers(self) -> int:
        """All that a run starts."""
        return self.processes * (2 if self.placement == "separate" else 1)

    @classmethod
    def resolve(cls, cfg: HardwareConfig) -> Hardware:
        """What the config comes to on this machine; sets torch's number of threads.

        Raises ValueError where the machine or this version has not got what is configured.
        """
        if cfg.engine != "auto":
            from genac.engines import require_engine

            require_engine(cfg.engine)
        if cfg.device == "cuda" and not cfg.cluster and not torch.cuda.is_available():
            raise ValueError(
                "hardware.device is 'cuda' but no CUDA device is visible; use 'cpu' or 'auto'"
            )
        # "cpu" stays a CPU where a GPU is visible.
        name = "cuda" if cfg.device != "cpu" and torch.cuda.is_available() else "cpu"
        devices = torch.cuda.device_count() if name == "cuda" else None
        if cfg.cluster:
            name, devices = elsewhere(cfg), None
        pools = 2 if cfg.placement == "separate" else 1
        if devices is not None and devices < pools:
            raise ValueError(
                "hardware.placement is 'separate' but only one CUDA device is visible, and actor "
                "and critic need one each; use colocated"
            )
        if devices is not None and cfg.processes * pools > devices:
            raise ValueError(
                f"hardware.processes is {cfg.processes} but {devices} CUDA devices are visible, "
                f"and every process needs one; use at most {devices // pools}, or 0 for all of them"
            )
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        if name == "cpu":
            keep_freed_memory()
        # On a CPU bf16 is faster only where the processor has it, and small models stay in fp32.
        alone = (cfg.processes or devices or 1) == 1
        return cls(
            torch.device(name),
            cfg.precision == "bf16" or (cfg.precision == "auto" and name == "cuda"),
            cfg.processes or (devices or 1) // pools or 1,
            cfg.threads,
            chosen(cfg.engine, cfg.vllm, name == "cuda"),
            cfg.vllm,
            cfg.cluster,
            cfg.placement,
            cfg.tinker if cfg.backend == "tinker" else None,
            auto_bf16=cfg.precision == "auto" and name == "cpu" and alone,
        )

    def engine_of(self, engine: str | None) -> str:
        """What samples from a model whose own setting is `engine`."""
        if engine is None:
            return self.engine
        return chosen(engine, self.vllm, self.device.type == "cuda")


def keep_freed_memory() -> None:
    """Makes the C library keep what tensors freed for the next ones, on Linux with glibc.

    By itself it hands every block above 32 MiB back to the system, which clears the pages of the
    next one anew. Nothing is done where the user's environment sets the allocator.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc" in tunables or any(key in os.environ for key in MALLOC_VARIABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def with_engines(cfg: RunConfig) -> RunConfig:
    """The config with vllm in the place of every `auto` that means it here. Hashes count what
    samples, and hardware.vllm, which decides that on cuda, is in none.
    """
    hardware, changes = cfg.hardware, {}
    cuda = hardware.device == "cuda" or (hardware.device == "auto" and torch.cuda.is_available())
    for name in ("hardware", "actor", "critic"):
        section = getattr(cfg, name)
        if section.engine == "auto" and chosen("auto", hardware.vllm, cuda) == "vllm":
            changes[name] = section.model_copy(update={"engine": "vllm"})
    return cfg.model_copy(update=changes)


def chosen(engine: str, cfg: VllmConfig, cuda: bool) -> str:
    """The engine that `auto` stands for: on CPU the local one, by bench/vllm_tokens.py."""
    if engine != "auto":
        return engine
    return "vllm" if cuda and (cfg.python or cfg.urls) else "local"


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return tuple(map(str, range(torch.cuda.device_count())))
    return tuple(filter(None, map(str.strip, named.split(","))))


def elsewhere(cfg: HardwareConfig) -> str:
    """The device of a cluster's workers, of which this machine knows nothing."""
    if cfg.device == "auto" or not cfg.processes:
        raise ValueError(
            f"hardware.cluster is {cfg.cluster!r}, whose machines may differ from this one: set "
            f"hardware.device to cpu or cuda (it is {cfg.device!r}) and hardware.processes to the "
            f"number of workers (it is {cfg.processes})"
        )
    return cfg.device
