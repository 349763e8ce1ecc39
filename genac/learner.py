"""The learner: Samples in, one or more optimiser steps out. It knows no algorithm.

What a token contributes is written on the Sample (loss name, mask, streams); credit assignment and
the critics decide it, not this file. Losses divide by counts over the whole mini-batch, so results
do not depend on micro-batches.

Shapes: _B row, _T token, _N selected position, _V vocabulary, _K value-head output.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genac.batching import Rows, microbatches, pad, require_alike
from genac.config import LossConfig, OptimizerConfig
from genac.models.value_head import ValueModel
from genac.ops.losses import (
    aggregate,
    entropy_BT,
    expected_score_loss,
    kl_penalty,
    policy_loss,
    value_loss,
    values_of,
)
from genac.ops.tensors import token_logprobs
from genac.types import Sample

Totals = dict[str, float]


class Learner:
    """Model + AdamW. `head` is the value-head kind of a ValueModel and None for a language
    model.
    """

    def __init__(
        self,
        model: Any,
        optimizer: OptimizerConfig,
        loss: LossConfig | None = None,
        *,
        head: str | None = None,
        bf16: bool = False,
        decay_steps: int | None = None,
    ) -> None:
        self.model, self.cfg, self.loss, self.head = model, optimizer, loss or LossConfig(), head
        self.bf16, self.decay_steps, self.steps = bf16, decay_steps, 0
        self.device = next(model.parameters()).device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.learning_rate,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def learn(self, samples: Sequence[Sample], seed: int) -> Totals:
        """Trains on the samples; returns means over tokens of what was measured on the way."""
        samples = [s for s in samples if s.mask[1:].any() or s.score is not None]
        if not samples:
            return {}
        self.model.train()
        rng, sums = np.random.default_rng(seed), defaultdict(list)
        for _ in range(self.loss.num_iterations):
            order = rng.permutation(len(samples))
            for part in np.array_split(order, min(self.loss.num_minibatches, len(samples))):
                for key, value in self._minibatch([samples[i] for i in part]).items():
                    sums[key].append(value)
        return {key: float(np.mean(values)) for key, values in sums.items()}

    def _minibatch(self, samples: list[Sample]) -> Totals:
        """One optimiser step; every denominator is a count over the whole mini-batch."""
        require_alike(samples)
        tokens = max(1.0, float(sum((s.mask[1:] != 0).sum() for s in samples)))
        scores = max(1, sum(s.score is not None for s in samples))
        counts = {"token": tokens, "sequence": float(len(samples)), "score": float(scores)}
        totals: Totals = defaultdict(float)
        self.optimizer.zero_grad(set_to_none=True)
        for group in microbatches([len(s.ids) for s in samples], self.cfg.tokens_per_microbatch):
            chosen = [samples[i] for i in group]
            rows = pad(chosen).to(self.device)
            loss, measured = self._loss(chosen[0].loss, rows, counts)
            if loss.requires_grad:
                loss.backward()
            for key, value in {"loss": loss.detach(), **measured}.items():
                totals[key] += float(value)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.max_grad_norm)
        totals["grad_norm"] = float(norm)
        if not np.isfinite(totals["loss"]) or not np.isfinite(totals["grad_norm"]):
            raise FloatingPointError(
                f"loss {totals['loss']} / gradient norm {totals['grad_norm']} at optimiser step "
                f"{self.steps}: "
                "lower the learning rate or resume an earlier checkpoint; no weight was changed"
            )
        self._step()
        return dict(totals)

    def _step(self) -> None:
        rate = self.cfg.learning_rate
        if self.steps < self.cfg.warmup_steps:
            rate *= (self.steps + 1) / self.cfg.warmup_steps
        elif self.decay_steps:
            rate *= max(0.1, 1 - 0.9 * self.steps / self.decay_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.steps += 1

    def _loss(self, name: str, rows: Rows, counts: Totals) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            return LOSSES[name](self, rows, counts)

    def _autocast(self) -> Any:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def logits_at(self, rows: Rows, chosen_BT: Tensor) -> Tensor:
        """Logits (N, V) that predict the chosen tokens: only those positions pass the LM head."""
        where = chosen_BT[:, 1:]
        if plain_head(self.model):
            hidden = self.model.base_model(input_ids=rows.ids_BT, use_cache=False).last_hidden_state
            return self.model.get_output_embeddings()(hidden[:, :-1][where])
        return self.model(input_ids=rows.ids_BT, use_cache=False).logits[:, :-1][where]

    @torch.no_grad()
    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """(T,) log-probabilities of each sample's tokens at its temperature, 0 where the mask is
        0.
        """

        def one(rows: Rows) -> Tensor:
            chosen_BT = rows.mask_BT != 0
            return scatter(self._token_logprobs(rows, chosen_BT)[0], chosen_BT)

        return self._per_token(samples, one)

    @torch.no_grad()
    def values(self, sequences: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """(T + 1,) values per sequence of T tokens; entry t is the value of the prefix ids[:t].

        Entry 0, the value of nothing, is not a number.
        """
        empty = [
            Sample(ids=ids, mask=np.zeros(len(ids), np.float32), loss="value") for ids in sequences
        ]
        rows = self._per_token(
            empty, lambda rows: values_of(self.model(rows.ids_BT), self.head or "")
        )
        return [np.concatenate([[np.nan], row]).astype(np.float32) for row in rows]

    def _per_token(
        self, samples: Sequence[Sample], compute: Callable[[Rows], Tensor]
    ) -> list[np.ndarray]:
        self.model.eval()
        out: list[np.ndarray] = [np.zeros(0)] * len(samples)
        for group in microbatches([len(s.ids) for s in samples], self.cfg.tokens_per_microbatch):
            with self._autocast():
                result = (
                    compute(pad([samples[i] for i in group]).to(self.device)).float().cpu().numpy()
                )
            for row, index in enumerate(group):
                out[index] = result[row, : len(samples[index].ids)].copy()
        return out

    def _token_logprobs(self, rows: Rows, chosen_BT: Tensor) -> tuple[Tensor, Tensor]:
        logits_NV = self.logits_at(rows, chosen_BT)
        row_N = chosen_BT[:, 1:].nonzero()[:, 0]
        logits_NV = logits_NV / rows.temperature_B[row_N, None]
        ids_N = rows.ids_BT[:, 1:][chosen_BT[:, 1:]]
        return token_logprobs(logits_NV[None], ids_N[None])[0], logits_NV

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def plain_head(model: Any) -> bool:
    """Whether logits are just head(hidden): no soft-capping or scaling that we would skip."""
    config = model.config
    scaled = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return all(getattr(config, name, None) is None for name in scaled)


def scatter(values_N: Tensor, chosen_BT: Tensor) -> Tensor:
    """(N,) values back to their (B, T) places, 0 elsewhere."""
    out = torch.zeros(chosen_BT.shape, dtype=values_N.dtype, device=values_N.device)
    # Entry 0 of a row has no prediction before it.
    chosen = chosen_BT.clone()
    chosen[:, 0] = False
    return out.masked_scatter(chosen, values_N)


def sft_loss(learner: Learner, rows: Rows, counts: Totals) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on the masked tokens."""
    chosen_BT = rows.mask_BT != 0
    logp_BT = scatter(learner._token_logprobs(rows, chosen_BT)[0], chosen_BT)
    return aggregate(-logp_BT, rows.mask_BT, "token", counts["token"]), {}


def policy(learner: Learner, rows: Rows, counts: Totals) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy gradient on the masked tokens, and the exact score-token objective where
    given.
    """
    cfg = learner.loss
    assert rows.advantages_BT is not None and rows.old_logprobs_BT is not None
    chosen_BT = rows.mask_BT != 0
    scored_BT = torch.zeros_like(chosen_BT)
    if rows.score_row is not None:
        scored_BT[rows.score_row, rows.score_at] = True
    both_BT = chosen_BT | scored_BT
    logp_N, logits_NV = learner._token_logprobs(rows, both_BT)
    logp_BT = scatter(logp_N, both_BT)
    loss_BT, stats = policy_loss(
        logp_BT,
        rows.old_logprobs_BT,
        rows.advantages_BT,
        cfg.epsilon,
        cfg.epsilon_high,
        cfg.dual_clip,
    )
    entropy = scatter(entropy_BT(logits_NV[None])[0], both_BT)
    loss_BT = loss_BT - cfg.entropy_coef * entropy if cfg.entropy_coef else loss_BT
    measured = {
        "entropy": mean_over(entropy.detach(), rows, counts),
        "clip_ratio/low_mean": mean_over(stats["clipped_low_BT"], rows, counts),
        "clip_ratio/high_mean": mean_over(stats["clipped_high_BT"], rows, counts),
        "sampling/sampling_logp_difference/mean": mean_over(
            (logp_BT.detach() - rows.old_logprobs_BT).abs(), rows, counts
        ),
    }
    measured["clip_ratio/region_mean"] = (
        measured["clip_ratio/low_mean"] + measured["clip_ratio/high_mean"]
    )
    if rows.ref_logprobs_BT is not None:
        kl_BT = kl_penalty(logp_BT, rows.ref_logprobs_BT, cfg.kl_estimator)
        measured["kl"] = mean_over(kl_BT.detach(), rows, counts)
        loss_BT = loss_BT + cfg.beta * kl_BT
    loss = aggregate(loss_BT, rows.mask_BT, cfg.loss_type, counts[cfg.loss_type])
    if rows.score_row is not None:
        loss = loss + score_objective(rows, both_BT, logits_NV) / counts["score"]
    return loss, measured


def score_objective(rows: Rows, both_BT: Tensor, logits_NV: Tensor) -> Tensor:
    """Sum over the score tokens of minus the expected reward."""
    assert (
        rows.score_row is not None and rows.score_ids is not None and rows.score_rewards is not None
    )
    index_BT = scatter(torch.arange(len(logits_NV), device=logits_NV.device), both_BT)
    at_N = index_BT[rows.score_row, rows.score_at]
    return expected_score_loss(logits_NV[at_N], rows.score_ids, rows.score_rewards).sum()


def value(learner: Learner, rows: Rows, counts: Totals) -> tuple[Tensor, dict[str, Tensor]]:
    """Value-head regression at the masked prefixes."""
    assert rows.targets_BT is not None and isinstance(learner.model, ValueModel)
    outputs_BTK = learner.model(rows.ids_BT)[:, :-1]
    loss_BT = value_loss(outputs_BTK, rows.targets_BT[:, 1:], learner.head or "")
    return aggregate(loss_BT, rows.mask_BT[:, 1:], "token", counts["token"]), {}


def mean_over(x_BT: Tensor, rows: Rows, counts: Totals) -> Tensor:
    """This micro-batch's share of the mean over all trained tokens of the mini-batch."""
    return (x_BT.float() * (rows.mask_BT != 0)).sum() / counts["token"]


LOSSES: dict[str, Callable[[Learner, Rows, Totals], tuple[Tensor, dict[str, Tensor]]]] = {
    "sft": sft_loss,
    "policy": policy,
    "value": value,
}
