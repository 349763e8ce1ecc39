"""Decoding steps on a GPU replayed from a CUDA graph: one launch instead of some forty per layer.

A graph repeats the kernels that were launched while it was captured, on the same addresses and with
every Python value as it was then. So a step that is to be captured is a function of tensors alone,
whose shapes stand for many steps: the slot that is written is a tensor, and own slots are
read up to the end of a bucket, those behind the newest hidden. Run twice with the same inputs it
leaves the same; that is how the first replay of each kind is checked against the step itself. Where
that fails, or a capture does, decoding goes on without graphs.

Shapes: _B row, _T own slot, _K key/value head, _D head dimension, _V vocabulary.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from genac.engines.attention import Attention, TrunkReader
from genac.engines.decoder import Decoder

# Judged by the number of launches, not measured. A capture costs about three steps: one to warm up,
# its own launches, and what it waits for; torch also gives its cached memory back before each.
BUCKET = 128  # slots; buckets end at multiples of it: how many steps a capture can serve
WORTH = 16  # steps that must be left in a bucket
WAIT = 3  # steps before the first capture of a set of rows, which may change at any of them

CHECKED: set[tuple[Any, ...]] = set()  # kinds of steps whose replay was right, in this process
FAILED: set[torch.device] = set()  # devices on which graphs failed, which was said once


@dataclass(frozen=True)
class Standing:
    """One token per row as a function of tensors that stand still but for their contents."""

    decoder: Decoder
    own: Tensor  # (layer, 2, B, K, T, D)
    shift_B: Tensor  # the position of a token minus its slot
    hidden_BT: Tensor  # (B, end) additive: what pads the rows
    trunk: TrunkReader | None
    token_B: Tensor  # what is read next
    slot: Tensor  # (1,) where it is written
    slot_T: Tensor  # (end,) 0, 1, ...

    @property
    def end(self) -> int:
        return len(self.slot_T)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Steps of one kind launch the same kernels, but for their sizes."""
        dense = None if self.trunk is None else self.trunk.layout.dense
        return self.decoder.family, self.decoder.dtype, self.own.device, dense

    def take(self, token_B: Tensor, at: int) -> None:
        self.token_B.copy_(token_B)
        self.slot.fill_(at)

    def __call__(self) -> Tensor:
        """Writes the token's keys and values; logits (B, V) of the next."""
        mask = self.hidden_BT.masked_fill(self.slot_T > self.slot, float("-inf"))[:, None]
        attend = Attention(self.own, self.slot, mask, self.trunk)
        return self.decoder.next_logits(self.token_B, self.shift_B + self.slot, attend)


Step = Callable[[], Tensor]


class Recorder(Protocol):
    """What captures steps."""

    def warm(self, step: Step) -> Tensor:
        """Runs the step as it is, where it will be captured."""
        ...

    def capture(self, step: Step) -> Step:
        """The step as a replay, which writes its result to the same place every time. Nothing is
        computed yet. One captured before is not replayed any more.
        """
        ...


class CudaGraphs:
    """Captures on a GPU; the graphs of one recorder take turns in the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.stream = side_stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def warm(self, step: Step) -> Tensor:
        # cuBLAS keeps a workspace per stream: made here, it does not lie in a graph's memory. Both
        # streams wait for each other, so memory that one leaves may be taken by the other.
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            out = step()
        current.wait_stream(self.stream)
        return out

    def capture(self, step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        # A pool dies with its last graph and its name cannot be used again: the graph before lives
        # until this one stands. What it computed in is free and is taken over.
        pool = None if self.graph is None else self.graph.pool()
        # The outer context: torch.cuda.graph stays on its stream where a capture cannot be ended.
        # Other threads, such as a watchdog of NCCL, may go on with what no capture allows.
        with (
            torch.cuda.stream(self.stream),
            torch.cuda.graph(graph, pool, self.stream, capture_error_mode="thread_local"),
        ):
            out = step()
        self.graph = graph

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: every further stream would get a workspace of cuBLAS."""
    return torch.cuda.Stream(device)


def recorder(device: torch.device) -> Recorder | None:
    """What captures steps on this device; None where they go as they are."""
    if device.type != "cuda" or os.environ.get("GENAC_GRAPHS") == "0" or device in FAILED:
        return None
    return CudaGraphs(device)


class Graphs:
    """The steps of one cache, captured where that pays."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.recorder = device, recorder(device)
        self.forget()

    def forget(self) -> None:
        """Rows have come or gone: what was captured is of no use, and must not hold their keys."""
        self.step: Standing | None = None
        self.replay: Step | None = None
        self.waited = 0

    def advance(
        self, standing: Callable[[int], Standing], token_B: Tensor, at: int, width: int
    ) -> Tensor | None:
        """Logits (B, V) of what follows the token that goes to slot `at` of `width`, or None where
        the step should go as it is. They are overwritten by the next call.

        standing: the step that reads own slots up to a given end.
        """
        if self.recorder is None:
            return None
        if self.step is not None and self.replay is not None and at < self.step.end:
            self.step.take(token_B, at)
            if self.step.kind in CHECKED:
                return self.replay()
            return self._checked(self.step, self.replay, at)
        self.step = self.replay = None
        self.waited += 1
        if self.waited <= WAIT or width - at < WORTH:
            return None
        step = standing(bucket_end(at, width))
        step.take(token_B, at)
        return self._captured(self.recorder, step, at)

    def _captured(self, recorder: Recorder, step: Standing, at: int) -> Tensor:
        logits = recorder.warm(step)
        try:
            replay = recorder.capture(step)
        except Exception as error:  # what drivers and libraries refuse has no common class
            if out_of_memory(error):
                self._go_without()
            else:
                self._fail(f"{type(error).__name__}: {str(error).strip()[-300:]}")
        else:
            self.step, self.replay, self.since = step, replay, at
        return logits

    def _checked(self, step: Standing, replay: Step, at: int) -> Tensor:
        """The inputs are no longer those of the capture, so a value that it froze shows. What a
        frozen slot would overwrite is put back.
        """
        wanted = step()
        written = step.own[..., self.since : at + 1, :]
        kept = written.clone()
        found = replay()
        tolerance = max(4 * torch.finfo(step.decoder.dtype).eps, 1e-4)
        if agree(found, wanted, tolerance) and agree(written, kept, tolerance):
            CHECKED.add(step.kind)
            return found
        written.copy_(kept)
        self._fail("a replayed step gave something else than the step itself")
        return wanted

    def _go_without(self) -> None:
        """No memory for a graph: these rows do without, others may have room."""
        self.recorder = None
        self.forget()
        torch.cuda.empty_cache()
        warnings.warn(
            "no memory was left for a CUDA graph, so these rows decode without one, which is "
            "slower; lower rollout.max_rows",
            stacklevel=2,
        )

    def _fail(self, why: str) -> None:
        self.recorder = None
        self.forget()
        FAILED.add(self.device)
        warnings.warn(
            f"CUDA graphs failed, so decoding launches every operation by itself, which is slower "
            f"({why}); GENAC_GRAPHS=0 chooses that without a warning",
            stacklevel=2,
        )


def bucket_end(at: int, width: int) -> int:
    """How far a step at slot `at` and those after it read: at least WORTH slots, where there are so
    many, and to the very end where fewer than that would be left.
    """
    end = -(-(at + WORTH) // BUCKET) * BUCKET
    return end if width - end >= WORTH else width


def agree(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Whether both are the same up to rounding, which is relative to the largest number."""
    scale = float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max())
    close = torch.isclose(found, wanted, rtol=0.0, atol=tolerance * scale, equal_nan=True)
    return bool(close.all())


def out_of_memory(error: BaseException | None) -> bool:
    """Whether it is, or one behind it: ending a capture without memory may raise another."""
    while error is not None and not isinstance(error, torch.cuda.OutOfMemoryError):
        error = error.__context__
    return error is not None
