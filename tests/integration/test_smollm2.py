"""A pretrained model from a GGUF file: it answers, and engine, learner and transformers agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from smollm2 import gguf_file

from genac.config.models import OptimizerConfig
from genac.config.run import HardwareConfig
from genac.engines.base import Request
from genac.engines.decoder import Decoder
from genac.hardware import Hardware
from genac.models.chat import encode_prompt
from genac.models.loading import load_model
from genac.runtime import ModelSpec, Runtime, build
from genac.stages.local_models import local_model
from genac.types import Problem, Sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CAPITAL = "What is the capital of France?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return local_model(gguf_file(), tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def actor(folder: str) -> Runtime:
    hardware = Hardware.resolve(HardwareConfig(device="cpu", precision="fp32", threads=1))
    return build(ModelSpec("actor", folder, OptimizerConfig()), hardware)


def request(actor: Runtime, text: str, length: int, temperature: float) -> Request:
    prompt = encode_prompt(actor.tokenizer, Problem("p", text, ""))
    end = (actor.tokenizer.eos_token_id,)
    return Request(prompt, length, seed=0, temperature=temperature, stop_ids=end)


def test_it_answers_in_english(actor: Runtime) -> None:
    (answer,) = actor.sampler.generate([request(actor, CAPITAL, 24, 0.0)])
    assert "capital of France is Paris" in actor.tokenizer.decode(answer.ids)


def test_engine_learner_and_transformers_agree_on_its_words(actor: Runtime, folder: str) -> None:
    assert Decoder.supports(actor.model, 8192), "grouped queries and a tied embedding"
    batch = [request(actor, text, 32, 1.0) for text in (CAPITAL, "Write a line about the sea.")]
    answers = actor.sampler.generate(batch)
    plain = load_model(folder).eval()
    for query, answer in zip(batch, answers, strict=True):
        start, ids = len(query.prompt_ids), (*query.prompt_ids, *answer.ids)
        weights = np.ones(len(ids), np.float32)
        weights[:start] = 0.0
        learner = actor.learner.logprobs([Sample(ids=ids, weights=weights, loss="sft")])[0][start:]
        with torch.no_grad():
            logits = plain(torch.tensor([ids])).logits[0, start - 1 : -1]
        exact = torch.log_softmax(logits, -1)[range(len(answer.ids)), list(answer.ids)].numpy()
        assert np.abs(answer.logprobs - exact).max() < 1e-3
        assert np.abs(learner - exact).max() < 1e-3


def test_the_folder_is_an_ordinary_one(folder: str) -> None:
    names = {file.name for file in Path(folder).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
