"""What an engine is: tokens in; tokens, their log-probabilities and entropies out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

# From the ids of a completion that has ended: (place, token) to try in it, or None.
Fork = Callable[[tuple[int, ...]], tuple[int, int] | None]


@dataclass(frozen=True)
class Request:
    """One completion to sample. Randomness is the request's own, so batching cannot change it."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    temperature: float = 1.0  # 0 = greedy, whatever top_p is
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = ()
    line_ids: tuple[int, ...] = ()  # ends at the first other token that follows one of these
    stop: tuple[str, ...] = ()  # ends a completion as soon as its text holds one of them
    watch_ids: tuple[int, ...] = ()  # tokens whose probabilities are returned at every position
    fork: Fork | None = None  # what might have been written: asked once, when the completion ends


@dataclass(frozen=True)
class Completion:
    """A sampled continuation; what ended it (stop token or string) is part of `ids`."""

    ids: tuple[int, ...]
    # (T,) float32, of the distribution that was drawn from: temperature and top_p applied
    logprobs: np.ndarray
    finish: str  # "stop" | "length"
    # (T, W), before top_p
    watched: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    # (W,) of the watched tokens, had `fork`'s token been written at its place; None = no fork
    forked: np.ndarray | None = None
    # (T,) float32, nats: of the distribution that each of `logprobs` refers to; None from an engine
    # that does not know it
    entropies: np.ndarray | None = None


class Engine(Protocol):
    """Samples with the newest published weights."""

    version: int
    processed_tokens: int  # read or written by the model so far; shared prefixes count once

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions in the order of `requests`; ValueError on a prompt beyond the context."""
        ...

    def publish(self, model: Any, version: int) -> None:
        """Takes over new weights, which everything sampled from now on comes from."""
        ...
