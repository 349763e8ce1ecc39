"""A preallocated-cache decoder for the Llama / Qwen family, on a transformers model's own weights.

It computes what transformers computes (tested per family) with less overhead per step: keys and
values live in one preallocated buffer, rows are left-padded so that all of them stand at the same
position, and rows that finished are dropped.

Shapes: _B row, _T position, _H query head, _K key/value head, _D head dimension, _V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")


class Decoder:
    """Holds fused copies of the weights in the decoding dtype."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        config = model.config
        self.dtype = dtype
        self.eps = config.rms_norm_eps
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.inv_freq = model.model.rotary_emb.inv_freq.detach().float()
        self.load(model)

    @staticmethod
    def supports(model: Any) -> bool:
        """Whether the architecture is computed exactly; others take transformers' own forward."""
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
        return (
            config.model_type in FAMILIES
            and rope.get("rope_type", "default") == "default"
            and config.hidden_act == "silu"
            and layer_types == {"full_attention"}
            and getattr(config, "sliding_window", None) is None
            and not getattr(config, "mlp_bias", False)
        )

    @torch.no_grad()
    def load(self, model: Any) -> None:
        """Copies the weights, fusing q/k/v and gate/up so that each layer is four products."""
        cast = lambda *parts: torch.cat([p.detach() for p in parts]).to(self.dtype)  # noqa: E731
        self.embedding = cast(model.model.embed_tokens.weight)
        self.head = cast(model.lm_head.weight)
        self.norm = cast(model.model.norm.weight)
        self.layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            biased = projections[0].bias is not None
            normed = hasattr(attention, "q_norm")
            self.layers.append(
                {
                    "qkv": cast(*(p.weight for p in projections)),
                    "qkv_bias": cast(*(p.bias for p in projections)) if biased else None,
                    "out": cast(attention.o_proj.weight),
                    "out_bias": cast(attention.o_proj.bias)
                    if attention.o_proj.bias is not None
                    else None,
                    "gate_up": cast(mlp.gate_proj.weight, mlp.up_proj.weight),
                    "down": cast(mlp.down_proj.weight),
                    "norm1": cast(layer.input_layernorm.weight),
                    "norm2": cast(layer.post_attention_layernorm.weight),
                    "q_norm": cast(attention.q_norm.weight) if normed else None,
                    "k_norm": cast(attention.k_norm.weight) if normed else None,
                }
            )

    def allocate(self, rows: int, length: int) -> Tensor:
        """An empty cache (layer, 2, B, K, T, D)."""
        shape = (len(self.layers), 2, rows, self.kv_heads, length, self.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.embedding.device)

    def forward(
        self, ids_BT: Tensor, position_BT: Tensor, cache: Tensor, at: int, mask: Tensor
    ) -> Tensor:
        """Reads T tokens written to cache slots at..at+T; returns logits (B, V) of the last one.

        mask is additive, broadcastable to (B, 1, 1, T, at + T): 0 visible, -inf hidden.
        """
        rows, length = ids_BT.shape
        angle_BTd = position_BT[..., None].float() * self.inv_freq
        cos, sin = (
            f(torch.cat([angle_BTd, angle_BTd], -1))[:, :, None] for f in (torch.cos, torch.sin)
        )
        cos, sin = cos.to(self.dtype), sin.to(self.dtype)
        x = self.embedding[ids_BT]
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        for index, w in enumerate(self.layers):
            h = F.rms_norm(x, x.shape[-1:], w["norm1"], self.eps)
            qkv = F.linear(h, w["qkv"], w["qkv_bias"]).view(rows, length, -1, self.head_dim)
            q, k, v = qkv.split(sizes, dim=2)
            if w["q_norm"] is not None:
                q = F.rms_norm(q, q.shape[-1:], w["q_norm"], self.eps)
                k = F.rms_norm(k, k.shape[-1:], w["k_norm"], self.eps)
            keys, values = cache[index, 0], cache[index, 1]
            keys[:, :, at : at + length] = rotate(k, cos, sin).transpose(1, 2)
            values[:, :, at : at + length] = v.transpose(1, 2)
            q = rotate(q, cos, sin).transpose(1, 2)
            x = x + F.linear(
                self._attend(q, keys, values, at + length, mask), w["out"], w["out_bias"]
            )
            h = F.rms_norm(x, x.shape[-1:], w["norm2"], self.eps)
            gate, up = F.linear(h, w["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        last = F.rms_norm(x[:, -1], x.shape[-1:], self.norm, self.eps)
        return F.linear(last, self.head).float()

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, end: int, mask: Tensor) -> Tensor:
        """Grouped-query attention; the plain products beat masked SDPA for one-token queries on
        CPU.
        """
        rows, _, length, dim = q.shape
        q = q.reshape(rows, self.kv_heads, -1, length, dim)
        scores = q @ keys[:, :, None, :end].transpose(-1, -2)
        weights = torch.softmax((scores * dim**-0.5 + mask).float(), -1).to(self.dtype)
        out = weights @ values[:, :, None, :end]
        return out.reshape(rows, self.heads, length, dim).transpose(1, 2).reshape(rows, length, -1)


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout of transformers."""
    first, second = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * cos + torch.cat([-second, first], -1) * sin
