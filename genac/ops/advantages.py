"""Advantages: from rewards and values to "how much better than expected was this".

Shapes: _P problem, _G group member, _S state, _T token, _B row, _V vocabulary. In `gae` the axis _T
is whatever sequence the values live on: tokens for a dense critic, states for a sparse one.
A mask is bool or number; every entry different from 0 counts as valid. What lies at an invalid
entry, NaN included, never reaches a result. Every standard deviation is the population's (divides
by n, not n - 1): a group is the whole of what is normalised, not a sample of something larger.
Means and stds are taken in float64: in float32 eight equal rewards of 0.7 miss their own mean by
6e-8, which a division by a std of the same size would blow up to an advantage of order 1.
Nothing here carries a gradient: advantages and returns are constants of the losses.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gae(
    values_BT: Tensor, rewards_B: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation with one reward, at the end (Schulman et al. 1506.02438).

        delta_k = gamma V_{k+1} - V_k        for the valid entries k = 0 .. n-2 of a row
        delta_{n-1} = r - V_{n-1}            the state after the last valid entry is worth 0
        A_k = delta_k + gamma lam A_{k+1},   R_k = A_k + V_k

    gamma discounts per transition BETWEEN valid entries, so the reward is the undiscounted target
    of the last one. Entries with mask 0 are padding or missing values: the recursion passes over
    them unchanged, as though they were not in the row, and their advantages and returns are 0.

    values_BT (B, T), rewards_B (B,), mask_BT (B, T) -> advantages_BT (B, T), returns_BT (B, T).
    """
    assert values_BT.ndim == 2 and values_BT.shape == mask_BT.shape
    assert rewards_B.shape == values_BT.shape[:1]
    assert values_BT.is_floating_point() and 0 <= gamma <= 1 and 0 <= lam <= 1
    valid_BT = mask_BT != 0
    advantages_BT = torch.zeros_like(values_BT)
    # What lies after the entry at hand. It starts at r, undiscounted, and with no advantage beyond.
    target_B = rewards_B.to(values_BT.dtype)
    advantage_B = torch.zeros_like(target_B)
    for t in reversed(range(values_BT.shape[1])):
        valid_B, value_B = valid_BT[:, t], values_BT[:, t]
        here_B = target_B - value_B + gamma * lam * advantage_B
        advantage_B = torch.where(valid_B, here_B, advantage_B)
        target_B = torch.where(valid_B, gamma * value_B, target_B)
        advantages_BT[:, t] = torch.where(valid_B, here_B, 0.0)
    returns_BT = torch.where(valid_BT, advantages_BT + values_BT, 0.0)
    return advantages_BT, returns_BT


@torch.no_grad()
def leave_one_out(rewards_PG: Tensor, mask_PG: Tensor) -> Tensor:
    """RLOO: the baseline is the mean of the OTHER members (Kool et al. 2019; 2402.14740).

        A_i = r_i - 1/(n-1) sum_{j != i} r_j = n/(n-1) (r_i - mean_j r_j),   n valid members

    0 where a member is invalid or has no valid other. rewards_PG, mask_PG (P, G) -> (P, G).
    """
    centred_PG, valid_PG = _centre(rewards_PG, mask_PG)
    count_P1 = valid_PG.sum(-1, keepdim=True)
    return (centred_PG * count_P1 / (count_P1 - 1).clamp(min=1)).to(rewards_PG.dtype)


@torch.no_grad()
def group_relative(rewards_PG: Tensor, mask_PG: Tensor, scale: str) -> Tensor:
    """GRPO: the group mean is the baseline (Shao et al. 2402.03300).

        A_i = (r_i - mean of the group) / s
        scale "group": s = std of the group + 1e-6            (GRPO)
              "batch": s = std of all rewards of the batch + 1e-6
              "none":  s = 1                                  (Dr. GRPO, 2503.20783)

    rewards_PG, mask_PG (P, G) -> (P, G); 0 at invalid members.
    """
    assert scale in ("none", "group", "batch"), f"scale {scale!r} is not none, group or batch"
    centred_PG, valid_PG = _centre(rewards_PG, mask_PG)
    if scale == "batch":
        centred_PG = centred_PG / (_moments(rewards_PG, valid_PG)[1] + 1e-6)
    if scale == "group":
        variance_P1 = centred_PG.square().sum(-1, keepdim=True) / _at_least_one(valid_PG)
        centred_PG = centred_PG / (variance_P1.sqrt() + 1e-6)
    return centred_PG.to(rewards_PG.dtype)


@torch.no_grad()
def batch_relative(rewards_PG: Tensor, mask_PG: Tensor) -> Tensor:
    """REINFORCE++: the batch mean is the baseline, the batch std the scale (Hu 2501.03262).

        A = (r - mean of all valid rewards) / (std of all valid rewards + 1e-6)

    rewards_PG, mask_PG (P, G) -> (P, G); 0 at invalid members.
    """
    assert rewards_PG.ndim == 2 and rewards_PG.shape == mask_PG.shape
    valid_PG = mask_PG != 0
    mean, std = _moments(rewards_PG, valid_PG)
    scaled_PG = (rewards_PG.double() - mean) / (std + 1e-6)
    return torch.where(valid_PG, scaled_PG, 0.0).to(rewards_PG.dtype)


def _at_least_one(valid_PG: Tensor) -> Tensor:
    """Valid members per group, at least 1, as a divisor: (P, G) -> (P, 1)."""
    return valid_PG.sum(-1, keepdim=True).clamp(min=1)


def _centre(rewards_PG: Tensor, mask_PG: Tensor) -> tuple[Tensor, Tensor]:
    """r - mean of the group's valid members (0 at invalid ones, float64), and who is valid."""
    assert rewards_PG.ndim == 2 and rewards_PG.shape == mask_PG.shape
    assert rewards_PG.is_floating_point()
    valid_PG = mask_PG != 0
    known_PG = torch.where(valid_PG, rewards_PG.double(), 0.0)
    mean_P1 = known_PG.sum(-1, keepdim=True) / _at_least_one(valid_PG)
    return torch.where(valid_PG, known_PG - mean_P1, 0.0), valid_PG


def _moments(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population std of the valid entries, float64 scalars; both 0 when there is none."""
    assert x.is_floating_point()
    x = x.double()
    count = valid.sum().clamp(min=1)
    mean = torch.where(valid, x, 0.0).sum() / count
    variance = torch.where(valid, (x - mean).square(), 0.0).sum() / count
    return mean, variance.sqrt()
