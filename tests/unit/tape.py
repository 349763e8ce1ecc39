"""What a CUDA graph is, on CPU: operations written down once and repeated as they were.

Python values are those of the capture, tensors are the same objects, and the result comes to lie in
the same place every time. What no capture may contain is an error: asking for a number, shapes that
depend on numbers, tensors from another device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Step = Callable[[], Tensor]
ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")  # tagged for indices of bool


class Tape(TorchDispatchMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.operations = device, list[tuple[Any, Any, Any, Any]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        by_index = func.__name__.split(".")[0] in BY_INDEX
        chosen = tree_leaves(args[1]) if by_index else []
        masks = any(getattr(x, "dtype", None) in (torch.bool, torch.uint8) for x in chosen)
        if masks if by_index else ASKS & set(func.tags):
            raise RuntimeError(f"{func} is not permitted when stream is capturing")
        if any(x.device != self.device and x.dim() for x in tensors):
            raise RuntimeError(f"{func} copies between devices while stream is capturing")
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        return out

    def play(self, last: Tensor) -> Tensor:
        """Every operation again; what `last` has become."""
        now: dict[int, Any] = {}
        renewed = lambda x: now.get(id(x), x)  # noqa: E731
        for func, args, kwargs, out in self.operations:
            found = func(*tree_map(renewed, args), **tree_map(renewed, kwargs))
            now.update(zip(map(id, tree_leaves(out)), tree_leaves(found), strict=True))
        return now[id(last)]


class Recorder:
    """Stands for graphs.CudaGraphs and counts."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.captures, self.replays = device, 0, 0

    def warm(self, step: Step) -> Tensor:
        return step()

    def capture(self, step: Step) -> Step:
        self.captures += 1
        number, tape = self.captures, Tape(self.device)
        with tape:
            last = step()
        out = torch.full_like(last, float("nan"))  # a capture computes nothing

        def replay() -> Tensor:
            assert number == self.captures, "its memory is another graph's"
            self.replays += 1
            return out.copy_(tape.play(last))

        return replay
