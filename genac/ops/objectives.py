"""What a learner minimises: a model's outputs and a micro-batch's streams to one scalar.

Every function returns its share of the mini-batch's loss (micro-batches add up to it, because
denominators are counts over the whole mini-batch) and, under TRL's names, its share of what was
measured on the way. Entry t of a stream speaks of token t, predicted from ids[:t].

Shapes: _B sample, _T token, _N score token, _V vocabulary, _K output of a value head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from genac.config.models import LossConfig
from genac.ops.losses import (
    aggregate,
    expected_loss,
    expected_score_loss,
    kl_penalty,
    policy_loss,
    value_loss,
)

Counts = Mapping[str, float]  # "token", "sequence": of the whole mini-batch
Measured = dict[str, Tensor]


class Streams(Protocol):
    """What objectives read of a micro-batch; None where no sample carries it.

    mask_BT: loss weights, 0 = not trained. score_ids, score_rewards (N, K): tokens that may stand
    at a score and the reward after each; score_otherwise (N,): after any other.
    """

    @property
    def weights_BT(self) -> Tensor: ...
    @property
    def advantages_BT(self) -> Tensor | None: ...
    @property
    def old_logprobs_BT(self) -> Tensor | None: ...
    @property
    def ref_logprobs_BT(self) -> Tensor | None: ...
    @property
    def targets_BT(self) -> Tensor | None: ...
    @property
    def score_ids(self) -> Tensor | None: ...
    @property
    def score_rewards(self) -> Tensor | None: ...
    @property
    def score_otherwise(self) -> Tensor | None: ...


@dataclass(frozen=True)
class Outputs:
    """What the model says of a micro-batch: of its tokens, or of the values of its prefixes."""

    logprobs_BT: Tensor | None = None  # of the trained tokens, 0 elsewhere
    entropy_BT: Tensor | None = None  # None where the model's server does not tell it
    score_logits_NV: Tensor | None = None  # at the tokens of scores
    score_probs_NK: Tensor | None = None  # of the tokens that may stand there, in their place
    values_BTK: Tensor | None = None  # entry t is about the prefix ids[: t + 1]
    head: str = ""  # kind of value head


def sft(out: Outputs, rows: Streams, cfg: LossConfig, counts: Counts) -> tuple[Tensor, Measured]:
    """Cross-entropy on the masked tokens."""
    assert out.logprobs_BT is not None
    return aggregate(-out.logprobs_BT, rows.weights_BT, "token", counts["token"]), {}


def policy(out: Outputs, rows: Streams, cfg: LossConfig, counts: Counts) -> tuple[Tensor, Measured]:
    """Clipped policy gradient on the masked tokens, with entropy bonus and KL term where set."""
    loss_BT, measured = policy_tokens(out, rows, cfg, counts)
    return aggregate(loss_BT, rows.weights_BT, cfg.loss_type, counts[cfg.loss_type]), measured


def policy_tokens(
    out: Outputs, rows: Streams, cfg: LossConfig, counts: Counts
) -> tuple[Tensor, Measured]:
    """The loss of `policy` before it is added up (B, T), and what was measured."""
    assert out.logprobs_BT is not None
    assert rows.advantages_BT is not None and rows.old_logprobs_BT is not None
    logprobs_BT, entropy_BT = out.logprobs_BT, out.entropy_BT
    loss_BT, stats = policy_loss(
        logprobs_BT,
        rows.old_logprobs_BT,
        rows.advantages_BT,
        cfg.epsilon,
        cfg.epsilon_high,
        cfg.dual_clip,
    )
    measured: Measured = {}
    if entropy_BT is not None:
        measured["entropy"] = mean_over(entropy_BT.detach(), rows, counts)
    if cfg.entropy_coef:
        assert entropy_BT is not None, "an entropy bonus needs entropies"
        loss_BT = loss_BT - cfg.entropy_coef * entropy_BT
    low = mean_over(stats["clipped_low_BT"], rows, counts)
    high = mean_over(stats["clipped_high_BT"], rows, counts)
    difference_BT = (logprobs_BT.detach() - rows.old_logprobs_BT).abs()
    measured |= {
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
        "sampling/sampling_logp_difference/mean": mean_over(difference_BT, rows, counts),
    }
    if rows.ref_logprobs_BT is not None:
        kl_BT = kl_penalty(logprobs_BT, rows.ref_logprobs_BT, cfg.kl_estimator)
        measured["kl"] = mean_over(kl_BT.detach(), rows, counts)
        loss_BT = loss_BT + cfg.beta * kl_BT
    return loss_BT, measured


def score(out: Outputs, rows: Streams, cfg: LossConfig, counts: Counts) -> tuple[Tensor, Measured]:
    """The generative critic's objective where its score is trained exactly: minus the mean over
    rationales of what each expects to earn, R = sum_i p_i R_i (see `losses.expected_score_loss`).

        grad E[R] = E[ (R - b) grad log p(reasoning) + grad R ]

    The first term is the policy loss of the reasoning, summed over its tokens; the second is R at
    the score's tokens. Both are divided by the number of rationales: a mean over tokens would
    shrink the first alone, by the length of the reasoning. So `loss_type` decides nothing here.
    """
    loss_BT, measured = policy_tokens(out, rows, cfg, counts)
    loss = aggregate(loss_BT, rows.weights_BT, "sequence_sum", counts["sequence"])
    if out.score_logits_NV is None and out.score_probs_NK is None:
        return loss, measured
    assert rows.score_ids is not None and rows.score_rewards is not None
    assert rows.score_otherwise is not None
    if out.score_probs_NK is not None:
        expected_N = expected_loss(out.score_probs_NK, rows.score_rewards, rows.score_otherwise)
    else:
        assert out.score_logits_NV is not None
        expected_N = expected_score_loss(
            out.score_logits_NV, rows.score_ids, rows.score_rewards, rows.score_otherwise
        )
    return loss + expected_N.sum() / counts["sequence"], measured


def value(out: Outputs, rows: Streams, cfg: LossConfig, counts: Counts) -> tuple[Tensor, Measured]:
    """Value-head regression at the masked prefixes."""
    assert out.values_BTK is not None and rows.targets_BT is not None
    # The output at position t - 1 is about the prefix ids[:t], which entry t of a stream means.
    loss_BT = value_loss(out.values_BTK[:, :-1], rows.targets_BT[:, 1:], out.head)
    return aggregate(loss_BT, rows.weights_BT[:, 1:], "token", counts["token"]), {}


def mean_over(x_BT: Tensor, rows: Streams, counts: Counts) -> Tensor:
    """This micro-batch's share of the mean over all trained tokens of the mini-batch."""
    return (x_BT.float() * (rows.weights_BT != 0)).sum() / counts["token"]


@dataclass(frozen=True)
class Objective:
    """A loss and what it has to know of the model."""

    compute: Callable[[Outputs, Streams, LossConfig, Counts], tuple[Tensor, Measured]]
    reads: Literal["tokens", "values"] = "tokens"


LOSSES: dict[str, Objective] = {
    "sft": Objective(sft),
    "policy": Objective(policy),
    "score": Objective(score),
    "value": Objective(value, reads="values"),
}
