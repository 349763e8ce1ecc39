"""The learner over real architectures: no noise in training, heads that do more than multiply,
numbers that lie deep in a config.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CTRLConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma4Config,
    GPT2Config,
    GPTBigCodeConfig,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    NemotronConfig,
    OPTConfig,
    PhimoeConfig,
    Qwen2Config,
    RecurrentGemmaConfig,
    RoFormerConfig,
    TrOCRConfig,
    xLSTMConfig,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from genac.config.models import LoraConfig, LossConfig, OptimizerConfig
from genac.learner import Learner
from genac.models.heads import plain_head
from genac.models.lora import attach
from genac.models.value_head import ValueModel
from genac.types import Sample, ScoreTarget

VOCAB = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
OPT = {
    **{k: v for k, v in SHAPE.items() if k not in ("intermediate_size", "initializer_range")},
    "ffn_dim": 48,
    "init_std": 0.3,
}
NOISY = {
    "gpt2, as it is made": GPT2Config(**GPT2),
    "gpt_bigcode": GPTBigCodeConfig(**GPT2),
    "roformer, whose model calls the checkpoint": RoFormerConfig(
        **{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"},
        **{"is_decoder": True, "embedding_size": 32},
        **{"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3},
    ),
    "trocr, and its layers": TrOCRConfig(
        **{"vocab_size": VOCAB, "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 48},
        **{"decoder_attention_heads": 4, "max_position_embeddings": 64, "init_std": 0.3},
        **{"dropout": 0.3, "attention_dropout": 0.3, "decoder_layerdrop": 0.5},
    ),
    "opt, layers too": OPTConfig(**OPT, dropout=0.3, attention_dropout=0.3, layerdrop=0.5),
    "llama, attention": LlamaConfig(**SHAPE, attention_dropout=0.3),
    "qwen2, attention": Qwen2Config(**SHAPE, attention_dropout=0.3),
    "nemotron, attention": NemotronConfig(**SHAPE, attention_dropout=0.3),
    "mixtral, router": MixtralConfig(**SHAPE, **EXPERTS, router_jitter_noise=0.5),
    "phimoe, router": PhimoeConfig(
        **SHAPE, **EXPERTS, router_jitter_noise=0.5, input_jitter_noise=0.5, attention_dropout=0.3
    ),
}


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def learner_of(model: Any, head: str | None = None, **optimizer: Any) -> Learner:
    settings = {"learning_rate": 1e-3, "weight_decay": 0.0, "max_grad_norm": 1e9} | optimizer
    return Learner(copy.deepcopy(model), OptimizerConfig(**settings), LossConfig(), head=head)


def samples_of(model: Any, temperature: float = 1.0) -> list[Sample]:
    """On-policy samples, their log-probabilities by the model's own forward."""
    rng, samples = np.random.default_rng(0), []
    for length in (5, 9, 12):
        ids = tuple(int(i) for i in rng.integers(2, VOCAB, length))
        weights = np.r_[np.zeros(2), np.ones(length - 2)].astype(np.float32)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
        logp = torch.log_softmax(logits / temperature, -1)
        picked = logp.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
        advantages = weights * rng.normal(size=length).astype(np.float32)
        samples.append(
            Sample(
                ids, weights, "policy", advantages, np.r_[0, picked].astype(np.float32) * weights,
                temperature=temperature,
            )
        )  # fmt: skip
    return samples


# --- no noise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", NOISY)
def test_the_first_ratio_is_one_whatever_noise_is_configured(name, checkpointing):
    model = model_of(NOISY[name])
    learner = learner_of(model, gradient_checkpointing=checkpointing)
    measured = learner.learn(samples_of(model), seed=0)
    assert measured["sampling/sampling_logp_difference/mean"] < 1e-5
    assert measured["clip_ratio/region_mean"] == 0.0 and measured["grad_norm"] > 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", ["policy", "sft", "value"])
@pytest.mark.parametrize(
    "name", ["gpt2, as it is made", "opt, layers too", "mixtral, router", "trocr, and its layers"]
)
def test_one_seed_gives_one_loss_and_one_gradient(name, loss, checkpointing):
    model = model_of(NOISY[name])
    samples = [replace(s, loss=loss) for s in samples_of(model)]
    if loss == "value":
        model = ValueModel(model, 1)
        torch.nn.init.normal_(model.head.weight)
        samples = [replace(s, targets=np.full(len(s.ids), 0.3, np.float32)) for s in samples]
    head = "mse" if loss == "value" else None
    results = []
    for seed in (0, 1):  # of torch's generator, which dropout would draw from
        learner = learner_of(model, head, gradient_checkpointing=checkpointing)
        torch.manual_seed(seed)
        results.append((learner.learn(samples, seed=0), learner.model.state_dict()))
    (first, weights), (second, others) = results
    assert first == second
    for key, value in weights.items():
        torch.testing.assert_close(value, others[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", NOISY)
def test_checkpointed_layers_are_computed_again_and_gradients_stay(name):
    model = model_of(NOISY[name])
    samples, gradients, calls = samples_of(model), [], []
    for checkpointing in (False, True):
        learner = learner_of(model, gradient_checkpointing=checkpointing)
        seen: list[str] = []
        for part, module in learner.model.named_modules():
            if "norm" in part.lower() or "ln_" in part:
                module.register_forward_hook(lambda *_, seen=seen, part=part: seen.append(part))
        learner.learn(samples, seed=0)
        calls.append(len(seen))
        named = learner.model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.grad is not None})
    assert calls[1] > calls[0] > 0
    plain, again = gradients
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(value, again[key], rtol=1e-4, atol=1e-6, msg=key)


def test_an_architecture_that_cannot_compute_again_is_refused_with_the_remedy():
    model = model_of(CTRLConfig(vocab_size=VOCAB, n_embd=32, dff=48, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match=r"gradient_checkpointing is set.*Set it to false"):
        learner_of(model, gradient_checkpointing=True)


def test_adapters_learn_without_noise():
    config = Qwen2Config(**SHAPE, attention_dropout=0.3)
    model = attach(model_of(config), LoraConfig(rank=4), seed=0)
    for checkpointing in (False, True):
        learner = learner_of(model, gradient_checkpointing=checkpointing)
        measured = learner.learn(samples_of(model), seed=0)
        assert measured["sampling/sampling_logp_difference/mean"] < 1e-5
        assert measured["grad_norm"] > 0


# --- heads ---------------------------------------------------------------------------------------

VISION = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
CAP = {"head_dim": 8, "final_logit_softcapping": 2.0}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
INPUTS = {"vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
GEMMA4 = {**SHAPE, **CAP, **MIXED, **INPUTS, "global_head_dim": 8}
GEMMA3N = {**SHAPE, **CAP, **MIXED, **INPUTS, "laurel_rank": 4}
HEADS = {  # and whether the logits are head(hidden)
    "falcon_h1": (FalconH1Config(**SHAPE, **MAMBA, lm_head_multiplier=0.01), False),
    "cohere2": (Cohere2Config(**SHAPE, logit_scale=0.1), False),
    "granite": (GraniteConfig(**SHAPE, logits_scaling=8.0), False),
    "granite without": (GraniteConfig(**SHAPE, logits_scaling=1.0), True),
    "gemma2": (Gemma2Config(**SHAPE, **CAP), False),
    "gemma2 without": (Gemma2Config(**SHAPE, **CAP | {"final_logit_softcapping": None}), True),
    "gemma3n": (Gemma3nTextConfig(**GEMMA3N, activation_sparsity_pattern=[0.0, 0.0]), False),
    "gemma4, nested": (Gemma4Config(text_config=GEMMA4, vision_config=VISION), False),
    "recurrent_gemma": (
        RecurrentGemmaConfig(**SHAPE, lru_width=32, head_dim=8, logits_soft_cap=2.0),
        False,
    ),
    "xlstm": (
        xLSTMConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_blocks=2, num_heads=4,
            output_logit_soft_cap=0.5, pad_token_id=0, bos_token_id=0, eos_token_id=1,
        ),
        False,
    ),
    "gemma3, nested": (
        Gemma3Config(text_config=SHAPE | {"head_dim": 8}, vision_config=VISION),
        True,
    ),
    "opt, projected": (OPTConfig(**OPT, word_embed_proj_dim=16), True),
    "gpt2": (GPT2Config(**GPT2), True),
    "qwen2": (Qwen2Config(**SHAPE), True),
    "llama": (LlamaConfig(**SHAPE), True),
    "llama4": (Llama4TextConfig(**SHAPE, **EXPERTS, head_dim=8, intermediate_size_mlp=48), True),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_training_sees_what_the_model_itself_says(name):
    config, plain = HEADS[name]
    model = model_of(config)
    learner = learner_of(model)
    assert learner.plain == plain
    samples = samples_of(model, temperature=0.7)
    for sample, result in zip(samples, learner.logprobs(samples), strict=True):
        np.testing.assert_allclose(result, sample.old_logprobs, atol=1e-5)
    measured = learner.learn(samples, seed=0)
    assert measured["sampling/sampling_logp_difference/mean"] < 1e-5


def test_a_cap_is_seen_however_small_the_logits_are():
    model = model_of(Gemma2Config(**SHAPE | {"initializer_range": 0.001}, head_dim=8))
    assert model(input_ids=torch.tensor([[3, 4]])).logits.abs().max() < 0.1
    assert not plain_head(model)


@pytest.mark.parametrize("kind", ["hidden", "logits"])
def test_a_factor_by_no_name_is_seen_on_either_side_of_the_head(kind):
    class Scaled(LlamaForCausalLM):
        def forward(self, input_ids, **kwargs):
            hidden = self.model(input_ids=input_ids).last_hidden_state
            logits = self.lm_head(hidden / (2 if kind == "hidden" else 1))
            return CausalLMOutputWithPast(logits=logits / (2 if kind == "logits" else 1))

    torch.manual_seed(0)
    model = Scaled(LlamaConfig(**SHAPE)).eval()
    assert not plain_head(model)
    learner, samples = learner_of(model), samples_of(model)
    for sample, result in zip(samples, learner.logprobs(samples), strict=True):
        np.testing.assert_allclose(result, sample.old_logprobs, atol=1e-5)


@pytest.mark.parametrize("name", ["cohere2", "gemma2", "gemma4, nested", "llama"])
def test_only_trained_tokens_pass_the_head(name):
    """With score targets too, whose gradient is that of the model's own logits."""
    model = model_of(HEADS[name][0])
    target = ScoreTarget(3, (3, 4), (0.2, 0.9))
    samples = [replace(s, loss="score", scores=(target,)) for s in samples_of(model)]
    learner, rows = learner_of(model), []
    head = learner.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[:-1].numel()))
    learner.learn(samples, seed=0)
    trained = int(sum(s.weights[1:].sum() for s in samples)) + len(samples)
    assert sum(rows) <= 2 * trained  # a plain one runs again for its gradient
    plain, loss = copy.deepcopy(model), 0.0
    for s in samples:
        logits = plain(input_ids=torch.tensor([s.ids]), use_cache=False).logits[0, :-1].float()
        logp = torch.log_softmax(logits, -1).gather(-1, torch.tensor(s.ids[1:])[:, None])[:, 0]
        ratio = (logp - torch.tensor(s.old_logprobs[1:])).exp()
        gain = ratio * torch.tensor(s.advantages[1:]) * torch.tensor(s.weights[1:])
        score = (torch.softmax(logits[2], -1)[[3, 4]] * torch.tensor([0.2, 0.9])).sum()
        loss = loss - (gain.sum() + score) / len(samples)
    loss.backward()
    own = {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}
    for key, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(own[key], parameter.grad, atol=1e-5, rtol=1e-3, msg=key)


def test_heads_are_compared_in_half_precision_and_under_adapters():
    for config, plain in (HEADS["qwen2"], HEADS["granite"]):
        assert plain_head(model_of(config).to(torch.bfloat16)) == plain
        adapted = attach(model_of(config), LoraConfig(rank=2), seed=0)
        assert Learner(adapted, OptimizerConfig(), bf16=True).plain == plain
