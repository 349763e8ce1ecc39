"""The local engine computes what transformers computes, whatever shares a batch with a request."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import (
    FAST,
    SLOW,
    VOCAB,
    engine_of,
    forward_logprobs,
    random_model,
    same,
)

from genac.engines.base import Request
from genac.engines.cache import Cache
from genac.engines.decoder import Decoder
from genac.engines.local import LocalEngine
from genac.engines.scheduler import Batch, nucleus
from genac.prefixes import trees

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14, 15), (3, 2)]


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(FAST["qwen3"])


@pytest.fixture(scope="module")
def engine(model: Any) -> LocalEngine:
    return engine_of(model)


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_greedy_equals_transformers(name):
    model = random_model((FAST | SLOW)[name])
    assert Decoder.supports(model, 64) == (name in FAST)
    requests = [Request(p, 8, seed=0, temperature=0.0) for p in PROMPTS]
    for prompt, done in zip(PROMPTS, engine_of(model).generate(requests), strict=True):
        expected = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=8, eos_token_id=None
        )[0, len(prompt) :]
        assert done.ids == tuple(expected.tolist())
        logp = forward_logprobs(model, prompt, done.ids)[np.arange(8), done.ids]
        np.testing.assert_allclose(done.logprobs, logp, atol=1e-4)


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_rows_that_leave_the_batch_do_not_disturb_the_others(name):
    engine = engine_of(random_model((FAST | SLOW)[name]))
    requests = [Request(p, n, seed=n) for p, n in zip(PROMPTS, (1, 12, 2, 9), strict=True)]
    for request, done in zip(requests, engine.generate(requests), strict=True):
        assert len(done.ids) == request.max_new_tokens and done.finish == "length"
        same(done, engine.generate([request])[0])


def test_an_unknown_architecture_warns():
    with pytest.warns(UserWarning, match="'gpt_neox' .* has no fast decoder"):
        LocalEngine(random_model(SLOW["gpt_neox"]), max_length=64)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_sampling_does_not_depend_on_the_batch(engine, temperature):
    requests = [
        Request(PROMPTS[i % 4] * (1 + i % 3), 3 + i % 7, seed=i, temperature=temperature, top_p=p)
        for i, p in enumerate((1.0, 0.9, 1.0, 0.5) * 6)
    ]
    together = engine.generate(requests)
    backwards = engine.generate(requests[::-1])[::-1]
    for request, one, other in zip(requests, together, backwards, strict=True):
        same(one, other)
        same(one, engine.generate([request])[0])


def test_max_rows_splits_without_changing_results(model, engine):
    requests = [Request(PROMPTS[i % 4], 6, seed=i) for i in range(9)]
    small = engine_of(model, max_rows=2)
    for one, other in zip(engine.generate(requests), small.generate(requests), strict=True):
        same(one, other)
    assert engine.generate([]) == []


def test_the_seed_alone_decides(engine):
    request = Request((5, 6), 12, seed=1)
    same(*engine.generate([request, request]))
    assert engine.generate([replace(request, seed=2)])[0].ids != engine.generate([request])[0].ids


def test_sampled_frequencies_follow_the_model(model, engine):
    done = engine.generate([Request((5, 6, 7), 1, seed=s) for s in range(4000)])
    result = np.bincount([c.ids[0] for c in done], minlength=VOCAB) / 4000
    expected = np.exp(forward_logprobs(model, (5, 6, 7), (0,))[0])
    assert np.abs(result - expected).max() < 4 * np.sqrt(0.25 / 4000)


def test_logprobs_include_the_temperature(model, engine):
    done = engine.generate([Request((5, 6, 7), 6, seed=3, temperature=0.7)])[0]
    scaled = torch.log_softmax(
        torch.tensor(forward_logprobs(model, (5, 6, 7), done.ids)) / 0.7, -1
    ).numpy()
    np.testing.assert_allclose(done.logprobs, scaled[np.arange(6), done.ids], atol=1e-4)


def test_stop_tokens_end_a_row_and_belong_to_it(engine):
    free = engine.generate([Request((5, 6), 12, seed=4)])[0].ids
    stop = free[5]
    cut = engine.generate([Request((5, 6), 12, seed=4, stop_ids=(39, stop))])[0]
    first = free.index(stop)
    assert cut.ids == free[: first + 1] and cut.finish == "stop"
    assert len(cut.logprobs) == first + 1
    # A stop token written with the last of the budget is a stop all the same.
    last = engine.generate([Request((5, 6), first + 1, seed=4, stop_ids=(stop,))])[0]
    assert last.finish == "stop" and last.ids == cut.ids


def test_what_an_ended_row_would_go_on_to_say_plays_no_part(engine):
    """It stays in the batch while most others are written; a stop token then is none of its own."""
    free = engine.generate([Request((5, 6), 2, seed=s) for s in range(8)])
    assert sum(c.ids[0] != c.ids[1] for c in free) > 4
    for seed, (first, second) in enumerate(c.ids for c in free):
        others = [Request((7, 8 + i), 9, seed=i) for i in range(9)]
        stop_ids = tuple({*range(VOCAB)} - {first})
        ended = engine.generate([Request((5, 6), 1, seed=seed, stop_ids=stop_ids), *others])[0]
        assert ended.finish == "length" and ended.ids == (first,)
        one_more = engine.generate([Request((5, 6), 2, seed=seed, stop_ids=stop_ids), *others])[0]
        assert one_more.finish == ("length" if second == first else "stop")


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(model, engine):
    probs = np.exp(forward_logprobs(model, (5, 6, 7), (0,))[0])
    order = np.argsort(-probs)
    kept = set(order[: int((np.cumsum(probs[order]) < 0.6).sum()) + 1].tolist())
    done = engine.generate([Request((5, 6, 7), 1, seed=s, top_p=0.6) for s in range(500)])
    assert {c.ids[0] for c in done} <= kept
    narrow = engine.generate([Request((5, 6, 7), 1, seed=s, top_p=1e-6) for s in range(20)])
    assert {c.ids[0] for c in narrow} == {int(order[0])}


def test_nucleus_by_hand():
    probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    result = nucleus(probs, torch.tensor([[0.7]]))
    torch.testing.assert_close(result, torch.tensor([[0.0, 2 / 3, 0.0, 1 / 3]]))


def test_a_draw_of_one_stays_inside_the_nucleus(engine):
    """In float32 a uniform number below 1 may round to 1."""
    requests = [Request((5, 6, 7), 1, seed=s, top_p=0.3) for s in range(3)]
    drawn = engine.generate([replace(requests[0], seed=s) for s in range(200)])
    expected = {c.ids[0] for c in drawn}
    steps = Cache(engine.decoder, inline=True)
    batch = Batch(requests, steps, 8, engine.device)
    batch.uniform_NT[:] = 1.0
    assert {c.ids[0] for c in batch.run(trees([r.prompt_ids for r in requests], 8))} <= expected


def test_watched_probabilities(model, engine):
    watch = (3, 30, 7)
    done = engine.generate(
        [Request((5, 6, 7), 5, seed=0, token_prob_ids=watch), Request((5, 6, 7), 5, seed=1)]
    )
    expected = np.exp(forward_logprobs(model, (5, 6, 7), done[0].ids))[:, list(watch)]
    np.testing.assert_allclose(done[0].token_probs, expected, atol=1e-5)
    assert done[1].token_probs.shape == (5, 0)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((), 4, seed=0), "empty prompt"),
        (Request((5,), 0, seed=0), "max_new_tokens is 0"),
        (Request((5,) * 60, 5, seed=0), "exceeds the context of 64"),
    ],
)
def test_impossible_requests(engine, request_, message):
    with pytest.raises(ValueError, match=message):
        engine.generate([Request((5,), 1, seed=0), request_])


def test_the_whole_context_can_be_used(engine):
    assert len(engine.generate([Request((5,) * 60, 4, seed=0)])[0].ids) == 4


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox"])
def test_nan_weights_are_named(name):
    model = random_model((FAST | SLOW)[name])
    with torch.no_grad():
        model.get_output_embeddings().weight[:] = float("nan")
    with pytest.raises(FloatingPointError, match=r"\(8, 9\).*diverged"):
        engine_of(model).generate([Request((8, 9), 2, seed=0)])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "gpt_neox"])
def test_the_request_of_non_finite_logits_is_named(name, share):
    """A token that only its prompt holds diverges; rows of other lengths come and go around it."""
    model = random_model((FAST | SLOW)[name])
    prompts = [(5, 6), (9, 6, 5, 8, 3, 4), (3,), (5, 6, 8), (5, 6, 8, 9, 9), (9, 6, 5)]
    requests = [Request(p, 1 + i % 3, seed=0, temperature=0.0) for i, p in enumerate(prompts)]
    engine = engine_of(model, max_rows=3, share=share)
    rows = {token for done in engine.generate(requests) for token in done.ids}
    diverged = min(set(range(10, VOCAB)) - rows)
    with torch.no_grad():
        model.get_input_embeddings().weight[diverged] = float("nan")
    engine.publish(model, 1)
    engine.generate(requests)  # the others are well
    for place in range(7):
        bad = Request((5, 6, diverged, 8), 3, seed=0)
        with pytest.raises(
            FloatingPointError, match=rf"for request {place}, .*\(5, 6, {diverged}, 8"
        ):
            engine.generate([*requests[:place], bad, *requests[place:]])


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox"])
def test_publish_takes_effect(name):
    old, new = (random_model((FAST | SLOW)[name], seed) for seed in (0, 1))
    engine, request = engine_of(old), Request((5, 6, 7), 8, seed=0)
    before = engine.generate([request])[0]
    engine.publish(new, 7)
    assert engine.version == 7
    same(engine.generate([request])[0], engine_of(new).generate([request])[0])
    engine.publish(old, 8)
    same(engine.generate([request])[0], before)


def test_weights_reach_the_engine_only_by_publish():
    model = random_model(FAST["llama"])
    engine, request = engine_of(model), Request((5, 6, 7), 8, seed=0)
    before, source = engine.generate([request])[0], copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
    same(engine.generate([request])[0], before)
    engine.publish(model, 1)
    assert engine.generate([request])[0].ids != before.ids
    engine.publish(source, 2)
    same(engine.generate([request])[0], before)


# --- what fits into memory ----------------------------------------------------------------------


def test_a_memory_limit_splits_and_says_so(model, engine):
    """Two layers, keys and values, two heads of 16 float32 numbers: 512 bytes a token."""
    requests = [Request(PROMPTS[i % 4], 1 + i, seed=i, token_prob_ids=(3,)) for i in range(9)]
    longest = max(map(len, PROMPTS)) + 9  # rows end at one slot: the longest prompt and limit
    small = engine_of(model, memory=4 * longest * 512 + 511)
    with pytest.warns(UserWarning, match=rf"9 rows of {longest} tokens .* sampling 4 at a time"):
        done = small.generate(requests)
    for one, other in zip(done, engine.generate(requests), strict=True):
        same(one, other)


def test_less_memory_than_one_row_needs_still_samples(model, engine):
    requests = [Request(p, 4, seed=0) for p in PROMPTS]
    with pytest.warns(UserWarning, match="sampling 1 at a time"):
        done = engine_of(model, memory=1).generate(requests)
    for one, other in zip(done, engine.generate(requests), strict=True):
        same(one, other)


@pytest.mark.parametrize(("memory", "max_rows"), [(2**30, 512), (4 * 15 * 512, 4)])
def test_enough_memory_is_silent(model, memory, max_rows):
    engine = engine_of(model, memory=memory, max_rows=max_rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.generate([Request((5, 6, 7 + i), 12, seed=i) for i in range(9)])


# --- half precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3", "gemma", "qwen2"])
def test_half_precision_stays_near(name):
    model = random_model(FAST[name])
    engine = engine_of(model, dtype=torch.bfloat16)
    requests = [Request(p, 9, seed=i) for i, p in enumerate(PROMPTS * 3)]
    for request, done in zip(requests, engine.generate(requests), strict=True):
        logp = forward_logprobs(model, request.prompt_ids, done.ids)[np.arange(9), done.ids]
        assert done.logprobs.dtype == np.float32
        assert np.abs(done.logprobs - logp).mean() < 0.1
