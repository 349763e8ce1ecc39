"""Reading what prompts share once changes what is computed, never what is sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine_models import FAST, engine_of, forward_logprobs, in_double, random_model, same

from genac.engines import cache, decoder, local
from genac.engines.base import Completion, Request
from genac.engines.local import inline_prefixes
from genac.prefixes import trees

FAMILIES = ["llama", "llama biased, tied", "qwen2", "qwen3", "gemma", "mistral"]
CONTEXT = 256
MANY = 10_000
Ids = tuple[int, ...]


def words(seed: int, count: int) -> Ids:
    return tuple(np.random.default_rng(seed).integers(5, 40, count).tolist())


def states(cuts: tuple[int, ...], rationales: int, seed: int = 0) -> list[Ids]:
    """A critic's requests: prefixes of one response, each followed by the question (2, 3, 4)."""
    response = words(seed, 90)
    return [(*response[:cut], 2, 3, 4) for cut in cuts for _ in range(rationales)]


def group(length: int, size: int, seed: int = 1) -> list[Ids]:
    return [words(seed, length)] * size


def continuations(cuts: tuple[int, ...], samples: int, seed: int = 2) -> list[Ids]:
    """Monte Carlo's requests: prefixes of one response, continued several times each."""
    return [words(seed, 90)[:cut] for cut in cuts for _ in range(samples)]


LONE = [words(10, 17), words(11, 3), words(12, 2)]
SETS: dict[str, list[Ids]] = {
    "states": states((12, 30, 31, 60), 3),
    "group": group(20, 7),
    "group of two-token prompts": group(2, 5),
    "continuations": continuations((20, 21, 50), 4),
    "ragged": [*group(40, 8), *group(2, 4, seed=3), *states((12, 70), 4), *states((9, 11), 2, 4)],
    "mixed": [
        *states((15, 40), 3),
        *LONE,
        *group(9, 4),
        *continuations((33, 50), 2),
        *group(30, 6),
    ],
    # Torch cannot read these apart: a prompt of one token has no shared prefix to read.
    "one token": [(7,), *states((8, 30), 2), words(0, 1), (7,), *group(9, 3), words(1, 1), *LONE],
}
APART = [name for name in SETS if name != "one token"]


def requests_of(prompts: list[Ids], longest: int = 11) -> list[Request]:
    """Every request differs from its neighbours in its settings."""
    return [
        Request(
            prompt,
            max_new_tokens=1 + 5 * i % longest,
            seed=i,
            temperature=(1.0, 0.7, 0.0, 1.2, 1.0)[i % 5],
            top_p=(1.0, 0.8, 1.0)[i % 3],
            stop_ids=(35,) if i % 4 == 3 else (),
            token_prob_ids=((), (6, 30, 7), (39,))[i % 3],
        )
        for i, prompt in enumerate(prompts)
    ]


@pytest.fixture(params=["apart", "inlined", "native"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How shared prefixes are read: by torch, apart from their rows or copied into them,
    or in C++.
    """
    if request.param != "native":
        monkeypatch.setattr(decoder, "native", lambda loaded: None)
        monkeypatch.setattr(local, "INLINE_PREFIX_BELOW", MANY if request.param == "inlined" else 0)
    return request.param


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(FAST["qwen3"])


def both_ways(model: Any, requests: list[Request], **options: Any) -> list[Completion]:
    """The completions, which are the same ones when every prompt is read alone."""
    shared = engine_of(model, CONTEXT, **options).generate(requests)
    alone = engine_of(model, CONTEXT, share=False).generate(requests)
    for one, other in zip(shared, alone, strict=True):
        same(one, other, atol=1e-4)
    return shared


def agree_with_transformers(model: Any, requests: list[Request], done: list[Completion]) -> None:
    exact = in_double(model)
    for request, completion in zip(requests, done, strict=True):
        of = (exact, request.prompt_ids, completion.ids, request.temperature)
        answer = forward_logprobs(*of, request.top_p)[
            np.arange(len(completion.ids)), completion.ids
        ]
        np.testing.assert_allclose(completion.logprobs, answer, atol=1e-4)
        logp = forward_logprobs(*of)
        token_probs = np.exp(logp[:, list(request.token_prob_ids)])
        np.testing.assert_allclose(completion.token_probs, token_probs, atol=1e-4)
        if request.temperature == 0:
            assert completion.ids == tuple(logp.argmax(-1).tolist())


# --- the same completions -----------------------------------------------------------------------


@pytest.mark.parametrize("name", APART)
def test_sharing_does_not_change_completions(model, way, name):
    requests = requests_of(SETS[name])
    assert way == "native" or inline_prefixes(trees(SETS[name], 512)) == (way == "inlined")
    agree_with_transformers(model, requests, both_ways(model, requests))


def test_prompts_of_one_token(model, way):
    requests = requests_of(SETS["one token"])
    agree_with_transformers(model, requests, both_ways(model, requests))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, way):
    model = random_model(FAST[family])
    prompts = [*states((12, 30, 50), 2), *group(20, 4), *LONE, *continuations((20, 21), 3)]
    requests = requests_of(prompts)
    assert way == "native" or inline_prefixes(trees(prompts, 512)) == (way == "inlined")
    agree_with_transformers(model, requests, both_ways(model, requests))


def test_a_prompt_that_is_the_beginning_of_another(model, way):
    """It sees some of the shared prefix only; what lies behind must stay hidden from it."""
    long = words(0, 60)
    prompts = [long[:n] for n in (60, 59, 31, 30) for _ in range(3)]
    requests = requests_of(prompts)
    assert way == "native" or inline_prefixes(trees(prompts, 512)) == (way == "inlined")
    agree_with_transformers(model, requests, both_ways(model, requests))


def test_long_completions_behind_a_shared_prefix(model, way):
    prompts = [*states((12, 60), 3), *group(30, 4)]
    requests = [Request(p, 30 + i, seed=i) for i, p in enumerate(prompts)]
    agree_with_transformers(model, requests, both_ways(model, requests))


@pytest.mark.parametrize("way", ["apart", "inlined"], indirect=True)  # C++ knows fp32 only
def test_half_precision_reads_prefixes(model, way):
    requests = [Request(p, 6, seed=i) for i, p in enumerate(SETS["ragged"])]
    done = engine_of(model, CONTEXT, dtype=torch.bfloat16).generate(requests)
    off = [
        c.logprobs - forward_logprobs(model, r.prompt_ids, c.ids)[np.arange(6), c.ids]
        for r, c in zip(requests, done, strict=True)
    ]
    assert 0 < np.abs(off).mean() < 0.05  # transformers: 0.02


# --- rows that enter a running batch ------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [4, 9])
@pytest.mark.parametrize("name", ["states", "ragged", "mixed"])
def test_rows_enter_while_others_are_written(model, way, name, max_rows):
    both_ways(model, requests_of(SETS[name], longest=23), max_rows=max_rows)


def test_prompts_of_one_token_enter_a_running_batch(model, way):
    both_ways(model, requests_of(SETS["one token"], longest=23), max_rows=5)


def test_a_tree_waits_until_there_is_room_for_all_of_it(model, way):
    """Rows end one by one, but the group that waits needs all four places."""
    requests = [Request((5, 6, 7), 1 + 3 * i, seed=i) for i in range(4)]
    requests += [Request((9, 8, 7), 4, seed=i) for i in range(4)]
    both_ways(model, requests, max_rows=4)


def test_small_trees_fill_the_places_that_become_free(model, way):
    """Trees of two rows with limits far apart: shared prefixes come and go while others
    are read.
    """
    prompts = [p for i in range(9) for p in group(50 - 5 * i, 2, seed=20 + i)]
    limits = [3, 40, 2, 30, 25, 1, 7, 4, 20] * 2
    requests = [Request(p, n, seed=n) for p, n in zip(prompts, limits, strict=True)]
    both_ways(model, requests, max_rows=6)


def test_more_of_one_prompt_than_rows(model, way):
    both_ways(model, requests_of(group(20, 11)), max_rows=4)


# --- reading in pieces --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["apart", "inlined"], indirect=True)  # torch's reading only
@pytest.mark.parametrize(("name", "at_once"), [("ragged", 1), ("ragged", 100), ("mixed", 16)])
def test_reading_in_pieces(model, way, name, at_once, monkeypatch):
    requests = requests_of(SETS[name])
    whole = engine_of(model, CONTEXT).generate(requests)
    monkeypatch.setattr(cache, "READ_AT_ONCE", at_once)
    for one, other in zip(both_ways(model, requests), whole, strict=True):
        same(one, other, atol=1e-4)


def test_spans_by_hand():
    """Rows x the longest of them count, since rows are padded to it."""
    sizes = [(1, 30), (2, 20), (1, 50), (4, 10)]
    assert cache.spans(sizes, 90) == [(0, 2), (2, 3), (3, 4)]
    assert cache.spans(sizes, 10_000) == [(0, 4)]
    assert cache.spans(sizes, 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    # One long prompt among many short ones: reading them together would be mostly padding.
    assert cache.spans([(1, 4000), (150, 20)], 10**9) == [(0, 1), (1, 2)]


# --- what is read -------------------------------------------------------------------------------


def tokens_read(model: Any, requests: list[Request], **options: Any) -> int:
    engine = engine_of(model, CONTEXT, **options)
    engine.generate(requests)
    return engine.processed_tokens


def test_a_group_reads_its_prompt_once(model, way):
    """Of five new tokens the last is never read."""
    requests = [Request(p, 5, seed=i) for i, p in enumerate(group(60, 8))]
    assert tokens_read(model, requests) == 60 + 8 * 4
    assert tokens_read(model, requests, share=False) == 8 * 60 + 8 * 4


def test_states_read_their_response_once(model, way):
    requests = [Request(p, 1, seed=i) for i, p in enumerate(states((50, 60, 80), 2))]
    # 60 tokens of shared prefix, 20 more of the longest state, three times the question.
    assert tokens_read(model, requests) == 60 + 20 + 3 * 3
    assert tokens_read(model, requests, share=False) == 2 * (53 + 63 + 83)


@pytest.mark.parametrize("name", ["states", "group", "continuations", "mixed"])
def test_sharing_reads_less(model, way, name):
    requests = requests_of(SETS[name])
    assert tokens_read(model, requests) < tokens_read(model, requests, share=False)


def test_tokens_of_all_calls_are_counted(model):
    engine = engine_of(model, CONTEXT)
    for _ in range(3):
        engine.generate([Request(words(0, 9), 1, seed=0)])
    assert engine.processed_tokens == 27


def test_each_part_of_a_split_prompt_is_read(model):
    requests = [Request(p, 1, seed=i) for i, p in enumerate(group(60, 7))]
    assert tokens_read(model, requests, max_rows=3) == 3 * 60


def test_prefixes_of_all_lengths_are_read_once(model, way):
    prompts = [p for n in (2, 30, 61) for p in group(n, 4, seed=n)]
    requests = [Request(p, 1, seed=i) for i, p in enumerate(prompts)]
    assert tokens_read(model, requests) == 2 + 30 + 61


# --- when shared prefixes are read apart
# -----------------------------------------------------------------


def test_long_prefixes_of_many_rows_are_read_apart():
    assert not inline_prefixes(trees(group(100, 8), 512))
    assert inline_prefixes(trees(group(10, 8), 512))  # short
    assert inline_prefixes(trees([words(s, 100) for s in range(8)], 512))  # not shared
