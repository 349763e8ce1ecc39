"""Tiny random models of the families people use, with their own tokenizer classes and chat formats.

The tokenizers are trained here on a few texts; the templates are written here in each family's
format (tags and roles), because no hub is reachable where this runs.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GemmaTokenizer,
    LlamaConfig,
    LlamaTokenizer,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

from genac.critics.prompts import STEPS, TASK

TEXTS = [
    *(c * 3 for c in string.printable),
    TASK,
    STEPS,
    "Problem:\nPartial solution:\nYour judgement:\n<answer>7</answer>\n<think>\n</think>\n",
    "What is 2 + 3?\nWe add: 2 + 3 = 5.\nSo the answer is \\boxed{5}.\n",
    "system user assistant model",
]

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}"
    "{{ eos_token }}{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    config: type[PreTrainedConfig]
    tokenizer: type[PreTrainedTokenizerBase]
    template: str
    end: str  # the token that ends a turn
    special: tuple[str, ...]
    shape: dict[str, Any]


FAMILIES = {
    "qwen2": Family(
        Qwen2Config, Qwen2Tokenizer, QWEN, "<|im_end|>", ("<|im_start|>", "<|im_end|>"),
        {"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        Qwen3Config, Qwen2Tokenizer, QWEN, "<|im_end|>", ("<|im_start|>", "<|im_end|>"),
        {"head_dim": 16, "tie_word_embeddings": True},
    ),
    "llama": Family(
        LlamaConfig, LlamaTokenizer, LLAMA, "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"tie_word_embeddings": False},
    ),
    "gemma": Family(
        GemmaConfig, GemmaTokenizer, GEMMA, "<end_of_turn>",
        ("<start_of_turn>", "<end_of_turn>"), {"head_dim": 8},
    ),
    "mistral": Family(
        MistralConfig, LlamaTokenizer, MISTRAL, "</s>", ("[INST]", "[/INST]"),
        {"sliding_window": None, "tie_word_embeddings": False},
    ),
}  # fmt: skip


def save_family(
    name: str, folder: Path, *, seed: int = 0, context: int = 1024, tokenizer: Any = None
) -> str:
    """Writes a random model of the family as an ordinary Hugging Face folder; with another model's
    `tokenizer` and its chat format where one is named.
    """
    family = FAMILIES[name]
    end = family.end
    if tokenizer is None:
        blank: Any = family.tokenizer()
        tokenizer = blank.train_new_from_iterator(
            TEXTS * 4, 420, new_special_tokens=list(family.special)
        )
        tokenizer.chat_template = family.template
    else:
        end = tokenizer.eos_token
    tokenizer.model_max_length = context
    config = family.config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids(end),
        pad_token_id=tokenizer.pad_token_id,
        **family.shape,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
