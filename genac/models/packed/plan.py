"""Who sees whom in a packed row of trees, in the forms that the kernels want."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from genac.models.packed.flex import block_mask

CROSSING_TOKENS = 256  # branch tokens per block against the trunk: a small mask, few calls
WASTE = 1.25  # stretches are padded to a common length while that costs at most this factor


@dataclass(frozen=True)
class Stretch:
    """Consecutive tokens of the packed row that attend causally, behind `shared` trunk tokens."""

    start: int
    length: int
    trunk: int = 0  # where the trunk starts
    shared: int = 0  # how much of it is seen


@dataclass(frozen=True)
class Crossing:
    """Tokens start..end against the trunk from..to, under an additive mask where they differ."""

    start: int
    end: int
    low: int
    high: int
    mask: Tensor | None


@dataclass(frozen=True)
class TreePlan:
    """Who sees whom in one packed row of `length` tokens."""

    length: int
    stretches: tuple[Stretch, ...]
    device: torch.device

    @cached_property
    def groups(self) -> list[tuple[Tensor, Tensor | None]]:
        """Stretches of similar length: token indices (B, S), and which of them are not padding
        (None = all). Padding repeats a stretch's last token.
        """
        order = sorted(self.stretches, key=lambda s: -s.length)
        out, current, total = [], [], 0
        for stretch in order:
            padded = (len(current) + 1) * (current[0].length if current else stretch.length)
            if current and padded > WASTE * (total + stretch.length):
                out.append(current)
                current, total = [], 0
            current.append(stretch)
            total += stretch.length
        return [self._indices(group) for group in [*out, current] if group]

    def _indices(self, group: list[Stretch]) -> tuple[Tensor, Tensor | None]:
        length = torch.tensor([s.length for s in group], device=self.device)[:, None]
        start = torch.tensor([s.start for s in group], device=self.device)[:, None]
        offset = torch.arange(group[0].length, device=self.device)
        valid = offset < length
        index = start + torch.minimum(offset.expand_as(valid), length - 1)
        return index, None if bool(valid.all()) else valid

    @cached_property
    def crossings(self) -> list[Crossing]:
        """Branches against trunks, neighbours of one trunk together."""
        out: list[Crossing] = []
        current: list[Stretch] = []
        for stretch in self.stretches:
            fits = (
                current
                and current[-1].start + current[-1].length == stretch.start
                and current[-1].trunk == stretch.trunk
                and (
                    all(stretch.shared == s.shared for s in current)
                    or self._tokens(current) < CROSSING_TOKENS
                )
            )
            if not stretch.shared:
                continue
            if not fits and current:
                out.append(self._crossing(current))
                current = []
            current.append(stretch)
        return [*out, self._crossing(current)] if current else out

    @staticmethod
    def _tokens(stretches: list[Stretch]) -> int:
        return sum(s.length for s in stretches)

    def _crossing(self, group: list[Stretch]) -> Crossing:
        start, low = group[0].start, group[0].trunk
        end, most = start + self._tokens(group), max(s.shared for s in group)
        if all(s.shared == most for s in group):
            return Crossing(start, end, low, low + most, None)
        shared = torch.tensor(
            [s.shared for s in group for _ in range(s.length)], device=self.device
        )
        hidden = torch.arange(most, device=self.device) >= shared[:, None]
        return Crossing(start, end, low, low + most, additive(hidden))

    @cached_property
    def table(self) -> Tensor:
        """(stretches, 4): start, length, trunk, shared."""
        rows = [(s.start, s.length, s.trunk, s.shared) for s in self.stretches]
        return torch.tensor(rows, dtype=torch.long)

    @cached_property
    def families(self) -> Tensor:
        """The first stretch of each family (tokens that no other reads), and behind the last."""
        starts, low = [len(self.stretches)], self.length
        for number, s in reversed(list(enumerate(self.stretches))):
            low = min(low, s.trunk if s.shared else s.start)
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
        for s in self.stretches:
            rows = slice(s.start, s.start + s.length)
            seen[rows, rows] = torch.ones(s.length, s.length, device=self.device).tril().bool()
            seen[rows, s.trunk : s.trunk + s.shared] = True
        return seen


def additive(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, float("-inf"))
