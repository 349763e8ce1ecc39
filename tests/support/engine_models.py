"""Random models of every family, engines over them, and what transformers says of a completion."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RwkvConfig,
)

from genac.engines.base import Completion
from genac.engines.local import LocalEngine

VOCAB = 40
# A wide initialisation keeps the two best logits of random models far apart.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
FAST = {
    "llama": LlamaConfig(**GROUPED),
    "llama biased, tied": LlamaConfig(**GROUPED, attention_bias=True, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "mistral, wide window": MistralConfig(**GROUPED, sliding_window=64),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "llama scaled rope": LlamaConfig(
        **GROUPED,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
    ),
}
SLOW = {
    "gpt_neox": GPTNeoXConfig(**SHAPE),
    "mistral sliding": MistralConfig(**GROUPED, sliding_window=4),
}

# States in place of keys; mamba's cache can be stepped through, rwkv's cannot.
RECURRENT = {
    "mamba": MambaConfig(
        vocab_size=VOCAB, hidden_size=32, state_size=8, num_hidden_layers=2, time_step_rank=8,
        initializer_range=0.3, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    ),
    "rwkv": RwkvConfig(
        vocab_size=VOCAB, hidden_size=32, attention_hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, context_length=64, bos_token_id=2, eos_token_id=1,
    ),
}  # fmt: skip


def random_model(config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():  # biases start at zero and would hide a forgotten one
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def chain_model(words: list[int], vocab_size: int) -> Any:
    """Says the words, which must differ, one after the other: each decides the next alone."""
    config = LlamaConfig(
        **SHAPE | {"vocab_size": vocab_size, "hidden_size": vocab_size, "num_attention_heads": 1},
        head_dim=8,
    )
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(vocab_size))
        model.lm_head.weight.zero_()
        for word, following in itertools.pairwise(words):
            model.lm_head.weight[following, word] = 1.0
    return model


def engine_of(model: Any, max_length: int = 64, **options: Any) -> LocalEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LocalEngine(model, max_length=max_length, **options)


def forward_logprobs(
    model: Any,
    prompt: tuple[int, ...],
    ids: tuple[int, ...],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> np.ndarray:
    """What transformers says of the completion: (T, V) log-probabilities. Temperature 0 stands for
    1, and is not cut.
    """
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    logp_TV = torch.log_softmax(logits / (temperature or 1.0), -1).numpy()
    return cut(logp_TV, top_p) if temperature and top_p < 1 else logp_TV


def cut(logp_TV: np.ndarray, top_p: float) -> np.ndarray:
    """The log-probabilities of the nucleus, -inf outside it."""
    out = np.full_like(logp_TV, -np.inf)
    for row, logp in enumerate(logp_TV):
        order = np.argsort(-logp)
        mass = np.exp(logp[order])
        kept = order[np.cumsum(mass) - mass < top_p]
        out[row, kept] = logp[kept] - np.log(np.exp(logp[kept]).sum())
    return out


def in_double(model: Any) -> Any:
    """A copy whose weights are float64: rounding of the reference plays no part."""
    return copy.deepcopy(model).double()


def same(one: Completion, other: Completion, atol: float = 1e-5) -> None:
    assert one.ids == other.ids and one.finish == other.finish
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol)
    assert one.entropies is not None and other.entropies is not None
    np.testing.assert_allclose(one.entropies, other.entropies, atol=atol)
    assert one.token_probs.shape == other.token_probs.shape
    np.testing.assert_allclose(one.token_probs, other.token_probs, atol=atol)
