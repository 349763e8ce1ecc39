"""Samples at a Tinker service.

Every request is a call of its own with its own seed, so that no completion depends on its
neighbours. Probabilities of named tokens take a second call, which reads prompt and completion.

Shapes: _T token of the completion, _W watched token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from genac.distributed.tinker.account import Account
from genac.distributed.tinker.adapter import Adapter
from genac.distributed.tinker.dialects import Dialect
from genac.distributed.tinker.service import sdk
from genac.engines.base import Completion, Request, require_servable
from genac.pieces import Pieces

SEEDS = 2**31  # the API's seeds are signed integers of 32 bits
# A reading call adds a token to what it reads, and must be let write one.
RESERVED = 2


class TinkerEngine:
    """Samples with the newest saved weights of an adapter."""

    answers_probes = True

    def __init__(
        self,
        adapter: Adapter,
        tokenizer: Any,
        dialect: Dialect,
        account: Account,
        vocabulary: int,
        max_length: int,
    ) -> None:
        self.adapter, self.tokenizer, self.dialect = adapter, tokenizer, dialect
        self.account, self.vocabulary, self.max_length = account, vocabulary, max_length
        self.version = 0
        self._pieces = Pieces(tokenizer.decode)
        self._client: Any = None

    @property
    def processed_tokens(self) -> int:
        return self.account.prefilled + self.account.sampled

    def publish(self, model: Any, version: int) -> None:
        """Samples from now on with the adapter's present weights."""
        del model  # the service has it
        self._client = self.adapter.sampler()
        self.version = version

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """As the protocol says; ValueError on a prompt beyond the context."""
        for request in requests:
            self._check(request)
        futures = [self._sample(request) for request in requests]
        done = [self._completion(r, f) for r, f in zip(requests, futures, strict=True)]
        return self._with_probs(requests, done) if self.dialect.named_probs else done

    def _check(self, request: Request) -> None:
        require_servable(request, self.vocabulary, self.max_length)
        if request.token_prob_ids and request.temperature not in (0.0, 1.0):
            raise ValueError(
                f"a Tinker service names probabilities at temperature 1 only, not at "
                f"{request.temperature}"
            )

    def _sample(self, request: Request) -> Any:
        types = sdk().types
        stop: list[Any] = list(request.stop_ids)
        if request.stop:  # the API mixes no ids with strings
            stop = [*request.stop, *(self.tokenizer.decode([i]) for i in request.stop_ids)]
        params = types.SamplingParams(
            max_tokens=request.max_new_tokens,
            seed=request.seed % SEEDS,
            temperature=request.temperature,
            top_p=request.top_p,
            stop=stop,
        )
        return self._sampler.sample(types.ModelInput.from_ints(list(request.prompt_ids)), 1, params)

    @property
    def _sampler(self) -> Any:
        """Of the newest published weights; at first of those that there are."""
        if self._client is None:
            self.publish(None, self.version)
        # Asked for older weights, such a server may put them in the place of the trained ones.
        assert self.knows_published, "publish what was trained before sampling with it"
        return self._client

    @property
    def knows_published(self) -> bool:
        """Whether the server can still sample with what was published last."""
        return self.dialect.snapshots or not self.adapter.unpublished

    def prompt_probs(self, ids: tuple[int, ...]) -> np.ndarray:
        """(T - 1,) probabilities of all tokens but the first; NaN where they are not to be had."""
        if not self.knows_published:
            return np.full(len(ids) - 1, np.nan, np.float32)
        prompt = sdk().types.ModelInput.from_ints(list(ids))
        future = self._sampler.compute_logprobs(prompt)
        logprobs = self.adapter.service.wait(future, f"a probe of the {self.adapter.role}")
        self.account.prefilled += len(ids)
        return np.exp(np.array([x for x in logprobs if x is not None], np.float32))

    def _completion(self, request: Request, future: Any) -> Completion:
        response = self._wait(future, request.prompt_ids)
        (sequence,) = response.sequences
        ids = tuple(int(i) for i in sequence.tokens)
        self.account.sampled += len(ids)
        logprobs = np.asarray(sequence.logprobs, np.float32)
        end = self._end(request, ids)
        stopped = end is not None or str(sequence.stop_reason) == "stop"
        return Completion(ids[:end], logprobs[:end], "stop" if stopped else "length")

    def _wait(self, future: Any, ids: Sequence[int]) -> Any:
        response = self.adapter.service.wait(future, f"a sample of the {self.adapter.role}")
        self.account.prefilled += len(ids)
        self.account.cached += getattr(response, "prompt_cache_hit_tokens", 0) or 0
        return response

    def _end(self, request: Request, ids: tuple[int, ...]) -> int | None:
        """Tokens up to what ends the request, where a server went on behind it; None = all."""
        text = ""
        pieces = self._pieces.of(ids) if request.stop else [""] * len(ids)
        for place, token in enumerate(ids):
            text += pieces[place]
            if token in request.stop_ids or any(string in text for string in request.stop):
                return place + 1
            lines = request.line_ids
            if place and ids[place - 1] in lines and token not in lines:
                return place + 1
        return None

    def _with_probs(self, requests: Sequence[Request], done: list[Completion]) -> list[Completion]:
        """Probabilities of the watched tokens at every place, and behind the probed token."""
        readings = []
        for place, (request, completion) in enumerate(zip(requests, done, strict=True)):
            prompt, ids, tokens = request.prompt_ids, completion.ids, request.token_prob_ids
            if not tokens or not ids:
                continue
            read = partial(self._read, tokens=tokens)
            readings.append((place, "token_probs", *read((*prompt, *ids), len(ids))))
            if (probe := request.probe(ids) if request.probe else None) is not None:
                at, token = probe
                # The last token only makes a place of which the distribution is known.
                probed = (*prompt, *ids[:at], token, token)
                readings.append((place, "probe_probs", *read(probed, 1)))
        for place, name, ids, future in readings:
            count = len(done[place].ids) if name == "token_probs" else 1
            logprobs = self._wait(future, ids).target_prompt_logprobs.to_torch()[-count:]
            probs_TW = logprobs.exp().numpy().astype(np.float32)
            done[place] = replace(
                done[place], **{name: probs_TW if name == "token_probs" else probs_TW[0]}
            )
        return done

    def _read(self, ids: tuple[int, ...], count: int, *, tokens: Sequence[int]) -> tuple[Any, Any]:
        """Asks for the log-probabilities of `tokens` at the last `count` places of `ids`."""
        types = sdk().types
        targets = torch.full((len(ids) - 1, len(tokens)), -1, dtype=torch.int64)
        targets[-count:] = torch.tensor(list(tokens))
        self.account.sampled += 1  # a call must write a token
        future = self._sampler.sample(
            types.ModelInput.from_ints(list(ids)),
            1,
            types.SamplingParams(max_tokens=1, seed=0),
            target_prompt_logprobs=types.TensorData.from_torch_sparse(targets, pad_value=-1),
        )
        return ids, future
