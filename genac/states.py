"""Where values are asked: responses cut into segments, one State at the start of each.

The value of a state is the baseline of the segment that follows it, so it is asked before that
segment's first token and never sees what it will baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from genac.config import StatesConfig
from genac.types import Rollout, State


def split(rollouts: Iterable[Rollout], cfg: StatesConfig, tokenizer: Any) -> list[State]:
    """States of all rollouts, in order. Every response has at least the state of its empty
    prefix.
    """
    find = SPLITTERS[cfg.splitter]
    states: list[State] = []
    for rollout in rollouts:
        starts = thin(find(rollout, cfg, tokenizer), cfg.max_states)
        ends = [*starts[1:], len(rollout.response_ids)]
        states += [State(rollout, start, end) for start, end in zip(starts, ends, strict=True)]
    return states


def every_token(rollouts: Iterable[Rollout]) -> list[State]:
    """One state per token, for credit over tokens."""
    return [State(r, i, i + 1) for r in rollouts for i in range(len(r.response_ids))]


def newlines(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """A segment starts after each token that ends a line."""
    del cfg
    cache = _newline_cache(tokenizer)
    ids = rollout.response_ids
    starts = [0]
    for i, token in enumerate(ids[:-1]):
        if token not in cache:
            cache[token] = tokenizer.decode([token]).endswith("\n")
        # A blank line belongs to the segment before it.
        if cache[token] and not cache.setdefault(
            ids[i + 1], tokenizer.decode([ids[i + 1]]).endswith("\n")
        ):
            starts.append(i + 1)
    return starts


def _newline_cache(tokenizer: Any) -> dict[int, bool]:
    if not hasattr(tokenizer, "_ends_line"):
        tokenizer._ends_line = {}
    return tokenizer._ends_line


def windows(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """A segment every cfg.window tokens."""
    del tokenizer
    return list(range(0, max(1, len(rollout.response_ids)), cfg.window))


def low_probability(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """A token the actor itself thought unlikely (p < threshold) opens a segment: a decision
    point.
    """
    del tokenizer
    unlikely = np.exp(rollout.logprobs) < cfg.threshold
    return [0, *(int(i) for i in np.nonzero(unlikely)[0] if i > 0)]


def thin(starts: Sequence[int], limit: int) -> list[int]:
    """At most `limit` starts, evenly spread, the first always kept."""
    if len(starts) <= limit:
        return list(starts)
    chosen = np.linspace(0, len(starts) - 1, limit).round().astype(int) if limit > 1 else [0]
    return [starts[i] for i in chosen]


SPLITTERS: dict[str, Callable[[Rollout, StatesConfig, Any], list[int]]] = {
    "newline": newlines,
    "window": windows,
    "low_probability": low_probability,
}
