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

    def fork(ids: tuple[int, ...]) -> tuple[int, int] | None:
        return (len(ids) - 1 - back, token) if len(ids) > back else None

    return fork


def requests_of(forks: bool = True) -> list[Request]:
    """States of two responses and lone prompts; ends, temperatures and places of forks differ."""
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
            watch_ids=WATCH[: 1 + i % 4],
            fork=tries(5 + i, i % 4) if forks and i % 5 else None,
        )
        for i, prompt in enumerate([*prompts, (7,), (8, 9)])
    ]


def agree_with_transformers(model: Any, requests: list[Request], options: dict[str, Any]) -> None:
    exact, read = in_double(model), 0
    for request, done in zip(
        requests, engine_of(model, CONTEXT, **options).generate(requests), strict=True
    ):
        found = request.fork(done.ids) if request.fork else None
        assert (done.forked is None) == (found is None)
        if found is None or done.forked is None:
            continue
        place, token = found
        tried = (*done.ids[:place], token)
        # The reference wants a token behind the one whose prediction is asked.
        logp = forward_logprobs(exact, request.prompt_ids, (*tried, 0), request.temperature or 1.0)
        np.testing.assert_allclose(
            done.forked, np.exp(logp[-1, list(request.watch_ids)]), atol=1e-4
        )
        read += 1
    assert read >= 8


@pytest.mark.parametrize("fold", [0, 10_000])
@pytest.mark.parametrize("rows", [3, 512])
@pytest.mark.parametrize("sprint", [0, 2, 128])
def test_a_fork_is_what_transformers_says(fold, rows, sprint, monkeypatch):
    """Few rows: some leave and others enter while a fork is being read. `sprint`: tokens that one
    call of the C++ may write, 0 = torch."""
    monkeypatch.setattr(local, "FOLD_BELOW", fold)
    monkeypatch.setattr(scheduler, "SPRINT", sprint)
    if not sprint:
        monkeypatch.setattr(decoder, "native", lambda loaded: None)
    model = random_model(FAST["qwen3"])
    agree_with_transformers(model, requests_of(), {"max_rows": rows})


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "qwen3"])
def test_in_every_family(family):
    agree_with_transformers(random_model(FAMILIES[family]), requests_of(), {})


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_forks_change_no_completion(family):
    model = random_model(FAMILIES[family])
    plain = engine_of(model, CONTEXT).generate(requests_of(forks=False))
    forked = engine_of(model, CONTEXT, max_rows=4).generate(requests_of())
    for one, other in zip(plain, forked, strict=True):
        same(one, other)


def test_a_fork_is_asked_once_of_the_whole_completion():
    asked: list[tuple[int, ...]] = []
    request = Request((5, 6), 7, seed=3, watch_ids=WATCH, fork=asked.append)  # append gives None
    (done,) = engine_of(random_model(FAST["llama"])).generate([request])
    assert asked == [done.ids] and done.forked is None


def test_a_fork_costs_one_token_and_a_model_that_cannot_rewind_reads_again():
    fast, slow = (engine_of(random_model(c)) for c in (FAST["llama"], SLOW["gpt_neox"]))
    request = Request((5, 6, 7), 6, seed=1, watch_ids=WATCH)
    for engine, cost in ((fast, 1), (slow, 3 + 4 + 1)):
        engine.generate([request])
        before = engine.processed_tokens
        engine.generate([replace(request, fork=tries(9, 1))])
        assert engine.processed_tokens - before == before + cost
