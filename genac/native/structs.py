"""Mirrors of the C structs in csrc/structs.h (CTree of Tree): same fields in the same order.

library.py compares their sizes with the compiled library's before anything is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from ctypes import POINTER, Structure, c_double, c_int64, c_void_p
from typing import Any


def integers(names: str) -> Iterable[tuple[str, Any]]:
    return [(name, c_int64) for name in names.split()]


def pointers(names: str) -> Iterable[tuple[str, Any]]:
    return [(name, c_void_p) for name in names.split()]


# --- decoding ------------------------------------------------------------------------------------


class CDecoderLayer(Structure):
    _fields_ = [*pointers("qkv qkv_bias qk_norm out out_bias gate_up down")]


class CDecoderModel(Structure):
    _fields_ = [
        *integers("layers hidden heads kv_heads dim inner vocab activation"),
        ("eps", c_double),
        *pointers("embedding head rope"),
        ("layer", POINTER(CDecoderLayer)),
    ]


class CDecoderBatch(Structure):
    _fields_ = [
        *integers("rows capacity stride prefix_capacity prefix_stride"),
        *pointers("own prefix length shared prefix_of token logits"),
    ]


class CTexts(Structure):
    _fields_ = [*integers("count"), *pointers("row start token logits")]


class CDraws(Structure):
    _fields_ = [
        *integers("width stops lines watched"),
        *pointers("live limit stop line watch temperature uniform"),
        *pointers("tokens length logprobs entropies probabilities stopped ended"),
        *integers("bad"),
    ]


# --- training ------------------------------------------------------------------------------------


class CLayerWeights(Structure):
    _fields_ = [
        *pointers("in_gain q k v q_bias k_bias v_bias q_gain k_gain out out_bias"),
        *pointers("post_gain gate up down"),
    ]


class CTrainedLayer(Structure):
    _fields_ = [
        *integers("tokens hidden heads kv_heads dim inner activation"),
        ("eps", c_double),
        ("w", CLayerWeights),
        ("w_grad", CLayerWeights),
        *pointers("cosine sine"),
        *pointers("x q k v rope_q rope_k rope_v attended mid gates ups y"),
        *pointers("grad dmid dattended dq dk dv dx"),
    ]


class CSegment(Structure):
    _fields_ = [*integers("start length prefix shared")]


class CTokenRows(Structure):
    _fields_ = [*pointers("at"), *integers("step")]


class CTree(Structure):
    _fields_ = [
        *integers("heads kv_heads dim families"),
        *pointers("family segment"),
        ("scale", c_double),
        *pointers("lse"),
        *((name, CTokenRows) for name in ("q", "k", "v", "out", "grad", "dq", "dk", "dv")),
    ]


MIRRORS: tuple[type[Structure], ...] = (
    *(CDecoderLayer, CDecoderModel, CDecoderBatch, CTexts, CDraws),
    *(CLayerWeights, CTrainedLayer, CSegment, CTokenRows, CTree),
)
