"""A trainable language model: an engine that samples, a learner that trains, a version.

Actor, generative critic and frozen reference are instances of it; a discriminative critic is one
without an engine. Placement (device, precision, threads) is decided here and nowhere in the loops.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from genac.config.models import LoadConfig, LoraConfig, LossConfig, OptimizerConfig
from genac.engines import SERVED, make_engine
from genac.engines.base import Engine, Request
from genac.engines.vllm.checks import head_size, require_heads
from genac.engines.vllm.engine import VllmEngine
from genac.engines.vllm.process import Launch
from genac.engines.vllm.weights import Source
from genac.hardware import Hardware, visible_gpus
from genac.learner import Learner, LearnerProtocol
from genac.models.heads import text_config, vocabulary
from genac.models.loading import context_length, fingerprint, load_model, load_tokenizer
from genac.models.lora import attach, load_adapters, save_adapters, save_merged, second_adapters
from genac.models.value_head import ValueModel, outputs_of
from genac.runs.files import stable_hash
from genac.seeding import derive_seed

# What a configuration says of the file that it was read from.
OF_A_FILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")


@dataclass
class Runtime:
    """One model of a run. `engine` is None for a discriminative critic."""

    role: str  # as messages name it
    model: Any  # what the learner trains; `publish` hands it to the engine
    tokenizer: Any
    learner: LearnerProtocol
    engine: Engine | None
    max_length: int  # of a sequence, in tokens
    version: int = 0  # steps whose weights the engine has
    bf16: bool = False  # what it computes in; trained weights are fp32

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
        """(W,) the engine's probabilities of a few tokens after a prompt, or (1,) of the likeliest
        where it names none. Compared before and after a publish, they show whether it took effect.
        """
        token_probs = tuple(range(min(64, vocabulary(self.model))))
        request = Request(prompt_ids, 1, seed=0, temperature=0.0, token_prob_ids=token_probs)
        answer = self.sampler.generate([request])[0]
        return answer.token_probs[0] if answer.token_probs.size else np.exp(answer.logprobs)

    def fingerprint(self) -> str:
        """Identifies a checkpoint: a hash over a few weights of every parameter."""
        return fingerprint(self.model)

    def base(self) -> str:
        """Identifies the frozen weights under adapters, which fit no others."""
        return fingerprint(self.model, frozen=True)

    def save_model(self, folder: Path, whole: Mapping[str, Tensor] | None = None) -> None:
        """An ordinary Hugging Face folder (plus the value head, where there is one). `whole`: the
        weights of a model of which this process has a part only. Raises OSError on a full disk.
        """
        save_folder(self.model, self.tokenizer, folder, whole)

    def load_weights(self, folder: Path) -> None:
        """Replaces the weights by those of a saved folder of the same architecture."""
        model = self.model.causal_lm if isinstance(self.model, ValueModel) else self.model
        if not load_adapters(model, folder):  # where there are none, all weights were trained
            source = load_model(str(folder), dtype=next(model.parameters()).dtype)
            model.load_state_dict(source.state_dict())
        if isinstance(self.model, ValueModel):
            self.model.load_head(folder)


def save_folder(
    model: Any, tokenizer: Any, folder: Path, whole: Mapping[str, Tensor] | None = None
) -> None:
    """As Runtime.save_model."""
    try:
        if isinstance(model, ValueModel):
            model.save_pretrained(folder, whole)
        else:
            save_merged(model, folder, whole)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what safetensors raises on a full disk
        raise OSError(errno.EIO, f"{folder} could not be written ({error})") from error


@dataclass(frozen=True)
class ModelSpec:
    """Everything that a model of a run is made from, wherever it is made."""

    role: str  # "actor" or "critic", as messages and seeds name it
    path: str  # folder or hub name
    optimizer: OptimizerConfig
    loss: LossConfig | None = None  # None = the defaults
    load: LoadConfig = field(default_factory=LoadConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    head: str | None = None  # kind of value head; None = a language model
    bins: int = 1  # of an HL-Gauss head
    trained: bool = False  # `path` holds a value head, or adapters for a shared base, to go on from
    max_rows: int = 512  # sequences decoded together
    decay_steps: int | None = None
    seed: int = 0  # of new adapters
    engine: str | None = None  # None = hardware's
    folder: Path | None = None  # where an engine's servers keep weights and logs

    @property
    def adapter_seed(self) -> int:
        return derive_seed(self.seed, "lora", self.role)

    @property
    def outputs(self) -> int | None:
        """Outputs per token of the value head; None for a language model."""
        return None if self.head is None else outputs_of(self.head, self.bins)


def build(spec: ModelSpec, hardware: Hardware, base: Runtime | None = None) -> Runtime:
    """A model in this process, with learner and engine; trained weights are fp32. Several processes
    are distributed/build.py's.

    With `base` it is a second set of adapters on that model's frozen weights: those saved in
    `spec.path` where it is `trained`, else new ones.
    """
    if base is None:
        tokenizer, model = load_with_head(spec, hardware)
        model = model.to(hardware.device)
    else:
        model, tokenizer = with_shared_base(spec, base)
    runtime = build_runtime(spec, model, tokenizer, hardware)
    export = partial(export_weights, model, tokenizer, spec.lora, runtime.bf16)
    return with_servers(runtime, spec, hardware, export, base)


def load_pretrained(spec: ModelSpec, hardware: Hardware) -> tuple[Any, Any]:
    """Tokenizer and model. ValueError for stored bf16 weights where fp32 is computed."""
    load = spec.load
    if load.dtype == "bf16" and not hardware.bf16:
        raise ValueError(
            f"{spec.role}.load.dtype is 'bf16' but computation is in fp32 on "
            f"{hardware.device.type}; set hardware.precision bf16, or dtype fp32"
        )
    dtype = torch.bfloat16 if load.dtype == "bf16" else torch.float32
    tokenizer = load_tokenizer(spec.path, load.chat_template_kwargs)
    return tokenizer, load_model(spec.path, dtype, load.attn_implementation)


def load_with_head(spec: ModelSpec, hardware: Hardware) -> tuple[Any, Any]:
    """Tokenizer and model with its adapters and, for a discriminative critic, its value head."""
    tokenizer, model = load_pretrained(spec, hardware)
    model = attach(model, spec.lora, spec.adapter_seed)
    if spec.outputs is None:
        return tokenizer, model
    model = ValueModel(model, spec.outputs)
    if spec.trained:
        model.load_head(Path(spec.path))
    return tokenizer, model


def with_shared_base(spec: ModelSpec, base: Runtime) -> tuple[Any, Any]:
    """Model and tokenizer of a second set of adapters on the frozen weights of `base`."""
    model = second_adapters(base.model, spec.adapter_seed)
    if spec.trained:
        load_adapters(model, Path(spec.path))
    return model, load_tokenizer(spec.path, spec.load.chat_template_kwargs)


def build_runtime(
    spec: ModelSpec,
    model: Any,
    tokenizer: Any,
    hardware: Hardware,
    learner_class: type[Learner] = Learner,
) -> Runtime:
    """A runtime with learner and, for a language model, an engine in this process, around a model
    in memory.
    """
    bf16 = hardware.computes_bf16(model)
    learner = learner_class(
        model,
        spec.optimizer,
        spec.loss,
        head=spec.head,
        bf16=bf16,
        decay_steps=spec.decay_steps,
    )
    limit, engine = context_length(model, tokenizer), None
    name = hardware.engine_of(spec.engine)
    if spec.head is None and name not in SERVED:
        dtype = torch.bfloat16 if bf16 else torch.float32
        engine = make_engine(name, model, tokenizer, limit, spec.max_rows, dtype)
    return Runtime(spec.role, model, tokenizer, learner, engine, limit, bf16=bf16)


def export_weights(model: Any, tokenizer: Any, lora: LoraConfig, bf16: bool, folder: Path) -> None:
    """What a server loads: adapters in PEFT's layout where there are some, else all weights."""
    if not lora.rank:
        whole = in_bf16(model.state_dict(keep_vars=True)) if bf16 else None
        return save_folder(model, tokenizer, folder, whole)
    try:
        save_adapters(model, folder)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"{folder} could not be written ({error})") from error


def in_bf16(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as a server in bf16 rounds them when it reads them: half the bytes for the disk."""
    kept: dict[int, Tensor] = {}  # tied weights stay one tensor
    for value in state.values():
        if id(value) not in kept:
            half = torch.bfloat16 if value.is_floating_point() else value.dtype
            kept[id(value)] = value.detach().to("cpu", half)
    return {name: kept[id(value)] for name, value in state.items()}


def shape_of(model: Any, tokenizer: Any) -> str:
    """Equal for models that differ in their weights alone: by configuration and vocabulary."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in OF_A_FILE}
    words = sorted(tokenizer.get_vocab().items())
    return stable_hash([json.loads(json.dumps(config, default=str)), words])


def with_servers(
    runtime: Runtime,
    spec: ModelSpec,
    hardware: Hardware,
    export: Callable[[Path], None],
    base: Runtime | None = None,
) -> Runtime:
    """The runtime with an engine on servers, where that is what samples. `base`: the runtime whose
    frozen weights it shares.
    """
    if spec.head is not None or hardware.engine_of(spec.engine) not in SERVED:
        return runtime
    cuda = hardware.device.type == "cuda"
    if not cuda and not hardware.vllm.urls:
        require_heads(head_size(text_config(runtime.model)))
    source = Source(
        spec.role,
        spec.path if base is None else base.tokenizer.name_or_path,
        export,
        runtime.learner.logprobs,
        spec.lora,
        vocabulary(runtime.model),
        runtime.max_length,
        shape_of(runtime.model, runtime.tokenizer),
    )
    launch = Launch(
        spec.role,
        hardware.vllm,
        runtime.max_length,
        spec.max_rows,
        runtime.bf16,
        cuda,
        hardware.threads,
        spec.lora.rank,
        visible_gpus() if cuda else (),
    )
    shared = base.engine if base is not None and isinstance(base.engine, VllmEngine) else None
    runtime.engine = VllmEngine(source, launch, spec.folder, shared)
    return runtime
