"""Attention over packed trees: a shared prefix once, suffixes that leave it, and nothing between
suffixes.

The segments of a packed row attend in blocks: every segment causally to itself, every suffix to
the part of its shared prefix that it has seen. Blocks are merged by their log-sum-exp in the
forward pass; the backward pass of each block needs only the merged output and log-sum-exp (the
decomposition that blockwise and ring attention use, 2310.01889). On devices without the block
kernel the same attention is one product under a dense mask.

Shapes: _H head, _L token of the packed row, _D head dimension, _B segment, _S token of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from genac.models.families import family_of
from genac.models.packed.flex import flex, flexes
from genac.models.packed.plan import TreePlan
from genac.native.library import LANES, library
from genac.native.tree_attention import attend as attend_native

# The CPU kernel behind scaled_dot_product_attention; called itself because it also returns the
# log-sum-exp that merging parts needs.
FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
NAME = "genac_trees"


class BlockAttention(torch.autograd.Function):
    """softmax(q k^T scale) v over the blocks of a plan; q, k, v (L, H, D)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=accumulator(q))
        for index, valid in plan.groups:
            own = [gathered(x, index) for x in (q, k, v)]
            part, part_lse = attend(own[0], own[1], own[2], None, True, scale)
            scattered(out, part, index, valid)
            scattered(lse, part_lse, index, valid)
        for c in plan.prefix_blocks:
            rows, prefix = slice(c.start, c.end), slice(c.low, c.high)
            mask = cast(c.mask, q)
            part, part_lse = attend(
                block(q[rows]), block(k[prefix]), block(v[prefix]), mask, False, scale
            )
            part, part_lse = part[0].transpose(0, 1), part_lse[0].transpose(0, 1)
            share = torch.sigmoid(part_lse - lse[rows])
            out[rows] = torch.lerp(out[rows], part, share[..., None].to(q.dtype))
            lse[rows] = torch.logaddexp(lse[rows], part_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        plan, scale, grad = ctx.plan, ctx.scale, grads[0].contiguous()
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for index, valid in plan.groups:
            part_grad, *parts = (gathered(x, index) for x in (grad, q, k, v, out, lse))
            if valid is not None:  # padding takes part in nothing
                part_grad = part_grad * valid[:, None, :, None]
            result = backward(part_grad, parts, None, True, scale)
            # A padded key is a copy of the last one, and what flowed to it is nothing.
            for total, part in zip((dq, dk, dv), result, strict=True):
                scattered(total, part, index, valid)
        for c in plan.prefix_blocks:
            rows, prefix = slice(c.start, c.end), slice(c.low, c.high)
            places = (rows, rows, prefix, prefix, rows, rows)
            part_grad, *parts = (
                block(x[at]) for x, at in zip((grad, q, k, v, out, lse), places, strict=True)
            )
            result = backward(part_grad, parts, cast(c.mask, q), False, scale)
            for total, part, at in zip((dq, dk, dv), result, (rows, prefix, prefix), strict=True):
                total[at] += part[0].transpose(0, 1)
        return dq, dk, dv, None, None


class FusedAttention(torch.autograd.Function):
    """BlockAttention in C++: no block is gathered, padded, masked or merged. k and v may have fewer
    heads than q (query head h reads key head h // (heads / key heads)).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2])
        attend_native(plan.table, plan.prefix_groups, scale, q=q, k=k, v=v, out=out, lse=lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        names, plan, grad = ("q", "k", "v", "out", "lse"), ctx.plan, grads[0].contiguous()
        arrays = dict(zip(names, ctx.saved_tensors, strict=True))
        dq, dk, dv = (torch.empty_like(arrays[name]) for name in ("q", "k", "v"))
        arrays |= {"grad": grad, "dq": dq, "dk": dk, "dv": dv}
        attend_native(plan.table, plan.prefix_groups, ctx.scale, **arrays)
        return dq, dk, dv, None, None


def fuses(q: Tensor, plan: TreePlan) -> bool:
    """Whether attention goes through C++: faster than blocks up to thousands of tokens, no slower
    beyond (one sequence of 16 384).
    """
    fits = q.dtype == torch.float32 and q.shape[-1] % LANES == 0 and plan.device.type == "cpu"
    return fits and library() is not None


def accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def block(x: Tensor) -> Tensor:
    """(S, H, ...) -> (1, H, S, ...)."""
    return x.transpose(0, 1)[None]


def gathered(x: Tensor, index_BS: Tensor) -> Tensor:
    """(L, H, ...) -> (B, H, S, ...)."""
    # Whole tokens are copied, which is several times faster than indexing behind the heads.
    picked = x.index_select(0, index_BS.flatten())
    return picked.view(*index_BS.shape, *x.shape[1:]).transpose(1, 2)


def scattered(x: Tensor, part: Tensor, index_BS: Tensor, valid: Tensor | None) -> None:
    """Writes (B, H, S, ...) to its places in x (L, H, ...), but for what is not valid."""
    tokens = part.transpose(1, 2)
    index, tokens = (
        (index_BS.flatten(), tokens.flatten(0, 1))
        if valid is None
        else (index_BS[valid], tokens[valid])
    )
    x.index_copy_(0, index, tokens)


def cast(mask: Tensor | None, like: Tensor) -> Tensor | None:
    return None if mask is None else mask[None, None].to(like.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """One block on CPU: output (B, H, S, D) and log-sum-exp (B, H, S)."""
    return FLASH(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)


def backward(
    grad: Tensor, block: Sequence[Tensor], mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a block's q, k and v, given (q, k, v) and the output and log-sum-exp over all
    blocks.
    """
    return FLASH_BACKWARD(grad.contiguous(), *block, 0.0, causal, attn_mask=mask, scale=scale)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    plan: TreePlan | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, H, L, D) in, (1, L, H, D) out."""
    if plan is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return out, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    device = query.device.type
    if torch.is_autocast_enabled(device):  # the kernels below are called past autocast
        kind = torch.get_autocast_dtype(device)
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    if flexes(query, key):
        return flex(query, key, value, plan.blocks, scale).transpose(1, 2), None
    fused, repeat = fuses(query, plan), query.shape[1] // key.shape[1]
    if repeat > 1 and not fused:
        key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    if device == "cpu":  # (L, H, D), which is how projections leave them: nothing is copied
        tokens = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        kernel = FusedAttention if fused else BlockAttention
        return kernel.apply(*tokens, plan, scale)[None], None
    mask = plan.dense(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return out.transpose(1, 2), None


AttentionInterface.register(NAME, attention)


def packs(model: Any, longest: int) -> bool:
    """Whether the model's attention is plain causal attention that goes through transformers'
    interface, for sequences of at most `longest` tokens.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    whole = window is None or longest <= window
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = all(
        getattr(config, name, None) is None
        for name in ("attn_logit_softcapping", "attention_chunk_size")
    ) and not getattr(config, "use_bidirectional_attention", False)
    return (
        bool(getattr(model.base_model, "_supports_attention_backend", False))
        and plain
        and not getattr(config, "attention_dropout", 0.0)
        and (
            layers == {"full_attention"}
            or (whole and layers <= {"full_attention", "sliding_attention"})
        )
        and whole
        and family_of(config.model_type).packs
    )


@contextmanager
def tree_attention(model: Any) -> Any:
    """Within it, the model's attention takes a `plan`."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
