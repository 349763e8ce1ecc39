"""The sampling loop: rows are drawn from together, leave when they end, and make room for others.

Shapes: _B running row, _N request, _T position, _V vocabulary, _W watched token, _S stop token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from genac.engines.base import Completion, Request
from genac.native.decode import Draws
from genac.prefixes import Tree
from genac.runs.activity import Part, counted

TOKENS_PER_CALL = 128  # tokens per call at most: an interruption waits for its end
REFILL_BELOW = 0.7  # rows leave and enter once fewer than this fraction is still writing


class ModelRunner(Protocol):
    """The model behind a batch."""

    can_refill: bool  # whether rows may enter while others are being written
    can_rewind: bool  # whether a row may forget the last tokens it read
    can_decode_many: bool  # whether many tokens can be written in one call

    def prefill(self, trees: Sequence[Tree], room: int) -> Tensor:
        """Reads prompts; logits (new rows, V) in the order of the trees' members."""
        ...

    def select(self, rows: Tensor) -> None:
        """Drops all other rows."""
        ...

    def decode_step(self, token_B: Tensor, back_B: Tensor | None = None) -> Tensor:
        """Writes one token per row; logits (B, V) of the next.
        Rows with `back_B` > 0 read it as if that many of their last tokens were not there; they are
        dropped afterwards.
        """
        ...

    def decode_many(self, token_B: Tensor, draws: Draws, steps: int) -> Tensor:
        """Up to `steps` tokens for every row that has not ended; the newest token of every row."""
        ...


class Batch:
    """All requests of one call; at most `max_rows` of them run at a time."""

    def __init__(
        self,
        requests: Sequence[Request],
        runner: ModelRunner,
        max_rows: int,
        device: torch.device,
        stops: StopStrings | None = None,
    ) -> None:
        self.requests, self.runner, self.max_rows, self.device = requests, runner, max_rows, device
        self.stops = stops
        count, limit = len(requests), max(r.max_new_tokens for r in requests)
        of = lambda values: torch.tensor(values, device=device)  # noqa: E731
        self.temperature_N = of([float(r.temperature) for r in requests])
        # The likeliest token is the likeliest of its nucleus too.
        top_p = [float(r.top_p) if r.temperature > 0 else 1.0 for r in requests]
        self.top_p_N = of(top_p)
        self.limit_N = of([r.max_new_tokens for r in requests])
        self.stop_NS = ragged([r.stop_ids for r in requests], -1, device)
        self.line_NS = ragged([r.line_ids for r in requests], -1, device)
        self.token_prob_NW = ragged([r.token_prob_ids for r in requests], 0, device)
        self.narrow = any(p < 1 for p in top_p)
        self.greedy = any(r.temperature == 0 for r in requests)
        draws = [np.random.Generator(np.random.Philox(r.seed)).random(limit + 1) for r in requests]
        self.uniform_NT = of(np.stack(draws).astype(np.float32))
        # One column more than is ever read: rows that ended write there until they leave.
        self.tokens_NT = torch.zeros((count, limit + 1), dtype=torch.long, device=device)
        self.logprobs_NT = torch.zeros((count, limit + 1), device=device)
        self.entropies_NT = torch.zeros_like(self.logprobs_NT)
        self.token_probs_NTW = torch.zeros(
            (*self.tokens_NT.shape, self.token_prob_NW.shape[1]), device=device
        )
        self.probes = runner.can_rewind and any(r.probe is not None for r in requests)
        self.trying, self.probe_probs = False, dict[int, np.ndarray]()
        self.length_N = torch.zeros(count, dtype=torch.long, device=device)
        self.stopped_N = torch.zeros(count, dtype=torch.bool, device=device)
        self.live_B = self.length_N[:0]  # the request of each running row
        self.ended_B = self.stopped_N[:0]
        self.back_B = self.length_N[:0]  # tokens behind the probe that a row is trying, -1 = none

    def run(self, trees: Sequence[Tree]) -> list[Completion]:
        with counted("sequences", len(self.requests)) as part:
            return self._run(deque(trees), part)

    def _run(self, waiting: deque[Tree], part: Part) -> list[Completion]:
        logits = self._prefill(waiting)
        while True:
            token = self._write(logits)
            if (
                self.runner.can_decode_many
                and self.stops is None
                and not self.narrow
                and not self.trying
            ):
                token = self._decode_many(token)
            running = int((~self.ended_B).sum())
            part.reach(len(self.requests) - running - sum(tree.rows for tree in waiting))
            if not running and not waiting:
                return self._completions()
            if self._should_refill(running, waiting):
                logits = self._refill(token, running, waiting)
            else:
                logits = self._decode_step(token)

    def _decode_many(self, token_B: Tensor) -> Tensor:
        """As many tokens as one call may write; the newest of every row."""
        live = self.live_B[~self.ended_B]
        if not len(live):
            return token_B
        steps = min(TOKENS_PER_CALL, int((self.limit_N - self.length_N)[live].max()))
        draws = Draws(
            *(self.live_B, self.limit_N, self.stop_NS, self.line_NS, self.token_prob_NW),
            *(self.temperature_N, self.uniform_NT, self.tokens_NT, self.length_N),
            *(self.logprobs_NT, self.entropies_NT, self.token_probs_NTW),
            *(self.stopped_N, self.ended_B),
        )
        ended_B = self.ended_B.clone()
        try:
            token_B = self.runner.decode_many(token_B, draws, steps)
        except FloatingPointError as error:
            raise self._diverged(error.args[1]) from None
        return self._probe(token_B, ended_B) if self.probes else token_B

    def _should_refill(self, running: int, waiting: deque[Tree]) -> bool:
        if running < REFILL_BELOW * len(self.live_B):
            return True
        return self._enters(running, waiting) and running < REFILL_BELOW * self.max_rows

    def _enters(self, running: int, waiting: deque[Tree]) -> bool:
        """Whether the next tree may enter; into an empty batch even one that is too large."""
        if not waiting or not running:
            return bool(waiting)
        return self.runner.can_refill and running + waiting[0].rows <= self.max_rows

    def _refill(self, token_B: Tensor, running: int, waiting: deque[Tree]) -> Tensor:
        """Rows that ended leave, waiting ones enter; logits of all that now run."""
        keep = (~self.ended_B).nonzero()[:, 0]
        self.live_B, self.ended_B = self.live_B[keep], self.ended_B[keep]
        self.back_B = self.back_B[keep]
        self.runner.select(keep)
        logits = [self._decode_step(token_B[keep])] if running else []
        if self._enters(running, waiting):
            logits.append(self._prefill(waiting))
        return torch.cat(logits)

    def _prefill(self, waiting: deque[Tree]) -> Tensor:
        """Lets in as many trees as there is room for, and at least one."""
        chosen = [waiting.popleft()]
        rows = len(self.live_B) + chosen[0].rows
        while waiting and rows + waiting[0].rows <= self.max_rows:
            chosen.append(waiting.popleft())
            rows += chosen[-1].rows
        members = [m for tree in chosen for suffix in tree.suffixes for m in suffix.members]
        entered = torch.tensor(members, dtype=torch.long, device=self.device)
        self.live_B = torch.cat([self.live_B, entered])
        self.ended_B = torch.cat([self.ended_B, torch.zeros_like(entered, dtype=torch.bool)])
        self.back_B = torch.cat([self.back_B, torch.full_like(entered, -1)])
        return self.runner.prefill(chosen, int((self.limit_N - self.length_N)[self.live_B].max()))

    def _decode_step(self, token_B: Tensor) -> Tensor:
        back_B = self.back_B.clamp(min=0) if self.trying else None
        return self.runner.decode_step(token_B, back_B)

    def _write(self, logits_BV: Tensor) -> Tensor:
        """Draws a token per row and records it where the row has not ended."""
        live, ended = self.live_B, self.ended_B
        if self.trying:
            ended = ended | (self.back_B >= 0)
        self._require_finite(logits_BV)
        at = self.length_N[live]
        token = self._draw(logits_BV, live, at)
        self.tokens_NT[live, at] = token
        hit = (token[:, None] == self.stop_NS[live]).any(-1)
        if self.line_NS.shape[1]:
            line_BS, before = self.line_NS[live], self.tokens_NT[live, (at - 1).clamp(min=0)]
            follows = (at > 0) & (before[:, None] == line_BS).any(-1)
            hit |= follows & ~(token[:, None] == line_BS).any(-1)
        if self.stops is not None:
            hit |= self.stops.hit(self, token)
        hit &= ~ended
        self.stopped_N[live] |= hit
        at = at + (~ended).long()
        self.length_N[live] = at
        self.ended_B = ended | hit | (at >= self.limit_N[live])
        return self._probe(token, ended) if self.probes else token

    def _probe(self, token_B: Tensor, before_B: Tensor) -> Tensor:
        """Tokens to read next. A row that has just ended (it had not `before_B`) may stay for one
        more, which it reads in the place of what it wrote there; one that did so is done.
        """
        if self.trying:
            for row in (self.back_B >= 0).nonzero()[:, 0].tolist():
                index = int(self.live_B[row])
                token_probs = self.token_probs_NTW[index, self.length_N[index]].cpu().numpy().copy()
                self.probe_probs[index] = token_probs[: len(self.requests[index].token_prob_ids)]
            self.back_B = torch.full_like(self.back_B, -1)
            self.trying = False
        for row in (self.ended_B & ~before_B).nonzero()[:, 0].tolist():
            index = int(self.live_B[row])
            ids = tuple(self.tokens_NT[index, : self.length_N[index]].tolist())
            probe = self.requests[index].probe
            result = probe(ids) if probe is not None else None
            if result is not None:
                place, token_B[row] = result
                self.back_B[row] = len(ids) - 1 - place
                self.ended_B[row], self.trying = False, True
        return token_B

    def _draw(self, logits_BV: Tensor, live: Tensor, at: Tensor) -> Tensor:
        """Inverse-CDF sampling with one uniform per row: cheap, and independent of the batch."""
        temperature = self.temperature_N[live, None]
        if self.greedy:
            temperature = torch.where(temperature > 0, temperature, 1.0)
        logp_BV = torch.log_softmax(logits_BV / temperature, -1)
        p_BV = logp_BV.exp()
        self.token_probs_NTW[live, at] = p_BV.gather(-1, self.token_prob_NW[live])
        if self.narrow:  # what follows is of what is drawn from
            top_p = self.top_p_N[live, None]
            p_BV = nucleus(p_BV, top_p)
            logp_BV = torch.where(top_p < 1, p_BV.log(), logp_BV)
        token = draw(p_BV, self.uniform_NT[live, at])
        if self.greedy:
            token = torch.where(self.temperature_N[live] > 0, token, logits_BV.argmax(-1))
        self.logprobs_NT[live, at] = logp_BV.gather(-1, token[:, None])[:, 0]
        # In place, for another (B, V) would cost as much as the sum. Of terms none is positive.
        terms_BV = logp_BV.mul_(p_BV)
        if self.narrow:  # 0 log 0 = 0
            terms_BV = terms_BV.nan_to_num_(nan=0.0)
        self.entropies_NT[live, at] = terms_BV.sum(-1).abs()
        return token

    def _require_finite(self, logits_BV: Tensor) -> None:
        # The sum is not finite if any entry is not, and costs one pass.
        bad = ~torch.isfinite(logits_BV.sum(-1)) & ~self.ended_B
        if bool(bad.any()):
            raise self._diverged(int(bad.nonzero()[0, 0]))

    def _diverged(self, row: int) -> FloatingPointError:
        index = int(self.live_B[row])
        return FloatingPointError(
            f"non-finite logits for request {index}, whose prompt starts with tokens "
            f"{self.requests[index].prompt_ids[:8]}; the weights have diverged: lower the "
            "learning rate or resume an earlier checkpoint"
        )

    def _completions(self) -> list[Completion]:
        tokens, stopped = self.tokens_NT.tolist(), self.stopped_N.tolist()
        logprobs, entropies = self.logprobs_NT.cpu().numpy(), self.entropies_NT.cpu().numpy()
        token_probs = self.token_probs_NTW.cpu().numpy()
        return [
            Completion(
                ids=tuple(tokens[row][:length]),
                logprobs=logprobs[row, :length].copy(),
                finish="stop" if stopped[row] else "length",
                token_probs=token_probs[
                    row, :length, : len(self.requests[row].token_prob_ids)
                ].copy(),
                probe_probs=self.probe_probs.get(row),
                entropies=entropies[row, :length].copy(),
            )
            for row, length in enumerate(self.length_N.tolist())
        ]


class StopStrings:
    """Stop strings, looked for only in rows whose newest token could end one."""

    def __init__(
        self, requests: Sequence[Request], pieces: Sequence[str], decode: Callable, device: Any
    ) -> None:
        """pieces: the text of every token of the vocabulary; decode: token ids to text."""
        self.requests, self.decode = requests, decode
        ends = {string[-1] for request in requests for string in request.stop}
        self.longest = max(len(string) for request in requests for string in request.stop)
        # A character outside ASCII may be spread over tokens, and a space may belong to the token
        # after it: then every token could end one.
        anything = any(ord(end) > 127 or end.isspace() for end in ends)
        may = [anything or any(end in piece for end in ends) for piece in pieces]
        self.may_end_V = torch.tensor(may, device=device)

    def hit(self, batch: Batch, token_B: Tensor) -> Tensor:
        """Rows whose text, with the token just written, holds one of their stop strings."""
        hit = torch.zeros_like(batch.ended_B)
        for row in (self.may_end_V[token_B] & ~batch.ended_B).nonzero()[:, 0].tolist():
            index = int(batch.live_B[row])
            length = int(batch.length_N[index]) + 1
            # Tokens are at least one character long, or part of one.
            tail = batch.tokens_NT[index, max(0, length - 4 * self.longest) : length].tolist()
            text = self.decode(tail)
            hit[row] = any(string in text for string in self.requests[index].stop)
        return hit


def draw(p_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the cumulative distribution passes uniform x total mass."""
    cdf_BV = p_BV.cumsum(-1)
    mass_B1 = cdf_BV[:, -1:]
    # A uniform number may round to 1; kept below the mass it cannot fall on a token of no mass.
    below_B1 = torch.nextafter(mass_B1, torch.zeros_like(mass_B1))
    u_B1 = torch.minimum(uniform_B[:, None] * mass_B1, below_B1)
    return torch.searchsorted(cdf_BV, u_B1, right=True)[:, 0].clamp(max=p_BV.shape[-1] - 1)


def nucleus(p_BV: Tensor, top_p_B1: Tensor) -> Tensor:
    """The distribution without its tail beyond cumulative probability top_p (the most likely token
    always stays), summing to one; as it is where top_p is 1.
    """
    sorted_p, index = p_BV.sort(-1, descending=True)
    before = sorted_p.cumsum(-1, dtype=torch.float64) - sorted_p
    sorted_p = sorted_p.masked_fill((before >= top_p_B1) & (top_p_B1 < 1), 0.0)
    kept_BV = torch.zeros_like(p_BV).scatter(-1, index, sorted_p)
    return torch.where(top_p_B1 < 1, kept_BV / kept_BV.sum(-1, keepdim=True), p_BV)


def ragged(rows: list[tuple[int, ...]], fill: int, device: Any) -> Tensor:
    """A (B, longest) tensor of the rows, filled up on the right; at least one column wide."""
    width = max(1, *(len(r) for r in rows))
    return torch.tensor([tuple(r) + (fill,) * (width - len(r)) for r in rows], device=device)
