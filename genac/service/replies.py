"""From estimates to what a trainer gets: values and advantages per response."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genac.client.messages import ResponseAdvantages, ResponseValues
from genac.config.run import CreditConfig
from genac.credit import credit, rows_of_estimates
from genac.scoring import spread
from genac.service.batch import Batch, Row
from genac.types import Estimate, Group

Streams = dict[int, np.ndarray]  # id of a rollout -> (T,) its tokens' advantages


def segment_rows(batch: Batch, estimates: Sequence[Estimate]) -> list[list[Estimate]]:
    """Per response of the request its estimates, one for each boundary."""
    by_group = rows_of_estimates(batch.groups, estimates)
    own = {id(r): row for r, row in zip(batch.rollouts, by_group, strict=True)}
    return [at_boundaries(row, own[id(row.rollout)]) for row in batch.rows]


def at_boundaries(row: Row, estimates: list[Estimate]) -> list[Estimate]:
    """Boundaries that lie in one token share its estimate."""
    if row.starts is None:
        return estimates
    by_start = {e.state.start: e for e in estimates}
    return [by_start[start] for start in row.starts]


def values_of(row: Row, estimates: Sequence[Estimate], rationales: bool) -> dict[str, Any]:
    """The fields of a `ResponseValues`."""
    return {
        "boundaries": boundaries_of(row, estimates),
        "values": tuple(e.value for e in estimates),
        "spreads": tuple(spread(e.rationales) for e in estimates),
        "rationales": tuple(tuple(t.text for t in e.rationales) for e in estimates)
        if rationales
        else None,
    }


def boundaries_of(row: Row, estimates: Sequence[Estimate]) -> tuple[int, ...]:
    """Starts of the segments, in the units of the response."""
    if row.boundaries is not None:
        return row.boundaries
    starts = [e.state.start for e in estimates]
    if row.characters is None:
        return tuple(starts)
    return tuple(row.characters[start] if start else 0 for start in starts)


def value_replies(
    batch: Batch, estimates: Sequence[Estimate], rationales: bool
) -> tuple[ResponseValues, ...]:
    rows = segment_rows(batch, estimates)
    return tuple(
        ResponseValues(**values_of(row, own, rationales))
        for row, own in zip(batch.rows, rows, strict=True)
    )


def advantage_replies(
    batch: Batch, estimates: Sequence[Estimate], streams: Streams, rationales: bool
) -> tuple[ResponseAdvantages, ...]:
    rows = segment_rows(batch, estimates)
    return tuple(
        ResponseAdvantages(**values_of(row, own, rationales), **advantages_of(row, own, streams))
        for row, own in zip(batch.rows, rows, strict=True)
    )


def advantages_of(row: Row, estimates: Sequence[Estimate], streams: Streams) -> dict[str, Any]:
    """Per segment and per token; None where nothing may train by them."""
    stream = streams.get(id(row.rollout))
    if stream is None:
        return {"advantages": (None,) * len(estimates)}
    numbers = stream.tolist()
    states = [e.state for e in estimates]
    return {
        "advantages": tuple(numbers[s.start] if s.start < s.end else None for s in states),
        "token_advantages": tuple(numbers) if row.characters is None else None,
    }


def assign(
    batch: Batch, estimates: Sequence[Estimate], cfg: CreditConfig
) -> tuple[Streams, dict[str, float]]:
    """Advantages of all tokens by the joint stage's credit assignment.

    Groups of unequal size are taken by size, where no group's advantages depend on another's.
    ValueError where they do.
    """
    sizes = defaultdict(list)
    for group in batch.groups:
        sizes[len(group)].append(group)
    if len(sizes) > 1 and cfg.whiten_advantages != "none":
        raise ValueError(
            f"groups have {', '.join(map(str, sorted(sizes)))} responses, but "
            f"credit.whiten_advantages {cfg.whiten_advantages!r} compares the whole batch; send "
            "groups of one size"
        )
    streams: Streams = {}
    totals: dict[str, float] = defaultdict(float)
    for size, groups in sizes.items():
        own, metrics = assign_alike(groups, estimates, cfg)
        streams |= own
        share = size * len(groups) / len(batch.rows)
        for name, value in metrics.items():
            totals[name] += share * value
    return streams, dict(totals)


def assign_alike(
    groups: Sequence[Group], estimates: Sequence[Estimate], cfg: CreditConfig
) -> tuple[Streams, dict[str, float]]:
    """The same for groups of one size."""
    rollouts = [r for group in groups for r in group]
    chosen = {id(r) for r in rollouts}
    own = [e for e in estimates if id(e.state.rollout) in chosen]
    assigned = credit(groups, own, cfg, temperature=1.0)
    # As `credit` keeps them: responses with a reward and with tokens are samples, in order.
    kept = [r for r in rollouts if r.reward is not None and len(r.response_ids)]
    streams = {}
    for rollout, sample in zip(kept, assigned.samples, strict=True):
        assert sample.advantages is not None
        streams[id(rollout)] = sample.advantages[len(rollout.prompt_ids) :]
    return streams, assigned.metrics


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those that JSON can hold; what is not known is left out."""
    known = {k: float(v) for k, v in metrics.items() if v is not None}
    return {k: v for k, v in known.items() if math.isfinite(v)}
