"""The C++ of this folder as a library, and what is checked on the way to it.

Without a compiler, or with GENAC_NATIVE=0, torch's operations compute the same.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import warnings
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int64
from functools import cache

import torch
from torch import Tensor

from genac.native.compiler import compiled
from genac.native.structs import (
    MIRRORS,
    CDecoderBatch,
    CDecoderModel,
    CDraws,
    CTexts,
    CTrainedLayer,
    CTree,
)

LANES = 8  # numbers per vector: dimensions are multiples of it
ACTIVATIONS = ("silu", "gelu_tanh", "gelu")  # in the order of their numbers in csrc/structs.h
LAYER_PASSES = (
    *("attn_in_fwd", "rope_recompute", "attn_out_mlp_fwd", "attn_out_mlp_bwd", "attn_in_bwd"),
    *("norm_fwd", "norm_bwd"),
)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None, with a warning, where there is none.

    Raises RuntimeError where it and genac/native disagree about what crosses the boundary.
    """
    if os.environ.get("GENAC_NATIVE") == "0":
        return None
    try:
        loaded = ctypes.CDLL(str(compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or error
        warnings.warn(
            "the inner loops could not be compiled, so sampling takes several times as long "
            f"({str(output).strip()[-300:]}); install g++ or clang++, set XDG_CACHE_HOME if it is "
            "the folder, or GENAC_NATIVE=0 to say so",
            stacklevel=2,
        )
        return None
    compare(loaded)
    declare(loaded)
    if not loaded.genac_openmp():
        warnings.warn(
            "the inner loops were compiled without OpenMP, so every call starts its threads anew: "
            "equal results, but several threads help less; install g++, or libomp for clang++",
            stacklevel=2,
        )
    return loaded


def declare(loaded: ctypes.CDLL) -> None:
    """Argument types: ctypes refuses a struct of another kind."""
    model, batch, texts = POINTER(CDecoderModel), POINTER(CDecoderBatch), POINTER(CTexts)
    loaded.genac_decode.argtypes = [model, batch, POINTER(CDraws), c_int64, c_int64, c_int64]
    loaded.genac_read.argtypes = [model, batch, texts, c_int64]
    loaded.genac_tree.argtypes = [POINTER(CTree), c_int64, c_int64]
    for name in LAYER_PASSES:
        getattr(loaded, f"genac_{name}").argtypes = [POINTER(CTrainedLayer), c_int64]
    loaded.genac_openmp.restype = c_int64


def compare(loaded: ctypes.CDLL) -> None:
    """RuntimeError where a struct or an activation is not what this folder takes it for."""
    for function in (loaded.genac_sizeof, loaded.genac_activation):
        function.argtypes, function.restype = [c_char_p], c_int64
    for mirror in MIRRORS:
        name, size = mirror.__name__[1:], ctypes.sizeof(mirror)
        other = loaded.genac_sizeof(name.encode())
        if other != size:
            held = "is unknown to" if other < 0 else f"has {other} bytes in"
            raise RuntimeError(
                f"struct {name} {held} the compiled library and has {size} bytes in "
                "genac/native/structs.py; make structs.py and csrc/structs.h agree"
            )
    for number, name in enumerate(ACTIVATIONS):
        other = loaded.genac_activation(name.encode())
        if other != number:
            raise RuntimeError(
                f"activation {name!r} has number {other} in the compiled library and {number} in "
                "ACTIVATIONS of genac/native/library.py; make it and csrc/structs.h agree"
            )


def pointer(
    x: Tensor | None,
    dtype: torch.dtype,
    shape: Sequence[int | None],
    name: str = "tensor",
    *,
    nullable: bool = False,
    strided: bool = False,
) -> int | None:
    """The address of a tensor's numbers for C, which reads and writes them unchecked.

    shape: None is any length. nullable: None is handed on. strided: entries of the first dimension
    may lie apart, as those of a wider tensor do. ValueError, with the name, for anything else.
    """
    if x is None:
        if nullable:
            return None
        raise ValueError(f"{name} is missing; C needs {dtype} {describe(shape)} on the CPU")
    if x.dtype is dtype and x.is_cpu:
        known = x.shape == shape or any_length(x.shape, shape)  # the first is several times faster
        if known and (x.is_contiguous() or (strided and rows_are_dense(x))):
            return x.data_ptr()
    raise ValueError(
        f"{name} is {x.dtype} {describe(tuple(x.shape))} on {x.device}, strides {x.stride()}; "
        f"C needs {dtype} {describe(shape)} on the CPU, {'rows' if strided else 'all of it'} "
        "contiguous"
    )


def any_length(lengths: Sequence[int], shape: Sequence[int | None]) -> bool:
    """Whether the lengths are those of the shape, which has None where any will do."""
    pairs = zip(lengths, shape, strict=False)
    return len(lengths) == len(shape) and all(size in (None, length) for length, size in pairs)


def rows_are_dense(x: Tensor) -> bool:
    """Whether each x[i] is contiguous and no two of them overlap."""
    return x.ndim > 0 and x[0].is_contiguous() and x.stride(0) >= x[0].numel()


def describe(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
