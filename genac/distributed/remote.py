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
from genac.distributed.partition import dummy_sample, partition_requests, partition_sequences
from genac.distributed.pool import Pool
from genac.engines.base import Completion, Request
from genac.learner import Totals, counts_of, over_minibatches
from genac.runtime import Runtime
from genac.types import Sample

T = TypeVar("T")
NUMBERS = itertools.count()


class ModelHandle:
    """One model on the workers of a pool; freed there when nothing here refers to it."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.number = pool, next(NUMBERS)
        weakref.finalize(self, pool.drop, self.number).atexit = False

    @property
    def workers(self) -> int:
        return self.pool.size

    def all(self, command: str, *arguments: Any) -> Any:
        """The same command to every worker; the first one's answer."""
        return self.each(command, [arguments] * self.workers)[0]

    def each(self, command: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self.pool.call(command, [(self.number, *given) for given in arguments])


class ModelFacts:
    """What this process knows of a model that it does not hold."""

    def __init__(self, parameters: int, config: Any, generation_config: Any) -> None:
        self.config, self.generation_config = config, generation_config
        self._parameters = torch.empty(parameters, device="meta")

    def parameters(self) -> list[Tensor]:
        """All of them as one tensor without storage, to be counted."""
        return [self._parameters]


class RemoteEngine:
    """Every worker's engine holds all weights and samples its share of the requests."""

    def __init__(self, handle: ModelHandle) -> None:
        self.handle, self.version, self.processed_tokens = handle, 0, 0

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        partition = partition_requests(requests, self.handle.workers) if requests else []
        if not partition:
            return []
        queries = [([requests[i] for i in share],) for share in partition]
        answers = self.handle.each("generate", queries)
        self.processed_tokens = sum(tokens for _, tokens in answers)
        return in_order([result for result, _ in answers], partition)

    def publish(self, model: Any, version: int) -> None:
        del model  # the workers have it
        self.handle.all("publish", version)
        self.version = version


class RemoteLearner:
    """Every worker computes its share of a mini-batch; one optimiser step is made of all."""

    def __init__(self, handle: ModelHandle, loss: LossConfig | None) -> None:
        self.handle, self.loss, self.processed_tokens = handle, loss or LossConfig(), 0

    def learn(self, samples: Sequence[Sample], seed: int) -> Totals:
        return over_minibatches(samples, seed, self.loss, self._minibatch)

    def _minibatch(self, samples: list[Sample]) -> Totals:
        require_alike(samples)
        counts = counts_of(samples)
        parts = self._parts(samples, [s.ids for s in samples], dummy_sample)[0]
        return self._computed(self.handle.each("step_on", [(part, counts) for part in parts]))[0]

    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        return self._read("logprobs", samples, [s.ids for s in samples], dummy_sample)

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
        parts, partition = self._parts(items, sequences, stand_in)
        answers = self._computed(self.handle.each(command, [(part,) for part in parts]))
        return in_order(answers, partition)

    def _parts(
        self,
        items: Sequence[T],
        sequences: Sequence[tuple[int, ...]],
        stand_in: Callable[[T], T],
    ) -> tuple[list[list[T]], list[list[int]]]:
        """The items of each worker, a dummy for one that gets none, and their places."""
        partition = partition_sequences(sequences, self.handle.workers)
        return [[items[i] for i in share] or [stand_in(items[0])] for share in partition], partition

    def _computed(self, answers: Sequence[tuple[Any, int]]) -> list[Any]:
        self.processed_tokens = sum(tokens for _, tokens in answers)
        return [result for result, _ in answers]

    def save(self, file: Path) -> None:
        self.handle.all("save_optimizer", Path(file).absolute())

    def load(self, file: Path) -> None:
        self.handle.all("load_optimizer", Path(file).absolute())


@dataclass(kw_only=True)
class RemoteRuntime(Runtime):
    """A runtime whose model lives on workers."""

    handle: ModelHandle

    def publish(self, version: int) -> None:
        self.handle.all("publish", version)
        self.version = version
        if isinstance(self.engine, RemoteEngine):
            self.engine.version = version
        elif self.engine is not None:
            self.engine.publish(self.model, version)

    def fingerprint(self) -> str:
        return self.handle.all("fingerprint")

    def base(self) -> str:
        return self.handle.all("base")

    def save_model(self, folder: Path, whole: Any = None) -> None:
        del whole  # the workers gather it
        self.handle.all("save_model", Path(folder).absolute())

    def load_weights(self, folder: Path) -> None:
        self.handle.all("load_weights", Path(folder).absolute())


def in_order(answers: Sequence[Sequence[T]], partition: Sequence[Sequence[int]]) -> list[T]:
    """The workers' results, each at its sample's place, without those of idle samples."""
    result = {
        place: answer
        for own, share in zip(answers, partition, strict=True)
        for place, answer in zip(share, own, strict=False)
    }
    return [result[place] for place in range(len(result))]
