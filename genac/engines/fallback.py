"""transformers' own forward behind a batch, for architectures without a fast decoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from genac.engines.native import Draws
from genac.prefixes import Tree


class ForwardSteps:
    """Left-padded rows over a growing cache; nothing is shared, and rows enter only together."""

    refills = sprints = False
    rewinds = False  # a sliding window has dropped what a rewound row would see again

    def __init__(self, model: Any) -> None:
        self.model, self.read = model, 0
        self.device = next(model.parameters()).device
        self.pad_id = 0  # masked, so any token will do; a config's own may be none (-1)

    @staticmethod
    def copied(model: Any) -> Any:
        """The learner goes on changing its own."""
        return copy.deepcopy(model).eval()

    def admit(self, trees: Sequence[Tree], room: int) -> Tensor:
        del room
        prompts = [
            tree.trunk[: branch.shared] + branch.tail
            for tree in trees
            for branch in tree.branches
            for _ in branch.members
        ]
        width = max(map(len, prompts))
        rows = [(self.pad_id,) * (width - len(p)) + p for p in prompts]
        ids_BT = torch.tensor(rows, device=self.device)
        pad_B = torch.tensor([width - len(p) for p in prompts], device=self.device)
        slot = torch.arange(width, device=self.device)
        self.visible_BT = (slot >= pad_B[:, None]).long()
        self.position_B = width - pad_B
        self.cache = DynamicCache(config=self.model.config)
        self.read += sum(map(len, prompts))
        return self._forward(ids_BT, (slot - pad_B[:, None]).clamp(min=0))

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.visible_BT, self.position_B = self.visible_BT[rows], self.position_B[rows]

    def advance(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        assert back_B is None
        self.visible_BT = torch.cat([self.visible_BT, self.visible_BT.new_ones(len(token_B), 1)], 1)
        logits = self._forward(token_B[:, None], self.position_B[:, None])
        self.position_B = self.position_B + 1
        self.read += len(token_B)
        return logits

    def sprint(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        raise NotImplementedError("rows are written one token at a time")

    def _forward(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        out = self.model(
            input_ids=ids_BT,
            attention_mask=self.visible_BT,
            position_ids=position_BT,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()
