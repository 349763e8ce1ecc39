"""An engine samples what its model predicts: compared when it is made, and mended or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import (
    FAST,
    GROUPED,
    RECURRENT,
    SHAPE,
    SLOW,
    engine_of,
    forward_logprobs,
    in_double,
    random_model,
)
from torch import nn
from torch.nn import functional as F
from transformers import (
    GemmaConfig,
    GPT2Config,
    GPTNeoXForCausalLM,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.activations import ACT2FN

from genac.engines.base import Request
from genac.engines.decoder import Decoder
from genac.engines.local import LocalEngine
from genac.models.activations import activation_of

PROMPTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14, 15), (3, 2)]


class Forgets(GPTNeoXForCausalLM):
    """Swallows the cache that it is given, as recurrent models do."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **rest: Any) -> Any:
        return super().forward(input_ids, use_cache=False)


class ReadsBothWays(GPTNeoXForCausalLM):
    """Every token sees those behind it."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **rest: Any) -> Any:
        out = super().forward(input_ids, past_key_values=past_key_values, **rest)
        out.logits = out.logits + out.logits.flip(1)
        return out


def sampled_right(model: Any, engine: LocalEngine) -> None:
    """Rows of several lengths that end one after the other, against double precision."""
    requests = [Request(PROMPTS[i % 4], 3 + i % 6, seed=i) for i in range(12)]
    exact = in_double(model)
    for request, done in zip(requests, engine.generate(requests), strict=True):
        logp = forward_logprobs(exact, request.prompt_ids, done.ids)
        own = logp[np.arange(len(done.ids)), done.ids]
        np.testing.assert_allclose(done.logprobs, own, atol=2e-5)


# --- what a cache loses ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_models_are_sampled_after_all_that_they_read(name):
    model = random_model(RECURRENT[name])
    sampled_right(model, engine_of(model))
    sampled_right(model, engine_of(model, max_rows=3))


def test_a_forward_that_ignores_its_cache_is_named_and_read_again():
    torch.manual_seed(0)
    model = Forgets(SLOW["gpt_neox"]).float().eval()
    message = r"'gpt_neox' .* cannot be sampled with a cache: .* nats apart.*square of its length"
    with pytest.warns(UserWarning, match=message):
        engine = LocalEngine(model, max_length=64)
    sampled_right(model, engine)


def test_a_model_that_reads_both_ways_is_refused_with_the_remedy():
    torch.manual_seed(0)
    model = ReadsBothWays(SLOW["gpt_neox"]).float().eval()
    with pytest.raises(ValueError, match=r"'gpt_neox' .* nats apart.*use a decoder-only causal"):
        LocalEngine(model, max_length=64)


def test_a_cache_that_works_is_used():
    for config in (SLOW["gpt_neox"], RECURRENT["mamba"]):
        engine, prompts = engine_of(random_model(config)), [Request(p, 9, seed=0) for p in PROMPTS]
        assert engine.processed_tokens == 0
        engine.generate(prompts)
        assert engine.processed_tokens == sum(len(p) + 8 for p in PROMPTS)


@pytest.mark.parametrize("name", [*FAST, *SLOW, *RECURRENT])
def test_rounding_in_half_precision_changes_no_way_of_sampling(name):
    whole = random_model((FAST | SLOW | RECURRENT)[name])
    half = random_model((FAST | SLOW | RECURRENT)[name]).bfloat16()
    requests = [Request(p, 9, seed=0, temperature=0.0) for p in PROMPTS]
    read = []
    for model, dtype in ((whole, None), (whole, torch.bfloat16), (half, None)):
        engine = engine_of(model, dtype=dtype)
        engine.generate(requests)
        read.append((engine.decoder is None, engine.processed_tokens))
    assert len(set(read)) == 1


def test_a_state_that_is_lost_in_half_precision_shows():
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="cannot be sampled with a cache"):
        LocalEngine(Forgets(SLOW["gpt_neox"]).bfloat16().eval(), max_length=64)


def test_the_fast_decoder_is_left_where_a_layer_was_changed():
    model = random_model(FAST["llama"])
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.warns(UserWarning, match=r"'llama' .* not sampled by the fast decoder: .* nats"):
        engine = LocalEngine(model, max_length=64)
    assert engine.decoder is None
    sampled_right(model, engine)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4),
        Qwen2Config(**GROUPED, attention_dropout=0.5),
    ],
    ids=lambda config: config.model_type,
)
def test_the_comparison_sees_no_dropout_and_leaves_a_model_as_it_was(config):
    model = random_model(config).train()
    next(model.base_model.children()).eval()
    modes = [module.training for module in model.modules()]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(cannot be|not) sampled")
        engine = LocalEngine(model, max_length=64)
    assert [module.training for module in model.modules()] == modes
    sampled_right(model.eval(), engine)


@pytest.mark.parametrize("length", [2, 3, 5])
@pytest.mark.parametrize("name", ["qwen3", "gpt_neox", "rwkv"])
def test_a_context_of_few_tokens_is_enough_to_compare(name, length):
    engine = engine_of(random_model((FAST | SLOW | RECURRENT)[name]), max_length=length)
    assert len(engine.generate([Request((5,), length - 1, seed=0)])[0].ids) == length - 1


# --- rotations that depend on the length ----------------------------------------------------------

LONG = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **LONG}),
        LlamaConfig(
            **SHAPE | {"max_position_embeddings": 16},
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        ),
        Phi3Config(
            **SHAPE,
            original_max_position_embeddings=16,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **LONG},
        ),
    ],
    ids=["llama longrope", "llama dynamic", "phi3 longrope"],
)
def test_rows_end_where_a_rotation_would_depend_on_their_length(config):
    model = random_model(config)
    with pytest.warns(UserWarning, match="longer than 16 tokens .* taken to be 16 tokens, not 64"):
        engine = LocalEngine(model, max_length=64)
    request = Request((5, 6, 7), 13, seed=0)
    done = engine.generate([request])[0]
    logp = forward_logprobs(in_double(model), request.prompt_ids, done.ids)
    np.testing.assert_allclose(done.logprobs, logp[np.arange(13), done.ids], atol=2e-5)
    with pytest.raises(ValueError, match="exceeds the context of 16"):
        engine.generate([Request((5, 6, 7), 14, seed=0)])


# --- activations ----------------------------------------------------------------------------------

CONFIGS = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma": GemmaConfig,
}
NAMES = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "gelu_10")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_decodes_with_the_activation_of_its_layers(family, name):
    head = {"head_dim": 8} if family == "gemma" else {}
    model = random_model(CONFIGS[family](**GROUPED, **head, hidden_act=name))
    sampled_right(model, engine_of(model))


@pytest.mark.parametrize(
    "names",
    [
        {"hidden_act": "gelu"},
        {"hidden_activation": "gelu"},
        {"hidden_act": "gelu", "hidden_activation": None},
        {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"},
        {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "silu"},
    ],
    ids=str,
)
def test_what_a_gemma_config_calls_its_activation_decides_nothing(names):
    model = random_model(GemmaConfig(**GROUPED, head_dim=8, **names))
    assert Decoder.supports(model, 64)
    sampled_right(model, engine_of(model))
    model.config.hidden_act = "gelu"  # as a config that is edited later
    sampled_right(model, engine_of(model))


def test_layers_of_two_activations_are_left_to_transformers():
    model = random_model(LlamaConfig(**SHAPE))
    model.model.layers[1].mlp.act_fn = nn.GELU()
    engine = engine_of(model)
    assert engine.decoder is None
    sampled_right(model, engine)


def test_activations_are_known_by_what_they_do():
    known = {name: activation_of(act) for name, act in ((n, ACT2FN[n]) for n in NAMES)}
    expected = (0, 0, 2, 1, 1, 1, None, None)
    assert known == dict(zip(NAMES, expected, strict=True))
    assert activation_of(F.silu) == 0 and activation_of(nn.GELU()) == 2
    assert activation_of(nn.PReLU()) is None  # its form is trained
