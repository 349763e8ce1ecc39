"""Training on the GPU is training on the CPU: same losses, gradients, steps and values."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from device_work import LOSS, samples_of
from engine_models import GROUPED, random_model
from transformers import GPTNeoXConfig, LlamaConfig, Qwen3Config

from genac.config.models import LoraConfig, OptimizerConfig
from genac.learner import Learner
from genac.models import lora
from genac.models.packed import flex
from genac.models.value_head import ValueModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning"),
]
# Heads of 32, which FlexAttention takes; logits small enough for bf16.
WIDE = GROUPED | {"initializer_range": 0.1, "max_position_embeddings": 1024, "hidden_size": 64}
MODELS: dict[str, Any] = {
    "qwen3, grouped": lambda: Qwen3Config(**WIDE, head_dim=32),
    "llama, one key head": lambda: LlamaConfig(**WIDE | {"num_key_value_heads": 1}, head_dim=32),
    "qwen3, heads not grouped": lambda: Qwen3Config(
        **WIDE | {"num_key_value_heads": 4}, head_dim=32
    ),
    "gpt_neox, padded rows": lambda: GPTNeoXConfig(
        **{k: v for k, v in WIDE.items() if k != "num_key_value_heads"}
    ),
}
SHORT = (12, 15, 20, 9)
LONG = (300, 170, 420, 30)  # rows of several of FlexAttention's blocks
HEADS = {"value": ("mse", 1), "histogram": ("hl_gauss", 11)}


def model_for(kind: str, name: str = "qwen3, grouped") -> Any:
    torch.manual_seed(1)
    base = random_model(MODELS[name]())
    if kind in HEADS:
        out = ValueModel(base, HEADS[kind][1])
        torch.nn.init.normal_(out.head.weight, std=0.1)
        return out
    return lora.attach(base, LoraConfig(rank=2), seed=0) if kind == "adapters" else base


def learner_on(device: Any, model: Any, kind: str, **options: Any) -> Learner:
    settings = {"learning_rate": 1e-3, "tokens_per_microbatch": 1024, "max_grad_norm": 1e9}
    bf16 = options.pop("bf16", False)
    cfg = OptimizerConfig(**settings | options)
    head = HEADS[kind][0] if kind in HEADS else None
    return Learner(copy.deepcopy(model).to(device), cfg, LOSS, head=head, bf16=bf16)


def trained_on(kind: str, lengths: tuple[int, ...]) -> list[Any]:
    loss = "value" if kind in HEADS else "sft" if kind == "adapters" else kind
    samples = samples_of(loss, lengths)
    # Old log-probabilities far from the model's would clip everything away.
    return [
        s if s.old_logprobs is None else replace(s, old_logprobs=0.1 * s.old_logprobs - 3.7)
        for s in samples
    ]


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    named = learner.model.named_parameters()
    return {n: p.grad.detach().float().cpu() for n, p in named if p.grad is not None}


def apart(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """How far two gradients are from each other, as a share of their size."""
    assert result.keys() == expected.keys() and result
    gap = sum(float((result[n] - expected[n]).square().sum()) for n in expected)
    return (gap / sum(float(g.square().sum()) for g in expected.values())) ** 0.5


def outputs(learner: Learner, kind: str, samples: list[Any]) -> list[np.ndarray]:
    if kind in HEADS:
        return [v[1:] for v in learner.values([s.ids for s in samples])]
    return learner.logprobs(samples)


@pytest.mark.parametrize("lengths", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("kind", ["sft", "policy", "value", "histogram", "adapters"])
def test_losses_gradients_and_what_is_computed_afterwards(kind, lengths, device, attention):
    model, samples = model_for(kind), trained_on(kind, lengths)
    here, there = (learner_on(d, model, kind) for d in ("cpu", device))
    for one, other in zip(outputs(there, kind, samples), outputs(here, kind, samples), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    expected, result = here.learn(samples, 0), there.learn(samples, 0)
    assert result == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert apart(gradients(there), gradients(here)) < 1e-3
    for one, other in zip(outputs(there, kind, samples), outputs(here, kind, samples), strict=True):
        # Where a gradient is next to nothing, Adam's first step may go either way.
        np.testing.assert_allclose(one, other, atol=5e-3)


@pytest.mark.parametrize("name", MODELS)
def test_every_form_of_heads(name, device, attention):
    model, samples = model_for("policy", name), trained_on("policy", LONG)
    here, there = (learner_on(d, model, "policy") for d in ("cpu", device))
    assert there.learn(samples, 0) == pytest.approx(here.learn(samples, 0), rel=1e-3, abs=1e-5)
    assert apart(gradients(there), gradients(here)) < 1e-3


@pytest.mark.parametrize("kind", ["policy", "value", "adapters"])
def test_checkpointed_layers(kind, device, attention):
    model, samples = model_for(kind), trained_on(kind, LONG)
    plain, again = (
        learner_on(device, model, kind, gradient_checkpointing=on) for on in (False, True)
    )
    assert again.learn(samples, 0) == pytest.approx(plain.learn(samples, 0), rel=1e-4, abs=1e-6)
    assert apart(gradients(again), gradients(plain)) < 1e-4


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", ["sft", "policy", "value", "histogram", "adapters"])
def test_under_bf16_autocast(kind, checkpointed, device, attention):
    model, samples = model_for(kind), trained_on(kind, LONG)
    here = learner_on("cpu", model, kind)
    there = learner_on(device, model, kind, bf16=True, gradient_checkpointing=checkpointed)
    expected, result = here.learn(samples, 0), there.learn(samples, 0)
    assert result["loss"] == pytest.approx(expected["loss"], rel=0.05, abs=0.02)
    assert apart(gradients(there), gradients(here)) < 0.1
    for one, other in zip(outputs(there, kind, samples), outputs(here, kind, samples), strict=True):
        np.testing.assert_allclose(one, other, atol=0.15)


def test_frozen_weights_in_bf16_under_adapters(device, attention):
    base = random_model(MODELS["qwen3, grouped"]()).bfloat16()
    model = lora.attach(base, LoraConfig(rank=2), seed=0)
    learner, samples = learner_on(device, model, "sft", bf16=True), trained_on("sft", LONG)
    first = learner.learn(samples, 0)["loss"]
    for step in range(8):
        last = learner.learn(samples, step)["loss"]
    assert np.isfinite(first) and last < first


def test_the_optimizers_step_on_equal_gradients(device):
    model = model_for("sft")
    here, there = (learner_on(d, model, "sft", weight_decay=0.1) for d in ("cpu", device))
    made = torch.Generator().manual_seed(0)
    for _ in range(3):
        for one, other in zip(here.parameters, there.parameters, strict=True):
            one.grad = torch.randn(one.shape, generator=made)
            other.grad = one.grad.to(device)
        here._step()
        there._step()
    for one, other in zip(here.parameters, there.parameters, strict=True):
        torch.testing.assert_close(other.detach().cpu(), one.detach(), atol=1e-6, rtol=1e-5)


def test_an_optimizer_saved_there_goes_on_here_and_back(device, tmp_path):
    model, samples = model_for("sft"), trained_on("sft", SHORT)
    there = learner_on(device, model, "sft")
    there.learn(samples, 0)
    there.save(tmp_path / "optimizer.pt")
    weights = {n: p.detach().cpu() for n, p in there.model.state_dict().items()}
    results = []
    for where in ("cpu", device):
        learner = learner_on(where, model, "sft")
        learner.model.load_state_dict(weights)
        learner.load(tmp_path / "optimizer.pt")
        assert learner.steps == 1
        results.append(learner.learn(samples, 1))
        results.append(learner.learn(samples, 2))
    assert results[2] == pytest.approx(results[0], rel=1e-3)
    assert results[3] == pytest.approx(results[1], rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(4, 2, 32), (14, 2, 64), (16, 8, 128), (8, 8, 80)])
def test_flex_attention_is_what_trains(heads, dtype, device, monkeypatch):
    """The shapes of small Qwen models too; a fallback would pass every other test here."""
    if device.type != "cuda":
        pytest.skip("FlexAttention trains on GPUs only")
    monkeypatch.delenv("GENAC_FLEX", raising=False)
    flex.works.cache_clear()
    count, keys, dim = heads
    q, k = (torch.zeros(1, h, 8, dim, dtype=dtype, device=device) for h in (count, keys))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flex.flexes(q, k)
