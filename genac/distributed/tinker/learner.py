"""Trains at a Tinker service. Losses are those of ops/objectives.py, as functions of the
log-probabilities that the service returns; gradients and moments are the service's.

A loss L of log-probabilities goes out as the weights -dL/dlogp of a cross-entropy, which has the
same gradient. A server that takes no such weights gets `importance_sampling` against its own
log-probabilities: at ratio 1 the gradient of -A ratio is -A, so the advantages are -dL/dlogp.

Shapes: _B sample, _T token of a sample, _N score, _K token that may stand there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genac.batching import Rows, pad, require_alike
from genac.config.models import LossConfig, OptimizerConfig
from genac.distributed.tinker.account import Account
from genac.distributed.tinker.adapter import Adapter
from genac.distributed.tinker.dialects import Dialect
from genac.distributed.tinker.service import sdk
from genac.learner import Totals, counts_of, over_minibatches
from genac.ops.objectives import LOSSES, Outputs
from genac.ops.schedule import learning_rate
from genac.runs.files import read_json
from genac.types import Sample

EPS = 1e-8  # as in our own AdamW; the service's default is 1e-12


class TinkerLearner:
    """The learner of one set of adapters."""

    def __init__(
        self,
        adapter: Adapter,
        cfg: OptimizerConfig,
        loss: LossConfig | None,
        dialect: Dialect,
        account: Account,
        decay_steps: int | None = None,
    ) -> None:
        self.adapter, self.cfg, self.loss = adapter, cfg, loss or LossConfig()
        self.dialect, self.account, self.decay_steps = dialect, account, decay_steps
        self.steps = 0  # optimiser steps taken, on which the learning rate depends

    @property
    def processed_tokens(self) -> int:
        return self.account.trained + self.account.forwarded

    def learn(self, samples: Sequence[Sample], seed: int) -> Totals:
        return over_minibatches(samples, seed, self.loss, self._minibatch)

    def _minibatch(self, samples: list[Sample]) -> Totals:
        """One optimiser step; FloatingPointError, before any weight is changed, where the loss is
        not finite.
        """
        require_alike(samples)
        assert all(s.temperature == 1 for s in samples), "log-probabilities are at temperature 1"
        totals: Totals = {}
        send = self._send_custom if self.dialect.any_loss else self._send_importance
        backward = send(samples, totals)
        # Asked for at once: a service that works in cycles does both in one.
        step = self.adapter.client.optim_step(self._adam())
        self.adapter.stepped()
        self._wait(backward)
        response = self._wait(step)
        tokens = sum(len(s.ids) - 1 for s in samples)
        self.account.trained += tokens
        self.account.forwarded += tokens  # the loss is made from a forward pass before
        self.steps += 1
        norm = gradient_norm(getattr(response, "metrics", None) or {})
        if norm is None:
            return totals
        if not np.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm {norm} at optimiser step {self.steps}: the service's weights are "
                "spoilt; lower the learning rate and resume the last checkpoint"
            )
        return totals | {"grad_norm": norm}

    def _send_custom(self, samples: list[Sample], totals: Totals) -> Any:
        """By the SDK, which differentiates a loss of ours of the log-probabilities."""

        def loss_of(_: Any, logprobs: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
            return self._objective(samples, logprobs, totals), {}

        data = [self._datum(s) for s in samples]
        return self.adapter.client.forward_backward_custom(data, loss_of)

    def _send_importance(self, samples: list[Sample], totals: Totals) -> Any:
        """As importance sampling against the log-probabilities of now, see above."""
        assert not any(s.scores for s in samples), "the engine named no probabilities"
        logprobs = [row.requires_grad_() for row in self._forward(samples)]
        self._objective(samples, logprobs, totals).backward()
        data = []
        for sample, row in zip(samples, logprobs, strict=True):
            assert row.grad is not None
            weights = np.ones(len(row), np.float32)
            # What a mean over a row's weights and over rows divides by.
            scale = 1 if self.dialect.sums else len(samples) * len(row)
            now = row.detach().numpy()
            streams = {"logprobs": now, "advantages": -scale * row.grad.numpy()}
            data.append(self._datum(sample, streams | {"weights": weights}))
        return self.adapter.client.forward_backward(data, "importance_sampling")

    def _objective(self, samples: list[Sample], logprobs: list[Tensor], totals: Totals) -> Tensor:
        """The loss, and in `totals` what was measured on the way."""
        rows = pad(samples)
        outputs = outputs_of(samples, rows, logprobs)
        compute = LOSSES[samples[0].loss].compute
        loss, measured = compute(outputs, rows, self.loss, counts_of(samples))
        totals |= {k: float(v) for k, v in {"loss": loss.detach(), **measured}.items()}
        if not np.isfinite(totals["loss"]):
            raise FloatingPointError(
                f"loss {totals['loss']} at optimiser step {self.steps}: lower the learning rate or "
                "resume an earlier checkpoint; no weight was changed"
            )
        return loss

    def _adam(self) -> Any:
        cfg = self.cfg
        return sdk().types.AdamParams(
            learning_rate=learning_rate(cfg, self.steps, self.decay_steps),
            beta1=cfg.adam_beta1,
            beta2=cfg.adam_beta2,
            eps=EPS,
            weight_decay=cfg.weight_decay,
            grad_clip_norm=cfg.max_grad_norm,
        )

    def _datum(self, sample: Sample, streams: Mapping[str, np.ndarray] | None = None) -> Any:
        """A sample as the API takes it: entry t is about the token behind input t."""
        types = sdk().types
        data = {name: types.TensorData.from_numpy(x) for name, x in (streams or {}).items()}
        targets = targets_of(sample)
        if targets.ndim == 1:
            data["target_tokens"] = types.TensorData.from_torch(targets)
        else:  # mostly 0: a token that no loss of ours looks at
            sparse = types.TensorData.from_torch_sparse
            data["target_tokens"] = sparse(targets)
            # The SDK makes these itself for dense targets only.
            data["weights"] = sparse(torch.zeros(targets.shape))
        model_input = types.ModelInput.from_ints(list(sample.ids[:-1]))
        return types.Datum(model_input=model_input, loss_fn_inputs=data)

    def _forward(self, samples: Sequence[Sample]) -> list[Tensor]:
        """(T - 1,) log-probabilities of each sample's tokens behind the first."""
        ones = [{"weights": np.ones(len(s.ids) - 1, np.float32)} for s in samples]
        data = [self._datum(s, one) for s, one in zip(samples, ones, strict=True)]
        result = self._wait(self.adapter.client.forward(data, "cross_entropy"))
        return [torch.tensor(o["logprobs"].data) for o in result.loss_fn_outputs]

    def _wait(self, future: Any) -> Any:
        return self.adapter.service.wait(future, f"a training request of the {self.adapter.role}")

    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        if not samples:
            return []
        plain = [without_scores(s) for s in samples]
        self.account.forwarded += sum(len(s.ids) - 1 for s in samples)
        rows = [np.r_[0.0, row.numpy()].astype(np.float32) for row in self._forward(plain)]
        return [
            np.where(s.weights != 0, row, np.float32(0))
            for s, row in zip(samples, rows, strict=True)
        ]

    def values(self, sequences: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        raise NotImplementedError("a Tinker service has no value heads")

    def save(self, file: Path) -> None:
        """Where weights and moments are, and what they cost so far."""
        path = self.adapter.save(self.steps)
        state = {"path": path, "steps": self.steps, "account": asdict(self.account)}
        Path(file).write_text(json.dumps(state))

    def load(self, file: Path) -> None:
        """Weights and moments."""
        state = read_json(Path(file))
        self.adapter.restore(state["path"])
        self.steps = state["steps"]
        self.account.add(state["account"])


def without_scores(sample: Sample) -> Sample:
    """The sample with one target at each position."""
    return Sample(**{**vars(sample), "scores": ()}) if sample.scores else sample


def targets_of(sample: Sample) -> Tensor:
    """(T - 1,) the tokens behind the first or, with exact scores, (T - 1, K): at a score those that
    may stand there, elsewhere the token itself in the first column.
    """
    ids = torch.tensor(sample.ids[1:])
    if not sample.scores:
        return ids
    targets = torch.zeros(len(ids), max(len(one.ids) for one in sample.scores), dtype=torch.int64)
    trained = torch.from_numpy(sample.weights[1:] != 0)
    targets[trained, 0] = ids[trained]
    for one in sample.scores:
        targets[one.at - 1, : len(one.ids)] = torch.tensor(one.ids)
    return targets


def outputs_of(samples: Sequence[Sample], rows: Rows, logprobs: Sequence[Tensor]) -> Outputs:
    """What objectives read, from the log-probabilities of each sample's targets. No entropies."""
    width = rows.ids_BT.shape[1]
    first = [row if row.ndim == 1 else row[:, 0] for row in logprobs]
    # Entry 0 is about a token that nothing predicts.
    own_BT = torch.stack([F.pad(row, (1, width - 1 - len(row))) for row in first])
    own_BT = torch.where(rows.weights_BT != 0, own_BT, 0.0)
    probs = [
        row[one.at - 1, : len(one.ids)].exp()
        for sample, row in zip(samples, logprobs, strict=True)
        for one in sample.scores
    ]
    return Outputs(own_BT, score_probs_NK=torch.stack(probs) if probs else None)


def gradient_norm(metrics: Mapping[str, float]) -> float | None:
    """The norm before clipping, where the server tells it."""
    return next((float(v) for name, v in metrics.items() if "grad_norm" in name), None)
