"""A decoder's layers in training on CPU: one operation per layer, forward and backward by hand.

Transformers' layers pass the tokens through memory once per norm, product, rotation, activation
and residual, and keep what each of them needs for its gradient. Here the C++ of native/layers.cpp
takes a few tokens through all of them at a time, and a layer keeps its two residuals, the queries,
keys and values before norm and rotation, what attention found, and the two halves of its gated
product; the rest is computed again. Parameters and their gradients are the model's own.

Shapes: _L token of the packed row, _D hidden size.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genac.models.tree_attention import (
    PACKED_FAMILIES,
    BlockAttention,
    FusedAttention,
    TreePlan,
    fuses,
)
from genac.native.library import LANES, library

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu")
READ, AGAIN, WRITE, WRITE_BACK, READ_BACK = range(5)  # the passes of layers.cpp
SIZES = ("tokens", "hidden", "heads", "kv_heads", "dim", "inner", "activation")
WEIGHTS = (
    *("in_gain", "q", "k", "v", "q_bias", "k_bias", "v_bias", "q_gain", "k_gain"),
    *("out", "out_bias", "post_gain", "gate", "up", "down"),
)
ARRAYS = (
    *("cosine", "sine", "x", "q", "k", "v", "turned_q", "turned_k", "turned_v", "attended"),
    *("mid", "gates", "ups", "y", "grad", "dmid", "dattended", "dq", "dk", "dv", "dx"),
)


class CWeights(ctypes.Structure):
    """Mirrors Weights of layers.cpp."""

    _fields_ = [(name, c_void_p) for name in WEIGHTS]


class CLayer(ctypes.Structure):
    """Mirrors Layer of layers.cpp."""

    _fields_ = (
        *((name, c_int64) for name in SIZES),
        ("eps", c_double),
        ("w", CWeights),
        ("pull", CWeights),
        *((name, c_void_p) for name in ARRAYS),
    )


@dataclass(frozen=True)
class Call:
    """What all layers of a forward pass share."""

    plan: TreePlan
    heads: int
    kv_heads: int
    dim: int
    activation: int
    eps: float
    scale: float  # of attention
    keeps: bool  # whether what the backward pass needs is kept, or computed again


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
    """Stands for autograd's where the attention's passes are called by hand."""

    saved_tensors: tuple[Tensor, ...]
    plan: TreePlan
    scale: float

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


Weights = tuple[Tensor | None, ...]


def native(
    run: int, call: Call, weights: Weights, pulls: Weights = (), **arrays: Tensor | None
) -> None:
    """One pass of layers.cpp over the given arrays."""
    found = library()
    assert found is not None
    at = lambda x: None if x is None else x.data_ptr()  # noqa: E731
    w = CWeights(*map(at, weights))
    x = next(x for x in (arrays["x"], arrays.get("grad")) if x is not None)
    inner, hidden = len(weights[-2]), len(weights[0])  # pyright: ignore[reportArgumentType]
    sizes = (hidden, call.heads, call.kv_heads, call.dim, inner, call.activation, call.eps)
    pull = CWeights(*map(at, pulls))
    layer = CLayer(len(x), *sizes, w, pull, **{name: at(x) for name, x in arrays.items()})
    if found.genac_layer(ctypes.byref(layer), run, torch.get_num_threads()):
        raise MemoryError("no memory for the layers of a micro-batch")


def turned(call: Call, q: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Room for what attention reads: (L, query heads, dim) each."""
    shape = (len(q), call.heads, call.dim)
    found = {f"turned_{name}": q.new_empty(shape) for name in ("q", "k")}
    # Values are read as they are, unless several query heads share them.
    same = call.heads == call.kv_heads
    return {**found, "turned_v": v.view(shape) if same else q.new_empty(shape)}


def through(
    call: Call, x: Tensor, turn: dict[str, Tensor], weights: Weights, keeps: bool
) -> tuple[Tensor, Kept | None]:
    """A layer's output (L, D), and what its backward pass needs where it `keeps`."""
    rows = len(x)
    q, k, v = (
        x.new_empty(rows, heads * call.dim) for heads in (call.heads, call.kv_heads, call.kv_heads)
    )
    read = turned(call, q, v)
    native(READ, call, weights, x=x, q=q, k=k, v=v, **turn, **read)
    context = Context()
    kernel = FusedAttention if fuses(read["turned_q"], call.plan) else BlockAttention
    attended = kernel.forward(context, *read.values(), call.plan, call.scale)
    lse = context.saved_tensors[-1]
    del read, context
    y, inner = torch.empty_like(x), len(weights[-2])  # pyright: ignore[reportArgumentType]
    mid, gates, ups = (
        (torch.empty_like(x), x.new_empty(rows, inner), x.new_empty(rows, inner))
        if keeps
        else (None, None, None)
    )
    native(WRITE, call, weights, x=x, attended=attended, mid=mid, gates=gates, ups=ups, y=y)
    if mid is None or gates is None or ups is None:
        return y, None
    return y, Kept(q, k, v, attended, lse, mid, gates, ups)


class FusedLayer(torch.autograd.Function):
    """A layer (L, D) -> (L, D); the weights in the order of WEIGHTS."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, call: Call, cosine: Tensor, sine: Tensor, *weights: Tensor | None
    ) -> Tensor:
        turn = {"cosine": cosine, "sine": sine}
        y, kept = through(call, x, turn, weights, call.keeps)
        ctx.save_for_backward(x, cosine, sine, *weights, *(kept or ()))
        ctx.call = call
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        call: Call = ctx.call
        x, cosine, sine, *rest = ctx.saved_tensors
        weights, found = tuple(rest[: len(WEIGHTS)]), rest[len(WEIGHTS) :]
        turn = {"cosine": cosine, "sine": sine}
        kept = Kept(*found) if found else through(call, x, turn, weights, True)[1]
        assert kept is not None
        wanted = ctx.needs_input_grad[4:]
        pulls = tuple(
            torch.empty_like(w) if w is not None and needs else None
            for w, needs in zip(weights, wanted, strict=True)
        )
        dx = pulled(call, x, turn, weights, pulls, kept, grads[0].contiguous())
        return dx, None, None, None, *pulls


def pulled(
    call: Call,
    x: Tensor,
    turn: dict[str, Tensor],
    weights: Weights,
    pulls: Weights,
    kept: Kept,
    grad: Tensor,
) -> Tensor:
    """The gradient of a layer's input; those of its weights are written into `pulls`."""
    mid, attended = kept.mid, kept.attended
    dmid, dattended = torch.empty_like(x), torch.empty_like(attended)
    own = {"attended": attended, "mid": mid, "gates": kept.gates, "ups": kept.ups}
    own |= {"grad": grad, "dmid": dmid, "dattended": dattended}
    native(WRITE_BACK, call, weights, pulls, x=x, **own)
    raw = {"q": kept.q, "k": kept.k, "v": kept.v}
    read = turned(call, kept.q, kept.v)
    native(AGAIN, call, weights, x=x, **turn, **raw, **read)
    context = Context()
    context.saved_tensors = (*read.values(), attended, kept.lse)
    context.plan, context.scale = call.plan, call.scale
    kernel = FusedAttention if fuses(read["turned_q"], call.plan) else BlockAttention
    dq, dk, dv = kernel.backward(context, dattended)[:3]
    dx = dattended.new_empty(x.shape)
    native(
        READ_BACK, call, weights, pulls, x=x, **turn, **raw, dq=dq, dk=dk, dv=dv, dmid=dmid, dx=dx
    )
    return dx


# --- models --------------------------------------------------------------------------------------


def fused(base: Any, ids_L: Tensor, position_L: Tensor, plan: TreePlan) -> Tensor:
    """Hidden states (L, D) of a packed row, as the model itself computes them."""
    x = base.embed_tokens(ids_L)
    cosine, sine = (t[0].contiguous() for t in base.rotary_emb(x[None], position_L[None]))
    config, attention = base.config, base.layers[0].self_attn
    sizes = (config.num_attention_heads, config.num_key_value_heads, attention.head_dim)
    kind = (ACTIVATIONS.index(config.hidden_act), config.rms_norm_eps, attention.scaling)
    for layer in base.layers[: config.num_hidden_layers]:
        again = getattr(layer, "gradient_checkpointing", False) and layer.training
        keeps = torch.is_grad_enabled() and not again
        x = FusedLayer.apply(x, Call(plan, *sizes, *kind, keeps), cosine, sine, *weights_of(layer))
    return base.norm(x)


def weights_of(layer: Any) -> Weights:
    """A layer's weights in the order of WEIGHTS."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return (
        gain(layer.input_layernorm),
        *(p.weight for p in projections),
        *(p.bias for p in projections),
        *(None if norm is None else gain(norm) for norm in norms),
        attention.o_proj.weight,
        attention.o_proj.bias,
        gain(layer.post_attention_layernorm),
        *(p.weight for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
    )


def gain(norm: Any) -> Tensor:
    # Gemma stores its norms as differences from one.
    return 1.0 + norm.weight if type(norm).__name__.startswith("Gemma") else norm.weight


def fusable(base: Any) -> bool:
    """Whether the layers are those that are computed here: plain fp32 layers of a known family on
    CPU, that nobody replaced, split, hooked or casts, and a compiler is at hand.
    """
    config = base.config
    if config.model_type not in PACKED_FAMILIES or torch.is_autocast_enabled("cpu"):
        return False
    dim = base.layers[0].self_attn.head_dim
    widths = (config.hidden_size, config.intermediate_size)
    return (
        config.hidden_act in ACTIVATIONS
        and not getattr(config, "mlp_bias", False)
        and dim % (2 * LANES) == 0
        and not any(width % LANES for width in widths)
        and all(map(untouched, base.modules()))
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in base.parameters())
        and library() is not None
    )


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def untouched(module: nn.Module) -> bool:
    """Whether a module is torch's or transformers' own, whole and without hooks."""
    known = type(module).__module__.startswith(("torch.nn.modules.", "transformers."))
    plain = all(type(p) is nn.Parameter and p.is_contiguous() for p in module._parameters.values() if p is not None)
    return known and plain and "forward" not in vars(module) and not any(getattr(module, name) for name in HOOKS)
