"""Steps replayed from a graph are the steps themselves; on CPU a tape stands for CUDA's graphs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import elsewhere
from engine_models import FAST, GROUPED, VOCAB, engine_of, random_model, same
from tape import FakeCuda, Recorder
from transformers import Qwen3Config

from genac.engines import decoder, graphs, local
from genac.engines.base import Completion, Request
from genac.engines.graphs import Standing, agree, bucket_end, out_of_memory
from genac.models.tiny import build_tokenizer

CONTEXT = 64
TOKENIZER = build_tokenizer([*"abcdef", "ab", "ans=", " "], 64)
FAILS = "CUDA graphs failed.*GENAC_GRAPHS=0 chooses that"


class Recorders(list[Recorder]):
    """All that the test's engines asked for."""

    def __call__(self, device: torch.device) -> Recorder | None:
        if device in graphs.FAILED:
            return None
        self.append(self.kind(device))
        return self[-1]

    kind: Callable[[torch.device], Recorder] = Recorder

    @property
    def counts(self) -> tuple[int, int]:
        """Captures, and replays but for those that only checked one."""
        return sum(r.captures for r in self), sum(r.replays for r in self)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Buckets of a few slots; nothing known of graphs; nothing runs in C++."""
    for name, value in (("BUCKET", 8), ("WORTH", 3), ("WAIT", 1)):
        monkeypatch.setattr(graphs, name, value)
    for name in ("CHECKED", "FAILED"):
        monkeypatch.setattr(graphs, name, set())
    monkeypatch.setattr(decoder, "native", lambda loaded: None)


@pytest.fixture
def recorders(monkeypatch) -> Recorders:
    made = Recorders()
    monkeypatch.setattr(graphs, "recorder", made)
    return made


def requests_of(forks: bool = True) -> list[Request]:
    """States of two responses and repeated prompts; draws, ends and limits of every kind."""
    rng = np.random.default_rng(0)
    one, other = (tuple(rng.integers(3, VOCAB, 20).tolist()) for _ in range(2))
    prompts = [(*one[: 4 * i], 5, 6) for i in range(1, 6)] + [other[:9]] * 4 + [(*other, 7)] * 3
    fork = lambda ids: (len(ids) - 2, 4) if len(ids) > 2 else None  # noqa: E731
    return [
        Request(
            prompt,
            max_new_tokens=2 + 11 * i % 37,
            seed=i,
            temperature=(1.0, 0.7, 0.0)[i % 3],
            top_p=0.9 if i % 4 == 0 else 1.0,
            stop_ids=(35, 12) if i % 5 == 1 else (),
            watch_ids=(3, 4, 5)[: i % 4],
            fork=fork if forks and i % 5 == 0 else None,
        )
        for i, prompt in enumerate(prompts)
    ]


def agrees(found: list[Completion], wanted: list[Completion]) -> None:
    for one, other in zip(found, wanted, strict=True):
        same(one, other)
        assert (one.forked is None) == (other.forked is None)
        if one.forked is not None and other.forked is not None:
            np.testing.assert_allclose(one.forked, other.forked, atol=1e-5)


def eagerly(model: Any, requests: list[Request], **options: Any) -> list[Completion]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "recorder", lambda device: None)
        return engine_of(model, CONTEXT, **options).generate(requests)


# --- the same with graphs and without -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "fold"),
    [*((f, r, 0 if r == 4 else 10_000) for f in FAST for r in (4, 512)), ("qwen3", 4, 10_000)],
)
def test_sampling(name, rows, fold, recorders, monkeypatch):
    """Rows that end and leave; few rows: others enter; forks go as they are in between."""
    monkeypatch.setattr(local, "FOLD_BELOW", fold)
    model, requests = random_model(FAST[name]), requests_of()
    found = engine_of(model, CONTEXT, max_rows=rows).generate(requests)
    agrees(found, eagerly(model, requests, max_rows=rows))
    captures, replays = recorders.counts
    assert captures >= 4 and replays >= 20
    dense = {kind[-1] for kind in graphs.CHECKED}
    assert dense == ({None} if fold else {True, False}) and not graphs.FAILED


def test_most_steps_of_a_long_stretch_are_replayed_and_buckets_crossed(recorders):
    model, requests = random_model(FAST["qwen3"]), [Request((5, 6), 60, seed=i) for i in range(4)]
    found = engine_of(model, CONTEXT).generate(requests)
    # 59 steps from slot 2 of 62 on. One goes as it is, and one for each capture: the buckets end
    # at 8, 16, ..., 56 and, as fewer than WORTH slots would be left behind 64, at 62.
    assert recorders.counts == (8, 59 - 1 - 8)
    agrees(found, eagerly(model, requests))


def test_stop_strings(recorders):
    shape = GROUPED | {"vocab_size": len(TOKENIZER), "initializer_range": 0.05}
    model = random_model(Qwen3Config(**shape))
    requests = [Request((5, 6), 40, seed=i, stop=("ab", "f")[: i % 3]) for i in range(9)]
    found = engine_of(model, CONTEXT, tokenizer=TOKENIZER).generate(requests)
    agrees(found, eagerly(model, requests, tokenizer=TOKENIZER))
    assert {c.finish for c in found} == {"stop", "length"} and recorders.counts[1] >= 20


def test_a_new_call_and_new_weights(recorders):
    old, new = (random_model(FAST["llama"], seed) for seed in (0, 1))
    engine, requests = engine_of(old, CONTEXT), requests_of()
    recorders.clear()  # of the engine's first steps, which are compared with the model's forward
    for model, version in ((old, 1), (new, 2), (old, 3)):
        engine.publish(model, version)
        engine.rest()
        engine.wake()
        agrees(engine.generate(requests), eagerly(model, requests))
    assert len(recorders) == 3 and all(r.replays for r in recorders)


def test_half_precision(recorders):
    model = random_model(FAST["gemma"])
    requests = [Request((5, 6, 7 + i), 30, seed=i, temperature=0.0) for i in range(3)]
    options = {"dtype": torch.bfloat16}
    found = engine_of(model, CONTEXT, **options).generate(requests)
    wanted = eagerly(model, requests, **options)
    # Longer sums of zeros may round otherwise: then a token differs, and all that follow it.
    alike = [
        next((i for i in range(30) if a.ids[i] != b.ids[i]), 30)
        for a, b in zip(found, wanted, strict=True)
    ]
    assert sum(alike) > 45 and recorders.counts[1] > 20 and not graphs.FAILED


def test_on_another_device_nothing_comes_from_the_cpu(recorders, monkeypatch):
    monkeypatch.setattr(local, "FOLD_BELOW", 0)
    model, requests = random_model(FAST["qwen3"]), requests_of()[1::2]
    wanted = eagerly(model, requests, max_rows=4)
    with elsewhere() as device:
        engine = engine_of(copy.deepcopy(model).to(device), CONTEXT, max_rows=4)
        agrees(engine.generate(requests), wanted)
    assert recorders.counts[1] >= 15 and not graphs.FAILED
    assert any(kind[-1] is not None for kind in graphs.CHECKED)


# --- what may go wrong ----------------------------------------------------------------------------


def freezing(what: str) -> tuple[Any, Any]:
    """`take` and `__call__` of a step in which a Python number stands for the slot."""
    take, call, at = Standing.take, Standing.__call__, [0]

    def noting(self: Standing, token_B: torch.Tensor, slot: int) -> None:
        at[0] = slot
        take(self, token_B, slot)

    def frozen(self: Standing) -> torch.Tensor:
        if what == "slot":
            return call(replace(self, slot=torch.full_like(self.slot, at[0])))
        if what == "position":
            return call(replace(self, shift_B=self.shift_B + at[0] - self.slot))
        if what == "slot, after all was read":
            logits = call(self)
            self.own[..., at[0], :] = self.own.index_select(-2, self.slot)[..., 0, :]
            return logits
        hidden = self.hidden_BT.masked_fill(self.slot_T > at[0], float("-inf"))
        return call(replace(self, hidden_BT=hidden))

    return noting, frozen


@pytest.mark.parametrize("fold", [0, 10_000])
@pytest.mark.parametrize("what", ["slot", "position", "mask", "slot, after all was read"])
def test_a_number_that_a_graph_froze_is_found_and_does_no_harm(what, fold, recorders, monkeypatch):
    monkeypatch.setattr(local, "FOLD_BELOW", fold)
    model, requests = random_model(FAST["qwen3"]), requests_of()
    wanted = eagerly(model, requests)
    take, call = freezing(what)
    monkeypatch.setattr(Standing, "take", take)
    monkeypatch.setattr(Standing, "__call__", call)
    engine = engine_of(model, CONTEXT)
    with pytest.warns(UserWarning, match=FAILS) as said:
        agrees(engine.generate(requests), wanted)
    assert len(said) == 1 and recorders.counts == (1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agrees(engine.generate(requests), wanted)  # for good, and without another word
    assert recorders.counts == (1, 1)


@pytest.mark.parametrize("asks", [lambda x: x.max().item(), lambda x: x[x > 0], torch.nonzero])
def test_a_step_that_waits_for_a_number_cannot_be_captured(asks, recorders, monkeypatch):
    model, requests = random_model(FAST["qwen3"]), requests_of()
    wanted, logits = eagerly(model, requests), decoder.Decoder.logits

    def waiting(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        asks(hidden)
        return logits(self, hidden)

    monkeypatch.setattr(decoder.Decoder, "logits", waiting)
    with pytest.warns(UserWarning, match=f"{FAILS[:19]}.*not permitted when stream is capturing"):
        agrees(engine_of(model, CONTEXT).generate(requests), wanted)
    assert recorders.counts == (1, 0)


class Refuses(Recorder):
    """Its captures raise, in a way that CUDA's do."""

    errors: tuple[Exception, ...] = ()

    def capture(self, step: Any) -> Any:
        self.captures += 1
        try:
            raise self.errors[0]
        finally:
            for error in self.errors[1:]:
                raise error


def test_a_capture_that_raises_is_said_once(recorders, monkeypatch):
    monkeypatch.setattr(Refuses, "errors", (RuntimeError("no such thing here"),))
    recorders.kind = Refuses
    model, requests = random_model(FAST["qwen3"]), requests_of()
    with pytest.warns(
        UserWarning, match=r"RuntimeError: no such thing here\); GENAC_GRAPHS=0"
    ) as said:
        agrees(engine_of(model, CONTEXT).generate(requests), eagerly(model, requests))
        engine_of(model, CONTEXT).generate(requests)
    assert len(said) == 1 and recorders.counts == (1, 0)


@pytest.mark.parametrize("behind", [(), (RuntimeError("capture_end failed"),)])
def test_without_memory_for_a_graph_rows_go_on_and_others_try_again(behind, recorders, monkeypatch):
    exhausted = torch.cuda.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(Refuses, "errors", (exhausted, *behind))
    recorders.kind = Refuses
    model, requests = random_model(FAST["qwen3"]), requests_of()
    engine = engine_of(model, CONTEXT)
    recorders.clear()
    for calls in (1, 2):
        with pytest.warns(UserWarning, match="no memory was left") as said:
            agrees(engine.generate(requests), eagerly(model, requests))
        assert len(said) == 1 and len(recorders) == calls and not graphs.FAILED
    assert not out_of_memory(RuntimeError("another"))


def test_weights_that_diverge_are_not_mistaken_for_a_wrong_graph(recorders):
    """The third token is read by the first replay: one step goes as it is, one is captured."""
    model = random_model(FAST["qwen3"])
    request = Request((5, 6), 20, seed=2)
    ids = engine_of(model, CONTEXT).generate([request])[0].ids
    assert ids[2] not in (5, 6, *ids[:2])
    with torch.no_grad():
        model.get_input_embeddings().weight[ids[2]] = float("nan")
    graphs.CHECKED.clear()
    with warnings.catch_warnings(), pytest.raises(FloatingPointError, match=r"\(5, 6\).*diverged"):
        warnings.simplefilter("error")
        engine_of(model, CONTEXT).generate([request])
    assert recorders[-1].replays == 1 and graphs.CHECKED


# --- CUDA's own graphs ----------------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch) -> FakeCuda:
    graphs.side_stream.cache_clear()
    monkeypatch.setattr(graphs, "recorder", graphs.CudaGraphs)
    return FakeCuda(monkeypatch)


def test_captures_share_a_stream_and_those_of_a_call_their_memory(cuda):
    model, requests = random_model(FAST["qwen3"]), requests_of()
    engine = engine_of(model, CONTEXT, max_rows=4)
    for calls in (1, 2):
        agrees(engine.generate(requests), eagerly(model, requests, max_rows=4))
        assert len(set(cuda.streams)) == 1 and len(set(cuda.pools)) == calls
        assert cuda.current is cuda.first
        assert not cuda.captured  # nothing outlives its call
    assert len(cuda.pools) >= 8
    assert set(cuda.first.waited_for) == set(cuda.streams)
    assert cuda.streams[0].waited_for == [cuda.first] * len(cuda.pools)


def test_a_capture_that_cannot_be_ended_leaves_its_stream(cuda):
    cuda.breaks = True
    model, requests = random_model(FAST["qwen3"]), requests_of()
    with pytest.warns(UserWarning, match=f"{FAILS[:19]}.*the capture cannot be ended"):
        engine_of(model, CONTEXT).generate(requests)
    assert cuda.current is cuda.first


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "width", "end"),
    [
        (0, 100, 8),
        (5, 100, 8),  # three slots
        (6, 100, 16),  # two would not be worth it
        (8, 100, 16),
        (6, 18, 18),  # two slots behind 16 could not be a bucket of their own
        (6, 19, 16),
        (12, 15, 15),
    ],
)
def test_buckets(at, width, end):
    assert bucket_end(at, width) == end


def test_rounding_is_relative_to_the_largest_number():
    wanted = torch.tensor([100.0, 0.0, float("nan"), float("-inf")])
    shift = lambda by: wanted + torch.tensor([0.0, by, 0.0, 0.0])  # noqa: E731
    assert agree(shift(0.009), wanted, 1e-4) and not agree(shift(0.011), wanted, 1e-4)
    assert not agree(torch.tensor([100.0, 0.0, 0.0, float("-inf")]), wanted, 1e-4)


def test_where_graphs_are_used(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(graphs, "CudaGraphs", lambda device: ("graphs of", device))
    assert graphs.recorder(gpu) == ("graphs of", gpu)
    assert graphs.recorder(torch.device("cpu")) is None
    graphs.FAILED.add(torch.device("cuda", 1))
    assert graphs.recorder(torch.device("cuda", 1)) is None and graphs.recorder(gpu) is not None
    monkeypatch.setenv("GENAC_GRAPHS", "0")
    assert graphs.recorder(gpu) is None
