"""Who sees whom in a packed row of trees, in the forms that the kernels want."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from genac.models.packed.flex import block_mask

# suffix tokens per block against the shared prefix: a small mask, few calls
PREFIX_BLOCK_TOKENS = 256
WASTE = 1.25  # segments are padded to a common length while that costs at most this factor


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of the packed row that attend causally, behind `shared` shared prefix
    tokens.
    """

    start: int
    length: int
    prefix: int = 0  # where the shared prefix starts
    shared: int = 0  # how much of it is seen


@dataclass(frozen=True)
class PrefixBlock:
    """Tokens start..end against the shared prefix from..to, under an additive mask where they
    differ.
    """

    start: int
    end: int
    low: int
    high: int
    mask: Tensor | None


@dataclass(frozen=True)
class TreePlan:
    """Who sees whom in one packed row of `length` tokens."""

    length: int
    segments: tuple[Segment, ...]
    device: torch.device

    @cached_property
    def groups(self) -> list[tuple[Tensor, Tensor | None]]:
        """Segments of similar length: token indices (B, S), and which of them are not padding
        (None = all). Padding repeats a segment's last token.
        """
        order = sorted(self.segments, key=lambda s: -s.length)
        out, current, total = [], [], 0
        for segment in order:
            padded = (len(current) + 1) * (current[0].length if current else segment.length)
            if current and padded > WASTE * (total + segment.length):
                out.append(current)
                current, total = [], 0
            current.append(segment)
            total += segment.length
        return [self._indices(group) for group in [*out, current] if group]

    def _indices(self, group: list[Segment]) -> tuple[Tensor, Tensor | None]:
        length = torch.tensor([s.length for s in group], device=self.device)[:, None]
        start = torch.tensor([s.start for s in group], device=self.device)[:, None]
        offset = torch.arange(group[0].length, device=self.device)
        valid = offset < length
        index = start + torch.minimum(offset.expand_as(valid), length - 1)
        return index, None if bool(valid.all()) else valid

    @cached_property
    def prefix_blocks(self) -> list[PrefixBlock]:
        """Suffixes against shared prefixes, neighbours of one shared prefix together."""
        out: list[PrefixBlock] = []
        current: list[Segment] = []
        for segment in self.segments:
            fits = (
                current
                and current[-1].start + current[-1].length == segment.start
                and current[-1].prefix == segment.prefix
                and (
                    all(segment.shared == s.shared for s in current)
                    or self._tokens(current) < PREFIX_BLOCK_TOKENS
                )
            )
            if not segment.shared:
                continue
            if not fits and current:
                out.append(self._prefix_block(current))
                current = []
            current.append(segment)
        return [*out, self._prefix_block(current)] if current else out

    @staticmethod
    def _tokens(segments: list[Segment]) -> int:
        return sum(s.length for s in segments)

    def _prefix_block(self, group: list[Segment]) -> PrefixBlock:
        start, low = group[0].start, group[0].prefix
        end, most = start + self._tokens(group), max(s.shared for s in group)
        if all(s.shared == most for s in group):
            return PrefixBlock(start, end, low, low + most, None)
        shared = torch.tensor(
            [s.shared for s in group for _ in range(s.length)], device=self.device
        )
        hidden = torch.arange(most, device=self.device) >= shared[:, None]
        return PrefixBlock(start, end, low, low + most, additive(hidden))

    @cached_property
    def table(self) -> Tensor:
        """(segments, 4): start, length, shared prefix, shared."""
        rows = [(s.start, s.length, s.prefix, s.shared) for s in self.segments]
        return torch.tensor(rows, dtype=torch.long)

    @cached_property
    def prefix_groups(self) -> Tensor:
        """The first segment of each prefix group (tokens that no other reads), and behind
        the last.
        """
        starts, low = [len(self.segments)], self.length
        for number, s in reversed(list(enumerate(self.segments))):
            low = min(low, s.prefix if s.shared else s.start)
            if low >= s.start:
                starts.append(number)
        return torch.tensor(starts[::-1], dtype=torch.long)

    @cached_property
    def blocks(self) -> BlockMask:
        """Who sees whom, for FlexAttention."""
        return block_mask(self.table, self.device)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """(L, L) additive mask of the whole row; one for all layers, which keep it for their
        backward passes.
        """
        if dtype not in self._dense:
            self._dense[dtype] = additive(~self.seen).to(dtype)
        return self._dense[dtype]

    @cached_property
    def _dense(self) -> dict[torch.dtype, Tensor]:
        return {}

    @property
    def seen(self) -> Tensor:
        """(L, L), True where a token sees another."""
        seen = torch.zeros(self.length, self.length, dtype=torch.bool, device=self.device)
        for s in self.segments:
            rows = slice(s.start, s.start + s.length)
            seen[rows, rows] = torch.ones(s.length, s.length, device=self.device).tril().bool()
            seen[rows, s.prefix : s.prefix + s.shared] = True
        return seen


def additive(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, float("-inf"))
