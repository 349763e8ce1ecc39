"""Packed trees through PyTorch's FlexAttention, for GPUs: blocks that no token sees cost nothing.

What a token sees stands in three numbers per token; which blocks hold anything to see is worked out
from the plan's segments, so that no mask of the whole row is ever made.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # tokens; the kernels' own default
SMALLEST = 16  # numbers per head that its kernels take
# Kernels are compiled apart for each shape of heads and precision, with gradients and without, for
# rows of less than a block, of one and of more. Beyond Dynamo's own limit of 8 it would go on with
# the uncompiled attention, which holds the scores of the whole row.
KERNELS = 64


def block_mask(segments: Tensor, device: torch.device) -> BlockMask:
    """Which blocks of keys each block of queries reads, and which token of them each token sees.

    segments (S, 4): start, length, shared prefix, shared of the segments, which fill the row.
    """
    some, whole = block_tables(segments)
    start, length, prefix, shared = segments.T
    columns = torch.stack([start, prefix, prefix + shared]).to(torch.int32)
    start_L, low_L, high_L = columns.repeat_interleave(length, 1).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key >= start_L[query]) & (key <= query)
        return own | (key >= low_L[query]) & (key < high_L[query])

    partial, full = (listed(x, device) for x in (some & ~whole, whole))
    size = (len(start_L), len(start_L))
    return BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=size
    )


def block_tables(segments: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, N) of BLOCK x BLOCK tokens: whether some query sees some key, and every query every key.

    A block that reaches beyond the row never counts as wholly seen.
    """
    count = -(-int(segments[:, 1].sum()) // BLOCK)
    some = np.zeros((count, count), bool)
    rows = np.zeros((count, count), np.int64)  # queries of a block that see a whole block of keys
    for start, length, prefix, shared in segments.tolist():
        seen = prefix + shared
        for block in range(start // BLOCK, (start + length - 1) // BLOCK + 1):
            first = max(start, block * BLOCK)
            last = min(start + length, (block + 1) * BLOCK) - 1
            some[block, start // BLOCK : last // BLOCK + 1] = True
            # Whole blocks of its own segment that end before the first of these queries.
            rows[block, -(-start // BLOCK) : (first + 1) // BLOCK] += last - first + 1
            if shared:
                some[block, prefix // BLOCK : (seen - 1) // BLOCK + 1] = True
                rows[block, -(-prefix // BLOCK) : seen // BLOCK] += last - first + 1
    return some, rows == BLOCK


def listed(table: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """The number of True per row (1, 1, N) and their columns, those first, (1, 1, N, N)."""
    count = torch.from_numpy(table.sum(-1)).to(torch.int32)
    order = torch.from_numpy(np.argsort(~table, axis=-1, kind="stable")).to(torch.int32)
    return count[None, None].to(device), order[None, None].contiguous().to(device)


@cache
def compiled() -> Any:
    # Rows have other lengths in every micro-batch: one kernel for all of them.
    return torch.compile(flex_attention, dynamic=True)


def flexes(q: Tensor, k: Tensor) -> bool:
    """Whether packed rows with queries (1, H, L, D) and keys (1, K, L, D) go through it."""
    fits = q.dtype != torch.float64 and q.shape[-1] >= SMALLEST
    on_gpu = q.device.type == "cuda" and os.environ.get("GENAC_FLEX") != "0"
    return on_gpu and fits and works(q.device, q.dtype, q.shape[1], k.shape[1], q.shape[-1])


@cache
def works(device: torch.device, dtype: torch.dtype, heads: int, keys: int, dim: int) -> bool:
    """Whether this machine compiles such heads, tried forward and backward on two rows, as short
    ones have another kernel: in training one that cannot be built would only be missed within a
    backward pass.
    """
    made = {"device": device, "dtype": dtype, "requires_grad": True}
    try:
        for length in (BLOCK // 2, 3 * BLOCK):
            q, k, v = (torch.ones(1, h, length, dim, **made) for h in (heads, keys, keys))
            with torch.enable_grad():
                blocks = block_mask(torch.tensor([[0, length, 0, 0]]), device)
                flex(q, k, v, blocks, dim**-0.5).sum().backward()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # what compilers raise has no common class
        warnings.warn(
            "FlexAttention failed, so packed training masks whole rows, which takes more time and "
            f"memory ({type(error).__name__}: {str(error).strip()[-300:]}); GENAC_FLEX=0 chooses "
            "that without a warning",
            stacklevel=2,
        )
        return False
    return True


def flex(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask, scale: float) -> Tensor:
    """Attention (1, H, L, D) of a packed row."""
    from torch._dynamo import config

    # Each thread has settings of its own, and checkpointed layers attend again in autograd's.
    config.recompile_limit = max(KERNELS, config.recompile_limit)
    grouped = q.shape[1] != k.shape[1]
    return compiled()(q, k, v, block_mask=blocks, scale=scale, enable_gqa=grouped)
