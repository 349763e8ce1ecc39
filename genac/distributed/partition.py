"""Who computes what: sequences divided over workers by the tokens they cost.

Sequences that begin alike stay together while that is fair, since a worker reads once what its
sequences share. The division changes costs, never results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from genac.batching import STREAMS
from genac.engines.base import Request
from genac.prefixes import Ids, PrefixGroup, prefix_groups
from genac.types import Sample

CHUNKS_PER_WORKER = 2  # a prefix group beyond this part of a worker's fair share is divided


def partition_requests(requests: Sequence[Request], workers: int) -> list[list[int]]:
    """Places of the requests by worker."""
    prompts = [request.prompt_ids for request in requests]
    return partition(prompts, [request.max_new_tokens for request in requests], workers)


def partition_sequences(sequences: Sequence[Ids], workers: int) -> list[list[int]]:
    """Places of sequences that are only read, by worker."""
    return partition(sequences, [0] * len(sequences), workers)


def partition(sequences: Sequence[Ids], written: Sequence[int], workers: int) -> list[list[int]]:
    """Places of the sequences by worker, each list in order; `written` tokens follow sequence i."""
    result = prefix_groups(sequences)
    total = sum(group.tokens for group in result) + sum(written)
    limit = total / workers / CHUNKS_PER_WORKER
    parts = [part for group in result for part in chunks(group, written, limit)]
    loads, out = [0.0] * workers, [[] for _ in range(workers)]
    for cost, members in sorted(parts, key=lambda part: (-part[0], part[1])):
        least = loads.index(min(loads))
        loads[least] += cost
        out[least] += members
    return [sorted(members) for members in out]


def chunks(
    group: PrefixGroup, written: Sequence[int], limit: float
) -> list[tuple[float, list[int]]]:
    """(tokens, members) of a prefix group cut into neighbours of at most `limit` tokens, or one
    member.

    Every piece reads again what its first sequence shares.
    """
    out: list[tuple[float, list[int]]] = []
    cost, members = 0.0, []
    for number, sequence in enumerate(group.sequences):
        own = len(sequence.ids) - (sequence.shared if number else 0)
        for place, member in enumerate(sequence.members):
            added = written[member] + (0 if place else own)
            if members and cost + added > limit:
                out.append((cost, members))
                cost, members = 0.0, []
            if not members:
                added = written[member] + len(sequence.ids)
            cost, members = cost + added, [*members, member]
    return [*out, (cost, members)] if members else out


def dummy_sample(sample: Sample) -> Sample:
    """A sample of the same kind that trains nothing: what a worker without samples computes while
    the others wait for it.
    """
    nothing = {
        name: np.zeros(2, np.float32) for name in STREAMS if getattr(sample, name) is not None
    }
    return replace(sample, ids=(sample.ids * 2)[:2], scores=(), **nothing)
