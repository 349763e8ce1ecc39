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
from genac.prefixes import Ids, partition
from genac.types import Sample


def partition_requests(requests: Sequence[Request], workers: int) -> list[list[int]]:
    """Places of the requests by worker."""
    prompts = [request.prompt_ids for request in requests]
    return partition(prompts, [request.max_new_tokens for request in requests], workers)


def partition_sequences(sequences: Sequence[Ids], workers: int) -> list[list[int]]:
    """Places of sequences that are only read, by worker."""
    return partition(sequences, [0] * len(sequences), workers)


def dummy_sample(sample: Sample) -> Sample:
    """A sample of the same kind that trains nothing: what a worker without samples computes while
    the others wait for it.
    """
    nothing = {
        name: np.zeros(2, np.float32) for name in STREAMS if getattr(sample, name) is not None
    }
    return replace(sample, ids=(sample.ids * 2)[:2], scores=(), **nothing)
