"""Hugging Face models in and out. Safetensors only, no remote code."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from genac.models.heads import positions
from genac.models.rope import within_fixed_rotation
from genac.models.sharding import whole
from genac.reach import at_hand, is_hub_name
from genac.runs.manifest import POINTER

hf_logging.disable_progress_bar()

# What transformers raises on a config that no causal LM can be made of, by architecture.
FAULTS = (
    *(OSError, ValueError, ImportError, AttributeError, LookupError, TypeError, AssertionError),
    StrictDataclassError,
)


def load_tokenizer(name_or_path: str, template_kwargs: Mapping[str, Any] | None = None) -> Any:
    """A tokenizer with a padding token; its chat template always gets `template_kwargs`."""
    name_or_path = os.path.expanduser(name_or_path)
    place = at_hand(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"no tokenizer could be loaded from {name_or_path!r} ({first_line(error)}); "
            + remedy(
                name_or_path,
                "the folder needs tokenizer.json and tokenizer_config.json: save one with "
                "tokenizer.save_pretrained(folder)",
            )
        ) from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        # transformers makes an empty one of the model's type where the folder holds none.
        raise ValueError(
            f"no tokenizer is in {name_or_path!r} (its vocabulary is empty); "
            "save one there with tokenizer.save_pretrained(folder)"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {name_or_path!r} has no eos_token; set one and save it again"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if template_kwargs:
        # On the object: every prompt of this model is rendered in the same way.
        tokenizer.apply_chat_template = functools.partial(
            tokenizer.apply_chat_template, **template_kwargs
        )
    return tokenizer


def load_model(
    name_or_path: str, dtype: torch.dtype = torch.float32, attention: str | None = None
) -> Any:
    """A causal LM from a local folder or the hub, in `dtype`; `attention` as in transformers."""
    name_or_path = os.path.expanduser(name_or_path)
    _require_config(name_or_path)
    if (Path(name_or_path) / POINTER).exists():
        raise ValueError(
            f"{name_or_path!r} holds no weights: they are at a Tinker service, says its {POINTER}; "
            "set hardware.backend to tinker"
        )
    place = at_hand(name_or_path)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            place,
            config=with_valid_padding(config),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except FAULTS as error:
        raise ValueError(
            f"no causal LM could be loaded from {name_or_path!r} ({first_line(error)}); "
            + remedy(name_or_path, "give a model name on the hub or a local Hugging Face folder")
        ) from error
    return without_padding(model)


def load_context(name_or_path: str, tokenizer: Any) -> int:
    """Tokens that a model can read at once, from its config alone."""
    _require_config(name_or_path)
    place = at_hand(name_or_path)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no causal LM could be loaded from {name_or_path!r} ({first_line(error)}); "
            + remedy(name_or_path, "give a model name on the hub or a local Hugging Face folder")
        ) from error
    return context_of(config, tokenizer)


def remedy(name: str, local: str) -> str:
    """What to do about a model that cannot be loaded: `local` for a folder, else the hub's."""
    if not is_hub_name(name):
        return local
    return (
        "it is no folder here, so the hub was searched: check the name and the network, set "
        f"HF_TOKEN where access is limited, or run 'hf download {name}' while there is a network"
    )


def _require_config(name_or_path: str) -> None:
    folder = Path(name_or_path)
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{name_or_path!r} holds adapters of PEFT alone; merge them into their base first: "
            "PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(new)"
        )
    raise ValueError(
        f"{name_or_path!r} is a folder without config.json, so it is no Hugging Face model; "
        "point to the folder that model.save_pretrained wrote"
    )


def on_meta(config: Any, attention: str | None = None) -> Any:
    """The causal LM of a config in fp32, without memory for its weights."""
    config = with_valid_padding(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
        )
    return model


def with_valid_padding(config: Any) -> Any:
    """The config, in place, without a padding id that is no token (-1, beyond the vocabulary)."""
    size = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    for part in (config, config.get_text_config(decoder=True)):
        pad = getattr(part, "pad_token_id", None)
        if pad is not None and size is not None and not 0 <= pad < size:
            part.pad_token_id = None
    return config


def without_padding(model: Any) -> Any:
    """The model, in place, whose padding token is trained like any other: rows are padded behind
    what is trained, and the padding token may also be one that ends a turn.

    A padding row of zeros stays as it is: the first norm divides by its length, so that one such
    token in a text would have a gradient hundreds of times all others'.
    """
    embedding = model.get_input_embeddings()
    row = getattr(embedding, "padding_idx", None)
    if (
        isinstance(embedding, torch.nn.Embedding)
        and row is not None
        and embedding.weight[row].any()
    ):
        embedding.padding_idx = None
    return model


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens the model can read at once."""
    return context_of(model.config, tokenizer)


def context_of(config: Any, tokenizer: Any) -> int:
    """The same from the model's config."""
    limit = positions(config)
    return within_fixed_rotation(config, min(limit, tokenizer.model_max_length or limit))


def parameter_count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def fingerprint(model: Any, *, frozen: bool = False) -> str:
    """Identifies a checkpoint: a hash over a few weights of every parameter, or of every frozen
    one.

    LoRA's random halves are left out: next to their untrained partners, which are 0, they are noise
    of the run's seed.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if ".lora_A" in name or (frozen and parameter.requires_grad):
            continue
        few = whole(parameter.detach()).flatten()[:: max(1, parameter.numel() // 32)][:32]
        digest.update(name.encode() + few.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
