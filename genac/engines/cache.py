"""The keys and values of a running batch: shared prefixes, read by many rows, and each row's own.

What a token reads of either is in attention.py. Rows stand right-aligned: all of them write the
next token to the same slot.

Shapes: _B row, _N shared prefix, _G row of a shared prefix, _T token, _K key/value head, _R queries
per key head,
_D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genac.engines.attention import Attention, Layout, PrefixAttention, PrefixReader
from genac.engines.decoder import Decoder
from genac.native.decode import Draws
from genac.prefixes import Suffix, Tree

WASTE, SMALL = 2.0, 256  # padding: at most so many times what is needed, beyond a few tokens
READ_AT_ONCE = 8192  # prompt tokens per forward: bounds the activations of reading
# shared prefixes shorter than this are cheaper copied into their rows than read apart
INLINE_PREFIX_BELOW = 32


class Cache:
    """Keys and values of the running rows; `prefill` reads new prompts, `decode_step` writes a
    token.
    """

    can_refill = can_rewind = True
    can_decode_many = False

    def __init__(self, decoder: Decoder, inline: bool) -> None:
        """inline: shared prefixes are copied into their rows instead of being read apart."""
        self.decoder, self.inline, self.read = decoder, inline, 0
        self._clear()

    def _clear(self) -> None:
        none = torch.zeros(0, dtype=torch.long, device=self.decoder.embedding.device)
        self.own, self.at = self._empty(0, 0), 0
        self.pad_B, self.shared_B = none, none  # unused own slots; tokens seen of the shared prefix
        self.prefix: Tensor | None = None
        self.layout: Layout | None = None

    def _empty(self, rows: int, length: int) -> Tensor:
        d = self.decoder
        shape = (len(d.layers), 2, rows, d.kv_heads, length, d.head_dim)
        return torch.zeros(shape, dtype=d.dtype, device=d.embedding.device)

    # --- rows come and go ----------------------------------------------------------------------

    def prefill(self, trees: Sequence[Tree], room: int) -> Tensor:
        """Reads the trees' prompts behind the running rows; logits (new rows, V) of what follows.

        room: new tokens that any row, old or new, may still write.
        """
        prefix = self._read_prefixes([tree.prefix for tree in trees])
        parts, logits = [], []
        sizes = [(len(t.suffixes), max(len(b.tail) for b in t.suffixes)) for t in trees]
        for low, high in spans(sizes, READ_AT_ONCE):
            part, result = self._read_suffixes(trees[low:high], prefix[:, :, low:high])
            parts.append(part)
            logits.append(result)
        counts = [len(b.members) for t in trees for b in t.suffixes]
        width = max(part.shape[-2] for part in parts)
        suffixes = torch.cat([F.pad(p, (0, 0, width - p.shape[-2], 0)) for p in parts], 2)
        repeat = torch.tensor(counts, device=suffixes.device)
        shared = torch.tensor([b.shared for t in trees for b in t.suffixes], device=repeat.device)
        tail = torch.tensor([len(b.tail) for t in trees for b in t.suffixes], device=repeat.device)
        if self.inline:
            shared, tail = torch.zeros_like(shared), shared + tail
        rows = torch.arange(len(counts), device=repeat.device).repeat_interleave(repeat)
        self._append(suffixes[:, :, rows], width - tail[rows], shared[rows], room)
        if not self.inline:
            self._append_prefixes(prefix, [tree.rows for tree in trees])
        return torch.cat(logits)[rows]

    def _append(self, suffixes: Tensor, pad_B: Tensor, shared_B: Tensor, room: int) -> None:
        """Old and new rows end at one slot, with room behind it."""
        old, width = len(self.pad_B), suffixes.shape[-2]
        used = int(self.at - self.pad_B.min()) if old else 0
        new_at = max(used, width)
        own = self._empty(old + suffixes.shape[2], new_at + room)
        own[:, :, :old, :, new_at - used : new_at] = self.own[..., self.at - used : self.at, :]
        own[:, :, old:, :, new_at - width : new_at] = suffixes
        moved = torch.cat([self.pad_B + (new_at - self.at), pad_B + (new_at - width)])
        self.own, self.at, self.pad_B = own, new_at, moved
        self.shared_B = torch.cat([self.shared_B, shared_B])
        self._rows_changed()

    def _append_prefixes(self, prefix: Tensor, rows: list[int]) -> None:
        if self.prefix is None or self.layout is None:
            self.prefix, counts = prefix, rows
        else:
            longest = max(self.prefix.shape[-2], prefix.shape[-2])
            both = [F.pad(t, (0, 0, 0, longest - t.shape[-2])) for t in (self.prefix, prefix)]
            self.prefix, counts = torch.cat(both, 2), [*self.layout.counts, *rows]
        self.layout = Layout.of(counts, self.pad_B.device)
        self.prefix_mask = self._prefix_mask(self.shared_B, self.layout, 1, self.prefix)

    def select(self, rows: Tensor) -> None:
        """Drops all other rows, and shared prefixes that none of them reads."""
        if not len(rows):
            return self._clear()
        # Only the slots already written are copied.
        kept = self._empty(len(rows), self.own.shape[-2])
        kept[..., : self.at, :] = self.own[:, :, rows, :, : self.at]
        self.own, self.pad_B, self.shared_B = kept, self.pad_B[rows], self.shared_B[rows]
        self._rows_changed()
        if self.layout is None or self.prefix is None:
            return
        counts = torch.bincount(self.layout.prefix_B[rows], minlength=len(self.layout.counts))
        live = counts.nonzero()[:, 0]
        if len(live) < len(counts):
            self.prefix = self.prefix[:, :, live]
        self.layout = Layout.of(counts[live].tolist(), rows.device)
        self.prefix_mask = self._prefix_mask(self.shared_B, self.layout, 1, self.prefix)

    def _rows_changed(self) -> None:
        slot = torch.arange(self.own.shape[-2], device=self.pad_B.device)
        hidden = torch.zeros(len(self.pad_B), len(slot), device=slot.device)
        self.hidden_BT = hidden.masked_fill_(slot < self.pad_B[:, None], float("-inf"))

    # --- reading -------------------------------------------------------------------------------

    def _read_prefixes(self, prefixes: Sequence[tuple[int, ...]]) -> Tensor:
        """(layer, 2, N, K, T, D): every shared prefix once, right-padded."""
        d, device = self.decoder, self.decoder.embedding.device
        width = max(len(t) for t in prefixes)
        out = self._empty(len(prefixes), width)
        if not width:
            return out
        for low, high in spans([(1, len(t)) for t in prefixes], READ_AT_ONCE):
            part = prefixes[low:high]
            longest = max(1, *(len(t) for t in part))
            ids = torch.tensor([t + (0,) * (longest - len(t)) for t in part], device=device)

            # The logits of a shared prefix are not needed: it only has to leave keys and values.
            position = torch.arange(longest, device=device)[None]
            d.forward(ids, position, PrefixAttention(out[:, :, low:high]))
            self.read += sum(len(t) for t in part)
        return out

    def _read_suffixes(self, trees: Sequence[Tree], prefix: Tensor) -> tuple[Tensor, Tensor]:
        """Left-padded keys and values (layer, 2, suffixes, K, W, D), and logits of what follows."""
        device = self.decoder.embedding.device
        suffixes = [b for tree in trees for b in tree.suffixes]
        longest = max(len(b.tail) for b in suffixes)
        if self.inline:  # what would be padding reads the end of the shared prefix again instead
            suffixes = [lengthened(tree, b, longest) for tree in trees for b in tree.suffixes]
        ids = torch.tensor(
            [(0,) * (longest - len(b.tail)) + b.tail for b in suffixes], device=device
        )
        tail = torch.tensor([len(b.tail) for b in suffixes], device=device)
        shared = torch.tensor([b.shared for b in suffixes], device=device)
        layout = Layout.of([len(tree.suffixes) for tree in trees], device)
        if self.inline:
            own, width = (
                self._inlined(prefix, layout.prefix_B, shared, tail),
                int((shared + tail).max()),
            )
            pad, reader = width - shared - tail, None
        else:
            own, width, pad = self._empty(len(suffixes), longest), longest, longest - tail
            reader = PrefixReader(
                prefix, layout, self._prefix_mask(shared, layout, self._queries(longest), prefix)
            )
        at = width - longest
        slot = torch.arange(width, device=device)
        # A query sees the slots behind the padding up to its own; padded queries see themselves so
        # that their softmax is defined (they are never read).
        query = torch.arange(at, width, device=device)
        seen = (slot >= pad[:, None, None]) & (slot <= query[:, None]) | (slot == query[:, None])
        mask = torch.zeros(seen.shape, device=device).masked_fill_(~seen, float("-inf"))
        position = (shared[:, None] + query - (width - tail)[:, None]).clamp(min=0)
        hidden = self.decoder.forward(ids, position, Attention(own, slice(at, width), mask, reader))
        self.read += sum(len(b.tail) for b in suffixes)
        return own, self.decoder.logits(hidden[:, -1])

    def _queries(self, tokens: int) -> int:
        return tokens * self.decoder.heads // self.decoder.kv_heads

    def _inlined(self, prefix: Tensor, prefix_B: Tensor, shared: Tensor, tail: Tensor) -> Tensor:
        """Each row's visible shared prefix copied in front of where its tail will stand."""
        width = int((shared + tail).max())
        slot = torch.arange(width, device=shared.device)
        source = slot - (width - shared - tail)[:, None]  # (B, W) token of the shared prefix
        inside = (source >= 0) & (source < shared[:, None])
        own = self._empty(len(shared), width)
        if prefix.shape[-2]:
            picked = prefix.permute(2, 4, 0, 1, 3, 5)[
                prefix_B[:, None], source.clamp(0, prefix.shape[-2] - 1)
            ]
            picked = picked * inside[:, :, None, None, None, None]
            own = picked.permute(2, 3, 0, 4, 1, 5).contiguous()
        return own

    # --- writing -------------------------------------------------------------------------------

    def decode_step(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        """Writes one token per row; logits (B, V) of the next. `back_B`: own slots to overlook."""
        self.read += len(token_B)
        position_B = self.shared_B + self.at - self.pad_B
        mask = self.hidden_BT[:, None, : self.at + 1]
        if back_B is not None:
            position_B = position_B - back_B
            slot = torch.arange(self.at + 1, device=back_B.device)
            undone = (slot >= self.at - back_B[:, None]) & (slot < self.at)
            mask = mask.masked_fill(undone[:, None], float("-inf"))
        slots = slice(self.at, self.at + 1)
        attend = Attention(self.own, slots, mask, self._prefix_reader())
        self.at += 1
        return self.decoder.next_logits(token_B, position_B, attend)

    def _prefix_reader(self) -> PrefixReader | None:
        if self.prefix is None or self.layout is None:
            return None
        return PrefixReader(self.prefix, self.layout, self.prefix_mask)

    def decode_many(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        raise NotImplementedError("rows are written one token at a time")

    def _prefix_mask(
        self, shared_B: Tensor, layout: Layout, queries: int, prefix: Tensor
    ) -> Tensor:
        """(N, 1, G * R, T): each row sees its own segment of the shared prefix."""
        queries = self._queries(1) if queries == 1 else queries
        token = torch.arange(prefix.shape[-2], device=shared_B.device)
        shared = torch.ones(len(layout.counts) * layout.most, dtype=torch.long, device=token.device)
        shared[layout.slot_B] = shared_B  # unused places see one token: their softmax is defined
        mask = torch.zeros(len(shared), len(token), device=token.device)
        mask.masked_fill_(token >= shared[:, None], float("-inf"))
        mask = mask.repeat_interleave(queries, 0)
        return mask.view(len(layout.counts), 1, -1, len(token)).to(self.decoder.dtype)


def lengthened(tree: Tree, suffix: Suffix, length: int) -> Suffix:
    """The same prompt with up to `length` tokens in its tail."""
    whole = tree.prefix[: suffix.shared] + suffix.tail
    shared = max(0, len(whole) - length)
    return Suffix(shared, whole[shared:], suffix.members)


def row_bytes(decoder: Decoder, length: int) -> int:
    """Keys and values of one row of `length` tokens."""
    size = torch.finfo(decoder.dtype).bits // 8
    return len(decoder.layers) * 2 * decoder.kv_heads * length * decoder.head_dim * size


def spans(sizes: Sequence[tuple[int, int]], budget: int) -> list[tuple[int, int]]:
    """Consecutive segments to compute together, of items of (rows, tokens per row at most).

    Rows are padded to the longest, so a segment ends where that would pass the budget or waste more
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
