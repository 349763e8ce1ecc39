"""Reading and decoding in C++ (native/decode.cpp): what Python hands to it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genac.native.library import LANES, library

ARRAYS = (
    *("live", "limit", "stop", "line", "watch", "temperature", "uniform"),
    *("tokens", "length", "logprobs", "entropies", "probabilities", "stopped", "ended"),
)
PRODUCTS = ("qkv", "out", "gate_up", "down")
TILE = 6  # rows whose products are computed together
CACHE = 2 * 2**20  # bytes of keys and values that a thread works on at a time
PANEL = 16  # outputs that stand together in a panel of weights, and tokens in one of keys
# Every chunk of tokens reads all weights. Larger models are left to torch's products, whose threads
# divide the weights between them.
LARGEST = 64 * 2**20


class CLayer(ctypes.Structure):
    """Mirrors Layer of forward.h."""

    _fields_ = [
        (name, c_void_p)
        for name in ("qkv", "qkv_bias", "qk_norm", "out", "out_bias", "gate_up", "down")
    ]


class CModel(ctypes.Structure):
    """Mirrors Model of forward.h."""

    _fields_ = [
        *(
            (name, c_int64)
            for name in (
                *("layers", "hidden", "heads", "kv_heads", "dim", "inner", "vocab"),
                "activation",
            )
        ),
        ("eps", c_double),
        *((name, c_void_p) for name in ("embedding", "head", "turn")),
        ("layer", POINTER(CLayer)),
    ]


class CBatch(ctypes.Structure):
    """Mirrors Batch of forward.h."""

    _fields_ = [
        *(
            (name, c_int64)
            for name in ("rows", "capacity", "stride", "trunk_capacity", "trunk_stride")
        ),
        *(
            (name, c_void_p)
            for name in ("own", "trunk", "length", "shared", "trunk_of", "token", "logits")
        ),
    ]


class CTexts(ctypes.Structure):
    """Mirrors Texts of decode.cpp."""

    _fields_ = [
        ("count", c_int64),
        *((name, c_void_p) for name in ("row", "start", "token", "logits")),
    ]


class CDraws(ctypes.Structure):
    """Mirrors Draws of decode.cpp."""

    _fields_ = [
        *((name, c_int64) for name in ("width", "stops", "lines", "watched")),
        *((name, c_void_p) for name in ARRAYS),
        ("bad", c_int64),
    ]


@dataclass(frozen=True)
class Draws:
    """What is drawn and when a row ends: the tensors of a Batch, which are written in place."""

    live_B: Tensor
    limit_N: Tensor
    stop_NS: Tensor
    line_NS: Tensor
    watch_NW: Tensor
    temperature_N: Tensor
    uniform_NT: Tensor
    tokens_NT: Tensor
    length_N: Tensor
    logprobs_NT: Tensor
    entropies_NT: Tensor
    watched_NTW: Tensor
    stopped_N: Tensor
    ended_B: Tensor

    def in_c(self) -> CDraws:
        widths = (self.tokens_NT, self.stop_NS, self.line_NS, self.watch_NW)
        arrays = (getattr(self, field.name) for field in fields(self))
        return CDraws(*(x.shape[1] for x in widths), *(x.data_ptr() for x in arrays), -1)


@dataclass(frozen=True)
class Rows:
    """What rows have read, and where they write: keys (in panels of PANEL tokens) and values
    (row, layer, 2, K, T, D), T a multiple of PANEL.
    """

    own: Tensor
    length_B: Tensor  # own tokens
    shared_B: Tensor  # tokens of the trunk that the row sees
    trunk: Tensor | None = None  # in the same form
    trunk_B: Tensor | None = None  # the row's trunk, -1 = none

    def in_c(self) -> CBatch:
        batch = CBatch(len(self.length_B), self.own.shape[-2], self.own.stride(0))
        batch.own = self.own.data_ptr()
        batch.length, batch.shared = self.length_B.data_ptr(), self.shared_B.data_ptr()
        if self.trunk is not None and self.trunk_B is not None:
            batch.trunk_capacity, batch.trunk_stride = self.trunk.shape[-2], self.trunk.stride(0)
            batch.trunk, batch.trunk_of = self.trunk.data_ptr(), self.trunk_B.data_ptr()
        return batch

    @property
    def reach(self) -> int:
        """Positions that any of the rows may come to."""
        return self.own.shape[-2] + (0 if self.trunk is None else self.trunk.shape[-2])


class Native:
    """Weights of a decoder in the form that decode.cpp reads."""

    def __init__(self, decoder: Any, library: ctypes.CDLL) -> None:
        self.library, self.decoder = library, decoder
        self.held: list[Tensor] = []  # what C holds pointers to
        self.turns = 0
        layers = (CLayer * len(decoder.layers))()
        for c, layer in zip(layers, decoder.layers, strict=True):
            for name in PRODUCTS:
                setattr(c, name, self._pointer(panels(getattr(layer, name))))
            for name in ("qkv_bias", "out_bias"):
                if (bias := getattr(layer, name)) is not None:
                    setattr(c, name, self._pointer(F.pad(bias, (0, -len(bias) % PANEL))))
            if layer.qk_norm is not None:
                c.qk_norm = self._pointer(layer.qk_norm)
        first = decoder.layers[0]
        self.model = CModel(
            len(layers),
            decoder.embedding.shape[1],
            decoder.heads,
            decoder.kv_heads,
            decoder.head_dim,
            first.down.shape[1],
            len(decoder.head),
            decoder.activation,
            decoder.eps,
            self._pointer(decoder.embedding),
            self._pointer(panels(decoder.head)),
            None,
            layers,
        )

    def _pointer(self, tensor: Tensor) -> int:
        self.held.append(tensor.contiguous())
        return self.held[-1].data_ptr()

    def _reach(self, position: int) -> None:
        """The rotations of every position up to this one."""
        if position >= self.turns:
            self.turns = 2 * position + 64
            turn = self.decoder.turn(torch.arange(self.turns))
            cosine, sine = turn.real, turn.imag
            both = torch.stack(
                [cosine.repeat_interleave(2, -1), torch.stack([-sine, sine], -1).flatten(-2)], 1
            )
            self.table = both.contiguous()
            self.model.turn = self.table.data_ptr()

    def room(self, rows: int, length: int) -> Tensor:
        """Memory for the keys and values of rows (see Rows), which holds nothing yet."""
        m = self.model
        shape = (rows, m.layers, 2, m.kv_heads, panelled(length), m.dim)
        size = m.layers * 2 * m.kv_heads * shape[4] * m.dim
        # One line of cache more: where pages are large, rows a multiple of 64 KB apart would push
        # each other out of it.
        return torch.empty(rows, size + PANEL)[:, :size].view(shape)

    def decode(
        self, rows: Rows, token_B: Tensor, draws: Draws | None = None, steps: int = 1
    ) -> Tensor:
        """Reads the newest token of every row. Without `draws`: logits (B, V) of the next. With
        them: the newest tokens (B,) after up to `steps` steps of the rows that have not ended.

        FloatingPointError, whose second argument is the row, where logits are not finite.
        """
        self._reach(rows.reach)
        token_B, batch = token_B.clone(), rows.in_c()
        logits = torch.empty(len(token_B), self.model.vocab)
        batch.token, batch.logits = token_B.data_ptr(), logits.data_ptr()
        drawn, threads = draws and draws.in_c(), torch.get_num_threads()
        row_bytes = 4 * rows.own[0].numel()
        together = min(max(TILE, CACHE // row_bytes), -(-len(token_B) // threads))
        if self.library.genac_decode(
            byref(self.model), byref(batch), drawn and byref(drawn), steps, together, threads
        ):
            raise MemoryError("no memory for the activations of a decoding step")
        if drawn is None:
            return logits
        if drawn.bad >= 0:
            raise FloatingPointError("non-finite logits", drawn.bad)
        return token_B

    def read(
        self, rows: Rows, row_N: Tensor, texts: Sequence[Sequence[int]], predict: bool
    ) -> Tensor:
        """Reads text n behind what row row_N[n] holds, where its keys and values are left; the rows
        differ. Logits (N, V) of what follows each text where `predict` asks for them, or (0, V).
        """
        self._reach(rows.reach)
        token = torch.tensor([token for text in texts for token in text])
        start = torch.tensor([0, *map(len, texts)]).cumsum(0)
        logits = torch.empty(len(texts) if predict else 0, self.model.vocab)
        given = CTexts(len(texts), row_N.data_ptr(), start.data_ptr(), token.data_ptr())
        given.logits = logits.data_ptr() if predict else None
        threads = torch.get_num_threads()
        if self.library.genac_read(byref(self.model), byref(rows.in_c()), byref(given), threads):
            raise MemoryError("no memory for the activations of reading")
        return logits


def panelled(length: int) -> int:
    """The length in whole panels."""
    return -(-length // PANEL) * PANEL


def panels(weight: Tensor) -> Tensor:
    """(N, K) as (N / PANEL, K, PANEL), filled up with zeros."""
    full = F.pad(weight.float(), (0, 0, 0, -len(weight) % PANEL))
    return full.view(-1, PANEL, weight.shape[1]).transpose(1, 2).contiguous()


def native(decoder: Any) -> Native | None:
    """Reading and decoding in C++ for this decoder; None where torch is to do both."""
    sizes = (decoder.embedding.shape[1], decoder.head_dim, decoder.layers[0].down.shape[1])
    products = [getattr(layer, name) for layer in decoder.layers for name in PRODUCTS]
    weights = sum(weight.nbytes for weight in (decoder.head, *products))
    fits = decoder.dtype == torch.float32 and decoder.embedding.device.type == "cpu"
    if not fits or any(size % LANES for size in sizes) or weights > LARGEST:
        return None
    found = library()
    return None if found is None else Native(decoder, found)
