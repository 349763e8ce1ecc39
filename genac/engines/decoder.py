"""A decoder for the Llama, Qwen, Mistral and Gemma families on a transformers model's own weights.

It computes what transformers computes (tested per family) with fewer operations per step, and with
an attention that the caller supplies together with its preallocated cache.

Shapes: _B row, _T position, _H query head, _K key/value head, _D head dimension, _V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from genac.models.activations import ACTIVATIONS, activation_of
from genac.models.families import family_of
from genac.models.lora import weight_of
from genac.models.sharding import gathered
from genac.native.decode import native

# Rotary frequencies of these kinds do not depend on the length of the sequence.
STATIC_ROPE = ("default", "linear", "llama3", "yarn")


class Attend(Protocol):
    """Stores the new keys and values of a layer and returns what its queries read."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, T, H, D), scaled already, k and v (B, T, K, D) -> (B, T, H * D)."""
        ...


@dataclass(frozen=True)
class Layer:
    """Fused weights of one layer."""

    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # (H + K, D)
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    down: Tensor


class Decoder:
    """Holds fused copies of the weights in the decoding dtype."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        config = model.config
        if dtype == torch.float64:
            raise ValueError("the decoder computes in float32 or less; use model.float()")
        self.dtype, self.family = dtype, family_of(config.model_type)
        self.eps = config.rms_norm_eps
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        rotary = model.model.rotary_emb
        self.inv_freq = rotary.inv_freq.detach().float()
        self.rope_scale = float(getattr(rotary, "attention_scaling", 1.0))
        self.load(model)

    @staticmethod
    def supports(model: Any, max_length: int | None = None) -> bool:
        """Whether the architecture is computed exactly, for sequences of at most `max_length`;
        others take transformers' own forward.
        """
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
        window = getattr(config, "sliding_window", None)
        # A window that the longest sequence fits into hides nothing.
        whole = window is None or (max_length is not None and max_length <= window)
        return (
            family_of(config.model_type).decodes
            and rope.get("rope_type", "default") in STATIC_ROPE
            and (layer_types == {"full_attention"} or whole)
            and whole
            and not getattr(config, "use_bidirectional_attention", False)
            and all(ordinary(layer, model) for layer in model.model.layers)
        )

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Copies the weights in the form that takes the fewest operations per step.

        q/k/v and gate/up are one product each; the weight of a norm and the 1/sqrt(D) of attention
        are multiplied into the product that follows; the two halves of a rotary pair stand side by
        side, so that a rotation is one complex multiplication.
        """
        gain = lambda norm: norm.weight.detach().float() + self.family.norm_offset  # noqa: E731
        cast = lambda weight: weight.to(self.dtype).contiguous()  # noqa: E731
        config = model.config
        number = activation_of(model.model.layers[0].mlp.act_fn)
        assert number is not None, "not a supported model"
        self.act, self.activation = ACTIVATIONS[number], number
        with gathered(model):
            self.embedding = cast(model.model.embed_tokens.weight.detach().clone())
            if self.family.scaled_embedding:
                self.embedding = self.embedding * config.hidden_size**0.5
            self.head = cast(model.lm_head.weight.detach().float() * gain(model.model.norm))
        # One layer after the other takes the old one's place: two copies need not fit at once.
        self.layers: list[Layer] = getattr(self, "layers", [])
        for index, layer in enumerate(model.model.layers):
            with gathered(layer):
                self.layers[index : index + 1] = [self._layer(layer, gain, cast)]
        self.native = native(self)

    def _layer(self, layer: Any, gain: Any, cast: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        scale, normed = self.head_dim**-0.5, hasattr(attention, "q_norm")
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (weight_of(p).float() for p in projections)
        bias = None
        if projections[0].bias is not None:
            bias = [p.bias.detach().float() for p in projections]
            bias[0], bias[1] = self._paired(bias[0]), self._paired(bias[1])
        q, k, qk_norm = self._paired(q), self._paired(k), None
        if normed:  # the norm undoes a scale before it
            q_gain, k_gain = (
                self._paired(n.weight.detach().float())
                for n in (attention.q_norm, attention.k_norm)
            )
            heads = [q_gain * scale] * self.heads + [k_gain] * self.kv_heads
            qk_norm = cast(torch.stack(heads))
        else:
            q = q * scale
            if bias is not None:
                bias[0] = bias[0] * scale
        gate_up = torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)]).float()
        out_bias = attention.o_proj.bias
        return Layer(
            qkv=cast(torch.cat([q, k, v]) * gain(layer.input_layernorm)),
            qkv_bias=cast(torch.cat(bias)) if bias is not None else None,
            qk_norm=qk_norm,
            out=cast(weight_of(attention.o_proj).clone()),
            out_bias=cast(out_bias.detach().clone()) if out_bias is not None else None,
            gate_up=cast(gate_up * gain(layer.post_attention_layernorm)),
            down=cast(weight_of(mlp.down_proj).clone()),
        )

    def to(self, device: torch.device | str) -> None:
        """Moves all weights."""
        self.embedding, self.head = self.embedding.to(device), self.head.to(device)
        self.inv_freq = self.inv_freq.to(device)
        for index, layer in enumerate(self.layers):
            own = [getattr(layer, f.name) for f in fields(Layer)]
            self.layers[index] = Layer(*(None if x is None else x.to(device) for x in own))  # pyright: ignore[reportArgumentType]

    def _paired(self, weight: Tensor) -> Tensor:
        """Rows of each head reordered so that the rotary pair (i, i + D/2) is (2i, 2i + 1)."""
        halves = weight.view(-1, 2, self.head_dim // 2, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)

    def forward(self, ids_BT: Tensor, position_BT: Tensor, attend: Attend) -> Tensor:
        """Hidden states (B, T, hidden) of the tokens, before the last norm."""
        rows, length = ids_BT.shape
        turn = self.turn(position_BT)[:, :, None]
        x = self.embedding[ids_BT]
        rotated = self.heads + self.kv_heads
        for index, w in enumerate(self.layers):
            qkv = F.linear(self._normed(x), w.qkv, w.qkv_bias)
            qkv = qkv.view(rows, length, -1, self.head_dim)
            qk, v = qkv[:, :, :rotated], qkv[:, :, rotated:]
            if w.qk_norm is not None:
                qk = self._normed(qk) * w.qk_norm
            q, k = rotate(qk, turn).split([self.heads, self.kv_heads], 2)
            x = x + F.linear(attend(index, q, k, v), w.out, w.out_bias)
            gate, up = F.linear(self._normed(x), w.gate_up).chunk(2, dim=-1)
            x = x + F.linear(self.act(gate) * up, w.down)
        return x

    def next_logits(self, token_B: Tensor, position_B: Tensor, attend: Attend) -> Tensor:
        """(B, V) float32 of what follows one token per row."""
        hidden = self.forward(token_B[:, None], position_B[:, None], attend)
        return self.logits(hidden[:, -1])

    def turn(self, position: Tensor) -> Tensor:
        """Rotations (..., D / 2) of positions (...), as complex numbers."""
        angle = position[..., None].float() * self.inv_freq
        return torch.polar(torch.full_like(angle, self.rope_scale), angle)

    def _normed(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps); the gain is in the weights that follow."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return x * scale.to(x.dtype)

    def logits(self, hidden_BH: Tensor) -> Tensor:
        """(B, V) float32 from hidden states before the last norm."""
        return F.linear(self._normed(hidden_BH), self.head).float()


def ordinary(layer: Any, model: Any) -> bool:
    """Whether a layer computes with the config's numbers and the first layer's activation."""
    attention, mlp, eps = layer.self_attn, layer.mlp, model.config.rms_norm_eps
    norms = [layer.input_layernorm, layer.post_attention_layernorm, model.model.norm]
    norms += [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    activation = activation_of(mlp.act_fn)
    return (
        activation is not None
        and activation == activation_of(model.model.layers[0].mlp.act_fn)
        and attention.scaling == attention.head_dim**-0.5
        and all(p.bias is None for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        and all(getattr(n, "variance_epsilon", getattr(n, "eps", None)) == eps for n in norms)
    )


def rotate(x_BTHD: Tensor, turn_BT1d: Tensor) -> Tensor:
    """Rotary embedding of adjacent pairs, as complex numbers."""
    pairs = torch.view_as_complex(x_BTHD.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn_BT1d).flatten(-2).to(x_BTHD.dtype)
