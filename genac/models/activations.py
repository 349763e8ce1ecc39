"""Which activation a layer computes, from what it does: names in a config are not reliable.

Gemma's `hidden_act: gelu` means the form with tanh, and a `hidden_activation` that some checkpoints
carry is read by some versions of transformers only.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genac.native.library import ACTIVATIONS as NAMES


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


FUNCTIONS = {"silu": F.silu, "gelu_tanh": gelu_tanh, "gelu": F.gelu}
# An activation's place is its number in C++, which native/library.py compares when it is loaded.
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = tuple(FUNCTIONS[name] for name in NAMES)
# The forms of gelu lie 5e-4 apart near 2; some activations are cut off at 10.
PROBE = (*(i / 8 for i in range(-64, 65)), -1000.0, -30.0, -12.0, 12.0, 30.0, 1000.0)
KNOWN: WeakKeyDictionary[Callable[..., Tensor], int | None] = WeakKeyDictionary()


def activation_of(act: Callable[[Tensor], Tensor]) -> int | None:
    """The activation's place in ACTIVATIONS, or None where it is none of them (or is trained)."""
    if act not in KNOWN:
        KNOWN[act] = number_of(act)
    return KNOWN[act]


@torch.no_grad()
def number_of(act: Callable[[Tensor], Tensor]) -> int | None:
    if isinstance(act, nn.Module) and (list(act.parameters()) or list(act.buffers())):
        return None
    x = torch.tensor(PROBE, device="cpu")
    y = act(x)
    matches = [torch.allclose(y, known(x), rtol=1e-5, atol=1e-6) for known in ACTIVATIONS]
    return matches.index(True) if any(matches) else None
