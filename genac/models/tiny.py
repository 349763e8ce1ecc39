"""Tiny models from a config and word-level tokenizers made locally: the embedded default.

Both are saved in the ordinary Hugging Face layout, so everything downstream loads them exactly as
it would load a model from the hub.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL = ["<pad>", "<eos>", "<unk>"]
# The words of the compact critic prompt and of the critic's answer; see critics/prompts.py.
CRITIC_WORDS = ["<check>", "<judge>", "<answer>", "</answer>", "size", "rate", "10", "\n"]


def build_tokenizer(alphabet: list[str], max_length: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `alphabet`: the longest word wins, unknown characters are <unk>.

    White space that is no word of the alphabet separates words and is dropped.
    """
    words = list(dict.fromkeys([*(str(d) for d in range(10)), *alphabet, *CRITIC_WORDS]))
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    alternation = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(alternation + r"|\S"), behavior="removed", invert=True)
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    vocab_size: int,
    hidden_size: int,
    layers: int,
    heads: int,
    max_length: int,
    seed: int,
    eos_token_id: int = 1,
    pad_token_id: int = 0,
) -> Qwen3ForCausalLM:
    """A Qwen3-architecture model with random weights drawn from `seed`."""
    if hidden_size % heads:
        raise ValueError(
            f"hidden_size {hidden_size} is not a multiple of heads {heads}; "
            "choose actor.tiny.heads so that it divides actor.tiny.hidden_size"
        )
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden_size // heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        initializer_range=hidden_size**-0.5 / 2,
    )
    with torch.random.fork_rng(devices=[]):  # made on CPU; no GPU's state has to be read
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).float()


def save_tiny(folder: Path, alphabet: list[str], *, max_length: int, **shape: int) -> None:
    """Builds tokenizer and model and writes them as an ordinary Hugging Face folder."""
    tokenizer = build_tokenizer(alphabet, max_length)
    build_model(len(tokenizer), max_length=max_length, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
