"""What a row's queries read: its own keys and values, and those of the prefix that it shares.

The two parts are merged by their log-sum-exp (exact; the decomposition of Hydragen, 2402.05099), so
that a shared prefix is stored once and all of its rows read it in one product.

Shapes: _B row, _N shared prefix, _G row of a shared prefix, _T token, _S token read at once, _H
query head,
_K key/value head, _R queries per key head (heads per key head x S), _D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# The CPU kernel behind scaled_dot_product_attention; called itself because it also returns the
# log-sum-exp that merging parts needs.
FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Layout:
    """Rows of one shared prefix stand together; padded to the largest number of rows a shared
    prefix has.
    """

    counts: tuple[int, ...]  # rows per shared prefix
    prefix_B: Tensor
    slot_B: Tensor  # place in the (N, G) grid
    most: int  # G

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device) -> Layout:
        n, most = torch.tensor(counts, device=device), max(counts)
        prefix_B = torch.arange(len(n), device=device).repeat_interleave(n)
        first = n.cumsum(0) - n
        member = torch.arange(len(prefix_B), device=device) - first[prefix_B]
        return cls(tuple(counts), prefix_B, prefix_B * most + member, most)

    @property
    def dense(self) -> bool:
        return len(self.slot_B) == len(self.counts) * self.most


@dataclass(frozen=True)
class PrefixReader:
    """What all rows read from their shared prefixes in one layer."""

    prefix: Tensor  # (layer, 2, N, K, T, D)
    layout: Layout
    mask: Tensor  # (N, 1, G * R, T)

    def __call__(self, layer: int, q_BKRD: Tensor) -> tuple[Tensor, Tensor]:
        """Output (B, K, R, D) and its log-sum-exp (B, K, R)."""
        _, heads, queries, dim = q_BKRD.shape
        count, most = len(self.layout.counts), self.layout.most
        if self.layout.dense:
            grid = q_BKRD
        else:
            grid = q_BKRD.new_zeros(count * most, heads, queries, dim)
            grid[self.layout.slot_B] = q_BKRD
        grid = grid.view(count, most, heads, queries, dim).transpose(1, 2).flatten(2, 3)
        out, lse = attention_with_lse(grid, self.prefix[layer, 0], self.prefix[layer, 1], self.mask)
        out = out.view(count, heads, most, queries, dim).transpose(1, 2).flatten(0, 1)
        lse = lse.view(count, heads, most, queries).transpose(1, 2).flatten(0, 1)
        if self.layout.dense:
            return out, lse
        return out[self.layout.slot_B], lse[self.layout.slot_B]


@dataclass(frozen=True)
class PrefixAttention:
    """Causal attention of shared prefixes that are being read; leaves their keys and values."""

    out: Tensor  # (layer, 2, N, K, T, D), at least as long as what is read

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self.out[layer, 0, :, :, : k.shape[2]] = k
        self.out[layer, 1, :, :, : k.shape[2]] = v
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=1.0)
        return read.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Attention:
    """A layer's attention over the rows' own tokens and, where there are any, their shared
    prefixes.
    """

    own: Tensor  # (layer, 2, B, K, T, D)
    slots: slice  # where the tokens go
    mask: Tensor  # (B, S, end) additive; own slots from `end` on are not read
    prefix: PrefixReader | None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.own[layer]
        rows, length, heads, dim = q.shape
        end, groups = self.mask.shape[-1], keys.shape[1]
        keys[:, :, self.slots] = k.transpose(1, 2)
        values[:, :, self.slots] = v.transpose(1, 2)
        # (B, K, R, D): the query heads of one key head, and the tokens read at once, side by side.
        q = q.view(rows, length, groups, -1, dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
        scores = (q @ keys[:, :, :end].transpose(-1, -2)).float()
        scores.view(rows, groups, -1, length, end).add_(self.mask[:, None, None])
        weights = torch.softmax(scores, -1).to(q.dtype)
        out = weights @ values[:, :, :end]
        if self.prefix is not None:
            other, other_lse = self.prefix(layer, q)
            # The log-sum-exp, from the largest score and its weight.
            lse = scores.amax(-1) - weights.amax(-1).float().log_()
            share = torch.sigmoid(other_lse - lse)
            out = torch.lerp(out, other.to(out.dtype), share[..., None].to(out.dtype))
        out = out.view(rows, groups, -1, length, dim).permute(0, 3, 1, 2, 4)
        return out.reshape(rows, length, heads * dim)


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (N, K, Q, D) under an additive mask (N, 1, Q, T), and the log-sum-exp (N, K, Q) of
    its scores. Queries are scaled already, and every one must see a key.
    """
    if q.device.type == "cpu" and q.shape[2] > 1:
        return FLASH(q, k, v, attn_mask=mask, scale=1.0)
    scores = (q @ k.transpose(-1, -2)).float().add_(mask)
    return torch.softmax(scores, -1).to(q.dtype) @ v, torch.logsumexp(scores, -1)
