"""A trainable language model: an engine that samples, a learner that trains, a version.

Actor, generative critic and frozen reference are instances of it; a discriminative critic is one
without an engine. Placement (device, precision, threads) is decided here and nowhere in the loops.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from genac.config import HardwareConfig, LoadConfig, LoraConfig, LossConfig, OptimizerConfig
from genac.engines.base import Engine, Request
from genac.engines.local import LocalEngine
from genac.learner import Learner, Trains
from genac.models.heads import vocabulary
from genac.models.loading import context_length, fingerprint, load_model, load_tokenizer
from genac.models.lora import attach, beside, load_adapters, save_merged
from genac.models.value_head import ValueModel, outputs_of
from genac.seeding import derive_seed


@dataclass
class Runtime:
    """One model of a run. `engine` is None for a discriminative critic."""

    role: str
    model: Any
    tokenizer: Any
    learner: Trains
    engine: Engine | None
    max_length: int
    version: int = 0

    @property
    def sampler(self) -> Engine:
        assert self.engine is not None, f"{self.role} has no engine"
        return self.engine

    @property
    def processed_tokens(self) -> int:
        """Tokens that engine and learner have computed so far."""
        return self.learner.processed_tokens + (self.engine.processed_tokens if self.engine else 0)

    def publish(self, version: int) -> None:
        """New weights reach the engine; what is sampled from now on carries this version."""
        self.version = version
        if self.engine is not None:
            self.engine.publish(self.model, version)

    def probe(self, prompt_ids: tuple[int, ...]) -> np.ndarray:
        """The engine's probabilities of a few tokens after a prompt: shows that a publish took
        effect.
        """
        watched = tuple(range(min(64, vocabulary(self.model))))
        ask = Request(prompt_ids, 1, seed=0, temperature=0.0, watch_ids=watched)
        return self.sampler.generate([ask])[0].watched[0]

    def fingerprint(self) -> str:
        """Tells checkpoints apart: a hash over a few weights of every parameter."""
        return fingerprint(self.model)

    def base(self) -> str:
        """Tells the frozen weights under adapters apart."""
        return fingerprint(self.model, frozen=True)

    def save_model(self, folder: Path, whole: Mapping[str, Tensor] | None = None) -> None:
        """An ordinary Hugging Face folder (plus the value head, where there is one). `whole`: the
        weights of a model of which this process has a part only.
        """
        try:
            if isinstance(self.model, ValueModel):
                self.model.save_pretrained(folder, whole)
            else:
                save_merged(self.model, folder, whole)
            self.tokenizer.save_pretrained(folder)
        except SafetensorError as error:  # what safetensors raises on a full disk
            raise OSError(errno.EIO, f"{folder} could not be written ({error})") from error

    def load_weights(self, folder: Path) -> None:
        """Replaces the weights by those of a saved folder of the same architecture."""
        model = self.model.causal_lm if isinstance(self.model, ValueModel) else self.model
        if not load_adapters(model, folder):
            source = load_model(str(folder), dtype=next(model.parameters()).dtype)
            model.load_state_dict(source.state_dict())
        if isinstance(self.model, ValueModel):
            self.model.load_head(folder)


@dataclass(frozen=True)
class Hardware:
    """Resolved device and precision."""

    device: torch.device  # without a number where there are several processes
    bf16: bool
    processes: int = 1  # workers with one device each; 1 = everything in this process
    threads: int = 0  # of a process, 0 = torch's choice

    @classmethod
    def resolve(cls, cfg: HardwareConfig) -> Hardware:
        if cfg.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "hardware.device is 'cuda' but no CUDA device is visible; use 'cpu' or 'auto'"
            )
        name = "cuda" if cfg.device != "cpu" and torch.cuda.is_available() else "cpu"
        devices = torch.cuda.device_count() if name == "cuda" else None
        if devices is not None and cfg.processes > devices:
            raise ValueError(
                f"hardware.processes is {cfg.processes} but {devices} CUDA devices are visible, "
                f"and every process needs one; use at most {devices}, or 0 for all of them"
            )
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        # fp32 is the default on CPU: bf16 is faster only where the processor has it, and slower
        # elsewhere.
        return cls(
            torch.device(name),
            cfg.precision == "bf16" or (cfg.precision == "auto" and name == "cuda"),
            cfg.processes or devices or 1,
            cfg.threads,
        )


def loaded(role: str, path: str, hardware: Hardware, load: LoadConfig) -> tuple[Any, Any]:
    """Tokenizer and model. ValueError for stored bf16 weights where fp32 is computed."""
    if load.dtype == "bf16" and not hardware.bf16:
        raise ValueError(
            f"{role}.load.dtype is 'bf16' but computation is in fp32 on {hardware.device.type}; "
            "set hardware.precision bf16, or dtype fp32"
        )
    dtype = torch.bfloat16 if load.dtype == "bf16" else torch.float32
    tokenizer = load_tokenizer(path, load.chat_template_kwargs)
    return tokenizer, load_model(path, dtype, load.attn_implementation)


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
    """Actor, generative critic or reference from a folder or hub name; trained weights are fp32."""
    tokenizer, model = loaded(role, path, hardware, load or LoadConfig())
    model = attach(model, lora or LoraConfig(), derive_seed(seed, "lora", role)).to(hardware.device)
    return around(role, model, tokenizer, hardware, optimizer, loss, max_rows, decay_steps)


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
    kind: type[Learner] = Learner,
) -> Runtime:
    """A generative critic that is a second set of adapters on the actor's frozen weights: those
    saved in `path` where it is `trained`, else new ones."""
    model = beside(actor.model, derive_seed(seed, "lora", "critic"))
    if trained:
        load_adapters(model, Path(path))
    tokenizer = load_tokenizer(path, (load or LoadConfig()).chat_template_kwargs)
    return around(
        "critic", model, tokenizer, hardware, optimizer, None, max_rows, decay_steps, kind
    )


def around(
    role: str,
    model: Any,
    tokenizer: Any,
    hardware: Hardware,
    optimizer: OptimizerConfig,
    loss: LossConfig | None,
    max_rows: int,
    decay_steps: int | None,
    kind: type[Learner] = Learner,
) -> Runtime:
    """A runtime with learner and engine around a loaded model."""
    learner = kind(model, optimizer, loss, bf16=hardware.bf16, decay_steps=decay_steps)
    limit = context_length(model, tokenizer)
    engine = LocalEngine(
        model,
        limit,
        max_rows,
        torch.bfloat16 if hardware.bf16 else torch.float32,
        tokenizer=tokenizer,
    )
    return Runtime(role, model, tokenizer, learner, engine, limit)


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
    """A discriminative critic; `trained` = the folder holds a value head to go on from."""
    tokenizer, base = loaded("critic", path, hardware, load or LoadConfig())
    base = attach(base, lora or LoraConfig(), derive_seed(seed, "lora", "critic"))
    model = ValueModel(base, outputs_of(head, bins))
    if trained:
        model.load_head(Path(path))
    model = model.to(hardware.device)
    learner = Learner(model, optimizer, head=head, bf16=hardware.bf16, decay_steps=decay_steps)
    return Runtime("critic", model, tokenizer, learner, None, context_length(model, tokenizer))
