"""What engines and learners are given where one device is compared with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from engine_models import VOCAB

from genac.config.models import LossConfig
from genac.engines.base import Request
from genac.types import Sample, ScoreTarget

LOSS = LossConfig(beta=0.1, entropy_coef=0.01)


def requests_of() -> list[Request]:
    """Every way to draw, to end and to share a prompt; probes."""
    rng = np.random.default_rng(0)
    prefix = tuple(rng.integers(3, VOCAB, 40).tolist())
    prompts = [(*prefix[: 4 * i], 5, 6) for i in range(6)] + [prefix[:9]] * 4 + [(7,), (8, 9)]
    probe = lambda ids: (len(ids) - 2, 4) if len(ids) > 2 else None  # noqa: E731
    return [
        Request(
            prompt,
            max_new_tokens=2 + 5 * i % 13,
            seed=i,
            temperature=(1.0, 0.7, 0.0)[i % 3],
            top_p=0.9 if i % 4 == 0 else 1.0,
            stop_ids=(35, 12) if i % 2 else (),
            line_ids=(11,) if i % 3 else (),
            token_prob_ids=(3, 4, 5)[: i % 4],
            probe=probe if i % 5 == 0 else None,
        )
        for i, prompt in enumerate(prompts)
    ]


def samples_of(loss: str, lengths: Sequence[int] = (12, 15, 20, 9)) -> list[Sample]:
    """Sequences that begin alike, with all streams of a loss."""
    rng, out = np.random.default_rng(1), []
    for length in lengths:
        ids = (*range(3, 9), *rng.integers(3, VOCAB, length).tolist())
        weights = np.r_[np.zeros(6), np.ones(length)].astype(np.float32)
        streams: dict[str, Any] = {}
        if loss == "policy":
            names = ("advantages", "old_logprobs", "ref_logprobs")
            streams = {n: rng.normal(size=len(ids)).astype(np.float32) for n in names}
            target = ScoreTarget(len(ids) - 2, tuple(range(3, 14)), tuple(rng.random(11).tolist()))
            streams["scores"] = (target,)
        if loss == "value":
            streams["targets"] = rng.random(len(ids)).astype(np.float32)
        out.append(Sample(ids, weights, loss, **streams))
    return out
