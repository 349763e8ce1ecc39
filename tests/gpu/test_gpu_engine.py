"""Sampling on the GPU is sampling on the CPU: same tokens, same numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from device_work import requests_of
from engine_models import FAST, SHAPE, SLOW, VOCAB, engine_of, random_model, same
from transformers import Qwen3Config

from genac.engines import local
from genac.engines.base import Completion, Request
from genac.engines.local import LocalEngine
from genac.engines.scheduler import draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:architecture"),
]
CONTEXT = 64
CLOSE = 1e-4  # of log-probabilities in fp32, whose sums are added up in another order


def engine_on(device: torch.device, model: Any, **options: Any) -> LocalEngine:
    """The engine as it is on a GPU; on a CPU, where the C++ would take over, on torch as well."""
    engine = engine_of(copy.deepcopy(model).to(device), CONTEXT, **options)
    if device.type == "cpu" and engine.decoder is not None:
        engine.decoder.native = None
    return engine


def alike(results: list[Completion], expected: list[Completion], atol: float = CLOSE) -> None:
    for one, other in zip(results, expected, strict=True):
        same(one, other, atol)
        assert (one.probe_probs is None) == (other.probe_probs is None)
        if one.probe_probs is not None:
            np.testing.assert_allclose(one.probe_probs, other.probe_probs, atol=atol)


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_greedy(name, device):
    model = random_model((FAST | SLOW)[name])
    queries = [replace(r, temperature=0.0, top_p=1.0) for r in requests_of()]
    alike(engine_on(device, model).generate(queries), engine_of(model, CONTEXT).generate(queries))


@pytest.mark.parametrize("inline", [0, 10_000])
@pytest.mark.parametrize("rows", [3, 32])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "gpt_neox"])
def test_sampled_with_shared_prefixes_probes_and_rows_that_enter(
    name, rows, inline, device, monkeypatch
):
    """inline: the length up to which a shared prefix is copied into its rows."""
    model = random_model((FAST | SLOW)[name])
    expected = engine_of(model, CONTEXT).generate(requests_of())
    monkeypatch.setattr(local, "INLINE_PREFIX_BELOW", inline)
    engine = engine_on(device, model, max_rows=rows)
    alike(engine.generate(requests_of()), expected)
    # whatever the first call left behind
    alike(engine.generate(requests_of()[::-1]), expected[::-1])


def test_stop_strings(device, tiny_model, tokenizer):
    pieces = ("=", "+", "3", "a=")
    requests = [
        Request(tuple(tokenizer.encode(text)), 24, seed=i, stop=pieces[: 1 + i % 4])
        for i, text in enumerate(("a+3>", "b*7 c-8>", "a+3 b*7>", "c>"))
    ]
    result, expected = (
        e.generate(requests)
        for e in (
            engine_on(device, tiny_model, tokenizer=tokenizer),
            engine_of(tiny_model, CONTEXT, tokenizer=tokenizer),
        )
    )
    alike(result, expected)
    assert {c.finish for c in expected} >= {"stop"}


def test_new_weights_and_a_rest_in_main_memory(device):
    """What was kept of the old weights must not be used any more."""
    old, new = (random_model(FAST["qwen3"], seed) for seed in (0, 1))
    engine, queries = engine_on(device, old), requests_of()
    before = engine.generate(queries)
    engine.sleep()
    weights = engine.decoder
    assert weights is not None and weights.head.device.type == "cpu"
    engine.wake_up()
    assert weights.head.device.type == device.type
    alike(engine.generate(queries), before, atol=1e-6)
    engine.publish(copy.deepcopy(new).to(device), 1)
    after = engine.generate(queries)
    alike(after, engine_of(new, CONTEXT).generate(queries))
    assert [c.ids for c in after] != [c.ids for c in before]


def calm_model() -> Any:
    """Logits of ordinary size, which bf16 computes to a few hundredths."""
    shape = SHAPE | {"num_key_value_heads": 2, "initializer_range": 0.1, "hidden_size": 64}
    return random_model(Qwen3Config(**shape, head_dim=32))


def test_in_bf16_probabilities_are_close(device):
    """One token each, so that no rounded draw leads the two to other texts."""
    model, rng = calm_model(), np.random.default_rng(0)
    prefix = tuple(rng.integers(3, VOCAB, 40).tolist())
    requests = [
        Request((*prefix[:cut], 5), 1, seed=i, temperature=0.0, token_prob_ids=tuple(range(VOCAB)))
        for i, cut in enumerate((4, 12, 33, 40, 40))
    ]
    result = engine_on(device, model, dtype=torch.bfloat16).generate(requests)
    expected = engine_of(model, CONTEXT).generate(requests)
    for one, other in zip(result, expected, strict=True):
        assert np.isfinite(one.logprobs).all() and np.isfinite(one.token_probs).all()
        np.testing.assert_allclose(np.log(one.token_probs), np.log(other.token_probs), atol=0.1)


def test_in_bf16_texts_are_finite_and_repeat(device):
    engine = engine_on(device, calm_model(), dtype=torch.bfloat16)
    first, again = (engine.generate(requests_of()) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.ids == other.ids
        assert np.isfinite(one.logprobs).all() and one.entropies is not None
        assert np.isfinite(one.entropies).all() and (one.entropies >= 0).all()


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_no_draw_falls_on_a_token_without_mass(rows, device):
    """Sums of a parallel scan may be rounded apart where nothing was added."""
    made = torch.Generator().manual_seed(0)
    p = torch.rand(rows, 150_000, generator=made)
    p = (p * (torch.rand(p.shape, generator=made) < 0.01)).to(device)
    p = p / p.sum(-1, keepdim=True)
    rounds = 4000 if rows == 1 else 40
    uniform = torch.rand(rounds, rows, generator=made).to(device)
    for u in uniform:
        token = draw(p, u)
        assert bool((p.gather(-1, token[:, None]) > 0).all())


def test_draws_follow_the_distribution(device):
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2]], device=device).expand(20_000, 4).contiguous()
    uniform = (torch.arange(20_000, device=device) + 0.5) / 20_000
    result = torch.bincount(draw(p, uniform), minlength=4).cpu() / 20_000
    np.testing.assert_allclose(result.numpy(), [0.5, 0.0, 0.3, 0.2], atol=2e-4)
