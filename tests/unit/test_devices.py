"""Engine and learner keep their tensors on one device: run on a pretended one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from device_work import LOSS, requests_of, samples_of
from elsewhere import ELSEWHERE, Far, elsewhere
from engine_models import FAST, SLOW, VOCAB, engine_of, random_model, same

from genac.config import LoraConfig, OptimizerConfig
from genac.engines.local import free_memory
from genac.learner import Learner
from genac.models import lora
from genac.models.tiny import build_model
from genac.models.value_head import ValueModel

CONTEXT = 64


def test_tensors_of_two_devices_must_not_meet():
    with elsewhere() as device:
        far = torch.arange(3, device=device) + torch.ones(3, device=device)
        assert far.device == ELSEWHERE and isinstance(far.exp(), Far)
        assert far.tolist() == [1, 2, 3] and float(far[1]) == 2
        for bad in (lambda: far + torch.ones(3), lambda: torch.ones(3)[far.long()]):
            with pytest.raises(RuntimeError, match="two devices meet"):
                bad()
        assert (far.cpu() + torch.ones(3)).tolist() == [2, 3, 4]


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


def test_what_torch_keeps_of_a_gpu_and_uses_for_nothing_counts_as_free(monkeypatch):
    """After training it keeps most of one; an engine that thought it taken would write row by
    row."""
    facts = {"mem_get_info": (10, 100), "memory_reserved": 80, "memory_allocated": 30}
    for name, value in facts.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 10 + 80 - 30


def test_no_gpu_is_asked_for_its_random_state_where_the_cpu_draws(monkeypatch):
    """That would start CUDA on every visible GPU, in every process."""

    def asked(*about: Any) -> None:
        raise AssertionError("a GPU was asked")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", asked)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = build_model(VOCAB, 32, 1, 2, max_length=CONTEXT, seed=0)
    lora.beside(lora.attach(model, LoraConfig(rank=2), seed=0), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("head", "outputs"), [("mse", 1), ("hl_gauss", 11)])
def test_values_are_not_rounded_to_bf16(head, outputs):
    """Near 1 its numbers are 0.004 apart."""
    model = ValueModel(random_model(FAST["qwen3"]), outputs)
    torch.nn.init.normal_(model.head.weight, std=0.01)
    learner = Learner(model, OptimizerConfig(), head=head, bf16=True)
    said: list[torch.Tensor] = []
    model.head.register_forward_hook(lambda module, given, out: said.append(out))
    learner.values([s.ids for s in samples_of("value")])
    assert said[0].dtype == torch.float32
    assert (said[0] != said[0].bfloat16().float()).any()
