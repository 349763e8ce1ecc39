"""Where values are asked: responses cut into segments, one State at the start of each.

The value of a state is the baseline of the segment that follows it, so it is asked before that
segment's first token and never sees what it will baseline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from genac.config.run import StatesConfig
from genac.types import Rollout, State

# Per tokenizer, which of its tokens end a line: decoding one token takes longer than all the rest.
_LINE_ENDS: WeakKeyDictionary[Any, dict[int, bool]] = WeakKeyDictionary()


def segment_starts(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """Where segments of a response start, all of them: each depends only on what is before it and
    on its own first token."""
    return SPLITTERS[cfg.splitter](rollout, cfg, tokenizer)


def split(rollouts: Iterable[Rollout], cfg: StatesConfig, tokenizer: Any) -> list[State]:
    """States of all rollouts, in order; of each response at least that of its empty prefix."""
    states: list[State] = []
    for rollout in rollouts:
        # Thinned before it is cut, so that a dropped start's tokens join the segment before it.
        starts = thin(segment_starts(rollout, cfg, tokenizer), cfg.max_states)
        # Each segment ends where the next begins, so every token has exactly one baseline.
        ends = [*starts[1:], len(rollout.response_ids)]
        states += [State(rollout, start, end) for start, end in zip(starts, ends, strict=True)]
    return states


def every_token(rollouts: Iterable[Rollout]) -> list[State]:
    """A value before each token, for credit over tokens: one dense state per response.

    A response without tokens has none: there is nothing that a value could be the baseline of.
    """
    whole = ((r, len(r.response_ids)) for r in rollouts)
    return [State(rollout, 0, length, dense=True) for rollout, length in whole if length]


def newlines(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """A segment starts after each token that ends a line."""
    del cfg
    known = _LINE_ENDS.setdefault(tokenizer, {})

    # By its text: in many vocabularies a token ends a line that is more than the line break.
    def ends_line(token: int) -> bool:
        if token not in known:
            known[token] = tokenizer.decode([token]).endswith("\n")
        return known[token]

    # A blank line belongs to the segment before it, so that no segment is a line break alone.
    neighbours = enumerate(pairwise(rollout.response_ids), start=1)
    return [0, *(i for i, (before, at) in neighbours if ends_line(before) and not ends_line(at))]


def windows(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """A segment every cfg.window tokens."""
    del tokenizer
    return list(range(0, max(1, len(rollout.response_ids)), cfg.window))


def low_probability(rollout: Rollout, cfg: StatesConfig, tokenizer: Any) -> list[int]:
    """A token that the actor itself thought unlikely (p < threshold) opens a segment: it is where a
    decision was taken.
    """
    del tokenizer
    unlikely = np.exp(rollout.logprobs) < cfg.threshold
    return [0, *(int(i) for i in np.nonzero(unlikely)[0] if i > 0)]


def thin(starts: Sequence[int], limit: int) -> list[int]:
    """At most `limit` starts, evenly spread, the first always kept."""
    if len(starts) <= limit:
        return list(starts)
    # With one state only the first is left, to which linspace would add the last.
    chosen = np.linspace(0, len(starts) - 1, limit).round().astype(int) if limit > 1 else [0]
    return [starts[i] for i in chosen]


def subset(states: list[State], limit: int | None, seed: str) -> list[State]:
    """All states of at most `limit` token-identical classes, drawn at random: more problems per
    judged state, and pooled returns stay whole."""
    keys = list(dict.fromkeys(state.key for state in states))
    if limit is None or len(keys) <= limit:
        return states
    chosen = set(random.Random(f"{seed}/subset").sample(keys, limit))
    return [state for state in states if state.key in chosen]


def marked(states: list[State], limit: int | None, seed: str) -> list[State]:
    """All states, of which those of `subset` train the critic."""
    keys = {state.key for state in subset(states, limit, seed)}
    return [replace(state, trains=state.key in keys) for state in states]


SPLITTERS: dict[str, Callable[[Rollout, StatesConfig, Any], list[int]]] = {
    "newline": newlines,
    "window": windows,
    "low_probability": low_probability,
}
