"""Samples to padded rows: right-padded micro-batches of similar length under a token budget.

Causal attention never looks right, so right padding needs no attention mask, and no result may
depend on how samples were batched: losses divide by counts over the whole mini-batch (tested).

Shapes: _B row, _T token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genac.types import Sample

STREAMS = ("mask", "advantages", "old_logprobs", "ref_logprobs", "targets")


@dataclass(frozen=True)
class Rows:
    """A micro-batch on the device. Streams that no sample carries are None."""

    ids_BT: Tensor
    mask_BT: Tensor
    temperature_B: Tensor
    advantages_BT: Tensor | None = None
    old_logprobs_BT: Tensor | None = None
    ref_logprobs_BT: Tensor | None = None
    targets_BT: Tensor | None = None
    score_row: Tensor | None = None  # (N,) rows that carry a ScoreTarget
    score_at: Tensor | None = None  # (N,) its token index
    score_ids: Tensor | None = None  # (N, 11)
    score_rewards: Tensor | None = None  # (N, 11)

    def to(self, device: torch.device) -> Rows:
        values: list[Any] = [getattr(self, f.name) for f in fields(self)]
        moved: list[Any] = [v.to(device) if v is not None else None for v in values]
        return Rows(*moved)


def microbatches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest row stays within the budget; similar lengths together.

    A single row longer than the budget forms a micro-batch of its own.
    """
    groups: list[list[int]] = []
    current: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[current[0]] if current else lengths[index]
        if current and longest * (len(current) + 1) > token_budget:
            groups.append(current)
            current = []
        current.append(index)
    return [*groups, current] if current else groups


def pad(samples: Sequence[Sample]) -> Rows:
    """Right-pads the samples of one micro-batch."""
    require_alike(samples)
    width = max(len(s.ids) for s in samples)
    ids = np.zeros((len(samples), width), np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
    streams = {f"{name}_BT": _stream(samples, name, width) for name in STREAMS}
    return Rows(
        ids_BT=torch.from_numpy(ids),
        temperature_B=torch.tensor([s.temperature for s in samples], dtype=torch.float32),
        **streams,
        **_scores(samples),
    )


def require_alike(samples: Sequence[Sample]) -> None:
    """ValueError unless all samples of a mini-batch name one loss and carry the same streams:
    whether a mixture is noticed must not depend on how it falls into micro-batches.
    """
    losses = sorted({s.loss for s in samples})
    if len(losses) > 1:
        raise ValueError(
            f"one batch mixes the losses {losses}; learn from them one after the other"
        )
    for name in STREAMS:
        if len({getattr(s, name) is None for s in samples}) > 1:
            raise ValueError(
                f"some samples of one batch carry {name} and some do not; give all of them one"
            )


def _stream(samples: Sequence[Sample], name: str, width: int) -> Tensor | None:
    values = [getattr(sample, name) for sample in samples]
    if all(value is None for value in values):
        return None
    out = np.zeros((len(samples), width), np.float32)
    for row, value in enumerate(values):
        out[row, : len(value)] = value
    return torch.from_numpy(out)


def _scores(samples: Sequence[Sample]) -> dict[str, Tensor]:
    rows = [(row, s.score) for row, s in enumerate(samples) if s.score is not None]
    if not rows:
        return {}
    return {
        "score_row": torch.tensor([row for row, _ in rows]),
        "score_at": torch.tensor([score.at for _, score in rows]),
        "score_ids": torch.tensor([score.ids for _, score in rows]),
        "score_rewards": torch.tensor([score.rewards for _, score in rows], dtype=torch.float32),
    }
