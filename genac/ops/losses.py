"""Losses per token, and the one way to add them up.

Shapes: _P problem, _G group member, _S state, _T token, _B row, _V vocabulary; here also _K outputs
of a value head (1 for "mse", the number of bins for "hl_gauss").
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# exp(20) is 5e8: large enough never to matter to a sane policy, small enough to stay finite.
LOG_RATIO_LIMIT = 20.0


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate (Schulman et al. 1707.06347), asymmetric as in DAPO (2503.14476).

        ratio = exp(logp - logp_old)
        J = min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A),   loss = -J

    With `dual_clip` c > 1 (Ye et al. 1912.09729), J = max(J, c A) where A < 0, so that one token
    which the new policy likes far more than the old one cannot dominate the batch.
    log ratio is clamped to [-20, 20] before exp. The flags tell where the clip removes the
    gradient: `clipped_low_BT` where ratio < 1 - clip_low and A < 0, `clipped_high_BT` where
    ratio > 1 + clip_high and A > 0.

    All inputs (B, T) -> loss_BT (B, T) and stats ratio_BT, clipped_low_BT, clipped_high_BT (B, T).
    """
    assert logprobs_BT.shape == old_logprobs_BT.shape == advantages_BT.shape
    assert 0 <= clip_low <= 1 and clip_high >= 0 and (dual_clip is None or dual_clip > 1)
    log_ratio_BT = logprobs_BT - old_logprobs_BT
    ratio_BT = log_ratio_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    objective_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    if dual_clip is not None:
        floored_BT = torch.maximum(objective_BT, dual_clip * advantages_BT)
        objective_BT = torch.where(advantages_BT < 0, floored_BT, objective_BT)
    ratio_BT = ratio_BT.detach()
    stats = {
        "ratio_BT": ratio_BT,
        "clipped_low_BT": (ratio_BT < 1 - clip_low) & (advantages_BT < 0),
        "clipped_high_BT": (ratio_BT > 1 + clip_high) & (advantages_BT > 0),
    }
    return -objective_BT, stats


def kl_penalty(logprobs_BT: Tensor, ref_logprobs_BT: Tensor, kind: str) -> Tensor:
    """Per-token estimates of KL(policy || reference) from the policy's own samples
    (Schulman, "Approximating KL divergence", 2020). With d = log ref - log policy:

        k1 = -d               unbiased, can be negative; as a loss its gradient is 0 on average
        k2 = d^2 / 2          biased, never negative; as a loss its gradient is the KL's
        k3 = exp(d) - 1 - d   unbiased, never negative

    `logprobs_BT` carries the gradient. logprobs_BT, ref_logprobs_BT (B, T) -> (B, T).
    """
    assert logprobs_BT.shape == ref_logprobs_BT.shape
    assert kind in ("k1", "k2", "k3"), f"kind {kind!r} is not k1, k2 or k3"
    d_BT = ref_logprobs_BT - logprobs_BT
    if kind == "k1":
        return -d_BT
    if kind == "k2":
        return 0.5 * d_BT.square()
    d_BT = d_BT.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(d_BT) - d_BT


def hl_gauss_targets(targets_BT: Tensor, bins: int = 51, sigma_bins: float = 0.75) -> Tensor:
    """HL-Gauss: a scalar in [0, 1] as a histogram (Imani & White 2018; Farebrother 2403.03950).

        p_k proportional to Phi((e_{k+1} - y) / sigma) - Phi((e_k - y) / sigma)
        e = linspace(0, 1, bins + 1),   sigma = sigma_bins / bins

    renormalised because the Gaussian's tails beyond 0 and 1 are cut off. NaN stays NaN.
    targets_BT (B, T) -> probs_BTK (B, T, bins).
    """
    assert bins >= 2 and sigma_bins > 0 and targets_BT.is_floating_point()
    assert not ((targets_BT < -1e-3) | (targets_BT > 1 + 1e-3)).any(), "targets must lie in [0, 1]"
    targets_BT = targets_BT.float()
    edges_E = torch.linspace(0, 1, bins + 1, device=targets_BT.device)
    z_BTE = (edges_E - targets_BT.unsqueeze(-1)) * (bins / (sigma_bins * math.sqrt(2)))
    mass_BTK = torch.erf(z_BTE).diff(dim=-1)
    return mass_BTK / mass_BTK.sum(-1, keepdim=True)


def hl_gauss_mean(logits_BTK: Tensor) -> Tensor:
    """The value a histogram stands for: V = sum_k softmax(logits)_k c_k, c_k = (k + 1/2) / K
    the centres of the bins (2403.03950, eq. 2).

    V lies in [1/2K, 1 - 1/2K]. At a target of 0 or 1 the cut tail shifts the mean of the exact
    histogram inwards: by 0.014 for 51 bins and sigma 0.75 bin. logits_BTK (B, T, K) -> (B, T).
    """
    bins = logits_BTK.shape[-1]
    assert bins >= 2
    centres_K = (torch.arange(bins, device=logits_BTK.device, dtype=torch.float32) + 0.5) / bins
    return F.softmax(logits_BTK.float(), dim=-1) @ centres_K


def value_loss(outputs_BTK: Tensor, targets_BT: Tensor, kind: str) -> Tensor:
    """The loss of a value head against targets in [0, 1], in float32.

        "mse":       (v - y)^2, with no factor 1/2           K = 1
        "hl_gauss":  -sum_k p_k(y) log softmax(outputs)_k    K = bins

    outputs_BTK (B, T, K), targets_BT (B, T) -> (B, T).
    """
    assert outputs_BTK.shape[:-1] == targets_BT.shape
    if kind == "mse":
        return (values_of(outputs_BTK, kind) - targets_BT.float()).square()
    assert kind == "hl_gauss", f"kind {kind!r} is not mse or hl_gauss"
    probs_BTK = hl_gauss_targets(targets_BT, outputs_BTK.shape[-1])
    return -(probs_BTK * F.log_softmax(outputs_BTK.float(), dim=-1)).sum(-1)


def values_of(outputs_BTK: Tensor, kind: str) -> Tensor:
    """What a value head says, in float32: the output itself ("mse", K = 1, not squashed) or the
    mean of its histogram ("hl_gauss"). outputs_BTK (B, T, K) -> values_BT (B, T)."""
    assert kind in ("mse", "hl_gauss"), f"kind {kind!r} is not mse or hl_gauss"
    if kind == "hl_gauss":
        return hl_gauss_mean(outputs_BTK)
    assert outputs_BTK.shape[-1] == 1, "an mse head has one output"
    return outputs_BTK[..., 0].float()


def expected_score_loss(
    logits_BV: Tensor, score_ids_BK: Tensor, rewards_BK: Tensor, otherwise_B: Tensor
) -> Tensor:
    """Minus the expected critic reward at a token of the score (our choice, `improved` preset).

        E = sum_i p_i R_i + (1 - sum_i p_i) R_other,   p = softmax over the whole vocabulary
        loss = -E,   d loss / d logit_j = -p_j (R_j - E),   R_j = R_other for tokens not named

    This is the expectation of REINFORCE's gradient over the sampled token, exact and with the
    best baseline built in. At a score's first token what is no score earns R_other = 0, as an
    unparsable completion does, so probability is drawn to the scores and not only moved among them.

    Where 10 is written as the tokens 1 and 0, with q = P(0 | 1), e = P(no digit | 1):

        E = sum_{i != 1} p_i R(i) + p_1 Q,   Q = q R(10) + e R(1)        12 and the like earn 0
        grad E = sum_{i != 1} R(i) grad p_i + Q grad p_1                 first token, Q a constant
                 + p_1 grad Q                                            second token

    A rationale that wrote 1 (which happens with p_1) adds grad Q at its second token, so the second
    line is exact over that token and unbiased over the first. It is this loss once more: tokens 0
    to 9 with rewards R(10), 0, .., 0 and R_other = R(1).
    logits_BV (B, V), score_ids_BK, rewards_BK (B, K), otherwise_B (B,) -> (B,).
    """
    assert logits_BV.ndim == 2 and score_ids_BK.shape == rewards_BK.shape
    p_BK = F.softmax(logits_BV.float(), dim=-1).gather(-1, score_ids_BK)
    return expected_loss(p_BK, rewards_BK, otherwise_B)


def expected_loss(p_BK: Tensor, rewards_BK: Tensor, otherwise_B: Tensor) -> Tensor:
    """`expected_score_loss` of the named tokens' probabilities, where no logits are to be had.

    p_BK, rewards_BK (B, K), otherwise_B (B,) -> (B,).
    """
    assert p_BK.shape == rewards_BK.shape and otherwise_B.shape == p_BK.shape[:1]
    beyond_BK = rewards_BK.float() - otherwise_B.float()[:, None]
    return -(p_BK * beyond_BK).sum(-1) - otherwise_B.float()


def critic_reward(value, outcome):
    """R_v = 1 - (r - v)^2, the reward of the generative critic (GenAC, 2604.10701).

    Floats, arrays or tensors of shapes that broadcast; r and v in [0, 1] give R_v in [0, 1].
    """
    return 1 - (outcome - value) ** 2


def aggregate(loss_BT: Tensor, mask_BT: Tensor, mode: str, denominator: float) -> Tensor:
    """Add per-token losses up to a scalar, so that micro-batches and ranks just add.

        "token":     sum_bt m_bt l_bt / denominator               denominator: GLOBAL token count
        "sequence":  sum_b (sum_t m_bt l_bt / sum_t m_bt) / denominator    GLOBAL sequence count
        "sequence_sum":  sum_bt m_bt l_bt / denominator                    GLOBAL sequence count

    "sequence_sum" (verl's seq-mean-token-sum) leaves each sequence's share as it is, whatever the
    length of the others: the gradient of an expectation over sequences. In "sequence" mode one row
    must be one sequence (not several packed ones) and a row with an empty mask counts 0. Entries
    with mask 0 may hold NaN: neither the value nor the gradient with respect to `loss_BT` sees
    them. (What made the NaN still turns that 0 into 0 * NaN on its own way back, so pad advantages,
    targets and old log-probabilities with finite numbers.)

    loss_BT, mask_BT (B, T), weights >= 0 -> ().
    """
    assert loss_BT.shape == mask_BT.shape and loss_BT.ndim == 2
    assert denominator > 0, f"denominator {denominator} must be the positive global count"
    assert mode in ("token", "sequence", "sequence_sum"), (
        f"mode {mode!r} is none of token, sequence, sequence_sum"
    )
    weights_BT = mask_BT.to(loss_BT.dtype)
    sums_B = (torch.where(weights_BT != 0, loss_BT, 0.0) * weights_BT).sum(-1)
    if mode == "sequence":
        totals_B = weights_BT.sum(-1)
        sums_B = sums_B / torch.where(totals_B > 0, totals_B, 1.0)
    return sums_B.sum() / denominator
