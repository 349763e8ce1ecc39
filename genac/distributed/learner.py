"""The learner of one worker: its part of a mini-batch, and the sums over all workers.

A model trained in full is sharded (models/sharding.py), so all workers have to call it equally
often: those with fewer micro-batches compute idle ones. One with adapters is whole on every worker,
and only the adapters' gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from genac.batching import Rows, pad
from genac.distributed.partition import dummy_sample
from genac.learner import Learner, Totals
from genac.models.sharding import part_of, root_of, whole
from genac.types import Sample


class WorkerLearner(Learner):
    """Every method has to be called on all workers at once, each with samples, idle ones or not."""

    def _microbatches(self, samples: Sequence[Sample]) -> Iterator[tuple[Rows, list[int]]]:
        own = list(super()._microbatches(samples))
        rows = pad([dummy_sample(samples[0])]).to(self.device)
        yield from own + [(rows, [])] * (self._most(len(own)) - len(own))

    def _most(self, count: int) -> int:
        most = torch.tensor(count, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def _call(self, compute: Callable[[], Any]) -> Any:
        root = root_of(self.model)
        with self._autocast():
            return compute() if root is None else root(compute)

    def _autocast(self) -> Any:
        if not self.bf16:
            return super()._autocast()
        # A cache of cast weights would keep the whole model on every worker.
        cached = root_of(self.model) is None
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=cached)

    def _whole(self, totals: Totals) -> Totals:
        keys = sorted(totals)
        values = torch.tensor([totals[k] for k in keys], dtype=torch.float64, device=self.device)
        dist.all_reduce(values)
        return dict(zip(keys, values.tolist(), strict=True))

    def _clip(self) -> float:
        if root_of(self.model) is None:
            add_up([p.grad for p in self.parameters if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.max_grad_norm)
        return float(whole(norm))

    def state_dict(self) -> dict[str, Any]:
        """Of the whole optimiser, as one process would write it; only process 0's is complete."""
        result = super().state_dict()
        moments = {
            place: {key: in_memory(value) for key, value in entry.items()}
            for place, entry in result["optimizer"]["state"].items()
        }
        return result | {"optimizer": result["optimizer"] | {"state": moments}}

    def save(self, file: Path) -> None:
        state = self.state_dict()
        if dist.get_rank() == 0:
            torch.save(state, file)

    def load(self, file: Path) -> None:
        """Every worker reads its own share from the file."""
        result = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        moments = {
            place: {key: self._share(place, value) for key, value in entry.items()}
            for place, entry in result["optimizer"]["state"].items()
        }
        self.load_state_dict(result | {"optimizer": result["optimizer"] | {"state": moments}})

    def _share(self, place: int, value: Any) -> Any:
        like = self.parameters[place]
        if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
            return part_of(value.to(self.device), like)
        return value


def in_memory(value: Any) -> Any:
    """A state's whole value, in main memory where it was split over the workers."""
    if not isinstance(value, DTensor):
        return value
    full = whole(value)
    return full.cpu() if dist.get_rank() == 0 else None


def add_up(gradients: Sequence[Tensor]) -> None:
    """Replaces gradients by their sums over all workers."""
    if not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
