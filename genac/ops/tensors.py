"""Small operations on tensors that several layers share.

Shapes: _P problem, _G group member, _S state, _T token, _B row, _V vocabulary; _N flattened _BT.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Tokens whose logits are held in float32 at once: 1024 x a vocabulary of 152k is 0.6 GB.
CHUNK_TOKENS = 1024


def token_logprobs(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Log-probability of each id under the logits AT THE SAME position (no shift inside).

        log p(id) = logit_id - logsumexp_v logit_v

    in float32 whatever the logits are. The logits may be bfloat16 and very large, so they are
    upcast a chunk of tokens at a time, and once more in the backward pass rather than kept.

    logits_BTV (B, T, V), ids_BT (B, T) -> (B, T) float32.
    """
    assert logits_BTV.ndim == 3 and logits_BTV.shape[:2] == ids_BT.shape
    logits = logits_BTV.flatten(0, 1).split(CHUNK_TOKENS)
    ids = ids_BT.flatten().split(CHUNK_TOKENS)
    # Float32 logits need no copy, and nothing is kept for the backward pass but they themselves.
    recompute = logits_BTV.requires_grad and logits_BTV.dtype != torch.float32
    chunks = [
        checkpoint(_chunk_logprobs, x_NV, id_N, use_reentrant=False, preserve_rng_state=False)
        if recompute
        else _chunk_logprobs(x_NV, id_N)
        for x_NV, id_N in zip(logits, ids, strict=True)
    ]
    return torch.cat(chunks).view(ids_BT.shape)


def _chunk_logprobs(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """logit_id - logsumexp: (N, V), (N,) -> (N,)."""
    picked_N = logits_NV.gather(-1, ids_N.long().unsqueeze(-1)).squeeze(-1)
    return picked_N.float() - torch.logsumexp(logits_NV.float(), dim=-1)


def pad_rows(rows: Sequence[Sequence | np.ndarray], value: float, dtype: torch.dtype) -> Tensor:
    """Stack ragged 1-D rows into one tensor, padded on the right with `value`.

    rows: B sequences or arrays of lengths T_b -> (B, max T_b) of `dtype`; (0, 0) of no rows.
    """
    padded_BT = torch.full((len(rows), max(map(len, rows), default=0)), value, dtype=dtype)
    for b, row in enumerate(rows):
        padded_BT[b, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded_BT


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """sum(m x) / sum(m) over all entries; 0 when the mask is empty. NaN where m = 0 is not seen.

    x, mask of one shape -> ().
    """
    assert x.shape == mask.shape
    weights = mask.to(x.dtype)
    total = weights.sum()
    known = torch.where(weights != 0, x, 0.0)
    return (known * weights).sum() / torch.where(total > 0, total, 1.0)
