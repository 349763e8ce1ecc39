"""A decoder's layers in training on CPU: one operation per layer, forward and backward by hand.

Transformers' layers pass all tokens through memory once per norm, product, rotation, activation
and residual, and keep what each of them needs for its gradient. Here the C++ of native/layers.cpp
takes a few tokens at a time through everything but the attention, and a layer keeps its input, the
queries, keys and values before norm and rotation, attention's output, the residual behind it and
the two halves of its gated product; the rest is computed again. Under gradient checkpointing it
keeps its input only. Parameters and their gradients are the model's own.

Shapes: _L token of the packed row, _D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from genac.models.activations import activation_of
from genac.models.families import family_of
from genac.models.packed.attention import FusedAttention
from genac.models.packed.plan import TreePlan
from genac.native.layers import WEIGHTS, Sizes, Weights, layer_pass
from genac.native.library import LANES, library

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# Bytes of a model's layers. Beyond, torch's products were faster with AVX2 and with AVX-512; below,
# with AVX-512 only (bench/layers.py).
LARGEST = 32 * 2**20

Attention: Any = FusedAttention  # its passes are called by hand


@dataclass(frozen=True)
class Call:
    """What the layers of a forward pass share."""

    plan: TreePlan
    sizes: Sizes
    scale: float  # of attention
    cosine: Tensor  # (L, dim)
    sine: Tensor

    def run(
        self, name: str, weights: Weights, grads: Weights = (), /, **arrays: Tensor | None
    ) -> None:
        """One pass of layers.cpp over the arrays; `grads` are the weights' gradients."""
        layer_pass(name, self.sizes, weights, grads, **arrays)

    def rotations(self) -> dict[str, Tensor]:
        return {"cosine": self.cosine, "sine": self.sine}

    def room(self, like: Tensor, *widths: int) -> list[Tensor]:
        return [like.new_empty(self.sizes.tokens, width) for width in widths]

    def rope_room(self, like: Tensor, v: Tensor) -> dict[str, Tensor]:
        """Room for what attention reads, (L, heads, dim) each."""
        sizes = self.sizes
        shape = (sizes.tokens, sizes.heads, sizes.dim)
        # Values are read as they are, unless several query heads share them.
        values = v.view(shape) if sizes.heads == sizes.kv_heads else like.new_empty(shape)
        return {
            "rope_q": like.new_empty(shape),
            "rope_k": like.new_empty(shape),
            "rope_v": values,
        }


class Kept(NamedTuple):
    """What a backward pass needs besides a layer's input."""

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
        weight_grads = [
            torch.empty_like(w) if w is not None and needed else None
            for w, needed in zip(weights, ctx.needs_input_grad[3:], strict=True)
        ]
        dx = backward(ctx.call, x, weights, weight_grads, kept, grads[0].contiguous())
        return dx, None, None, *weight_grads


class FusedNorm(torch.autograd.Function):
    """The norm behind the last layer, (L, D) -> (L, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Call, gain: Tensor) -> Tensor:
        y = torch.empty_like(x)
        call.run("norm_fwd", [gain], x=x, y=y)
        ctx.save_for_backward(x, gain)
        ctx.call = call
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gain = ctx.saved_tensors
        dx, dgain = torch.empty_like(x), torch.empty_like(gain)
        ctx.call.run("norm_bwd", [gain], [dgain], x=x, grad=grads[0].contiguous(), dx=dx)
        return dx, None, dgain


def forward(
    call: Call, x: Tensor, weights: Weights, keeps: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A layer's output (L, D), and where it `keeps`, a Kept."""
    sizes = call.sizes
    keys = sizes.kv_heads * sizes.dim
    q, k, v = call.room(x, sizes.heads * sizes.dim, keys, keys)
    read = call.rope_room(x, v)
    call.run("attn_in_fwd", weights, x=x, q=q, k=k, v=v, **read, **call.rotations())
    context = Context(call)
    attended = Attention.forward(context, *read.values(), call.plan, call.scale)
    lse = context.saved_tensors[-1]
    del read, context  # only the log-sum-exp is needed of what attention keeps
    y = torch.empty_like(x)
    wide = call.room(x, sizes.hidden, sizes.inner, sizes.inner) if keeps else (None,) * 3
    mid, gates, ups = wide
    inner = {"mid": mid, "gates": gates, "ups": ups}
    call.run("attn_out_mlp_fwd", weights, x=x, attended=attended, y=y, **inner)
    if mid is None or gates is None or ups is None:
        return y, ()
    return y, Kept(q, k, v, attended, lse, mid, gates, ups)


def backward(
    call: Call, x: Tensor, weights: Weights, weight_grads: Weights, kept: Kept, grad: Tensor
) -> Tensor:
    """The gradient (L, D) of a layer's input; those of its weights are written into
    `weight_grads`.
    """
    q, k, v, attended, lse, *_ = kept
    dmid, dattended = torch.empty_like(x), torch.empty_like(attended)
    wide = {"mid": kept.mid, "gates": kept.gates, "ups": kept.ups, "attended": attended}
    grads = {"grad": grad, "dmid": dmid, "dattended": dattended}
    call.run("attn_out_mlp_bwd", weights, weight_grads, **wide, **grads)
    read, rotations = call.rope_room(x, v), call.rotations()
    call.run("rope_recompute", weights, q=q, k=k, v=v, **read, **rotations)
    context = Context(call, *read.values(), attended, lse)
    dq, dk, dv = (part.contiguous() for part in Attention.backward(context, dattended)[:3])
    del read, context, dattended
    dx = torch.empty_like(x)
    grads = {"dq": dq, "dk": dk, "dv": dv, "dmid": dmid, "dx": dx}
    call.run("attn_in_bwd", weights, weight_grads, x=x, q=q, k=k, **grads, **rotations)
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
    sizes = Sizes(
        plan.length,
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        attention.head_dim,
        config.intermediate_size,
        activation,
        config.rms_norm_eps,
    )
    call = Call(plan, sizes, attention.scaling, cosine, sine)
    offset = family_of(config.model_type).norm_offset
    for layer in base.layers[: config.num_hidden_layers]:
        keeps = torch.is_grad_enabled() and not (layer.gradient_checkpointing and layer.training)
        x = FusedLayer.apply(x, call, keeps, *weights_of(layer, offset))
    return FusedNorm.apply(x, call, gain(base.norm, offset))


def weights_of(layer: Any, offset: float) -> list[Tensor | None]:
    """A layer's weights in the order of WEIGHTS."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return [
        gain(layer.input_layernorm, offset),
        *(p.weight for p in projections),
        *(p.bias for p in projections),
        *(None if norm is None else gain(norm, offset) for norm in norms),
        attention.o_proj.weight,
        attention.o_proj.bias,
        gain(layer.post_attention_layernorm, offset),
        *(p.weight for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
    ]


def gain(norm: Any, offset: float) -> Tensor:
    return offset + norm.weight if offset else norm.weight


def fusable(base: Any) -> bool:
    """Whether the layers of a model are computed here: fp32 on CPU, of at most LARGEST bytes,
    outside autocast, with a compiler at hand.
    """
    return (
        all(p.dtype == torch.float32 and p.device.type == "cpu" for p in base.parameters())
        and not torch.is_autocast_enabled("cpu")
        and known(base)
        and size_of(base.layers) <= LARGEST
        and library() is not None
    )


def size_of(layers: Any) -> int:
    """Bytes of the weights."""
    return sum(p.numel() * p.element_size() for p in layers.parameters())


def known(base: Any) -> bool:
    """Whether a model is of a family and of widths that layers.cpp computes, and nobody replaced,
    split or hooked any part of its layers. Embedding and rotary module are called as they
    are.
    """
    config = base.config
    return (
        family_of(config.model_type).fuses
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
