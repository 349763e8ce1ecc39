"""Fixtures that tests of all folders share: one thread, and a tiny random model built once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ALPHABET
from hypothesis import settings

from genac.config.models import LossConfig, OptimizerConfig
from genac.config.run import HardwareConfig
from genac.hardware import Hardware
from genac.models.loading import load_model, load_tokenizer
from genac.models.tiny import save_tiny
from genac.runtime import ModelSpec, Runtime, build

CONTEXT = 2048
# How long an example takes depends on what else the machine does.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """What the tests import stays: full collections, of which they make many, pass over it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """What is frozen is never freed, of which duckdb's binding complains when the process ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def _single_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary Hugging Face folder: random weights, width 32, two layers, a word tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    shape = {"hidden_size": 32, "layers": 2, "heads": 2, "seed": 0}
    save_tiny(folder, ALPHABET, max_length=CONTEXT, **shape)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_folder: Path) -> Any:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture(scope="session")
def _shared_model(tiny_folder: Path) -> Any:
    return load_model(str(tiny_folder))


@pytest.fixture
def tiny_model(_shared_model: Any) -> Any:
    """A copy that the test may change."""
    return copy.deepcopy(_shared_model)


@pytest.fixture
def tiny_runtime(tiny_folder: Path) -> Callable[..., Runtime]:
    """tiny_runtime(learning_rate=1e-3, loss=None) -> a trainable runtime of the tiny model."""

    def make(learning_rate: float = 1e-3, loss: LossConfig | None = None) -> Runtime:
        hardware = Hardware.resolve(HardwareConfig(device="cpu"))
        optimizer = OptimizerConfig(learning_rate=learning_rate)
        return build(ModelSpec("actor", str(tiny_folder), optimizer, loss), hardware)

    return make
