"""Bytes that a model takes, from its shape alone: stored, sampled from, trained.

The per-row and per-token terms follow what engines/decoder.py and learner.py allocate; their
constants were measured on Qwen2 and Qwen3 models, whose training peaks they meet within a third,
with and without gradient checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from genac.config.models import ActorConfig, CriticConfig, LoraConfig
from genac.engines.cache import READ_AT_ONCE
from genac.engines.decoder import Decoder
from genac.models.heads import size, text_config
from genac.models.loading import parameter_count
from genac.models.packed.layers import known
from genac.native.library import library

FLOAT, HALF = 4, 2
ADAMW = 2 * FLOAT  # two moments per trained parameter
SCORES = 12  # bytes per attention score in the decoder's explicit softmax
AGAIN = 2  # layers' worth of activations while one is computed again
BACKWARD, AUTOCAST = 1.3, 0.7  # peak over what autograd keeps; what of it remains under bf16


@dataclass(frozen=True)
class Spread:
    """Over how many processes a run is spread, whether an engine that does not sample leaves
    nothing on the device, neither weights nor caches (as those of GPU workers do), and whether the
    device is a CPU."""

    processes: int = 1
    resting: bool = False
    cpu: bool = True

    @property
    def fuses(self) -> bool:
        """Whether layers in training may be one operation each (models/packed/native.py)."""
        return self.cpu and self.processes == 1 and library() is not None


ALONE = Spread()


@dataclass(frozen=True)
class Trained:
    """How a model is stored and trained."""

    stored: int = FLOAT  # bytes of a weight
    shared: bool = False  # the weights are the actor's, in memory; a checkpoint has its own
    adapters: int = 0  # LoRA's parameters, 0 = all weights are trained
    checkpointing: bool = False
    where: Spread = ALONE

    @classmethod
    def of(cls, model: Any, cfg: ActorConfig | CriticConfig, where: Spread = ALONE) -> Trained:
        return cls(
            HALF if cfg.load.dtype == "bf16" else FLOAT,
            isinstance(cfg, CriticConfig) and cfg.share_base,
            adapter_count(model, cfg.lora),
            cfg.optimizer.gradient_checkpointing,
            where,
        )

    @property
    def shares(self) -> int:
        """Into how many parts weights, gradients and moments are divided: under adapters every
        process has all of them.
        """
        return 1 if self.adapters else self.where.processes

    def held(self, count: int, trained: int | None = None) -> int:
        """Weights, and of what is trained gradients and both moments."""
        own = self.adapters or (count if trained is None else trained)
        weights = 0 if self.shared else count * self.stored
        return (weights + own * (FLOAT + ADAMW)) // self.shares + self.adapters * FLOAT

    def gathered(self, model: Any, bf16: bool) -> int:
        """What is whole while a divided model learns: what lies outside the layers with its
        gradients and their copy on the way to the others, and two layers likewise; without
        checkpointing also all weights as autocast has cast them, for the backward pass.
        """
        if self.shares == 1:
            return 0
        layer = parameter_count(model.base_model.layers[0])
        outside = parameter_count(model) - len(model.base_model.layers) * layer
        cast = 0 if self.checkpointing or not bf16 else parameter_count(model) * HALF
        return (3 * outside + 4 * layer) * FLOAT + cast

    def saved(self, count: int) -> int:
        """A checkpoint: the weights, and the moments (and adapters) that go on."""
        return count * self.stored + (self.adapters or count) * ADAMW + self.adapters * FLOAT


FULL = Trained()


def adapter_count(model: Any, cfg: LoraConfig) -> int:
    """Parameters of the adapters: rank * (in + out) for each linear layer that gets one."""
    results = [m for n, m in model.named_modules() if n.split(".")[-1] in cfg.target_modules]
    return sum(cfg.rank * (m.in_features + m.out_features) for m in results)


def engine_bytes(model: Any, bf16: bool, stored: int = FLOAT) -> int:
    """The decoder's copy of the weights; a tied LM head is copied as well. Architectures without a
    decoder are copied as they are, `stored` bytes per weight.
    """
    if not Decoder.supports(model):
        return parameter_count(model) * stored
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    copied = parameter_count(model) + (embedding.numel() if head is embedding else 0)
    return copied * (HALF if bf16 else FLOAT)


def widths(model: Any) -> tuple[int, int, int, int, int]:
    """Layers, hidden, MLP, all query heads, all key heads."""
    config, heads = text_config(model), heads_of(model)
    hidden = size(config, "hidden_size", default=1)
    dim = size(config, "head_dim", default=hidden // heads)
    keys = size(config, "num_key_value_heads", default=heads) * dim
    inner = size(config, "intermediate_size", "ffn_dim", default=4 * hidden)
    return size(config, "num_hidden_layers", default=1), hidden, inner, heads * dim, keys


def heads_of(model: Any) -> int:
    """Query heads; 1 where the architecture has none."""
    return size(text_config(model), "num_attention_heads", "num_heads", default=1)


def cache_bytes(model: Any, length: int, bf16: bool) -> int:
    layers, _, _, _, keys = widths(model)
    return layers * 2 * keys * length * (HALF if bf16 else FLOAT)


def decoding_bytes(model: Any, read: int, length: int, bf16: bool) -> int:
    """Per row: its longest step, and without a decoder of our own reading its whole prompt."""
    _, _, _, queries, _ = widths(model)
    heads, number = heads_of(model), HALF if bf16 else FLOAT
    step = length * (SCORES * heads + FLOAT)
    if Decoder.supports(model, length):
        return step
    whole = read * flow_bytes(model, bf16) + read**2 * (SCORES * heads + 2 * FLOAT)
    return max(whole, 2 * length * queries * number)


def reading_bytes(model: Any, read: int, bf16: bool, cpu: bool = True) -> int:
    """Prompts are read READ_AT_ONCE tokens at a time, each against a shared prefix of up
    to `read`.
    """
    if not Decoder.supports(model, read):
        return 0
    heads = heads_of(model)
    # What reads in fp32 on a CPU holds a mask only, all else the scores as well.
    pairs = FLOAT + (SCORES * heads if bf16 or not cpu else 0)
    return (READ_AT_ONCE + read) * (flow_bytes(model, bf16) + read * pairs)


def flow_bytes(model: Any, bf16: bool) -> int:
    """What one token takes on its way through a layer."""
    _, hidden, inner, queries, keys = widths(model)
    return (HALF if bf16 else FLOAT) * (3 * hidden + 3 * inner + 3 * (queries + 2 * keys))


def activation_bytes(model: Any, bf16: bool, how: Trained) -> int:
    """Per token, what a backward pass needs; with checkpointing each layer's input, and what
    computing one again takes."""
    layers, hidden, inner, queries, keys = widths(model)
    if how.where.fuses and not bf16 and not how.adapters and known(model.base_model):
        layer = 2 * (hidden + queries + keys + inner) * FLOAT
        working = (3 * hidden + 7 * queries) * FLOAT  # of the layer that is at work
        return (
            layers * hidden * FLOAT + layer + working
            if how.checkpointing
            else layers * layer + working
        )
    layer = (6 * hidden + 4 * (queries + keys) + 4 * inner) * FLOAT * BACKWARD
    layer *= AUTOCAST if bf16 else 1.0
    return round(layers * hidden * FLOAT + AGAIN * layer if how.checkpointing else layers * layer)
