"""Entropies: of the very distribution that a token's log-probability refers to, on every path."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import (
    FAST,
    RECURRENT,
    SHAPE,
    SLOW,
    engine_of,
    forward_logprobs,
    in_double,
    random_model,
)
from transformers import LlamaConfig

from genac.config.models import LossConfig, OptimizerConfig
from genac.engines.base import Completion, Request
from genac.engines.local import LocalEngine
from genac.learner import Learner
from genac.native import library
from genac.types import Sample

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14, 15), (3, 2)]
PATHS = [*((name, path) for name in FAST for path in ("native", "torch"))]
PATHS += [(name, "fallback") for name in SLOW]
ODD = LlamaConfig(**SHAPE | {"vocab_size": 37})  # no multiple of a vector's eight floats


def engine_on(model: Any, path: str) -> LocalEngine:
    """An engine that takes this path, or a skip where the machine cannot."""
    engine = engine_of(model)
    if path == "fallback":
        assert engine.decoder is None
    else:
        assert engine.decoder is not None
        if path == "torch":
            engine.decoder.native = None
        elif library.library() is None:
            pytest.skip("no C++ compiler here")
        else:
            assert engine.decoder.native is not None
    return engine


def expected(model: Any, request: Request, done: Completion) -> np.ndarray:
    """-sum p log p of what transformers says in double precision."""
    logp = forward_logprobs(model, request.prompt_ids, done.ids, request.temperature or 1.0)
    return -(np.exp(logp) * logp).sum(-1)


def require_right(model: Any, requests: list[Request], done: list[Completion]) -> None:
    exact = in_double(model)
    for request, one in zip(requests, done, strict=True):
        assert one.entropies is not None and one.entropies.dtype == np.float32
        np.testing.assert_allclose(one.entropies, expected(exact, request, one), atol=2e-5)


@pytest.mark.parametrize(("name", "path"), PATHS)
def test_entropy_is_that_of_transformers_softmax(name, path):
    model = random_model((FAST | SLOW)[name])
    requests = [
        Request(PROMPTS[i % 4], 3 + i, seed=i, temperature=t, top_p=p, stop_ids=(i,))
        for i, (t, p) in enumerate([(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.7, 1.0)] * 2)
    ]
    require_right(model, requests, engine_on(model, path).generate(requests))


@pytest.mark.parametrize(("name", "path"), [*PATHS, ("mamba", "fallback"), ("rwkv", "fallback")])
def test_a_nucleus_is_what_log_probability_and_entropy_refer_to(name, path):
    """Rows with and without one side by side; against transformers in double precision."""
    model = random_model((FAST | SLOW | RECURRENT)[name])
    settings = [(1.0, 0.3), (0.7, 0.8), (1.0, 1.0), (1.5, 0.95), (0.0, 0.5), (1.0, 1e-6)] * 3
    requests = [
        Request(PROMPTS[i % 4], 2 + i % 5, seed=i, temperature=t, top_p=p)
        for i, (t, p) in enumerate(settings)
    ]
    exact = in_double(model)
    for request, one in zip(requests, engine_on(model, path).generate(requests), strict=True):
        of = (request.prompt_ids, one.ids, request.temperature, request.top_p)
        logp = forward_logprobs(exact, *of)
        rows = np.arange(len(one.ids))
        np.testing.assert_allclose(one.logprobs, logp[rows, one.ids], atol=2e-5)
        terms = np.exp(logp) * np.where(np.isinf(logp), 0.0, logp)  # 0 log 0 = 0
        np.testing.assert_allclose(one.entropies, -terms.sum(-1), atol=2e-5)


@pytest.mark.parametrize("path", ["native", "torch"])
def test_what_pads_a_vocabulary_is_not_counted(path):
    model = random_model(ODD)
    requests = [Request(p, 8, seed=i, temperature=1.0 + i) for i, p in enumerate(PROMPTS)]
    require_right(model, requests, engine_on(model, path).generate(requests))


@pytest.mark.parametrize("path", ["native", "torch"])
def test_every_token_alike_is_the_logarithm_of_their_number_and_one_alone_is_zero(path):
    model = random_model(ODD)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    done = engine_on(model, path).generate([Request((5, 6), 4, seed=0, temperature=0.2)])[0]
    np.testing.assert_allclose(done.entropies, math.log(37), atol=1e-5)
    cold = [Request(p, 5, seed=0, temperature=1e-4) for p in PROMPTS]
    for one in engine_on(random_model(ODD), path).generate(cold):
        assert one.entropies is not None
        assert (one.entropies < 1e-6).all() and not np.signbit(one.entropies).any()


@pytest.mark.parametrize(("name", "path"), [("qwen3", "native"), ("qwen3", "torch"), PATHS[-2]])
def test_the_learner_measures_the_same_on_the_same_tokens(name, path):
    model = random_model((FAST | SLOW)[name])
    requests = [Request(PROMPTS[i % 4], 4 + i, seed=i, temperature=0.8) for i in range(8)]
    done = engine_on(model, path).generate(requests)
    samples = [
        policy_sample(request.prompt_ids, one) for request, one in zip(requests, done, strict=True)
    ]
    learner = Learner(model, OptimizerConfig(learning_rate=1e-9), LossConfig())
    measured = learner.learn(samples, seed=0)["entropy"]
    engine = np.concatenate([one.entropies for one in done if one.entropies is not None])
    assert measured == pytest.approx(float(engine.mean()), abs=1e-5)


def policy_sample(prompt: tuple[int, ...], done: Completion) -> Sample:
    first = len(prompt)
    weights, old = np.zeros((2, first + len(done.ids)), np.float32)
    weights[first:], old[first:] = 1.0, done.logprobs
    return Sample(
        prompt + done.ids, weights, "policy", advantages=weights, old_logprobs=old, temperature=0.8
    )
