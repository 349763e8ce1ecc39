"""Plans of packed rows, from the lengths of their shared prefixes and suffixes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genac.models.packed.plan import Segment, TreePlan

CPU = torch.device("cpu")
# Per shared prefix: its length, and (tokens of it that are seen, own length) of each suffix.
Forest = Sequence[tuple[int, Sequence[tuple[int, int]]]]


def plan_of(forest: Forest, device: torch.device = CPU) -> TreePlan:
    segments, at = [], 0
    for prefix, suffixes in forest:
        start = at
        for shared, own in [(0, prefix), *suffixes]:
            segments.append(Segment(at, own, start, shared))
            at += own
    return TreePlan(at, tuple(segments), device)
