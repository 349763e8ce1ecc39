"""The learner: Samples in, one or more optimiser steps out. It knows no algorithm.

What a token contributes is written on the Sample (loss name, mask, streams); credit assignment and
the critics decide it, not this file. Losses divide by counts over the whole mini-batch, so results
do not depend on micro-batches.

Shapes: _B sample, _T token, _L token that the model reads, _N selected position, _M position of a
score, _V vocabulary, _K value-head output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genac.batching import Rows, build_microbatches, require_alike, rows_of
from genac.config.models import LossConfig, OptimizerConfig
from genac.models.heads import backbone, logits_at, plain_head
from genac.models.packed.attention import packs, tree_attention
from genac.models.packed.layers import fusable, fused
from genac.models.quiet import checkpoint_layers, quiet
from genac.ops.losses import values_of
from genac.ops.objectives import LOSSES, Outputs
from genac.ops.schedule import learning_rate
from genac.ops.tensors import head_statistics, scatter
from genac.types import Sample

Totals = dict[str, float]  # by the name of what was measured or counted


class LearnerProtocol(Protocol):
    """What loops, critics and checkpoints ask of a learner, wherever it runs."""

    @property
    def processed_tokens(self) -> int:
        """Read by the model so far; what samples share counts once."""
        ...

    def learn(self, samples: Sequence[Sample], seed: int) -> Totals:
        """Trains on the samples; returns means over tokens of what was measured on the way."""
        ...

    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """(T,) log-probabilities of each sample's tokens at its temperature, 0 where untrained."""
        ...

    def values(self, sequences: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """(T + 1,) values per sequence of T tokens; entry t is the value of the prefix ids[:t]."""
        ...

    def save(self, file: Path) -> None:
        """Writes the optimiser's state."""
        ...

    def load(self, file: Path) -> None:
        """Takes back what `save` wrote."""
        ...


class Learner:
    """A model and its AdamW, in this process. `head`: the kind of a ValueModel's head; None for a
    language model. `decay_steps`: the learning rate falls to a tenth over that many steps.
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
        self.model = model
        self.cfg = optimizer
        self.loss = loss or LossConfig()
        self.head = head
        self.bf16 = bf16
        self.decay_steps = decay_steps
        self.steps = 0  # optimiser steps taken, on which the learning rate depends
        self.processed_tokens = 0  # read by the model; what samples share counts once
        self.device = next(model.parameters()).device
        if optimizer.gradient_checkpointing:
            checkpoint_layers(getattr(model, "causal_lm", model))
        quiet(model)
        # Logits are computed at the trained tokens only, by the head alone. A model that scales,
        # caps or projects around its head is asked as a whole instead.
        self.plain = head is not None or self._call(lambda: plain_head(model))
        self.shares_prefixes = self.plain  # benchmarks and tests switch it off
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
        return over_minibatches(samples, seed, self.loss, self._minibatch)

    def _minibatch(self, samples: list[Sample]) -> Totals:
        require_alike(samples)
        return self.step_on(samples, counts_of(samples))

    def step_on(self, samples: Sequence[Sample], counts: Totals) -> Totals:
        """One optimiser step; every denominator is a count over the whole mini-batch.

        Raises FloatingPointError, before any weight is changed, where loss or gradient is not
        finite.
        """
        quiet(self.model)  # an evaluation in between may have left another mode
        totals: Totals = defaultdict(float)
        # None and not 0: AdamW then leaves untouched what no sample reaches, decay included.
        self.optimizer.zero_grad(set_to_none=True)
        for rows, _ in self._microbatches(samples):
            # The backward pass belongs inside: checkpointed layers attend again in it.
            with self._attention(rows):
                loss, measured = self._loss(samples[0].loss, rows, counts)
                if loss.requires_grad:  # nothing is trained in a micro-batch whose masks are all 0
                    loss.backward()
            # Shares of one mean (see counts_of), so micro-batches add up in any number.
            for key, value in {"loss": loss.detach(), **measured}.items():
                totals[key] += float(value)
        totals = self._whole(totals)
        # Before the check, which needs the norm: one gradient that is not finite makes it so.
        totals["grad_norm"] = self._clip()
        if not np.isfinite(totals["loss"]) or not np.isfinite(totals["grad_norm"]):
            raise FloatingPointError(
                f"loss {totals['loss']} / gradient norm {totals['grad_norm']} at optimiser step "
                f"{self.steps}: lower the learning rate or resume an earlier checkpoint; "
                "no weight was changed"
            )
        self._step()
        return dict(totals)

    def _whole(self, totals: Totals) -> Totals:
        """The sums over the whole mini-batch, of which this learner may have a part only."""
        return totals

    def _clip(self) -> float:
        """Limits the gradient's norm; returns what it was."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self.cfg.max_grad_norm))

    def _microbatches(self, samples: Sequence[Sample]) -> Iterator[tuple[Rows, list[int]]]:
        """Micro-batches on the device, each with the places of its samples."""
        sequences = [s.ids for s in samples]
        longest = max(map(len, sequences), default=0)
        packed = self.shares_prefixes and packs(self.model, longest)
        for microbatch in build_microbatches(
            sequences, self.cfg.tokens_per_microbatch, packed=packed
        ):
            rows = rows_of(samples, microbatch, packed=packed).to(self.device)
            self.processed_tokens += rows.tokens
            yield rows, [i for group in microbatch for i in group.members]

    def _step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.cfg, self.steps, self.decay_steps)
        self.optimizer.step()
        self.steps += 1

    def _loss(self, name: str, rows: Rows, counts: Totals) -> tuple[Tensor, dict[str, Tensor]]:
        objective = LOSSES[name]

        def compute() -> tuple[Tensor, dict[str, Tensor]]:
            if objective.reads == "values":
                out = Outputs(values_BTK=self.value_outputs(rows), head=self.head or "")
            else:
                out = self._token_outputs(rows)
            return objective.compute(out, rows, self.loss, counts)

        return self._call(compute)

    def _token_outputs(self, rows: Rows) -> Outputs:
        """Log-probabilities and entropies of the trained tokens, and logits at scores."""
        chosen_BT = rows.weights_BT != 0
        scores = None
        if rows.score_row is not None and rows.score_at is not None:
            scores = (rows.score_row, rows.score_at)
        logp_N, entropy_N, score_logits = self.predictions(rows, chosen_BT, scores)
        return Outputs(scatter(logp_N, chosen_BT), scatter(entropy_N, chosen_BT), score_logits)

    def _call(self, compute: Callable[[], Any]) -> Any:
        """Everything that asks the model passes here: a worker's learner gathers weights first."""
        with self._autocast():
            return compute()

    def _autocast(self) -> Any:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _attention(self, rows: Rows) -> Any:
        """Within it the model attends as the packed rows need, not as transformers would."""
        if rows.packed is None:
            return nullcontext()
        return tree_attention(self.model.base_model)

    def hidden(self, rows: Rows) -> Tensor:
        """Hidden states (L, hidden) of the tokens that the model reads."""
        base = backbone(getattr(self.model, "causal_lm", self.model))
        packed = rows.packed
        if packed is None:
            out = base(input_ids=rows.ids_BT, use_cache=False)
        elif fusable(base):
            return fused(base, packed.ids_L, packed.position_L, packed.plan)
        else:
            out = base(
                input_ids=packed.ids_L[None],
                position_ids=packed.position_L[None],
                use_cache=False,
                plan=packed.plan,
            )
        return out.last_hidden_state.flatten(0, 1)

    def predictions(
        self, rows: Rows, chosen_BT: Tensor, score_at: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities (N,) and entropies (N,) of the chosen tokens, and logits (M, V) that
        predict the tokens at `score_at` = (samples, places). Only these positions pass the LM head.
        """
        # Token t is predicted at position t - 1, so the first column of tokens and the last of
        # positions fall away.
        where_BT = chosen_BT[:, 1:]
        temperature_N = rows.temperature_B[where_BT.nonzero()[:, 0]]
        ids_N = rows.ids_BT[:, 1:][where_BT]
        at_N = rows.place_BT[:, :-1][where_BT]
        at_M = rows.place_BT[score_at[0], score_at[1] - 1] if score_at is not None else at_N[:0]
        if self.plain:
            hidden = self.hidden(rows)
            head = self.model.get_output_embeddings()
            read_N, read_M = hidden[at_N], hidden[at_M]
        else:
            logits = logits_at(self.model, rows.ids_BT, torch.cat([at_N, at_M]))
            read_N, read_M = logits[: len(at_N)], logits[len(at_N) :]
            head = torch.nn.Identity()  # these are logits already
        logp_N, entropy_N = head_statistics(
            read_N, head, ids_N, temperature_N, entropy_grad=self.loss.entropy_coef > 0
        )
        if score_at is None:
            return logp_N, entropy_N, None
        # The distribution that the score was drawn from, which is that at its temperature.
        return logp_N, entropy_N, head(read_M) / rows.temperature_B[score_at[0], None]

    @torch.no_grad()
    def logprobs(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """As the protocol says; one forward pass, without gradients."""

        def one(rows: Rows) -> Tensor:
            chosen_BT = rows.weights_BT != 0
            return scatter(self.predictions(rows, chosen_BT)[0], chosen_BT)

        return self._per_token(samples, one)

    @torch.no_grad()
    def values(self, sequences: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """As the protocol says. Entry 0, the value of no token at all, is not a number."""
        empty = [
            Sample(ids=ids, weights=np.zeros(len(ids), np.float32), loss="value")
            for ids in sequences
        ]
        rows = self._per_token(
            empty, lambda rows: values_of(self.value_outputs(rows), self.head or "")
        )
        return [np.concatenate([[np.nan], row]).astype(np.float32) for row in rows]

    def _per_token(
        self, samples: Sequence[Sample], compute: Callable[[Rows], Tensor]
    ) -> list[np.ndarray]:
        self.model.eval()
        out: list[np.ndarray] = [np.zeros(0)] * len(samples)
        for rows, members in self._microbatches(samples):
            with self._attention(rows):
                result = self._call(lambda rows=rows: compute(rows)).float().cpu().numpy()
            for row, index in enumerate(members):
                # A copy, or every row would keep its whole micro-batch in memory.
                out[index] = result[row, : len(samples[index].ids)].copy()
        return out

    def value_outputs(self, rows: Rows) -> Tensor:
        """(B, T, K); entry t is about the prefix ids[:, : t + 1]."""
        head = self.model.head
        hidden = self.hidden(rows).to(head.weight.dtype)
        # In bf16 neighbouring values near 1 are 0.004 apart, as much as many advantages.
        with torch.autocast(self.device.type, enabled=False) if self.bf16 else nullcontext():
            return head(hidden)[rows.place_BT]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def save(self, file: Path) -> None:
        torch.save(self.state_dict(), file)

    def load(self, file: Path) -> None:
        self.load_state_dict(torch.load(file, map_location=self.device, weights_only=True))


def over_minibatches(
    samples: Sequence[Sample],
    seed: int,
    loss: LossConfig,
    minibatch: Callable[[list[Sample]], Totals],
) -> Totals:
    """Epochs of shuffled mini-batches over the samples that train anything, each given to
    `minibatch`; means of what these measured.
    """
    # Entry 0 of a mask is never trained: nothing precedes it.
    samples = [s for s in samples if s.weights[1:].any() or s.scores]
    if not samples:
        return {}
    # From the step's own seed: a resumed run shuffles as the uninterrupted one would have.
    rng = np.random.default_rng(seed)
    sums: dict[str, list[float]] = defaultdict(list)
    for _ in range(loss.num_iterations):
        order = rng.permutation(len(samples))
        # Not more parts than samples: an empty one would be a step without a loss.
        for part in np.array_split(order, min(loss.num_minibatches, len(samples))):
            for key, value in minibatch([samples[i] for i in part]).items():
                sums[key].append(value)
    return {key: float(np.mean(values)) for key, values in sums.items()}


def counts_of(samples: Sequence[Sample]) -> Totals:
    """What the losses of a mini-batch divide by: trained tokens (at least 1, as it may hold exact
    scores alone) and sequences.
    """
    tokens = max(1.0, float(sum((s.weights[1:] != 0).sum() for s in samples)))
    return {"token": tokens, "sequence": float(len(samples))}
