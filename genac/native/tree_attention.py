"""Attention over packed trees in C++ (csrc/trees.cpp): what Python hands to it."""

from __future__ import annotations

from ctypes import byref

import torch
from torch import Tensor

from genac.native.library import library, pointer
from genac.native.structs import CTokenRows, CTree

ROWS = ("q", "k", "v", "out", "grad", "dq", "dk", "dv")  # (L, H, D)
KEYS = ("k", "v", "dk", "dv")  # those with a head per key head


def attend(segments: Tensor, families: Tensor, scale: float, **arrays: Tensor) -> None:
    """Fills `out` and `lse`, or the gradients `dq`, `dk` and `dv` where they are given with `grad`.

    segments (S, 4): start, length, shared prefix and shared tokens of each. families (F + 1,): the
    first segment of each, and S. arrays: `lse` (L, H) and those of ROWS. Keys and values may have
    fewer heads than queries (query head h reads key head h // (heads / key heads)), and tokens of
    any array may stand apart (the strides of a wider one).
    """
    loaded = library()
    assert loaded is not None
    (length, heads, dim), kv_heads = arrays["q"].shape, arrays["k"].shape[1]
    tree = CTree(heads, kv_heads, dim, len(families) - 1, scale=scale)
    tree.family = pointer(families, torch.int64, (None,), "families")
    tree.segment = pointer(segments, torch.int64, (None, 4), "segments")
    tree.lse = pointer(arrays["lse"], torch.float32, (length, heads), "lse")
    needed = ROWS if "dq" in arrays else ROWS[:4]
    for name in needed:
        x, shape = arrays.get(name), (length, kv_heads if name in KEYS else heads, dim)
        address = pointer(x, torch.float32, shape, name, strided=True)
        setattr(tree, name, CTokenRows(address, x.stride(0)))  # pyright: ignore[reportOptionalMemberAccess]
    if loaded.genac_tree(byref(tree), needed is ROWS, torch.get_num_threads()):
        raise MemoryError("no memory for the attention of a micro-batch")
