"""The embedded default engine: samples in process from a transformers model.

Rows are left-padded to a common length and advance together; finished rows leave the batch. The
Llama / Qwen family runs on the preallocated decoder, every other architecture on transformers' own
forward.

Shapes: _B row, _T position, _V vocabulary, _W watched token.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from genac.engines.base import Completion, Request
from genac.engines.decoder import Decoder

COMPACT_BELOW = 0.7  # drop finished rows once fewer than this fraction of rows is still writing


class LocalEngine:
    """Engine over a model in this process; `publish` copies its weights."""

    def __init__(
        self,
        model: Any,
        max_length: int,
        max_rows: int = 512,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.max_length, self.max_rows, self.version = max_length, max_rows, 0
        self.device = next(model.parameters()).device
        self.pad_id = getattr(model.config, "pad_token_id", None) or 0
        if Decoder.supports(model):
            self.steps: DecoderSteps | ForwardSteps = DecoderSteps(
                Decoder(model, dtype or next(model.parameters()).dtype)
            )
        else:
            warnings.warn(
                f"architecture {model.config.model_type!r} has no fast decoder; "
                "sampling through its transformers forward, which is slower",
                stacklevel=2,
            )
            self.steps = ForwardSteps(model)

    def publish(self, model: Any, version: int) -> None:
        self.steps.load(model)
        self.version = version

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        for request in requests:
            self._check(request)
        # Requests of similar length share a batch; order is restored at the end.
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        results: dict[int, Completion] = {}
        for low in range(0, len(order), self.max_rows):
            chunk = order[low : low + self.max_rows]
            done = Batch([requests[i] for i in chunk], self.steps, self.device, self.pad_id).run()
            results.update(zip(chunk, done, strict=True))
        return [results[i] for i in range(len(requests))]

    def _check(self, request: Request) -> None:
        if not request.prompt_ids:
            raise ValueError("an empty prompt cannot be continued; give at least one token")
        if request.max_new_tokens < 1:
            raise ValueError(
                f"max_new_tokens is {request.max_new_tokens}; ask for at least one token"
            )
        needed = len(request.prompt_ids) + request.max_new_tokens
        if needed > self.max_length:
            raise ValueError(
                f"prompt of {len(request.prompt_ids)} tokens + {request.max_new_tokens} new "
                "tokens = "
                f"{needed} exceeds the context of {self.max_length}; shorten the prompt, lower the "
                "completion limit or use a model with a longer context"
            )


class Batch:
    """One left-padded batch on its way from prompts to completions."""

    def __init__(
        self, requests: list[Request], steps: DecoderSteps | ForwardSteps, device, pad: int
    ) -> None:
        self.requests, self.steps, self.device = requests, steps, device
        self.width = max(len(r.prompt_ids) for r in requests)
        self.limit = max(r.max_new_tokens for r in requests)
        self.pad_B = torch.tensor([self.width - len(r.prompt_ids) for r in requests], device=device)
        rows = [(pad,) * (self.width - len(r.prompt_ids)) + r.prompt_ids for r in requests]
        self.ids_BT = torch.tensor(rows, device=device)
        self.uniform_BT = torch.tensor(
            np.stack(
                [np.random.Generator(np.random.Philox(r.seed)).random(self.limit) for r in requests]
            ),
            dtype=torch.float32,
            device=device,
        )
        self.temperature_B = torch.tensor([r.temperature for r in requests], device=device)
        self.top_p_B = torch.tensor([r.top_p for r in requests], device=device)
        self.max_new_B = torch.tensor([r.max_new_tokens for r in requests], device=device)
        self.stop_BS = ragged([r.stop_ids for r in requests], -1, device)
        self.watch_BW = ragged([r.watch_ids for r in requests], 0, device)

    def run(self) -> list[Completion]:
        rows = len(self.requests)
        tokens = torch.zeros((rows, self.limit), dtype=torch.long, device=self.device)
        logprobs = torch.zeros((rows, self.limit), device=self.device)
        watched = torch.zeros((rows, self.limit, self.watch_BW.shape[1]), device=self.device)
        length = torch.zeros(rows, dtype=torch.long, device=self.device)
        stopped = torch.zeros(rows, dtype=torch.bool, device=self.device)
        live = torch.arange(
            rows, device=self.device
        )  # original row of each row of the running batch
        finished = torch.zeros(rows, dtype=torch.bool, device=self.device)
        logits = self.steps.start(self.ids_BT, self.pad_B, self.width + self.limit)
        for t in range(self.limit):
            self._require_finite(logits, live, finished)
            token, logprob, watch = self._sample(logits, live, t)
            tokens[live, t], logprobs[live, t], watched[live, t] = token, logprob, watch
            length[live] = torch.where(finished, length[live], t + 1)
            hit_stop = (token[:, None] == self.stop_BS[live]).any(-1) & ~finished
            stopped[live] |= hit_stop
            finished = finished | hit_stop | (self.max_new_B[live] <= t + 1)
            running = int((~finished).sum())
            if running == 0:
                break
            if running < COMPACT_BELOW * len(live):
                keep = (~finished).nonzero()[:, 0]
                live, token, finished = live[keep], token[keep], finished[keep]
                self.steps.keep(keep)
            logits = self.steps.advance(token)
        return self._completions(tokens, logprobs, watched, length, stopped)

    def _sample(self, logits_BV: Tensor, live: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inverse-CDF sampling with one uniform per row: cheap, and independent of the batch."""
        temperature = self.temperature_B[live, None]
        logp_BV = torch.log_softmax(logits_BV / torch.where(temperature > 0, temperature, 1.0), -1)
        watch_BW = logp_BV.gather(-1, self.watch_BW[live]).exp()
        p_BV = logp_BV.exp()
        if bool((self.top_p_B < 1).any()):
            p_BV = nucleus(p_BV, self.top_p_B[live, None])
        cdf_BV = p_BV.cumsum(-1)
        mass_B1 = cdf_BV[:, -1:]
        # A uniform number may round to 1; kept below the mass it cannot fall on a token of no mass.
        below_B1 = torch.nextafter(mass_B1, torch.zeros_like(mass_B1))
        u_B1 = torch.minimum(self.uniform_BT[live, t, None] * mass_B1, below_B1)
        token_B = torch.searchsorted(cdf_BV, u_B1, right=True)[:, 0].clamp(max=p_BV.shape[-1] - 1)
        token_B = torch.where(temperature[:, 0] > 0, token_B, logits_BV.argmax(-1))
        return token_B, logp_BV.gather(-1, token_B[:, None])[:, 0], watch_BW

    def _require_finite(self, logits_BV: Tensor, live: Tensor, finished: Tensor) -> None:
        bad = ~torch.isfinite(logits_BV).all(-1) & ~finished
        if bool(bad.any()):
            row = int(live[bad.nonzero()[0, 0]])
            head = self.requests[row].prompt_ids[:8]
            raise FloatingPointError(
                f"non-finite logits for the request whose prompt starts with tokens {head}; the "
                "weights "
                "have diverged: lower the learning rate or resume an earlier checkpoint"
            )

    def _completions(self, tokens, logprobs, watched, length, stopped) -> list[Completion]:
        tokens, logprobs, watched = tokens.tolist(), logprobs.cpu().numpy(), watched.cpu().numpy()
        return [
            Completion(
                ids=tuple(tokens[row][:n]),
                logprobs=logprobs[row, :n].copy(),
                finish="stop" if stop else "length",
                watched=watched[row, :n, : len(self.requests[row].watch_ids)].copy(),
            )
            for row, (n, stop) in enumerate(zip(length.tolist(), stopped.tolist(), strict=True))
        ]


class DecoderSteps:
    """The preallocated decoder behind a batch."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def load(self, model: Any) -> None:
        self.decoder.load(model)

    def start(self, ids_BT: Tensor, pad_B: Tensor, total: int) -> Tensor:
        rows, width = ids_BT.shape
        self.cache, self.at, self.pad_B = self.decoder.allocate(rows, total), width, pad_B
        slot = torch.arange(total, device=ids_BT.device)
        self.hidden_BT = torch.zeros((rows, total), dtype=self.decoder.dtype, device=ids_BT.device)
        self.hidden_BT.masked_fill_(slot < pad_B[:, None], float("-inf"))
        causal = torch.triu(torch.full((width, width), float("-inf"), device=ids_BT.device), 1)
        mask = (causal + self.hidden_BT[:, None, :width]).to(self.decoder.dtype)
        # A padded query sees nothing; let it see itself so that its softmax is defined (never
        # read).
        mask.diagonal(dim1=1, dim2=2).zero_()
        position_BT = (slot[:width] - pad_B[:, None]).clamp(min=0)
        return self.decoder.forward(ids_BT, position_BT, self.cache, 0, mask[:, None, None])

    def keep(self, rows: Tensor) -> None:
        # Only the slots already written are copied.
        kept = self.decoder.allocate(len(rows), self.cache.shape[-2])
        kept[..., : self.at, :] = self.cache[:, :, rows, :, : self.at]
        self.cache, self.pad_B, self.hidden_BT = kept, self.pad_B[rows], self.hidden_BT[rows]

    def advance(self, token_B: Tensor) -> Tensor:
        position_B1 = (self.at - self.pad_B)[:, None]
        mask = self.hidden_BT[:, None, None, None, : self.at + 1]
        logits = self.decoder.forward(token_B[:, None], position_B1, self.cache, self.at, mask)
        self.at += 1
        return logits


class ForwardSteps:
    """transformers' own forward behind a batch, for architectures without a fast decoder."""

    def __init__(self, model: Any) -> None:
        self.load(model)

    def load(self, model: Any) -> None:
        self.model = copy.deepcopy(model)  # the learner goes on changing its own

    def start(self, ids_BT: Tensor, pad_B: Tensor, total: int) -> Tensor:
        del total
        self.model.eval()
        slot = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        self.visible_BT = (slot >= pad_B[:, None]).long()
        self.position_B = ids_BT.shape[1] - pad_B
        self.cache = DynamicCache(config=self.model.config)
        return self._forward(ids_BT, (slot - pad_B[:, None]).clamp(min=0))

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.visible_BT, self.position_B = self.visible_BT[rows], self.position_B[rows]

    def advance(self, token_B: Tensor) -> Tensor:
        self.visible_BT = torch.cat([self.visible_BT, self.visible_BT.new_ones(len(token_B), 1)], 1)
        logits = self._forward(token_B[:, None], self.position_B[:, None])
        self.position_B = self.position_B + 1
        return logits

    def _forward(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        out = self.model(
            input_ids=ids_BT,
            attention_mask=self.visible_BT,
            position_ids=position_BT,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()


def ragged(rows: list[tuple[int, ...]], fill: int, device: Any) -> Tensor:
    """A (B, longest) tensor of the rows, filled up on the right; at least one column wide."""
    width = max(1, *(len(r) for r in rows))
    return torch.tensor([tuple(r) + (fill,) * (width - len(r)) for r in rows], device=device)


def nucleus(p_BV: Tensor, top_p_B1: Tensor) -> Tensor:
    """Zeroes the tail beyond cumulative probability top_p (the most likely token always stays)."""
    sorted_p, index = p_BV.sort(-1, descending=True)
    sorted_p = sorted_p.masked_fill(sorted_p.cumsum(-1) - sorted_p >= top_p_B1, 0.0)
    return torch.zeros_like(p_BV).scatter(-1, index, sorted_p)
