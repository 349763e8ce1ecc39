"""Plans of packed rows, from the lengths of their trunks and branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genac.models.packed.plan import Stretch, TreePlan

CPU = torch.device("cpu")
# Per trunk: its length, and (tokens of it that are seen, own length) of each branch.
Forest = Sequence[tuple[int, Sequence[tuple[int, int]]]]


def plan_of(forest: Forest, device: torch.device = CPU) -> TreePlan:
    stretches, at = [], 0
    for trunk, branches in forest:
        start = at
        for shared, own in [(0, trunk), *branches]:
            stretches.append(Stretch(at, own, start, shared))
            at += own
    return TreePlan(at, tuple(stretches), device)
