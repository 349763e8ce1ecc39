"""Layers in C++ against transformers' own: what they compute and keep, and what is left alone."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import engine_of
from forests import plan_of
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.gemma import GemmaConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

from genac import learner as learning
from genac.config.models import LoraConfig, OptimizerConfig
from genac.engines.base import Request
from genac.learner import Learner
from genac.models.lora import attach
from genac.models.packed import layers as layers
from genac.models.packed.attention import tree_attention
from genac.models.packed.layers import fusable, fused
from genac.models.packed.plan import TreePlan
from genac.models.value_head import ValueModel
from genac.native.library import library
from genac.types import Sample

VOCAB, HIDDEN, INNER, LAYERS, DIM = 30, 40, 72, 2, 16  # widths that fill no whole tile
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SCALED = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE, num_key_value_heads=4, head_dim=DIM),
    "llama, biased, grouped, tied": lambda: LlamaConfig(
        **SHAPE,
        num_key_value_heads=2,
        head_dim=DIM,
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "llama, gelu": lambda: LlamaConfig(**SHAPE, head_dim=DIM, hidden_act="gelu"),
    "llama, scaled rope": lambda: LlamaConfig(**SHAPE, head_dim=DIM, rope_parameters=SCALED),
    "qwen2": lambda: Qwen2Config(**SHAPE | {"hidden_size": 64}, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**SHAPE, num_key_value_heads=4, head_dim=32),
    "qwen3, grouped": lambda: Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=DIM),
    "mistral": lambda: MistralConfig(**SHAPE, num_key_value_heads=2, head_dim=DIM),
    "gemma": lambda: GemmaConfig(**SHAPE, num_key_value_heads=1, head_dim=DIM),
    "gemma, called gelu": lambda: GemmaConfig(
        **SHAPE, num_key_value_heads=1, head_dim=DIM, hidden_activation="gelu"
    ),
    "llama, gelu_new": lambda: LlamaConfig(**SHAPE, head_dim=DIM, hidden_act="gelu_new"),
}
needs_compiler = pytest.mark.skipif(library() is None, reason="needs a compiler")


def model_of(name: str = "qwen3, grouped") -> Any:
    """A tiny model whose every parameter matters (norms and biases are drawn too)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).float()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def row(*forest: tuple[int, list[tuple[int, int]]]) -> tuple[Tensor, Tensor, TreePlan]:
    """Ids, positions and plan of shared prefixes with their suffixes (shared, own length)."""
    plan = plan_of(forest)
    position = torch.cat([torch.arange(s.shared, s.shared + s.length) for s in plan.segments])
    made = torch.Generator().manual_seed(plan.length)
    return torch.randint(0, VOCAB, (plan.length,), generator=made), position, plan


SEVERAL = row((30, [(30, 20), (20, 15), (0, 7)]), (50, [(50, 40), (10, 33)]), (20, []))
SINGLE = row((1, []))


def as_transformers_does(base: Any, ids: Tensor, position: Tensor, plan: TreePlan) -> Tensor:
    with tree_attention(base):
        out = base(input_ids=ids[None], position_ids=position[None], use_cache=False, plan=plan)
    return out.last_hidden_state[0]


def outcome(base: Any, compute: Callable[..., Tensor], packed: Any) -> dict[str, Tensor]:
    """Hidden states, and the gradients of all parameters."""
    base.zero_grad()
    hidden = compute(base, *packed)
    grad = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden * grad).sum().backward()
    grads = {n: p.grad.clone() for n, p in base.named_parameters() if p.grad is not None}
    return {"hidden states": hidden.detach(), **grads}


def close(result: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal up to the rounding of fp32 sums, whose size the largest entry sets."""
    assert set(result) == set(expected)
    for name, value in expected.items():
        most = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(result[name], value, rtol=0, atol=3e-5 * most, msg=name)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- what is computed ----------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("packed", [SEVERAL, SINGLE], ids=["several shared prefixes", "one token"])
@pytest.mark.parametrize("name", CONFIGS)
def test_hidden_states_and_gradients_are_those_of_transformers(threads, name, packed):
    base = model_of(name).base_model
    assert fusable(base)
    expected = outcome(base, as_transformers_does, packed)
    assert len(expected) == 1 + len(list(base.parameters()))
    threads(1)
    result = outcome(base, fused, packed)
    close(result, expected)
    threads(2)
    torch.testing.assert_close(outcome(base, fused, packed), result, rtol=0, atol=0)


@needs_compiler
def test_gradient_checkpointing_keeps_a_layers_input_only():
    model = model_of().train()
    expected, most = outcome(model.base_model, fused, SEVERAL), kept_numbers(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert fusable(model.base_model)
    again = outcome(model.base_model, fused, SEVERAL)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    tokens, queries, keys = SEVERAL[2].length, 4 * DIM, DIM
    kept = HIDDEN + queries + 2 * keys + queries + 4 + 2 * INNER  # besides the input
    assert most - kept_numbers(model) == LAYERS * tokens * kept


def kept_numbers(model: Any) -> int:
    """Numbers that a forward pass keeps for the backward one, each tensor counted once."""
    sizes: dict[int, int] = {}

    def seen(x: Tensor) -> Tensor:
        sizes[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x):
        hidden = fused(model.base_model, *SEVERAL)
    del hidden
    return sum(sizes.values())


@needs_compiler
def test_frozen_weights_get_no_gradient_and_the_others_theirs():
    base = model_of("llama, biased, grouped, tied").base_model
    expected = outcome(base, fused, SEVERAL)
    for name, parameter in base.named_parameters():
        frozen = "layers.0" in name and ("mlp" in name or "bias" in name or "norm" in name)
        parameter.requires_grad_(not frozen)
    base.zero_grad(set_to_none=True)
    result = outcome(base, fused, SEVERAL)
    assert 0 < len(result) < len(expected)
    torch.testing.assert_close(result, {name: expected[name] for name in result}, rtol=0, atol=0)


# --- in the learner ------------------------------------------------------------------------------


def family_samples(loss: str = "sft") -> list[Sample]:
    rng, samples = np.random.default_rng(3), []
    for length in (12, 40):
        prompt = tuple(rng.integers(3, VOCAB, length).tolist())
        for own in (30, 17, 5):
            ids = prompt + tuple(rng.integers(3, VOCAB, own).tolist())
            weights = (np.arange(len(ids)) >= length).astype(np.float32)
            targets = rng.random(len(ids)).astype(np.float32) if loss == "value" else None
            samples.append(Sample(ids, weights, loss, targets=targets))
    return samples


def learner_of(model: Any, tokens: int = 4096, **options: Any) -> Learner:
    rate = {"learning_rate": 1e-3, "max_grad_norm": 1e9}
    given = OptimizerConfig(tokens_per_microbatch=tokens, **rate)
    return Learner(copy.deepcopy(model), given, **options)


def gradients_of(learner: Learner) -> dict[str, Tensor]:
    named = learner.model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


@needs_compiler
@pytest.mark.parametrize("tokens", [4096, 60])
@pytest.mark.parametrize("kind", ["language", "value"])
def test_the_learner_learns_what_padded_rows_teach(monkeypatch, kind, tokens):
    calls = []

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return fused(*args)

    monkeypatch.setattr(learning, "fused", counted)
    head = "mse" if kind == "value" else None
    model = ValueModel(model_of(), 1) if head else model_of()
    samples = family_samples("value" if head else "sft")
    packed, padded = (learner_of(model, tokens, head=head) for _ in range(2))
    padded.shares_prefixes = False
    one, other = packed.learn(samples, 0), padded.learn(samples, 0)
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert len(calls) == (1 if tokens == 4096 else 4)
    close(gradients_of(packed), gradients_of(padded))


@needs_compiler
@pytest.mark.parametrize("name", ["llama, biased, grouped, tied", "qwen3", "gemma"])
def test_logprobs_are_those_of_the_engine(name):
    model = model_of(name).eval()
    engine = engine_of(model, max_length=96)
    prompts = [tuple(range(3, 3 + n)) for n in (4, 9, 20)]
    for prompt, result in zip(prompts, engine.generate(requests_of(prompts)), strict=True):
        ids = prompt + result.ids
        weights = (np.arange(len(ids)) >= len(prompt)).astype(np.float32)
        samples = [Sample(ids, weights, "sft"), Sample(ids[:-1], weights[:-1], "sft")]
        row = learner_of(model).logprobs(samples)[0]
        np.testing.assert_allclose(row[len(prompt) :], result.logprobs, atol=1e-5)


def requests_of(prompts: list[tuple[int, ...]]) -> list[Request]:
    return [Request(prompt, max_new_tokens=24, seed=i) for i, prompt in enumerate(prompts)]


@needs_compiler
def test_nothing_is_held_after_a_step():
    learner, samples = learner_of(model_of()), family_samples()
    sizes = []
    for step in range(3):
        learner.learn(samples, step)
        learner.logprobs(samples)
        gc.collect()
        sizes.append(sum(type(x) is Tensor for x in gc.get_objects()))
    assert all(one == other for one, other in pairwise(sizes[1:]))


# --- what is left to transformers ----------------------------------------------------------------


def hooked(model: Any) -> None:
    model.base_model.layers[1].mlp.register_forward_hook(lambda *_: None)


def replaced(model: Any) -> None:
    class Own(torch.nn.Linear):
        pass

    model.base_model.layers[1].mlp.up_proj = Own(HIDDEN, INNER, bias=False)


def patched(model: Any) -> None:
    layer = model.base_model.layers[0]
    layer.forward = layer.forward


def adapted(model: Any) -> None:
    pytest.importorskip("peft")
    attach(model, LoraConfig(rank=2, target_modules=("q_proj",)), 0)


def parametrized(model: Any) -> None:
    linear = model.base_model.layers[0].mlp.up_proj
    torch.nn.utils.parametrizations.weight_norm(linear)


def rectified(model: Any) -> None:
    model.base_model.layers[1].mlp.act_fn = torch.nn.ReLU()


def biased(model: Any) -> None:
    model.base_model.layers[1].mlp.up_proj = torch.nn.Linear(HIDDEN, INNER, bias=True)


def layer_normed(model: Any) -> None:
    model.base_model.layers[1].input_layernorm = torch.nn.LayerNorm(HIDDEN)


def another_epsilon(model: Any) -> None:
    model.base_model.layers[1].post_attention_layernorm.variance_epsilon = 0.5


def another_scale(model: Any) -> None:
    model.base_model.layers[1].self_attn.scaling = 0.5


def in_double(model: Any) -> None:
    model.double()


def on_meta(model: Any) -> None:
    model.to("meta")


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        *(hooked, replaced, patched, adapted, parametrized, in_double, on_meta),
        *(rectified, biased, layer_normed, another_epsilon, another_scale),
    ],
)
def test_models_of_another_kind_are_left_to_transformers(change):
    model = model_of()
    assert fusable(model.base_model)
    change(model)
    assert not fusable(model.base_model)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SHAPE, head_dim=24),
        LlamaConfig(**SHAPE | {"hidden_size": 44}, head_dim=DIM),
        LlamaConfig(**SHAPE | {"intermediate_size": 44}, head_dim=DIM),
        LlamaConfig(**SHAPE, head_dim=DIM, mlp_bias=True),
        LlamaConfig(**SHAPE, head_dim=DIM, hidden_act="relu"),
    ],
    ids=["head of 24", "hidden 44", "inner 44", "biased mlp", "relu"],
)
def test_shapes_that_are_not_computed_are_left_to_transformers(config):
    assert not fusable(AutoModelForCausalLM.from_config(config).float().base_model)


@needs_compiler
def test_autocast_and_a_missing_compiler_leave_layers_to_transformers(monkeypatch):
    base = model_of().base_model
    with torch.autocast("cpu", torch.bfloat16):
        assert not fusable(base)
    assert fusable(base)
    monkeypatch.setattr(layers, "library", lambda: None)
    assert not fusable(base)


@needs_compiler
def test_layers_of_large_models_are_left_to_torch(monkeypatch):
    """Their products are faster there: bench/layers.py."""
    base = model_of().base_model
    size = sum(4 * p.numel() for p in base.layers.parameters())
    monkeypatch.setattr(layers, "LARGEST", size)
    assert fusable(base)
    monkeypatch.setattr(layers, "LARGEST", size - 1)
    assert not fusable(base)


def test_models_left_to_transformers_learn_all_the_same(monkeypatch):
    samples = family_samples()
    result = learner_of(model_of())
    result.learn(samples, 0)
    monkeypatch.setattr(learning, "fusable", lambda base: False)
    expected = learner_of(model_of())
    expected.learn(samples, 0)
    close(gradients_of(result), gradients_of(expected))
