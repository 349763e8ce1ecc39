"""transformers' own forward behind a batch, for architectures without a fast decoder.

`TransformersRunner` keeps what a row has read in transformers' cache. `RereadSteps` keeps nothing,
for models whose cache cannot be stepped through; engines/agreement.py decides between them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from genac.native.decode import Draws
from genac.prefixes import Tree

CACHES = ("past_key_values", "cache_params")  # what forward calls the cache that it is given
READ_AT_ONCE = 2048  # tokens per forward that reads again: bounds its logits where all are made


class TransformersRunner:
    """Left-padded rows over a growing cache; nothing is shared, and rows enter only together."""

    can_refill = can_decode_many = False
    can_rewind = False  # a sliding window has dropped what a rewound row would see again

    def __init__(self, model: Any) -> None:
        self.model, self.read = model, 0
        self.device = next(model.parameters()).device
        self.accepted = arguments_of(model)
        self.pad_id = 0  # masked, so any token will do; a config's own may be none (-1)

    @staticmethod
    def copied(model: Any) -> Any:
        """The learner goes on changing its own."""
        return copy.deepcopy(model).eval()

    def prefill(self, trees: Sequence[Tree], room: int) -> Tensor:
        """Reads the trees' prompts; logits (rows, V) of what follows. NotImplementedError where
        forward takes no cache.
        """
        del room
        prompts = prompts_of(trees)
        width = max(map(len, prompts))
        rows = [(self.pad_id,) * (width - len(p)) + p for p in prompts]
        ids_BT = torch.tensor(rows, device=self.device)
        pad_B = torch.tensor([width - len(p) for p in prompts], device=self.device)
        slot = torch.arange(width, device=self.device)
        self.visible_BT = (slot >= pad_B[:, None]).long()
        self.position_B = width - pad_B
        self.cache: Any = DynamicCache(config=self.model.config)
        self.read += sum(map(len, prompts))
        return self._forward(ids_BT, (slot - pad_B[:, None]).clamp(min=0))

    def select(self, rows: Tensor) -> None:
        """Drops all other rows."""
        # batch_select_indices leaves the states of recurrent layers as they are.
        self.cache.reorder_cache(rows)
        self.visible_BT, self.position_B = self.visible_BT[rows], self.position_B[rows]

    def decode_step(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        """Writes one token per row; logits (B, V) of the next."""
        assert back_B is None
        self.visible_BT = torch.cat([self.visible_BT, self.visible_BT.new_ones(len(token_B), 1)], 1)
        logits = self._forward(token_B[:, None], self.position_B[:, None])
        self.position_B = self.position_B + 1
        self.read += len(token_B)
        return logits

    def decode_many(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        raise NotImplementedError("rows are written one token at a time")

    def _forward(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        # A forward that swallows unknown arguments would read every token without the others.
        name = next((name for name in CACHES if name in self.accepted), None)
        if name is None:
            raise NotImplementedError("its forward takes no cache")
        # Layers that keep a state, and no keys, mask the tokens that they read.
        visible_BT = self.visible_BT[:, -ids_BT.shape[1] :]
        given = {
            "attention_mask": visible_BT if name == "cache_params" else self.visible_BT,
            "position_ids": position_BT,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        # Positions may pass through **kwargs to the layers that use them.
        passed = self.accepted | ({"position_ids"} if "kwargs" in self.accepted else set())
        given = {key: value for key, value in given.items() if key in passed}
        out = self.model(input_ids=ids_BT, **{name: self.cache}, **given)
        return out.logits[:, -1].float()


class RereadSteps:
    """Rows that are read from their first token at every step, padded on the right, as the learner
    reads them: exact for every causal model, and as many times slower as a row has tokens.
    """

    can_refill = True
    can_rewind = can_decode_many = False

    def __init__(self, model: Any) -> None:
        self.model, self.read = model, 0
        self.device = next(model.parameters()).device
        self.accepted = arguments_of(model)
        self.rows: list[tuple[int, ...]] = []

    def prefill(self, trees: Sequence[Tree], room: int) -> Tensor:
        """Reads the trees' prompts; logits (new rows, V) of what follows."""
        del room
        prompts = prompts_of(trees)
        self.rows += prompts
        return self._logits(prompts)

    def select(self, rows: Tensor) -> None:
        """Drops all other rows."""
        self.rows = [self.rows[row] for row in rows.tolist()]

    def decode_step(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        """Writes one token per row; logits (B, V) of the next."""
        assert back_B is None
        self.rows = [(*row, t) for row, t in zip(self.rows, token_B.tolist(), strict=True)]
        return self._logits(self.rows)

    def decode_many(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        raise NotImplementedError("rows are written one token at a time")

    def _logits(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """(B, V) behind the last token of every row."""
        self.read += sum(map(len, rows))
        together = max(1, READ_AT_ONCE // max(map(len, rows)))
        parts = [rows[at : at + together] for at in range(0, len(rows), together)]
        return torch.cat([self._behind(part) for part in parts])

    def _behind(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        width = max(map(len, rows))
        ids_BT = torch.tensor([row + (0,) * (width - len(row)) for row in rows], device=self.device)
        last_B = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        logits = self.model(input_ids=ids_BT, **self._no_cache()).logits
        return logits[torch.arange(len(rows), device=self.device), last_B].float()

    def _no_cache(self) -> dict[str, Any]:
        return {"use_cache": False} if "use_cache" in self.accepted else {}


def arguments_of(model: Any) -> frozenset[str]:
    """What the model's forward takes by name; what only **kwargs would swallow is not in it."""
    return frozenset(inspect.signature(model.forward).parameters)


def prompts_of(trees: Sequence[Tree]) -> list[tuple[int, ...]]:
    """The whole prompt of every member, in the order of the trees' members."""
    return [
        tree.prefix[: suffix.shared] + suffix.tail
        for tree in trees
        for suffix in tree.suffixes
        for _ in suffix.members
    ]
