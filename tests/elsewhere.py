"""A pretended accelerator: tensors whose numbers lie on the CPU and whose device is another.

Operations in which tensors of both meet are an error, as they are on a GPU. So code that never had
one is shown at least to keep its tensors together. The device is torch's "meta", which no part of
torch tries to initialise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
# A GPU takes indices from the CPU (and copies them each time), and copies read anything.
MIXED = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_")


class Far(Tensor):
    """A tensor elsewhere; `near` holds its numbers."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        layout = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        out = Tensor._make_wrapper_subclass(
            cls, near.size(), dtype=near.dtype, device=ELSEWHERE, **layout
        )
        out.near = near
        return out

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    def tolist(self) -> Any:  # torch refuses it to subclasses
        return self.near.tolist()

    def cpu(self) -> Tensor:
        return self.near


class Pretend(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def near(x: Any) -> Any:
    if isinstance(x, torch.device):
        return CPU
    return x.near if isinstance(x, Far) else x


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.__name__.split(".")[0]
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    here = [x for x in tensors if not isinstance(x, Far) and x.dim()]
    if far and here and (name not in MIXED or (name != "copy_" and args[0] is here[0])):
        shapes = [(tuple(x.shape), x.device.type) for x in tensors]
        raise RuntimeError(f"tensors of two devices meet in {func}: {shapes}")
    asked = kwargs.get("device")
    goes = bool(far) if asked is None else torch.device(asked) == ELSEWHERE
    if name == "copy_":
        near(args[0]).copy_(near(args[1]))
        return args[0]
    found = func(*tree_map(near, args), **tree_map(near, kwargs))
    # What an operation in place returns is the tensor it was given.
    given = {id(x.near): x for x in far}

    def wrapped(x: Any) -> Any:
        if id(x) in given:
            return given[id(x)]
        return Far(x) if goes and type(x) is Tensor else x

    return tree_map(wrapped, found)


@contextlib.contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Within it there is another device."""
    make, enabled = torch.tensor, torch.is_autocast_enabled

    def tensor(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        out = make(data, *args, **options)  # it does not pass the mode
        return out if device is None else out.to(device)

    autocast = lambda kind="cpu": kind != ELSEWHERE.type and enabled(kind)  # noqa: E731
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    with (
        patch.object(torch, "tensor", tensor),
        patch.object(torch, "is_autocast_enabled", autocast),
        patch(fused, lambda: ["cpu", ELSEWHERE.type]),
        Pretend(),
    ):
        yield ELSEWHERE
