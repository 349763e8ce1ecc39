"""The device that everything in this folder is compared on with the CPU.

GENAC_TEST_DEVICE names it, "cuda" by default. "cpu" runs the folder without a GPU, which shows no
more than that the tests themselves are right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from genac.engines import graphs as engine_graphs
from genac.models import flex


@pytest.fixture
def device() -> torch.device:
    name = os.environ.get("GENAC_TEST_DEVICE", "cuda")
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible; GENAC_TEST_DEVICE=cpu runs the tests without one")
    return torch.device(name)


@pytest.fixture(params=["graphs", "no graphs"])
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """CUDA graphs in the engine, and none. Sampling goes on where they fail: that must be seen."""
    monkeypatch.setattr(engine_graphs, "CHECKED", set())
    monkeypatch.setattr(engine_graphs, "FAILED", set())
    # Completions of these tests are short: captured at once, or nothing would be.
    monkeypatch.setattr(engine_graphs, "WAIT", 0)
    monkeypatch.setattr(engine_graphs, "WORTH", 1)
    if request.param == "graphs":
        monkeypatch.delenv("GENAC_GRAPHS", raising=False)
    else:
        monkeypatch.setenv("GENAC_GRAPHS", "0")
    yield request.param
    assert not engine_graphs.FAILED


@pytest.fixture(params=["flex", "dense"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """FlexAttention in packed training, and a mask of the whole row."""
    if request.param == "flex":
        monkeypatch.delenv("GENAC_FLEX", raising=False)
    else:
        monkeypatch.setenv("GENAC_FLEX", "0")
    flex.works.cache_clear()
    return request.param
