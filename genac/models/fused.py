"""A decoder's layers in training on CPU: one operation per layer, forward and backward by hand.

Transformers' layers pass all tokens through memory once per norm, product, rotation, activation
and residual, and keep what each of them needs for its gradient. Here the C++ of native/layers.cpp
takes a few tokens at a time through everything but the attention, and a layer keeps its input, the
queries, keys and values before norm and rotation, what attention found, the residual behind it and
the two halves of its gated product; the rest is computed again. Under gradient checkpointing it
keeps its input only. Parameters and their gradients are the model's own.

Shapes: _L token of the packed row, _D hidden size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genac.models.activations import activation_of
from genac.models.tree_attention import PACKED_FAMILIES
from genac.models.tree_native import FusedAttention
from genac.models.tree_plan import TreePlan
from genac.native.library import LANES, library

READ, AGAIN, WRITE, WRITE_BACK, READ_BACK, NORM, NORM_BACK = range(7)  # its passes
SIZES = ("tokens", "hidden", "heads", "kv_heads", "dim", "inner", "activation")
WEIGHTS = (
    *("in_gain", "q", "k", "v", "q_bias", "k_bias", "v_bias", "q_gain", "k_gain"),
    *("out", "out_bias", "post_gain", "gate", "up", "down"),
)
ARRAYS = (
    *("cosine", "sine", "x", "q", "k", "v", "turned_q", "turned_k", "turned_v", "attended"),
    *("mid", "gates", "ups", "y", "grad", "dmid", "dattended", "dq", "dk", "dv", "dx"),
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Attention: Any = FusedAttention  # its passes are called by hand
Weights = Sequence[Tensor | None]  # in the order of WEIGHTS; what a layer has not is None


class CWeights(ctypes.Structure):
    """Mirrors Weights of layers.cpp."""

    _fields_ = [(name, c_void_p) for name in WEIGHTS]


class CLayer(ctypes.Structure):
    """Mirrors Trained of layers.cpp."""

    _fields_ = (
        *((name, c_int64) for name in SIZES),
        ("eps", c_double),
        ("w", CWeights),
        ("pull", CWeights),
        *((name, c_void_p) for name in ARRAYS),
    )


@dataclass(frozen=True)
class Call:
    """What the layers of a forward pass share."""

    plan: TreePlan
    hidden: int
    heads: int
    kv_heads: int
    dim: int
    inner: int
    activation: int
    eps: float
    scale: float  # of attention
    cosine: Tensor  # (L, dim)
    sine: Tensor

    def native(
        self, number: int, weights: Weights, pulls: Weights = (), /, **arrays: Tensor | None
    ) -> None:
        """One pass of layers.cpp over the arrays; `pulls` are the weights' gradients."""
        found = library()
        assert found is not None
        pointers = {"cosine": pointer(self.cosine), "sine": pointer(self.sine)}
        pointers |= {name: pointer(x) for name, x in arrays.items()}
        layer = CLayer(
            self.plan.length,
            *(getattr(self, name) for name in SIZES[1:]),
            self.eps,
            CWeights(*map(pointer, weights)),
            CWeights(*map(pointer, pulls)),
            **pointers,
        )
        if found.genac_layer(ctypes.byref(layer), number, torch.get_num_threads()):
            raise MemoryError("no memory for the layers of a micro-batch")

    def room(self, like: Tensor, *widths: int) -> list[Tensor]:
        return [like.new_empty(self.plan.length, width) for width in widths]

    def turned(self, like: Tensor, v: Tensor) -> dict[str, Tensor]:
        """Room for what attention reads, (L, heads, dim) each."""
        shape = (self.plan.length, self.heads, self.dim)
        # Values are read as they are, unless several query heads share them.
        values = v.view(shape) if self.heads == self.kv_heads else like.new_empty(shape)
        return {
            "turned_q": like.new_empty(shape),
            "turned_k": like.new_empty(shape),
            "turned_v": values,
        }


def pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


class Kept(NamedTuple):
    """What a backward pass needs beside a layer's input."""

    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    lse: Tensor
    mid: Tensor
    gates: Tensor
    ups: Tensor


class Context:
    """Stands for autograd's where the passes of the attention are called by hand."""

    def __init__(self, call: Call, *tensors: Tensor) -> None:
        self.plan, self.scale, self.saved_tensors = call.plan, call.scale, tensors

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


class FusedLayer(torch.autograd.Function):
    """A layer, (L, D) -> (L, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call, keeps: bool, *weights: Tensor | None) -> Tensor:
        y, kept = forward(call, x, weights, keeps)
        ctx.save_for_backward(x, *weights, *kept)
        ctx.call = call
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        weights, kept = rest[: len(WEIGHTS)], rest[len(WEIGHTS) :]
        kept = Kept(*(kept or forward(ctx.call, x, weights, True)[1]))
        pulls = [
            torch.empty_like(w) if w is not None and needed else None
            for w, needed in zip(weights, ctx.needs_input_grad[3:], strict=True)
        ]
        dx = backward(ctx.call, x, weights, pulls, kept, grads[0].contiguous())
        return dx, None, None, *pulls


class FusedNorm(torch.autograd.Function):
    """The norm behind the last layer, (L, D) -> (L, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call, gain: Tensor) -> Tensor:
        y = torch.empty_like(x)
        call.native(NORM, [gain], x=x, y=y)
        ctx.save_for_backward(x, gain)
        ctx.call = call
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        dx, pull = torch.empty_like(x), torch.empty_like(gain)
        ctx.call.native(NORM_BACK, [gain], [pull], x=x, grad=grads[0].contiguous(), dx=dx)
        return dx, None, pull


def forward(
    call: Call, x: Tensor, weights: Weights, keeps: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer's output (L, D), and where it `keeps`, a Kept."""
    own = call.kv_heads * call.dim
    q, k, v = call.room(x, call.heads * call.dim, own, own)
    read = call.turned(x, v)
    call.native(READ, weights, x=x, q=q, k=k, v=v, **read)
    context = Context(call)
    attended = Attention.forward(context, *read.values(), call.plan, call.scale)
    lse = context.saved_tensors[-1]
    del read, context  # only the log-sum-exp is needed of what attention keeps
    y = torch.empty_like(x)
    wide = call.room(x, call.hidden, call.inner, call.inner) if keeps else (None,) * 3
    mid, gates, ups = wide
    call.native(WRITE, weights, x=x, attended=attended, mid=mid, gates=gates, ups=ups, y=y)
    if mid is None or gates is None or ups is None:
        return y, ()
    return y, Kept(q, k, v, attended, lse, mid, gates, ups)


def backward(
    call: Call, x: Tensor, weights: Weights, pulls: Weights, kept: Kept, grad: Tensor
) -> Tensor:
    """The gradient (L, D) of a layer's input; those of its weights are written into `pulls`."""
    q, k, v, attended, lse, *_ = kept
    dmid, dattended = torch.empty_like(x), torch.empty_like(attended)
    wide = {"mid": kept.mid, "gates": kept.gates, "ups": kept.ups}
    pulled = {"grad": grad, "dmid": dmid, "dattended": dattended}
    call.native(WRITE_BACK, weights, pulls, attended=attended, **wide, **pulled)
    read = call.turned(x, v)
    call.native(AGAIN, weights, q=q, k=k, v=v, **read)
    context = Context(call, *read.values(), attended, lse)
    found = Attention.backward(context, dattended)
    del read, context, dattended
    dq, dk, dv = (part.contiguous() for part in found[:3])
    dx = torch.empty_like(x)
    call.native(READ_BACK, weights, pulls, x=x, q=q, k=k, dq=dq, dk=dk, dv=dv, dmid=dmid, dx=dx)
    return dx


# --- models --------------------------------------------------------------------------------------


def fused(base: Any, ids_L: Tensor, position_L: Tensor, plan: TreePlan) -> Tensor:
    """Hidden states (L, D) of a packed row, as the model itself computes them; for a `fusable`
    model.
    """
    x, config, first = base.embed_tokens(ids_L), base.config, base.layers[0]
    attention, activation = first.self_attn, activation_of(first.mlp.act_fn)
    assert activation is not None, "not a fusable model"
    cosine, sine = (t[0].contiguous() for t in base.rotary_emb(x[None], position_L[None]))
    call = Call(
        plan,
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        config.intermediate_size,
        activation,
        config.rms_norm_eps,
        attention.scaling,
        cosine,
        sine,
    )
    for layer in base.layers[: config.num_hidden_layers]:
        keeps = torch.is_grad_enabled() and not (layer.gradient_checkpointing and layer.training)
        x = FusedLayer.apply(x, call, keeps, *weights_of(layer))
    return FusedNorm.apply(x, call, gain(base.norm))


def weights_of(layer: Any) -> list[Tensor | None]:
    """A layer's weights in the order of WEIGHTS."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return [
        gain(layer.input_layernorm),
        *(p.weight for p in projections),
        *(p.bias for p in projections),
        *(None if norm is None else gain(norm) for norm in norms),
        attention.o_proj.weight,
        attention.o_proj.bias,
        gain(layer.post_attention_layernorm),
        *(p.weight for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
    ]


def gain(norm: Any) -> Tensor:
    # Gemma stores its norms as differences from one.
    return 1.0 + norm.weight if type(norm).__name__.startswith("Gemma") else norm.weight


def fusable(base: Any) -> bool:
    """Whether the layers of a model are computed here: fp32 on CPU, outside autocast, with a
    compiler at hand.
    """
    return (
        all(p.dtype == torch.float32 and p.device.type == "cpu" for p in base.parameters())
        and not torch.is_autocast_enabled("cpu")
        and known(base)
        and library() is not None
    )


def known(base: Any) -> bool:
    """Whether a model is of a family and of widths that layers.cpp computes, and nobody replaced,
    split or hooked any part of its layers. Embedding and rotary module are called as they are.
    """
    config = base.config
    return (
        config.model_type in PACKED_FAMILIES
        and activation_of(base.layers[0].mlp.act_fn) is not None
        and config.hidden_size % LANES == 0
        and config.intermediate_size % LANES == 0
        and base.layers[0].self_attn.head_dim % (2 * LANES) == 0
        and all(map(untouched, (base, base.norm, *base.layers.modules())))
        and all(like_the_first(layer, base) for layer in base.layers)
        and plain_norm(base.norm, config)
    )


def like_the_first(layer: Any, base: Any) -> bool:
    """Whether a layer is what the config says and computes with the first one's numbers."""
    first, attention, mlp = base.layers[0].self_attn, layer.self_attn, layer.mlp
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    return (
        (attention.scaling, attention.head_dim) == (first.scaling, first.head_dim)
        and activation_of(mlp.act_fn) == activation_of(base.layers[0].mlp.act_fn)
        and all(p.bias is None for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        and all(plain_norm(norm, base.config) for norm in norms)
    )


def plain_norm(norm: Any, config: Any) -> bool:
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return type(norm).__name__.endswith("RMSNorm") and eps == config.rms_norm_eps


def untouched(module: nn.Module) -> bool:
    """Whether a module is torch's or transformers' own, its weights plain, and nothing hooked."""
    weights = (p for p in module._parameters.values() if p is not None)
    return (
        type(module).__module__.startswith(("torch.nn.modules.", "transformers."))
        and all(type(p) is nn.Parameter and p.is_contiguous() for p in weights)
        and "forward" not in vars(module)
        and not any(getattr(module, name) for name in HOOKS)
    )
