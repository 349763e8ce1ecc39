"""Reading and decoding in C++ (csrc/decode.cpp): what Python hands to it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genac.native.library import LANES, library, pointer
from genac.native.structs import CDecoderBatch, CDecoderLayer, CDecoderModel, CDraws, CTexts

INT, REAL = torch.int64, torch.float32
PRODUCTS = ("qkv", "out", "gate_up", "down")
TILE = 6  # rows whose products are computed together
CACHE = 2 * 2**20  # bytes of keys and values that a thread works on at a time
PANEL = 16  # outputs that stand together in a panel of weights, and tokens in one of keys
# Every chunk of tokens reads all weights. Larger models are left to torch's products, whose threads
# divide the weights between them.
LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Draws:
    """What is drawn and when a row ends: the tensors of a Batch, which are written in place."""

    live_B: Tensor
    limit_N: Tensor
    stop_NS: Tensor
    line_NS: Tensor
    token_prob_NW: Tensor
    temperature_N: Tensor
    uniform_NT: Tensor
    tokens_NT: Tensor
    length_N: Tensor
    logprobs_NT: Tensor
    entropies_NT: Tensor
    token_probs_NTW: Tensor
    stopped_N: Tensor
    ended_B: Tensor

    def in_c(self) -> CDraws:
        requests, width = self.tokens_NT.shape
        stops, lines, token_probs = (
            x.shape[1] for x in (self.stop_NS, self.line_NS, self.token_prob_NW)
        )
        running, each = (len(self.live_B),), (requests,)
        return CDraws(
            *(width, stops, lines, token_probs),
            pointer(self.live_B, INT, running, "live_B"),
            pointer(self.limit_N, INT, each, "limit_N"),
            pointer(self.stop_NS, INT, (requests, stops), "stop_NS"),
            pointer(self.line_NS, INT, (requests, lines), "line_NS"),
            pointer(self.token_prob_NW, INT, (requests, token_probs), "token_prob_NW"),
            pointer(self.temperature_N, REAL, each, "temperature_N"),
            pointer(self.uniform_NT, REAL, (requests, width), "uniform_NT"),
            pointer(self.tokens_NT, INT, (requests, width), "tokens_NT"),
            pointer(self.length_N, INT, each, "length_N"),
            pointer(self.logprobs_NT, REAL, (requests, width), "logprobs_NT"),
            pointer(self.entropies_NT, REAL, (requests, width), "entropies_NT"),
            pointer(self.token_probs_NTW, REAL, (requests, width, token_probs), "token_probs_NTW"),
            pointer(self.stopped_N, torch.bool, each, "stopped_N"),
            pointer(self.ended_B, torch.bool, running, "ended_B"),
            -1,
        )


@dataclass(frozen=True)
class Rows:
    """What rows have read, and where they write: keys (in panels of PANEL tokens) and values
    (row, layer, 2, K, T, D), T a multiple of PANEL.
    """

    own: Tensor
    length_B: Tensor  # own tokens
    shared_B: Tensor  # tokens of the shared prefix that the row sees
    prefix: Tensor | None = None  # in the same form
    prefix_B: Tensor | None = None  # the row's shared prefix, -1 = none

    def in_c(self, model: CDecoderModel) -> CDecoderBatch:
        rows, own = len(self.length_B), self.own
        count, form = (rows,), (model.layers, 2, model.kv_heads, None, model.dim)
        batch = CDecoderBatch(rows, own.shape[-2], own.stride(0))
        batch.own = pointer(own, REAL, (rows, *form), "own", strided=True)
        batch.length = pointer(self.length_B, INT, count, "length_B")
        batch.shared = pointer(self.shared_B, INT, count, "shared_B")
        if self.prefix is not None and self.prefix_B is not None:
            prefix = self.prefix
            batch.prefix_capacity, batch.prefix_stride = prefix.shape[-2], prefix.stride(0)
            batch.prefix = pointer(prefix, REAL, (None, *form), "prefix", strided=True)
            batch.prefix_of = pointer(self.prefix_B, INT, count, "prefix_B")
        return batch

    @property
    def reach(self) -> int:
        """Positions that any of the rows may come to."""
        return self.own.shape[-2] + (0 if self.prefix is None else self.prefix.shape[-2])


class Native:
    """Weights of a decoder in the form that decode.cpp reads."""

    def __init__(self, decoder: Any, library: ctypes.CDLL) -> None:
        self.library, self.decoder = library, decoder
        self.held: list[Tensor] = []  # what C holds pointers to
        self.positions = 0
        vocab, hidden = decoder.head.shape
        self.model = CDecoderModel(
            layers=len(decoder.layers),
            hidden=hidden,
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            dim=decoder.head_dim,
            inner=decoder.layers[0].down.shape[1],
            vocab=vocab,
            activation=decoder.activation,
            eps=decoder.eps,
            embedding=self._hold(decoder.embedding, (vocab, hidden), "embedding"),
            head=self._hold_panels(decoder.head, vocab, hidden, "head"),
        )
        self.layers = (CDecoderLayer * len(decoder.layers))(*map(self._layer, decoder.layers))
        self.model.layer = self.layers

    def _layer(self, layer: Any) -> CDecoderLayer:
        m = self.model
        queries, rotated = m.heads * m.dim, m.heads + m.kv_heads
        all_heads = (rotated + m.kv_heads) * m.dim
        shapes = {
            "qkv": (all_heads, m.hidden),
            "out": (m.hidden, queries),
            "gate_up": (2 * m.inner, m.hidden),
            "down": (m.hidden, m.inner),
        }
        held = {
            name: self._hold_panels(getattr(layer, name), *shape, name)
            for name, shape in shapes.items()
        }
        for name, width in (("qkv_bias", all_heads), ("out_bias", m.hidden)):
            if (bias := getattr(layer, name)) is not None:
                held[name] = self._hold(F.pad(bias, (0, -width % PANEL)), (panelled(width),), name)
        if layer.qk_norm is not None:
            held["qk_norm"] = self._hold(layer.qk_norm, (rotated, m.dim), "qk_norm")
        return CDecoderLayer(**held)

    def _hold(self, tensor: Tensor, shape: tuple[int, ...], name: str) -> int | None:
        self.held.append(tensor.contiguous())
        return pointer(self.held[-1], REAL, shape, name)

    def _hold_panels(self, weight: Tensor, outs: int, ins: int, name: str) -> int | None:
        return self._hold(panels(weight), (panelled(outs) // PANEL, ins, PANEL), name)

    def _reach(self, position: int) -> None:
        """The rotations of every position up to this one."""
        if position >= self.positions:
            self.positions = 2 * position + 64
            turn = self.decoder.turn(torch.arange(self.positions))
            cosine, sine = turn.real, turn.imag
            both = torch.stack(
                [cosine.repeat_interleave(2, -1), torch.stack([-sine, sine], -1).flatten(-2)], 1
            )
            self.table = both.contiguous()
            shape = (self.positions, 2, self.model.dim)
            self.model.rope = pointer(self.table, REAL, shape, "rope")

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
        token_B, batch = token_B.clone(), rows.in_c(self.model)
        logits = torch.empty(len(token_B), self.model.vocab)
        batch.token = pointer(token_B, INT, (batch.rows,), "token_B")
        batch.logits = pointer(logits, REAL, (batch.rows, self.model.vocab), "logits")
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
        count, batch, threads = len(texts), rows.in_c(self.model), torch.get_num_threads()
        given = CTexts(
            count,
            pointer(row_N, INT, (count,), "row_N"),
            pointer(start, INT, (count + 1,), "start"),
            pointer(token, INT, (sum(map(len, texts)),), "token"),
            pointer(logits, REAL, (count, self.model.vocab), "logits") if predict else None,
        )
        if self.library.genac_read(byref(self.model), byref(batch), byref(given), threads):
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
    loaded = library()
    return None if loaded is None else Native(decoder, loaded)
