"""A fork: what would have followed, had another token been written at one place of a completion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_models import FAST, SLOW, engine_of, forward_logprobs, in_double, random_model, same

from genac.engines import decoder, local, scheduler
from genac.engines.base import Request

WATCH = (6, 30, 7, 39)
CONTEXT = 128
FAMILIES = {**FAST, **SLOW}


def tries(token: int, back: int) -> Any:
    """At each completion's end: `token` in the place `back` before its last, where there is one."""

    def probe(ids: tuple[int, ...]) -> tuple[int, int] | None:
        return (len(ids) - 1 - back, token) if len(ids) > back else None

    return probe


def requests_of(probes: bool = True) -> list[Request]:
    """States of two responses and lone prompts; ends, temperatures and places of probes differ."""
    rng = np.random.default_rng(0)
    one, other = (tuple(rng.integers(5, 40, 40).tolist()) for _ in range(2))
    prompts = [(*r[:cut], 2, 3) for r in (one, other) for cut in (0, 9, 20, 40) for _ in range(2)]
    return [
        Request(
            prompt,
            max_new_tokens=1 + 5 * i % 13,
            seed=i,
            temperature=(1.0, 0.7, 0.0)[i % 3],
            stop_ids=(35, 12) if i % 2 else (),
            token_prob_ids=WATCH[: 1 + i % 4],
            probe=tries(5 + i, i % 4) if probes and i % 5 else None,
        )
        for i, prompt in enumerate([*prompts, (7,), (8, 9)])
    ]


def agree_with_transformers(model: Any, requests: list[Request], options: dict[str, Any]) -> None:
    exact, read = in_double(model), 0
    for request, done in zip(
        requests, engine_of(model, CONTEXT, **options).generate(requests), strict=True
    ):
        result = request.probe(done.ids) if request.probe else None
        assert (done.probe_probs is None) == (result is None)
        if result is None or done.probe_probs is None:
            continue
        place, token = result
        tried = (*done.ids[:place], token)
        # The reference wants a token behind the one whose prediction is read.
        logp = forward_logprobs(exact, request.prompt_ids, (*tried, 0), request.temperature or 1.0)
        np.testing.assert_allclose(
            done.probe_probs, np.exp(logp[-1, list(request.token_prob_ids)]), atol=1e-4
        )
        read += 1
    assert read >= 8


@pytest.mark.parametrize("inline", [0, 10_000])
@pytest.mark.parametrize("rows", [3, 512])
@pytest.mark.parametrize("tokens_per_call", [0, 2, 128])
def test_a_probe_is_what_transformers_says(inline, rows, tokens_per_call, monkeypatch):
    """Few rows: some leave and others enter while a probe is being read. `decode_many`: tokens that
    one call of the C++ may write, 0 = torch."""
    monkeypatch.setattr(local, "INLINE_PREFIX_BELOW", inline)
    monkeypatch.setattr(scheduler, "TOKENS_PER_CALL", tokens_per_call)
    if not tokens_per_call:
        monkeypatch.setattr(decoder, "native", lambda loaded: None)
    model = random_model(FAST["qwen3"])
    agree_with_transformers(model, requests_of(), {"max_rows": rows})


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "qwen3"])
def test_in_every_family(family):
    agree_with_transformers(random_model(FAMILIES[family]), requests_of(), {})


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_probes_change_no_completion(family):
    model = random_model(FAMILIES[family])
    plain = engine_of(model, CONTEXT).generate(requests_of(probes=False))
    probe_probs = engine_of(model, CONTEXT, max_rows=4).generate(requests_of())
    for one, other in zip(plain, probe_probs, strict=True):
        same(one, other)


def test_a_probe_is_requested_once_for_the_whole_completion():
    queries: list[tuple[int, ...]] = []
    # append gives None
    request = Request((5, 6), 7, seed=3, token_prob_ids=WATCH, probe=queries.append)
    (done,) = engine_of(random_model(FAST["llama"])).generate([request])
    assert queries == [done.ids] and done.probe_probs is None


def test_a_probe_costs_one_token_and_a_model_that_cannot_rewind_reads_again():
    fast, slow = (engine_of(random_model(c)) for c in (FAST["llama"], SLOW["gpt_neox"]))
    request = Request((5, 6, 7), 6, seed=1, token_prob_ids=WATCH)
    for engine, cost in ((fast, 1), (slow, 3 + 4 + 1)):
        engine.generate([request])
        before = engine.processed_tokens
        engine.generate([replace(request, probe=tries(9, 1))])
        assert engine.processed_tokens - before == before + cost
