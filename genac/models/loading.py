"""Hugging Face models in and out. Safetensors only, no remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

hf_logging.disable_progress_bar()


def load_tokenizer(name_or_path: str) -> Any:
    """A tokenizer with a padding token; special tokens inside plain text stay plain text."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"no tokenizer could be loaded from {name_or_path!r} ({_first_line(error)}); "
            "the folder needs tokenizer.json and tokenizer_config.json: save one with "
            "tokenizer.save_pretrained(folder)"
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers makes an empty one of the model's type where the folder holds none.
        raise ValueError(
            f"no tokenizer was found in {name_or_path!r} (its vocabulary is empty); "
            "save one there with tokenizer.save_pretrained(folder)"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {name_or_path!r} has no eos_token; set one and save it again"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name_or_path: str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM from a local folder or the hub, in `dtype`."""
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / "config.json").exists():
        raise ValueError(
            f"{name_or_path!r} is a folder without config.json, so it is no Hugging Face model; "
            "point to the folder that model.save_pretrained wrote"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no causal LM could be loaded from {name_or_path!r} ({_first_line(error)}); "
            "give a model name on the hub or a local Hugging Face folder"
        ) from error
    return model


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens the model can read at once."""
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    return min(limit, tokenizer.model_max_length or limit)


def parameter_count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
