"""What a CUDA graph is, on CPU: operations written down once and repeated as they were.

Python values are those of the capture, and every tensor, intermediate or result, keeps its place in
memory. What no capture may contain is an error: asking for a number, shapes that depend on numbers,
tensors from another device.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Step = Callable[[], Tensor]
ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")  # tagged for indices of bool


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = list[tuple[Any, Any, Any, Any]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        by_index = func.__name__.split(".")[0] in BY_INDEX
        chosen = tree_leaves(args[1]) if by_index else []
        masks = any(getattr(x, "dtype", None) in (torch.bool, torch.uint8) for x in chosen)
        if masks if by_index else ASKS & set(func.tags):
            raise RuntimeError(f"{func} is not permitted when stream is capturing")
        out = func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if len({x.device for x in tensors if x.dim()}) > 1:
            raise RuntimeError(f"{func} copies between devices while stream is capturing")
        self.operations.append((func, args, kwargs, out))
        return out

    def play(self) -> None:
        """Every operation again, its result in the place where it was."""
        for func, args, kwargs, out in self.operations:
            found = func(*args, **kwargs)
            if any(returned.alias_info for returned in func._schema.returns):
                continue  # a view of what has its place, or that itself
            for old, new in zip(tree_leaves(out), tree_leaves(found), strict=True):
                if isinstance(old, Tensor):
                    old.copy_(new)


class Recorder:
    """Stands for graphs.CudaGraphs and counts."""

    def __init__(self, device: torch.device) -> None:
        self.captures = self.replays = 0

    def warm(self, step: Step) -> Tensor:
        return step()

    def capture(self, step: Step) -> Step:
        self.captures += 1
        number, tape = self.captures, Tape()
        with tape:
            out = step()
        out.fill_(float("nan"))  # a capture computes nothing

        def replay() -> Tensor:
            assert number == self.captures, "its memory is another graph's"
            self.replays += 1
            tape.play()
            return out

        return replay


class FakeStream:
    def __init__(self, device: torch.device) -> None:
        self.device, self.waited_for = device, list[Any]()

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)


class FakeGraph:
    tape: Tape

    def replay(self) -> None:
        self.tape.play()

    def pool(self) -> Any:
        return self.handle


class FakeCuda:
    """What graphs.CudaGraphs calls of torch.cuda, as strict and as careless as that is."""

    def __init__(self, monkeypatch: Any) -> None:
        self.current = self.first = FakeStream(torch.device("cpu"))
        self.captured: weakref.WeakSet[FakeGraph] = weakref.WeakSet()
        self.streams, self.pools, self.breaks = list[FakeStream](), list[Any](), False
        for name in ("stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(
        self, graph: FakeGraph, pool: Any, stream: FakeStream, capture_error_mode: str
    ) -> Iterator[None]:
        assert pool is None or any(pool == g.handle for g in self.captured), "a pool that died"
        assert capture_error_mode == "thread_local"
        graph.handle = pool or object()
        self.current = stream
        with Tape() as graph.tape:
            yield
        if self.breaks:
            raise RuntimeError("the capture cannot be ended")  # and its stream stays the current
        self.current = self.first
        self.captured.add(graph)
        self.streams.append(stream)
        self.pools.append(graph.handle)
