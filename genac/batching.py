"""Samples to micro-batches: sequences that begin alike become one packed row without padding.

A packed row holds what a prefix group shares once and each sequence's rest behind it (see
models/packed/attention.py). Models whose attention cannot take it get right-padded rows: causal
attention never looks right, so these need no mask. No result may depend on how samples were
batched: losses divide by counts over the whole mini-batch (tested).

    prompt, prompt a, prompt b, prompt b c      four samples
    [prompt b c | a]                            the row that is read: 'prompt' and 'b' once

Streams stay one row per sample (_BT); `place_BT` says where in the row (_L) the model reads each
token.

Shapes: _B sample, _T token of a sample, _L token that the model reads, _N score token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genac.models.packed.plan import Segment, TreePlan
from genac.prefixes import GroupedSequence, PrefixGroup, prefix_groups
from genac.types import Sample

# Numbers per stream of a micro-batch, in multiples of the tokens that the model reads: without a
# limit, a thousand samples that differ in their last token would be a thousand whole rows.
STREAMED = 16
# Of a Sample, by the names that their padded rows have without _BT.
STREAMS = ("weights", "advantages", "old_logprobs", "ref_logprobs", "targets")


@dataclass(frozen=True)
class Rows:
    """A micro-batch. Streams that no sample carries are None."""

    ids_BT: Tensor
    place_BT: Tensor  # where the model reads token t of a sample: an index into _L
    weights_BT: Tensor
    temperature_B: Tensor
    advantages_BT: Tensor | None = None
    old_logprobs_BT: Tensor | None = None
    ref_logprobs_BT: Tensor | None = None
    targets_BT: Tensor | None = None
    score_row: Tensor | None = None  # (N,) the row of each ScoreTarget
    score_at: Tensor | None = None  # (N,) its token index
    score_ids: Tensor | None = None  # (N, K), K = 10 or 11
    score_rewards: Tensor | None = None  # (N, K)
    score_otherwise: Tensor | None = None  # (N,)
    packed: Packed | None = None  # what the model reads; None = ids_BT as it stands

    @property
    def tokens(self) -> int:
        """Tokens that the model reads."""
        return self.ids_BT.numel() if self.packed is None else len(self.packed.ids_L)

    def to(self, device: torch.device) -> Rows:
        """The same on a device; `packed` moves itself."""
        values: list[Any] = [getattr(self, f.name) for f in fields(self)]
        moved: list[Any] = [v.to(device) if v is not None else None for v in values]
        return Rows(*moved)


@dataclass(frozen=True)
class Packed:
    """Prefix groups in one row."""

    ids_L: Tensor
    position_L: Tensor  # in its own sequence, not in the row: what a sample alone would have
    plan: TreePlan  # which tokens attend to which

    def to(self, device: torch.device) -> Packed:
        plan = replace(self.plan, device=device)
        return Packed(self.ids_L.to(device), self.position_L.to(device), plan)


def build_microbatches(
    sequences: Sequence[tuple[int, ...]], token_budget: int, *, packed: bool
) -> list[list[PrefixGroup]]:
    """Micro-batches: prefix groups whose tokens to read stay within the budget, each sequence once.

    A prefix group beyond the budget is cut, down to its longest sequence and one more sequence.
    Unless `packed`, rows are padded and nothing is shared.
    """
    if not packed:
        # Every sequence is a prefix group of its own, so that both kinds have one form.
        groups = microbatches([len(s) for s in sequences], token_budget)
        alone = lambda i: PrefixGroup((GroupedSequence(sequences[i], len(sequences[i]), (i,)),))  # noqa: E731
        return [[alone(i) for i in group] for group in groups]
    parts = [
        part
        for prefix_group in prefix_groups(sequences)
        for part in cut(prefix_group, token_budget)
    ]
    out: list[list[PrefixGroup]] = []
    room = 0
    for part in parts:
        if part.tokens > room:
            out.append([])
            room = token_budget
        out[-1].append(part)
        room -= part.tokens
    return out


def cut(group: PrefixGroup, token_budget: int) -> list[PrefixGroup]:
    """The prefix group in parts within the budget; every part but the first reads again what its
    sequences share.

    Streams are padded to the longest sequence, so a part also holds a bounded number of sequences.
    """
    first, *rest = group.sequences
    longest = max(len(one.ids) for one in group.sequences)
    most = max(2, STREAMED * token_budget // longest)
    out: list[PrefixGroup] = []
    # The part that is being filled: its sequences, what it reads, and how much of that is shared.
    members = [first]
    tokens = len(first.ids)
    head = len(first.ids)
    for one in rest:
        added = len(one.ids) - one.shared
        # The part's longest sequence may have to grow to what this sequence shares.
        grown = tokens + added + max(0, one.shared - head)
        if len(members) > 1 and (grown > token_budget or len(members) >= most):
            out.append(PrefixGroup(tuple(members)))
            # A new part begins with what this sequence shares, which belongs to no sample there.
            head = one.shared
            members = [GroupedSequence(first.ids[:head], head, ())]
            grown = head + added
        elif one.shared > head:
            head = one.shared
            members[0] = GroupedSequence(first.ids[:head], head, ())
        members.append(one)
        tokens = grown
    return [*out, PrefixGroup(tuple(members))]


def rows_of(samples: Sequence[Sample], microbatch: Sequence[PrefixGroup], *, packed: bool) -> Rows:
    """The rows of a micro-batch: the samples of its members, in their order."""
    chosen = [samples[i] for group in microbatch for i in group.members]
    rows = pad(chosen)
    return pack(rows, microbatch) if packed else rows


def pack(rows: Rows, microbatch: Sequence[PrefixGroup]) -> Rows:
    """What the samples share stands once in the packed row, their rests behind it."""
    ids: list[int] = []
    position: list[np.ndarray] = []
    segments: list[Segment] = []
    # Padding keeps place 0; as its mask is 0, no loss reads what is predicted there.
    place = np.zeros(tuple(rows.ids_BT.shape), np.int64)
    row = 0  # the first sample of the sequence at hand
    for group in microbatch:
        prefix = len(ids)
        for number, sequence in enumerate(group.sequences):
            # the longest sequence is the shared prefix, so it is read whole
            shared = sequence.shared if number else 0
            length = len(sequence.ids) - shared
            start = len(ids)
            if length:  # else the whole sequence is a beginning of the longest sequence
                ids += sequence.ids[shared:]
                position.append(np.arange(shared, len(sequence.ids)))
                segments.append(Segment(start, length, prefix, shared))
            # Twins, samples of the same ids, all read from the same places.
            where = np.r_[prefix : prefix + shared, start : start + length]
            # the shared part of a prefix group that was cut belongs to no sample
            if sequence.members:
                place[row : row + len(sequence.members), : len(sequence.ids)] = where
            row += len(sequence.members)
    plan = TreePlan(len(ids), tuple(segments), rows.ids_BT.device)
    line = Packed(torch.tensor(ids), torch.from_numpy(np.concatenate(position)), plan)
    return replace(rows, place_BT=torch.from_numpy(place), packed=line)


def microbatches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest row stays within the budget; similar lengths together.

    The longest come first, so that a run that does not fit into memory fails at once. A single row
    longer than the budget forms a micro-batch of its own.
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
    streams: dict[str, Any] = {f"{name}_BT": _stream(samples, name, width) for name in STREAMS}
    return Rows(
        ids_BT=torch.from_numpy(ids),
        place_BT=torch.arange(ids.size).view(ids.shape),
        temperature_B=torch.tensor([s.temperature for s in samples], dtype=torch.float32),
        **streams,
        **_scores(samples),
    )


def require_alike(samples: Sequence[Sample]) -> None:
    """ValueError unless all samples of a mini-batch name one loss and carry the same streams.

    For the whole mini-batch: whether a mixture is noticed must not depend on how it falls into
    micro-batches.
    """
    assert all(s.loss == "score" for s in samples if s.scores), "no other loss reads Sample.scores"
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


def _scores(samples: Sequence[Sample]) -> dict[str, Any]:
    rows = [(row, score) for row, s in enumerate(samples) for score in s.scores]
    if not rows:
        return {}
    return {
        "score_row": torch.tensor([row for row, _ in rows]),
        "score_at": torch.tensor([score.at for _, score in rows]),
        "score_ids": torch.tensor([score.ids for _, score in rows]),
        "score_rewards": torch.tensor([score.rewards for _, score in rows], dtype=torch.float32),
        "score_otherwise": torch.tensor([s.otherwise for _, s in rows], dtype=torch.float32),
    }
