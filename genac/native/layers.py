"""A decoder's layers in training in C++ (csrc/layers.cpp): what Python hands to each pass."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from genac.native.library import library, pointer
from genac.native.structs import CLayerWeights, CTrainedLayer

WEIGHTS = tuple(name for name, *_ in CLayerWeights._fields_)
Weights = Sequence[Tensor | None]  # in the order of WEIGHTS; the norm behind the layers has one

ATTENTION, ROPE, MLP, NORM = slice(9), slice(7, 9), slice(9, None), slice(1)  # of WEIGHTS
# The weights that each pass takes, and the arrays that it reads and writes.
PASSES = {
    "attn_in_fwd": (ATTENTION, "cosine sine x q k v rope_q rope_k rope_v"),
    "rope_recompute": (ROPE, "cosine sine q k v rope_q rope_k rope_v"),
    "attn_out_mlp_fwd": (MLP, "x attended mid gates ups y"),
    "attn_out_mlp_bwd": (MLP, "attended mid gates ups grad dmid dattended"),
    "attn_in_bwd": (ATTENTION, "cosine sine x q k dq dk dv dmid dx"),
    "norm_fwd": (NORM, "x y"),
    "norm_bwd": (NORM, "x grad dx"),
}
# Where these are None, a forward pass does not keep them.
OPTIONAL = {"attn_out_mlp_fwd": ("mid", "gates", "ups")}
OPTIONAL_WEIGHTS = ("q_bias", "k_bias", "v_bias", "q_gain", "k_gain", "out_bias")


@dataclass(frozen=True)
class Sizes:
    """Of a layer and of the packed row that passes it."""

    tokens: int
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    activation: int  # its number in ACTIVATIONS
    eps: float


def layer_pass(
    name: str, sizes: Sizes, weights: Weights, grads: Weights = (), /, **arrays: Tensor | None
) -> None:
    """One pass of layers.cpp over the arrays; `grads` are the weights' gradients, which it writes
    where they are not None.
    """
    loaded = library()
    assert loaded is not None
    part, arguments = PASSES[name]
    names, shapes, optional = arguments.split(), array_shapes(sizes), OPTIONAL.get(name, ())
    assert arrays.keys() <= set(names), f"{name} takes {arguments}"
    pointers = {
        x: pointer(arrays.get(x), torch.float32, shapes[x], x, nullable=x in optional)
        for x in names
    }
    layer = CTrainedLayer(*vars(sizes).values(), **pointers)
    set_weights(layer.w, sizes, weights, part, OPTIONAL_WEIGHTS)
    if grads:
        set_weights(layer.w_grad, sizes, grads, part, WEIGHTS, "gradient of ")
    if getattr(loaded, f"genac_{name}")(byref(layer), torch.get_num_threads()):
        raise MemoryError("no memory for the layers of a micro-batch")


@cache
def array_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    queries, keys = (s.tokens, s.heads * s.dim), (s.tokens, s.kv_heads * s.dim)
    per_head = (s.tokens, s.heads, s.dim)
    return {
        **dict.fromkeys(("cosine", "sine"), (s.tokens, s.dim)),
        **dict.fromkeys(("x", "mid", "y", "grad", "dmid", "dx"), (s.tokens, s.hidden)),
        **dict.fromkeys(("gates", "ups"), (s.tokens, s.inner)),
        **{"q": queries, "k": keys, "v": keys},
        **dict.fromkeys(("rope_q", "rope_k", "rope_v", "attended", "dattended"), per_head),
        **dict.fromkeys(("dq", "dk", "dv"), per_head),
    }


@cache
def weight_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    queries, keys = s.heads * s.dim, s.kv_heads * s.dim
    return {
        **dict.fromkeys(("in_gain", "post_gain", "out_bias"), (s.hidden,)),
        **{"q": (queries, s.hidden), "k": (keys, s.hidden), "v": (keys, s.hidden)},
        **{"q_bias": (queries,), "k_bias": (keys,), "v_bias": (keys,)},
        **dict.fromkeys(("q_gain", "k_gain"), (s.dim,)),
        "out": (s.hidden, queries),
        **dict.fromkeys(("gate", "up"), (s.inner, s.hidden)),
        "down": (s.hidden, s.inner),
    }


def set_weights(
    struct: CLayerWeights,
    sizes: Sizes,
    tensors: Weights,
    part: slice,
    nullable: Sequence[str],
    prefix: str = "",
) -> None:
    shapes, names = weight_shapes(sizes), WEIGHTS[part]
    for name, x in zip(names, tensors[part], strict=True):
        address = pointer(x, torch.float32, shapes[name], prefix + name, nullable=name in nullable)
        setattr(struct, name, address)
