"""Small operations on tensors that several layers share.

Shapes: _P problem, _G group member, _S state, _T token, _B row, _V vocabulary; _N flattened _BT.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits held at once; 1024 tokens x a vocabulary of 152k is 0.6 GB of float32.
CHUNK_TOKENS = 1024
# Up to this many logits in all (64 MB) keeping them is cheaper than computing them again.
KEPT_LOGITS = 2**24


def head_statistics(
    hidden_ND: Tensor,
    head: Callable[[Tensor], Tensor],
    ids_N: Tensor,
    temperature_N: Tensor,
    *,
    entropy_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each id and entropy in nats under softmax(head(hidden) / temperature).

        log p(id) = logit_id - logsumexp_v logit_v

    in float32 whatever the head computes in. A large vocabulary is never held for all tokens: the
    head works on a chunk at a time, and once more in the backward pass. Entropies carry a gradient
    only where `entropy_grad` asks for it.

    hidden_ND (N, D), ids_N (N,), temperature_N (N,) -> (N,), (N,) float32.
    """
    assert hidden_ND.ndim == 2 and len(hidden_ND) == len(ids_N) == len(temperature_N)

    def chunk(x_ND: Tensor, id_N: Tensor, heat_N: Tensor) -> tuple[Tensor, Tensor]:
        return statistics(head(x_ND), id_N, heat_N, entropy_grad=entropy_grad)

    if not len(ids_N):
        return chunk(hidden_ND, ids_N, temperature_N)
    first = head(hidden_ND[:1].detach())
    if first.shape[-1] * len(ids_N) <= KEPT_LOGITS:
        return chunk(hidden_ND, ids_N, temperature_N)
    parts = zip(*(x.split(CHUNK_TOKENS) for x in (hidden_ND, ids_N, temperature_N)), strict=True)
    results = [
        checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False)
        if torch.is_grad_enabled()
        else chunk(*part)
        for part in parts
    ]
    logp, entropy = zip(*results, strict=True)
    return torch.cat(logp), torch.cat(entropy)


def statistics(
    logits_NV: Tensor, ids_N: Tensor, temperature_N: Tensor, *, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the ids and entropies, of logits that are divided by a temperature.

    A logit of -inf (a forbidden token) adds nothing to the entropy.
    logits_NV (N, V), ids_N (N,), temperature_N (N,) -> (N,), (N,) float32.
    """
    logp_NV = torch.log_softmax(logits_NV.float() / temperature_N[:, None], -1)
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        finite_NV = logp_NV.masked_fill(logp_NV == -math.inf, 0.0)
        entropy_N = -(finite_NV.exp() * finite_NV).masked_fill(logp_NV == -math.inf, 0.0).sum(-1)
    return logp_NV.gather(-1, ids_N[:, None])[:, 0], entropy_N


def scatter(values_N: Tensor, chosen_BT: Tensor) -> Tensor:
    """(N,) values back to their (B, T) places, 0 elsewhere."""
    out = torch.zeros(chosen_BT.shape, dtype=values_N.dtype, device=values_N.device)
    # Entry 0 of a row has no prediction before it.
    chosen = chosen_BT.clone()
    chosen[:, 0] = False
    return out.masked_scatter(chosen, values_N)
