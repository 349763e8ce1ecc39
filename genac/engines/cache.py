"""The keys and values of a running batch: shared trunks, read by many rows, and each row's own.

A query reads its trunk and its own tokens in two parts that are merged by their log-sum-exp
(exact; the decomposition of Hydragen, 2402.05099), so that a trunk is stored once and all of its
rows read it in one product. Rows stand right-aligned: all of them write the next token to the same
slot.

Shapes: _B row, _N trunk, _G row of a trunk, _T token, _S token read at once, _H query head,
_K key/value head, _R queries per key head (heads per key head x S), _D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genac.engines.decoder import Decoder
from genac.engines.native import Draws
from genac.prefixes import Branch, Tree

# The CPU kernel behind scaled_dot_product_attention; called itself because it also returns the
# log-sum-exp that merging parts needs.
FLASH: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
WASTE, SMALL = 2.0, 256  # padding: at most so many times what is needed, beyond a few tokens
READ_AT_ONCE = 8192  # prompt tokens per forward: bounds the activations of reading
FOLD_BELOW = 32  # trunks shorter than this are cheaper copied into their rows than read apart


class Cache:
    """Keys and values of the running rows; `admit` reads new prompts, `advance` writes a token."""

    refills = rewinds = True
    sprints = False

    def __init__(self, decoder: Decoder, fold: bool) -> None:
        """fold: trunks are copied into their rows instead of being read apart."""
        self.decoder, self.fold, self.read = decoder, fold, 0
        self._clear()

    def _clear(self) -> None:
        none = torch.zeros(0, dtype=torch.long, device=self.decoder.embedding.device)
        self.own, self.at = self._empty(0, 0), 0
        self.pad_B, self.shared_B = none, none  # unused own slots; tokens seen of the trunk
        self.trunk: Tensor | None = None
        self.layout: Layout | None = None

    def _empty(self, rows: int, length: int) -> Tensor:
        d = self.decoder
        shape = (len(d.layers), 2, rows, d.kv_heads, length, d.head_dim)
        return torch.zeros(shape, dtype=d.dtype, device=d.embedding.device)

    # --- rows come and go ----------------------------------------------------------------------

    def admit(self, trees: Sequence[Tree], room: int) -> Tensor:
        """Reads the trees' prompts behind the running rows; logits (new rows, V) of what follows.

        room: new tokens that any row, old or new, may still write.
        """
        trunk = self._read_trunks([tree.trunk for tree in trees])
        parts, logits = [], []
        sizes = [(len(t.branches), max(len(b.tail) for b in t.branches)) for t in trees]
        for low, high in spans(sizes, READ_AT_ONCE):
            part, found = self._read_branches(trees[low:high], trunk[:, :, low:high])
            parts.append(part)
            logits.append(found)
        counts = [len(b.members) for t in trees for b in t.branches]
        width = max(part.shape[-2] for part in parts)
        branches = torch.cat([F.pad(p, (0, 0, width - p.shape[-2], 0)) for p in parts], 2)
        repeat = torch.tensor(counts, device=branches.device)
        shared = torch.tensor([b.shared for t in trees for b in t.branches], device=repeat.device)
        tail = torch.tensor([len(b.tail) for t in trees for b in t.branches], device=repeat.device)
        if self.fold:
            shared, tail = torch.zeros_like(shared), shared + tail
        rows = torch.arange(len(counts), device=repeat.device).repeat_interleave(repeat)
        self._append(branches[:, :, rows], width - tail[rows], shared[rows], room)
        if not self.fold:
            self._append_trunks(trunk, [tree.rows for tree in trees])
        return torch.cat(logits)[rows]

    def _append(self, branches: Tensor, pad_B: Tensor, shared_B: Tensor, room: int) -> None:
        """Old and new rows end at one slot, with room behind it."""
        old, width = len(self.pad_B), branches.shape[-2]
        used = int(self.at - self.pad_B.min()) if old else 0
        new_at = max(used, width)
        own = self._empty(old + branches.shape[2], new_at + room)
        own[:, :, :old, :, new_at - used : new_at] = self.own[..., self.at - used : self.at, :]
        own[:, :, old:, :, new_at - width : new_at] = branches
        moved = torch.cat([self.pad_B + (new_at - self.at), pad_B + (new_at - width)])
        self.own, self.at, self.pad_B = own, new_at, moved
        self.shared_B = torch.cat([self.shared_B, shared_B])
        self._hide()

    def _append_trunks(self, trunk: Tensor, rows: list[int]) -> None:
        if self.trunk is None or self.layout is None:
            self.trunk, counts = trunk, rows
        else:
            longest = max(self.trunk.shape[-2], trunk.shape[-2])
            both = [F.pad(t, (0, 0, 0, longest - t.shape[-2])) for t in (self.trunk, trunk)]
            self.trunk, counts = torch.cat(both, 2), [*self.layout.counts, *rows]
        self.layout = Layout.of(counts, self.pad_B.device)
        self.trunk_mask = self._trunk_mask(self.shared_B, self.layout, 1, self.trunk)

    def keep(self, rows: Tensor) -> None:
        """Drops all other rows, and trunks that none of them reads."""
        if not len(rows):
            return self._clear()
        # Only the slots already written are copied.
        kept = self._empty(len(rows), self.own.shape[-2])
        kept[..., : self.at, :] = self.own[:, :, rows, :, : self.at]
        self.own, self.pad_B, self.shared_B = kept, self.pad_B[rows], self.shared_B[rows]
        self._hide()
        if self.layout is None or self.trunk is None:
            return
        counts = torch.bincount(self.layout.trunk_B[rows], minlength=len(self.layout.counts))
        live = counts.nonzero()[:, 0]
        if len(live) < len(counts):
            self.trunk = self.trunk[:, :, live]
        self.layout = Layout.of(counts[live].tolist(), rows.device)
        self.trunk_mask = self._trunk_mask(self.shared_B, self.layout, 1, self.trunk)

    def _hide(self) -> None:
        slot = torch.arange(self.own.shape[-2], device=self.pad_B.device)
        hidden = torch.zeros(len(self.pad_B), len(slot), device=slot.device)
        self.hidden_BT = hidden.masked_fill_(slot < self.pad_B[:, None], float("-inf"))

    # --- reading -------------------------------------------------------------------------------

    def _read_trunks(self, trunks: Sequence[tuple[int, ...]]) -> Tensor:
        """(layer, 2, N, K, T, D): every trunk once, right-padded."""
        d, device = self.decoder, self.decoder.embedding.device
        width = max(len(t) for t in trunks)
        out = self._empty(len(trunks), width)
        if not width:
            return out
        for low, high in spans([(1, len(t)) for t in trunks], READ_AT_ONCE):
            part = trunks[low:high]
            longest = max(1, *(len(t) for t in part))
            ids = torch.tensor([t + (0,) * (longest - len(t)) for t in part], device=device)

            # The logits of a trunk are not asked: it only has to leave keys and values.
            position = torch.arange(longest, device=device)[None]
            d.forward(ids, position, TrunkAttention(out[:, :, low:high]))
            self.read += sum(len(t) for t in part)
        return out

    def _read_branches(self, trees: Sequence[Tree], trunk: Tensor) -> tuple[Tensor, Tensor]:
        """Left-padded keys and values (layer, 2, branches, K, W, D), and logits of what follows."""
        device = self.decoder.embedding.device
        branches = [b for tree in trees for b in tree.branches]
        longest = max(len(b.tail) for b in branches)
        if self.fold:  # what would be padding reads the end of the trunk again instead
            branches = [stretch(tree, b, longest) for tree in trees for b in tree.branches]
        ids = torch.tensor(
            [(0,) * (longest - len(b.tail)) + b.tail for b in branches], device=device
        )
        tail = torch.tensor([len(b.tail) for b in branches], device=device)
        shared = torch.tensor([b.shared for b in branches], device=device)
        layout = Layout.of([len(tree.branches) for tree in trees], device)
        if self.fold:
            own, width = (
                self._folded(trunk, layout.trunk_B, shared, tail),
                int((shared + tail).max()),
            )
            pad, reader = width - shared - tail, None
        else:
            own, width, pad = self._empty(len(branches), longest), longest, longest - tail
            reader = TrunkReader(
                trunk, layout, self._trunk_mask(shared, layout, self._queries(longest), trunk)
            )
        at = width - longest
        slot = torch.arange(width, device=device)
        # A query sees the slots behind the padding up to its own; padded queries see themselves so
        # that their softmax is defined (they are never read).
        query = torch.arange(at, width, device=device)
        seen = (slot >= pad[:, None, None]) & (slot <= query[:, None]) | (slot == query[:, None])
        mask = torch.zeros(seen.shape, device=device).masked_fill_(~seen, float("-inf"))
        position = (shared[:, None] + query - (width - tail)[:, None]).clamp(min=0)
        hidden = self.decoder.forward(ids, position, Attention(own, at, mask, reader))
        self.read += sum(len(b.tail) for b in branches)
        return own, self.decoder.logits(hidden[:, -1])

    def _queries(self, tokens: int) -> int:
        return tokens * self.decoder.heads // self.decoder.kv_heads

    def _folded(self, trunk: Tensor, trunk_B: Tensor, shared: Tensor, tail: Tensor) -> Tensor:
        """Each row's visible trunk copied in front of where its tail will stand."""
        width = int((shared + tail).max())
        slot = torch.arange(width, device=shared.device)
        source = slot - (width - shared - tail)[:, None]  # (B, W) token of the trunk
        inside = (source >= 0) & (source < shared[:, None])
        own = self._empty(len(shared), width)
        if trunk.shape[-2]:
            picked = trunk.permute(2, 4, 0, 1, 3, 5)[
                trunk_B[:, None], source.clamp(0, trunk.shape[-2] - 1)
            ]
            picked = picked * inside[:, :, None, None, None, None]
            own = picked.permute(2, 3, 0, 4, 1, 5).contiguous()
        return own

    # --- writing -------------------------------------------------------------------------------

    def advance(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        """Writes one token per row; logits (B, V) of the next. `back_B`: own slots to overlook."""
        self.read += len(token_B)
        position = (self.shared_B + self.at - self.pad_B)[:, None]
        reader = None
        if self.trunk is not None and self.layout is not None:
            reader = TrunkReader(self.trunk, self.layout, self.trunk_mask)
        mask = self.hidden_BT[:, None, : self.at + 1]
        if back_B is not None:
            position = position - back_B[:, None]
            slot = torch.arange(self.at + 1, device=back_B.device)
            undone = (slot >= self.at - back_B[:, None]) & (slot < self.at)
            mask = mask.masked_fill(undone[:, None], float("-inf"))
        hidden = self.decoder.forward(
            token_B[:, None], position, Attention(self.own, self.at, mask, reader)
        )
        self.at += 1
        return self.decoder.logits(hidden[:, -1])

    def sprint(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        raise NotImplementedError("rows are written one token at a time")

    def _trunk_mask(self, shared_B: Tensor, layout: Layout, queries: int, trunk: Tensor) -> Tensor:
        """(N, 1, G * R, T): each row sees its own stretch of the trunk."""
        queries = self._queries(1) if queries == 1 else queries
        token = torch.arange(trunk.shape[-2], device=shared_B.device)
        shared = torch.ones(len(layout.counts) * layout.most, dtype=torch.long, device=token.device)
        shared[layout.slot_B] = shared_B  # unused places see one token: their softmax is defined
        mask = torch.zeros(len(shared), len(token), device=token.device)
        mask.masked_fill_(token >= shared[:, None], float("-inf"))
        mask = mask.repeat_interleave(queries, 0)
        return mask.view(len(layout.counts), 1, -1, len(token)).to(self.decoder.dtype)


@dataclass(frozen=True)
class Layout:
    """Rows of one trunk stand together; padded to the largest number of rows a trunk has."""

    counts: tuple[int, ...]  # rows per trunk
    trunk_B: Tensor
    slot_B: Tensor  # place in the (N, G) grid
    most: int  # G

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device) -> Layout:
        n, most = torch.tensor(counts, device=device), max(counts)
        trunk_B = torch.arange(len(n), device=device).repeat_interleave(n)
        first = n.cumsum(0) - n
        member = torch.arange(len(trunk_B), device=device) - first[trunk_B]
        return cls(tuple(counts), trunk_B, trunk_B * most + member, most)

    @property
    def dense(self) -> bool:
        return len(self.slot_B) == len(self.counts) * self.most


@dataclass(frozen=True)
class TrunkReader:
    """What all rows read from their trunks in one layer."""

    trunk: Tensor  # (layer, 2, N, K, T, D)
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
        out, lse = attention_with_lse(grid, self.trunk[layer, 0], self.trunk[layer, 1], self.mask)
        out = out.view(count, heads, most, queries, dim).transpose(1, 2).flatten(0, 1)
        lse = lse.view(count, heads, most, queries).transpose(1, 2).flatten(0, 1)
        if self.layout.dense:
            return out, lse
        return out[self.layout.slot_B], lse[self.layout.slot_B]


@dataclass(frozen=True)
class TrunkAttention:
    """Causal attention of trunks that are being read; leaves their keys and values."""

    out: Tensor  # (layer, 2, N, K, T, D), at least as long as what is read

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self.out[layer, 0, :, :, : k.shape[2]] = k
        self.out[layer, 1, :, :, : k.shape[2]] = v
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=1.0)
        return read.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Attention:
    """A layer's attention over the rows' own tokens and, where there are any, their trunks."""

    own: Tensor  # (layer, 2, B, K, T, D)
    at: int
    mask: Tensor  # (B, S, at + S) additive
    trunk: TrunkReader | None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.own[layer]
        rows, length, heads, dim = q.shape
        end, groups = self.at + length, keys.shape[1]
        keys[:, :, self.at : end] = k.transpose(1, 2)
        values[:, :, self.at : end] = v.transpose(1, 2)
        # (B, K, R, D): the query heads of one key head, and the tokens read at once, side by side.
        q = q.view(rows, length, groups, -1, dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
        scores = (q @ keys[:, :, :end].transpose(-1, -2)).float()
        scores.view(rows, groups, -1, length, end).add_(self.mask[:, None, None])
        weights = torch.softmax(scores, -1).to(q.dtype)
        out = weights @ values[:, :, :end]
        if self.trunk is not None:
            other, other_lse = self.trunk(layer, q)
            # The log-sum-exp, from the largest score and its weight.
            lse = scores.amax(-1) - weights.amax(-1).float().log_()
            share = torch.sigmoid(other_lse - lse)
            out = torch.lerp(out, other.to(out.dtype), share[..., None].to(out.dtype))
        out = out.view(rows, groups, -1, length, dim).permute(0, 3, 1, 2, 4)
        return out.reshape(rows, length, heads * dim)


def stretch(tree: Tree, branch: Branch, length: int) -> Branch:
    """The same prompt with up to `length` tokens in its tail."""
    whole = tree.trunk[: branch.shared] + branch.tail
    shared = max(0, len(whole) - length)
    return Branch(shared, whole[shared:], branch.members)


def row_bytes(decoder: Decoder, length: int) -> int:
    """Keys and values of one row of `length` tokens."""
    size = torch.finfo(decoder.dtype).bits // 8
    return len(decoder.layers) * 2 * decoder.kv_heads * length * decoder.head_dim * size


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attention (N, K, Q, D) under an additive mask (N, 1, Q, T), and the log-sum-exp (N, K, Q) of
    its scores. Queries are scaled already, and every one must see a key.
    """
    if q.device.type == "cpu" and q.shape[2] > 1:
        return FLASH(q, k, v, attn_mask=mask, scale=1.0)
    scores = (q @ k.transpose(-1, -2)).float().add_(mask)
    return torch.softmax(scores, -1).to(q.dtype) @ v, torch.logsumexp(scores, -1)


def spans(sizes: Sequence[tuple[int, int]], budget: int) -> list[tuple[int, int]]:
    """Consecutive stretches to compute together, of items of (rows, tokens per row at most).

    Rows are padded to the longest, so a stretch ends where that would pass the budget or waste more
    than it holds; a single item may be larger.
    """
    out, low = [], 0
    rows = longest = held = 0
    for index, (count, tokens) in enumerate(sizes):
        padded = (rows + count) * max(longest, tokens)
        wasteful = padded > WASTE * (held + count * tokens) + SMALL
        if index > low and (padded > budget or wasteful):
            out.append((low, index))
            low, rows, longest, held = index, 0, 0, 0
        rows, longest, held = rows + count, max(longest, tokens), held + count * tokens
    return [*out, (low, len(sizes))]
