"""What an engine is: tokens in; tokens, their log-probabilities and entropies out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

# From the ids of a completion that has ended: (place, token) to try in it, or None.
Probe = Callable[[tuple[int, ...]], tuple[int, int] | None]


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
    # tokens whose probabilities are returned at every position
    token_prob_ids: tuple[int, ...] = ()
    probe: Probe | None = None  # what might have been written: once, when the completion ends


@dataclass(frozen=True)
class Completion:
    """A sampled continuation; what ended it (stop token or string) is part of `ids`."""

    ids: tuple[int, ...]
    # (T,) float32, of the distribution that was drawn from: temperature and top_p applied
    logprobs: np.ndarray
    finish: str  # "stop" | "length"
    # (T, W), before top_p
    token_probs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    # (W,) of the watched tokens, had `probe`'s token been written at its place; None = no probe
    probe_probs: np.ndarray | None = None
    # (T,) float32, nats: of the distribution that each of `logprobs` refers to; None from an engine
    # that does not know it
    entropies: np.ndarray | None = None


class Engine(Protocol):
    """Samples with the newest published weights.

    `Request.token_prob_ids` is an optional capability: an engine that cannot name probabilities
    returns none, and critics then read sampled scores. `Request.probe` is optional as well: an
    engine that answers it sets `answers_probes`, others are wrapped in `Rereading`.
    """

    @property
    def version(self) -> int:
        """Of the weights that it samples from."""
        ...

    @property
    def processed_tokens(self) -> int:
        """Read or written by the model so far; shared prefixes count once."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions in the order of `requests`; ValueError on a prompt beyond the context."""
        ...

    def publish(self, model: Any, version: int) -> None:
        """Takes over new weights, which everything sampled from now on comes from."""
        ...


class Rereading:
    """Serves counterfactual probes over any engine. Each is one more request, which reads prompt
    and completion again up to the probed token.
    """

    answers_probes = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def version(self) -> int:
        return self.engine.version

    @property
    def processed_tokens(self) -> int:
        return self.engine.processed_tokens

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return probed(self.engine.generate, requests, self.engine.generate(requests))

    def publish(self, model: Any, version: int) -> None:
        self.engine.publish(model, version)


def probed(
    generate: Callable[[Sequence[Request]], list[Completion]],
    requests: Sequence[Request],
    completions: list[Completion],
) -> list[Completion]:
    """The completions with the answers to their probes, which are read from the beginning again."""
    probes = [
        r.probe(c.ids) if r.probe else None for r, c in zip(requests, completions, strict=True)
    ]
    reread = [
        replace(r, prompt_ids=(*r.prompt_ids, *c.ids[: p[0]], p[1]), max_new_tokens=1, probe=None)
        for r, c, p in zip(requests, completions, probes, strict=True)
        if p is not None
    ]
    answers = iter(generate(reread) if reread else [])
    return [
        c if p is None else replace(c, probe_probs=next(answers).token_probs[0])
        for c, p in zip(completions, probes, strict=True)
    ]


def require_servable(request: Request, vocabulary: int, context: int) -> None:
    """ValueError for what no engine can sample from a model of that vocabulary and context."""
    if not request.prompt_ids:
        raise ValueError("an empty prompt cannot be continued; give at least one token")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        bad = next(i for i in request.prompt_ids if not 0 <= i < vocabulary)
        raise ValueError(
            f"prompt token {bad} is not among the model's {vocabulary}; was it encoded by "
            "another tokenizer?"
        )
    if not 0 < request.top_p <= 1 or request.temperature < 0:
        raise ValueError(
            f"top_p {request.top_p} must lie in (0, 1] and temperature {request.temperature} "
            "must not be negative"
        )
    if isinstance(request.stop, str):
        raise ValueError(f"stop is the string {request.stop!r}; give a tuple of strings")
    if request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {request.max_new_tokens}; ask for at least one token")
    needed = len(request.prompt_ids) + request.max_new_tokens
    if needed > context:
        raise ValueError(
            f"prompt of {len(request.prompt_ids)} tokens + {request.max_new_tokens} new "
            f"tokens = {needed} exceeds the context of {context}; shorten the prompt, "
            "lower the completion limit or use a model with a longer context"
        )
