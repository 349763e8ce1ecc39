"""The device that everything in this folder is compared on with the CPU.

GENAC_TEST_DEVICE names it, "cuda" by default. "cpu" runs the folder without a GPU, which shows no
more than that the tests themselves are right.
"""

from __future__ import annotations

import os

import pytest
import torch

from genac.models.packed import flex


@pytest.fixture
def device() -> torch.device:
    name = os.environ.get("GENAC_TEST_DEVICE", "cuda")
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible; GENAC_TEST_DEVICE=cpu runs the tests without one")
    return torch.device(name)


@pytest.fixture(params=["flex", "dense"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """FlexAttention in packed training, and a mask of the whole row."""
    if request.param == "flex":
        monkeypatch.delenv("GENAC_FLEX", raising=False)
    else:
        monkeypatch.setenv("GENAC_FLEX", "0")
    flex.works.cache_clear()
    return request.param
