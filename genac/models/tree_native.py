"""Attention over packed trees in C++ (native/trees.cpp): no block is gathered, padded, masked or
merged.
"""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from genac.models.tree_plan import TreePlan
from genac.native.library import LANES, library


class FusedAttention(torch.autograd.Function):
    """BlockAttention in C++: no block is gathered, padded, masked or merged. k and v may have fewer
    heads than q (query head h reads key head h // (heads / key heads)).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: TreePlan, scale: float) -> Tensor:
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2])
        in_native(plan, scale, q=q, k=k, v=v, out=out, lse=lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        found = [torch.empty_like(x) for x in (q, k, v)]
        pulls = dict(zip(("dq", "dk", "dv"), found, strict=True), grad=grads[0].contiguous())
        in_native(ctx.plan, ctx.scale, q=q, k=k, v=v, out=out, lse=lse, **pulls)
        return *found, None, None


ROWS = ("q", "k", "v", "out", "grad", "dq", "dk", "dv")  # (L, H, D)


class CTree(ctypes.Structure):
    """Mirrors Tree of trees.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("heads", "kv_heads", "dim", "families")),
        *((name, c_void_p) for name in ("family", "stretch")),
        ("scale", c_double),
        ("lse", c_void_p),
        *(field for x in ROWS for field in ((x, c_void_p), (f"{x}_step", c_int64))),
    )


def in_native(plan: TreePlan, scale: float, **arrays: Tensor) -> None:
    """Fills `out` and `lse`, or the gradients where they are given. Keys and values may have fewer
    heads than queries, and tokens of any array may stand apart (the strides of a wider one).
    """
    found, q, k = library(), arrays["q"], arrays["k"]
    assert found is not None
    sizes = (q.shape[1], k.shape[1], q.shape[2], len(plan.families) - 1)
    tables = (plan.families.data_ptr(), plan.table.data_ptr())
    lse = arrays.pop("lse")
    assert lse.is_contiguous() and all(x[0].is_contiguous() for x in arrays.values())
    rows = {name: x.data_ptr() for name, x in arrays.items()}
    steps = {f"{name}_step": x.stride(0) for name, x in arrays.items()}
    tree = CTree(*sizes, *tables, scale, lse.data_ptr(), **rows, **steps)
    if found.genac_tree(ctypes.byref(tree), "dq" in arrays, torch.get_num_threads()):
        raise MemoryError("no memory for the attention of a micro-batch")


def fuses(q: Tensor, plan: TreePlan) -> bool:
    """Whether attention goes through C++: faster than blocks up to thousands of tokens, no slower
    beyond (one sequence of 16 384).
    """
    fits = q.dtype == torch.float32 and q.shape[-1] % LANES == 0 and plan.device.type == "cpu"
    return fits and library() is not None
