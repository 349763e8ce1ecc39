"""The keys and values of a batch that runs in C++ (native/decode.py): shared prefixes, and each
row's own.

Rows are dense from their first slot, each as long as what it has read. Nothing is padded, copied
into rows or merged: a token attends to its row's shared prefix and to the row's own tokens in one
pass.

Shapes: _B row, _N shared prefix or suffix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genac.native.decode import Draws, Native, Rows, panelled
from genac.prefixes import Suffix, Tree


class NativeCache:
    """Keys and values of the running rows; `prefill` reads new prompts, `decode_step` writes a
    token.
    """

    can_refill = can_rewind = can_decode_many = True

    def __init__(self, native: Native) -> None:
        self.native, self.read = native, 0
        self._clear()

    def _clear(self) -> None:
        none = torch.zeros(0, dtype=torch.long)
        self.own, self.prefix = self.native.room(0, 0), self.native.room(0, 0)
        self.length_B, self.shared_B, self.prefix_B = none, none, none

    @property
    def _rows(self) -> Rows:
        return Rows(self.own, self.length_B, self.shared_B, self.prefix, self.prefix_B)

    # --- rows come and go ----------------------------------------------------------------------

    def prefill(self, trees: Sequence[Tree], room: int) -> Tensor:
        """Reads the trees' prompts behind the running rows; logits (new rows, V) of what follows.

        room: new tokens that any row, old or new, may still write.
        """
        trees = [whole(tree) for tree in trees]
        suffixes = [suffix for tree in trees for suffix in tree.suffixes]
        counts = torch.tensor([len(suffix.members) for suffix in suffixes])
        suffix_B = torch.arange(len(suffixes)).repeat_interleave(counts)
        first_N = counts.cumsum(0) - counts + len(self.length_B)
        prefix_N = self._add_prefixes(trees)
        self._add_rows(len(suffix_B), max(len(suffix.tail) for suffix in suffixes), room)
        shared_N = torch.tensor([suffix.shared for suffix in suffixes])
        self.shared_B = torch.cat([self.shared_B, shared_N[suffix_B]])
        self.prefix_B = torch.cat([self.prefix_B, prefix_N[suffix_B]])
        tails = [suffix.tail for suffix in suffixes]
        logits = self.native.read(self._rows, first_N, tails, predict=True)
        self.read += sum(map(len, tails))
        self._copy(first_N[suffix_B], max(map(len, tails)))
        self.length_B[-len(suffix_B) :] = torch.tensor([len(tail) for tail in tails])[suffix_B]
        return logits[suffix_B]

    def _add_prefixes(self, trees: Sequence[Tree]) -> Tensor:
        """Reads the shared prefixes behind those that are there; the shared prefix (or -1) of every
        suffix.
        """
        texts = [tree.prefix for tree in trees if tree.prefix]
        number = torch.tensor([bool(tree.prefix) for tree in trees]).long().cumsum(0) - 1
        number = number + len(self.prefix)
        number[torch.tensor([not tree.prefix for tree in trees])] = -1
        if texts:
            old, used = len(self.prefix), self.prefix.shape[-2]
            prefix = self.native.room(old + len(texts), max(used, *map(len, texts)))
            prefix[:old, ..., :used, :] = self.prefix
            self.prefix = prefix
            none_N = torch.zeros(len(prefix), dtype=torch.long)
            rows = Rows(prefix, none_N, none_N)
            self.native.read(rows, torch.arange(old, len(prefix)), texts, predict=False)
            self.read += sum(map(len, texts))
        return number.repeat_interleave(torch.tensor([len(tree.suffixes) for tree in trees]))

    def _add_rows(self, count: int, longest: int, room: int) -> None:
        """Empty rows behind the old ones; every row gets `room` behind what it holds."""
        old, used = len(self.length_B), int(self.length_B.max()) if len(self.length_B) else 0
        own = self.native.room(old + count, max(used, longest) + room)
        own[:old, ..., : panelled(used), :] = self.own[..., : panelled(used), :]
        self.own = own
        self.length_B = torch.cat([self.length_B, torch.zeros(count, dtype=torch.long)])

    def _copy(self, from_B: Tensor, length: int) -> None:
        """The newest rows become copies of the rows `from_B`."""
        row_B = torch.arange(len(self.own) - len(from_B), len(self.own))
        row_B, from_B = row_B[row_B != from_B], from_B[row_B != from_B]
        if len(row_B):
            used = panelled(length)
            self.own[row_B, ..., :used, :] = self.own[from_B, ..., :used, :]

    def select(self, rows: Tensor) -> None:
        """Drops all other rows, and shared prefixes that none of them reads."""
        if not len(rows):
            return self._clear()
        used = panelled(int(self.length_B.max()))
        kept = self.native.room(len(rows), self.own.shape[-2])
        kept[..., :used, :] = self.own[rows, ..., :used, :]
        self.own = kept
        self.length_B, self.shared_B = self.length_B[rows], self.shared_B[rows]
        live, prefix_B = self.prefix_B[rows].unique(return_inverse=True)
        self.prefix_B = prefix_B - int((live < 0).any())
        live = live[live >= 0]
        if len(live) < len(self.prefix):
            prefix = self.native.room(len(live), self.prefix.shape[-2])
            self.prefix = prefix.copy_(self.prefix[live])

    # --- writing -------------------------------------------------------------------------------

    def decode_step(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        """Writes one token per row; logits (B, V) of the next. `back_B`: own slots to overlook."""
        self.read += len(token_B)
        if back_B is not None:
            self.length_B = self.length_B - back_B
        logits = self.native.decode(self._rows, token_B)
        self.length_B = self.length_B + 1
        return logits

    def decode_many(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        """Up to `steps` tokens for every row that has not ended; the newest token of every row."""
        before_B = draws.length_N[draws.live_B]
        token_B = self.native.decode(self._rows, token_B, draws, steps)
        read_B = draws.length_N[draws.live_B] - before_B
        self.length_B = self.length_B + read_B
        self.read += int(read_B.sum())
        return token_B


def whole(tree: Tree) -> Tree:
    """A tree of one row has nothing to share."""
    if tree.rows > 1:
        return tree
    suffix = tree.suffixes[0]
    prompt = tree.prefix[: suffix.shared] + suffix.tail
    return Tree((), (Suffix(0, prompt, suffix.members),))
