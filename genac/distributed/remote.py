"""Engine, learner and runtime of a model that lives on workers: the same methods, no weights."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from genac.batching import require_alike
from genac.config.models import LossConfig
from genac.distributed.partition import idle, of_requests, of_sequences
from genac.distributed.pool import Pool
from genac.engines.base import Completion, Request
from genac.learner import Totals, counts_of, over_minibatches
from genac.runtime import Runtime
from genac.types import Sample

T = TypeVar("T")
NUMBERS = itertools.count()


class Link:
    """One model on the workers of a pool; freed there when nothing here refers to it."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.number = pool, next(NUMBERS)
        weakref.finalize(self, pool.drop, self.number).atexit = False

    @property
    def workers(self) -> int:
        return len(self.pool.pids)

    def all(self, command: str, *arguments: Any) -> Any:
        """The same command to every worker; the first one's answer."""
        return self.each(command, [arguments] * self.workers)[0]

    def each(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self.pool.call(command, [(self.number, *given) for given in arguments])


class Outline:
    """What this process knows of a model that it does not hold."""

    def __init__(self, parameters: int, config: Any, generation_config: Any) -> None:
        self.config, self.generation_config = config, generation_config
        self._parameters = torch.empty(parameters, device="meta")

    def parameters(self) -> list[Tensor]:
        """All of them as one tensor without storage, to be counted."""
        return [self._parameters]


class RemoteEngine:
    """Every worker's engine holds all weights and samples its share of the requests."""

    def __init__(self, link: Link) -> None:
        self.link, self.version, self.processed_tokens = link, 0, 0

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        shares = of_requests(requests, self.link.workers) if requests else []
        if not shares:
            return []
        asked = [([requests[i] for i in share],) for share in shares]
        answers = self.link.each("generate", asked)
        self.processed_tokens = sum(tokens for _, tokens in answers)
        return in_order([found for found, _ in answers], shares)

    def publish(self, model: Any, version: int) -> None:
        del model  # the workers have it
        self.link.all("publish", version)
        self.version = version


class RemoteLearner:
    """Every worker computes its share of a mini-batch; one optimiser step is made of all."""

    def __init__(self, link: Link, loss: LossConfig | None) -> None:
        self.link, self.loss, self.processed_tokens = link, loss or LossConfig(), 0

    def learn(self, samples: Sequence[Sample], seed: int) -> Totals:
        return over_minibatches(samples, seed, self.loss, self._minibatch)

    def _minibatch(self, samples: list[Sample]) -> Totals:
        require_alike(samples)
        counts = counts_of(samples)
        parts = self._parts(samples, [s.ids for s in samples], idle)[0]
        return self._computed(self.link.each("step_on", [(part, counts) for part in parts]))[0]

    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        return self._read("logprobs", samples, [s.ids for s in samples], idle)

    def values(self, sequences: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        return self._read("values", sequences, sequences, lambda ids: ids[:1])

    def _read(
        self,
        command: str,
        items: Sequence[T],
        sequences: Sequence[tuple[int, ...]],
        stand_in: Callable[[T], T],
    ) -> list[np.ndarray]:
        if not items:
            return []
        parts, shares = self._parts(items, sequences, stand_in)
        answers = self._computed(self.link.each(command, [(part,) for part in parts]))
        return in_order(answers, shares)

    def _parts(
        self,
        items: Sequence[T],
        sequences: Sequence[tuple[int, ...]],
        stand_in: Callable[[T], T],
    ) -> tuple[list[list[T]], list[list[int]]]:
        """The items of each worker, something idle for one that gets none, and their places."""
        shares = of_sequences(sequences, self.link.workers)
        return [[items[i] for i in share] or [stand_in(items[0])] for share in shares], shares

    def _computed(self, answers: Sequence[tuple[Any, int]]) -> list[Any]:
        self.processed_tokens = sum(tokens for _, tokens in answers)
        return [found for found, _ in answers]

    def save(self, file: Path) -> None:
        self.link.all("save_optimizer", Path(file).absolute())

    def load(self, file: Path) -> None:
        self.link.all("load_optimizer", Path(file).absolute())


@dataclass(kw_only=True)
class RemoteRuntime(Runtime):
    """A runtime whose model lives on workers."""

    link: Link

    def publish(self, version: int) -> None:
        self.link.all("publish", version)
        self.version = version
        if isinstance(self.engine, RemoteEngine):
            self.engine.version = version

    def fingerprint(self) -> str:
        return self.link.all("fingerprint")

    def base(self) -> str:
        return self.link.all("base")

    def save_model(self, folder: Path, whole: Any = None) -> None:
        del whole  # the workers gather it
        self.link.all("save_model", Path(folder).absolute())

    def load_weights(self, folder: Path) -> None:
        self.link.all("load_weights", Path(folder).absolute())


def in_order(answers: Sequence[Sequence[T]], shares: Sequence[Sequence[int]]) -> list[T]:
    """The workers' results, each at its sample's place, without those of idle samples."""
    found = {
        place: answer
        for mine, share in zip(answers, shares, strict=True)
        for place, answer in zip(share, mine, strict=False)
    }
    return [found[place] for place in range(len(found))]
