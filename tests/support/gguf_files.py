"""Small GGUF files, written as llama.cpp's converter writes them: names, and rotary rows of queries
and keys in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from fakes import CHAT, byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
MERGES = ["Ġ t", "Ċ Ċ"]  # a word's beginning, and two line breaks
CONTROL, NORMAL = 3, 1  # llama.cpp's kinds of tokens


def tiny_llama(context: int = 1024) -> Any:
    """A random model with tied embeddings and grouped queries, for the byte tokenizer."""
    config = LlamaConfig(
        vocab_size=len(words_of(byte_tokenizer())),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def write_gguf(
    file: Path,
    model: Any,
    *,
    architecture: str = "llama",
    quantised: bool = False,
    without: str = "none",
    parts: int = 1,
    splits: str = "gpt-2",
) -> Path:
    """The model with the byte tokenizer; its matrices as 8-bit blocks where `quantised`."""
    writer, config = gguf.GGUFWriter(file, architecture), model.config
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    add_tokenizer(writer, splits)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" and without not in name:
            add_tensor(writer, gguf_name(name), in_pairs(name, tensor, config).numpy(), quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_name(name: str) -> str:
    parts = name.removeprefix("model.").split(".")
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{NAMES['.'.join(parts[2:-1])]}.weight"
    return {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[0]]


def in_pairs(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp rotates neighbouring rows, transformers the halves of a head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((heads[key] for key in heads if key in name), None)
    if count is None:
        return tensor
    return tensor.reshape(count, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)


def add_tensor(writer: Any, name: str, values: np.ndarray, quantised: bool) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    if quantised and values.ndim == 2:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, np.ascontiguousarray(values))


def words_of(tokenizer: Any) -> list[str]:
    """The byte tokenizer's words, and what two merges make of them."""
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    return [*words, *(merge.replace(" ", "") for merge in MERGES)]


def add_tokenizer(writer: Any, splits: str) -> None:
    tokenizer = byte_tokenizer(CHAT, bos=True)
    words = words_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list(words)
    special = tokenizer.all_special_tokens
    writer.add_token_types([CONTROL if word in special else NORMAL for word in words])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
