"""Models in and out: tiny models are ordinary ones, and a wrong folder says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fakes import ALPHABET, parameters_equal
from transformers import AutoModelForCausalLM, AutoTokenizer

from genac.models.loading import context_length, load_model, load_tokenizer, parameter_count
from genac.models.tiny import build_model, build_tokenizer

SHAPE = {"hidden_size": 16, "layers": 1, "heads": 2, "max_length": 32}


def test_a_tiny_folder_is_an_ordinary_one(tiny_folder: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert model.config.model_type == "qwen3" and model.config.vocab_size == len(tokenizer)
    assert parameters_equal(model, load_model(str(tiny_folder)))
    assert context_length(model, tokenizer) == 2048
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert parameter_count(model) == sum(p.numel() for p in model.parameters())


def test_weights_come_from_the_seed_and_leave_torch_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (build_model(20, seed=s, **SHAPE) for s in (1, 1, 2))
    assert parameters_equal(one, again) and not parameters_equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"hidden_size 16 is not a multiple of heads 3"):
        build_model(20, seed=0, **(SHAPE | {"heads": 3}))


@pytest.mark.parametrize("text", ["6a+3b*7>", "a+3=9\nans=5\n", "<answer>10</answer>", "<check>ok"])
def test_words_round_trip(text):
    tokenizer = build_tokenizer(ALPHABET, 64)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_longest_word_wins_and_strangers_are_unknown():
    tokenizer = build_tokenizer(["a", "ab", "abc"], 64)
    assert tokenizer.tokenize("abcab a") == ["abc", "ab", "a"]
    assert tokenizer.tokenize("a é") == ["a", "<unk>"]
    assert tokenizer.tokenize("<answer>10</answer>") == ["<answer>", "10", "</answer>"]


def test_a_folder_without_tokenizer(tiny_folder, tmp_path):
    shutil.copy(tiny_folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer.*save_pretrained"):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_model(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match=r"without config\.json"):
        load_model(str(tmp_path))
    shutil.copy(tiny_folder / "config.json", tmp_path)
    with pytest.raises(ValueError, match="no causal LM could be loaded"):
        load_model(str(tmp_path))


def test_a_tokenizer_without_eos_or_padding(tmp_path):
    tokenizer = build_tokenizer(ALPHABET, 64)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "no pad")
    assert load_tokenizer(str(tmp_path / "no pad")).pad_token == "<eos>"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "no eos")
    with pytest.raises(ValueError, match="has no eos_token"):
        load_tokenizer(str(tmp_path / "no eos"))
