"""A real byte-pair tokenizer, and models shaped like four families: every stage on problems whose
solutions are checked line by line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from smollm2 import gguf_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from genac.engines.decoder import Decoder
from genac.models.gguf import read_tokenizer
from genac.models.loading import load_model
from genac.runs.store import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {"head_dim": 16, "tie_word_embeddings": False}),
    "gemma": (GemmaConfig, {"head_dim": 16}),
    "mistral": (MistralConfig, {"sliding_window": None, "tie_word_embeddings": False}),
}
CONTEXT = 1024


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return read_tokenizer(gguf_file())


def saved(family: str, tokenizer: Any, folder: Path) -> str:
    """A random model of the family for the tokenizer, as an ordinary folder."""
    config, shape = SHAPES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=CONTEXT,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **shape,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", SHAPES)
def test_a_family_learns_the_format_and_goes_through_every_stage(
    family: str, tokenizer: Any, run_micro: Callable[..., Run], tmp_path: Path
) -> None:
    path = saved(family, tokenizer, tmp_path / family)
    optimizer = {"learning_rate": 1e-2}
    run = run_micro(
        actor={"model_name_or_path": path},
        critic={"generative": {"prompt": "paper", "max_new_tokens": 60}},
        rollout={"max_completion_length": 40},
        stages={
            "folder": str(tmp_path / "stages"),
            "warmup": {"steps": 60, "batch_size": 8, "optimizer": optimizer},
            "synthesize": {"num_prompts": 8, "num_states": 24},
            "sft": {"epochs": 3, "optimizer": optimizer},
            "critic_rl": {"steps": 1},
            "joint": {"steps": 2},
        },
    )
    assert Decoder.supports(load_model(path), CONTEXT), "the fast engine samples"
    losses = [line["loss"] for line in run.metrics("warmup")]
    assert losses[-1] < 0.3 * losses[0]
    last = run.metrics("joint")[-1]
    assert last["sampling/sampling_logp_difference/mean"] < 1e-3
    assert not [e for e in run.events("alarm") if e["alarm"].endswith("logprobs_apart")]
    responses = [row for key in run.tables("rollouts") for row in run.table("rollouts", *key)]
    assert responses and any("=" in json.dumps(row, default=str) for row in responses)
    for role in ("actor", "critic"):
        AutoModelForCausalLM.from_pretrained(run.path / role)
        again = AutoTokenizer.from_pretrained(run.path / role)
        assert again.encode("6 a+3\n\n7") == tokenizer.encode("6 a+3\n\n7")
