"""One model over the processes of a group: each holds its share of every weight (FSDP2).

A layer's whole weights exist only while it is read. The learner calls the model from inside the
`Root` that `shard` returns, since it also calls parts of the model by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

ROOT = "_sharding_root"


class Root(nn.Module):
    """What lies outside the layers (embedding, last norm, heads) is whole while `compute` runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()


def shard(model: Any, device: torch.device) -> Root:
    """Splits a model, in place, over all processes of the default group. Its weights, which may be
    on the meta device before, are not defined afterwards: `fill` them.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    root = Root(model)
    # Everything is given back after the forward pass, also by the root: a forward pass without a
    # backward one would leave it whole, and later ones would read it as it was.
    for layer in model.base_model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by counts over all processes, so gradients are added up.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    root.to_empty(device=device)
    model.__dict__[ROOT] = root  # not a submodule: the model is the root's
    return root


def root_of(model: Any) -> Root | None:
    """What `shard` returned for a model; None for one that is not sharded."""
    return model.__dict__.get(ROOT)


@torch.no_grad()
def fill(model: Any, source: Any | None) -> None:
    """Copies the weights and buffers of process 0's `source` (None elsewhere) to all processes."""
    own = {} if source is None else dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        full = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        if source is not None:
            full.copy_(own[name])
        dist.broadcast(full, 0)
        parameter.to_local().copy_(part_of(full, parameter).to_local())
    own = {} if source is None else dict(source.named_buffers())
    for name, buffer in model.named_buffers():
        if source is not None:
            buffer.copy_(own[name])
        dist.broadcast(buffer, 0)


def part_of(full: Tensor, like: DTensor) -> DTensor:
    """This process's share of a tensor that every process has, laid out as `like` is."""
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor; every process has to call it. One that was never split is returned."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered(module: Any) -> Iterator[None]:
    """A model (its embedding, last norm and heads) or a layer with whole weights inside the block;
    every process has to enter it.
    """
    owner = module.__dict__.get(ROOT, module)
    if not isinstance(owner, FSDPModule):
        yield
        return
    owner.unshard()
    try:
        yield
    finally:
        owner.reshard()


@torch.no_grad()
def whole_state(model: Any) -> dict[str, Tensor] | None:
    """The state dict of a sharded model in main memory on process 0, empty on the others, where
    it has to be requested as well; None for a model that is not sharded.
    """
    if root_of(model) is None:
        return None
    kept: dict[int, Tensor] = {}  # tied weights stay one tensor
    state = model.state_dict(keep_vars=True)
    for value in state.values():
        if id(value) not in kept:
            full = whole(value)
            kept[id(value)] = full.detach().cpu() if dist.get_rank() == 0 else full[:0]
    return {name: kept[id(value)] for name, value in state.items()} if dist.get_rank() == 0 else {}


def below(state: Mapping[str, Tensor] | None, prefix: str) -> dict[str, Tensor] | None:
    """The part of a state dict that belongs to the submodule `prefix`."""
    if state is None:
        return None
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
