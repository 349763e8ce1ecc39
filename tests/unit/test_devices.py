"""Engine and learner keep their tensors on one device: run on a pretended one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import ELSEWHERE, Far, elsewhere
from engine_models import FAST, SLOW, VOCAB, engine_of, random_model, same

from genac.config import LoraConfig, LossConfig, OptimizerConfig
from genac.engines.base import Request
from genac.learner import Learner
from genac.models import lora
from genac.models.value_head import ValueModel
from genac.types import Sample, ScoreTarget

CONTEXT = 64
LOSS = LossConfig(beta=0.1, entropy_coef=0.01)


def test_tensors_of_two_devices_must_not_meet():
    with elsewhere() as device:
        far = torch.arange(3, device=device) + torch.ones(3, device=device)
        assert far.device == ELSEWHERE and isinstance(far.exp(), Far)
        assert far.tolist() == [1, 2, 3] and float(far[1]) == 2
        for bad in (lambda: far + torch.ones(3), lambda: torch.ones(3)[far.long()]):
            with pytest.raises(RuntimeError, match="two devices meet"):
                bad()
        assert (far.cpu() + torch.ones(3)).tolist() == [2, 3, 4]


def requests_of() -> list[Request]:
    """Every way to draw, to end and to share a prompt; forks."""
    rng = np.random.default_rng(0)
    trunk = tuple(rng.integers(3, VOCAB, 40).tolist())
    prompts = [(*trunk[: 4 * i], 5, 6) for i in range(6)] + [trunk[:9]] * 4 + [(7,), (8, 9)]
    fork = lambda ids: (len(ids) - 2, 4) if len(ids) > 2 else None  # noqa: E731
    return [
        Request(
            prompt,
            max_new_tokens=2 + 5 * i % 13,
            seed=i,
            temperature=(1.0, 0.7, 0.0)[i % 3],
            top_p=0.9 if i % 4 == 0 else 1.0,
            stop_ids=(35, 12) if i % 2 else (),
            line_ids=(11,) if i % 3 else (),
            watch_ids=(3, 4, 5)[: i % 4],
            fork=fork if i % 5 == 0 else None,
        )
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize(("name", "rows"), [("qwen3", 32), ("gemma", 5), ("gpt_neox", 5)])
@pytest.mark.filterwarnings("ignore:architecture")
def test_sampling(name, rows):
    model = random_model((FAST | SLOW)[name])
    wanted = engine_of(model, CONTEXT, max_rows=rows).generate(requests_of())
    with elsewhere() as device:
        engine = engine_of(copy.deepcopy(model).to(device), CONTEXT, max_rows=rows)
        found = engine.generate(requests_of())
        engine.publish(model.to(device), 1)
        engine.rest()
        engine.wake()
        assert [c.ids for c in engine.generate(requests_of())] == [c.ids for c in found]
    for one, other in zip(found, wanted, strict=True):
        same(one, other)
        assert (one.forked is None) == (other.forked is None)


def samples_of(loss: str) -> list[Sample]:
    rng, out = np.random.default_rng(1), []
    for length in (12, 15, 20, 9):
        ids = (*range(3, 9), *rng.integers(3, VOCAB, length).tolist())
        mask = np.r_[np.zeros(6), np.ones(length)].astype(np.float32)
        streams: dict[str, Any] = {}
        if loss == "policy":
            names = ("advantages", "old_logprobs", "ref_logprobs")
            streams = {n: rng.normal(size=len(ids)).astype(np.float32) for n in names}
            target = ScoreTarget(len(ids) - 2, tuple(range(3, 14)), tuple(rng.random(11).tolist()))
            streams["scores"] = (target,)
        if loss == "value":
            streams["targets"] = rng.random(len(ids)).astype(np.float32)
        out.append(Sample(ids, mask, loss, **streams))
    return out


@pytest.mark.parametrize(("share", "checkpointed"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("loss", ["policy", "value", "adapters"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_training(loss, share, checkpointed):
    model: Any = random_model(FAST["qwen3"])
    model = ValueModel(model, 1) if loss == "value" else model
    if loss == "adapters":
        model = lora.attach(model, LoraConfig(rank=2), seed=0)
    head, samples = "mse" if loss == "value" else None, samples_of(loss)
    samples = [replace(s, loss="sft") for s in samples] if loss == "adapters" else samples
    cfg = OptimizerConfig(tokens_per_microbatch=32, gradient_checkpointing=checkpointed)

    def learnt(where: Any) -> tuple[dict[str, float], list[np.ndarray]]:
        learner = Learner(copy.deepcopy(model).to(where), cfg, LOSS, head=head, share=share)
        measured = learner.learn(samples, 0)
        if head:
            return measured, learner.values([s.ids for s in samples])
        return measured, learner.logprobs(samples)

    measured, after = learnt("cpu")
    with elsewhere() as device:
        found, found_after = learnt(device)
    assert found == pytest.approx(measured, rel=1e-4, abs=1e-6)
    for one, other in zip(found_after, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
