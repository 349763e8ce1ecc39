"""A critic service computes where its hardware says: on servers with vLLM's routes, on workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service import Start, micro_start, one_step, weights
from test_vllm import Local
from vllm_fake import Fake, serve

from genac.config.engines import VllmConfig
from genac.config.run import HardwareConfig
from genac.distributed import pool
from genac.service import LearningCritic

CPU = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def start(stages: Path) -> Start:
    return micro_start(stages, steps=3)


@pytest.fixture
def url(start: Start) -> Iterator[str]:
    """Of a server that samples from the critic; nothing is left of it."""
    server = serve(Fake(str(start.critic), "critic", Local()))
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def require_alike(one: LearningCritic, other: LearningCritic, start: Start, steps: range) -> None:
    """Measurements agree but for what a server's rounding does."""
    for step in steps:
        a, b = (one_step(critic, start.steps[step], step) for critic in (one, other))
        assert a.version == b.version == step + 1
        assert a.metrics == pytest.approx(b.metrics, abs=2e-4)


def require_close(one: LearningCritic, other: LearningCritic, folder: Path) -> None:
    """Weights within 1e-4; but for one in a thousand, whose gradient is nearly 0."""
    a, b = weights(one, folder / "a"), weights(other, folder / "b")
    for name in a:
        apart: Any = (a[name] - b[name]).abs() > 1e-4
        assert apart.float().mean() < 1e-3, name


def test_on_a_server_it_learns_and_resumes_as_in_process(
    start: Start, url: str, tmp_path: Path
) -> None:
    hardware = HardwareConfig(**CPU, engine="vllm", vllm=VllmConfig(urls=[url]))
    local, served = start.load(), start.load(hardware=hardware)
    require_alike(served, local, start, range(2))
    served.save(tmp_path / "saved")
    resumed = start.load(hardware=hardware)
    resumed.load(tmp_path / "saved")
    require_alike(resumed, local, start, range(2, 3))
    require_close(resumed, local, tmp_path)


def test_a_machine_without_vllm_is_refused_before_a_model_is_loaded(start: Start) -> None:
    with pytest.raises(ValueError, match="has no vLLM"):
        start.load(hardware=HardwareConfig(**CPU, engine="vllm"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_learn_as_one_process(start: Start, tmp_path: Path) -> None:
    try:
        local, both = start.load(), start.load(hardware=HardwareConfig(**CPU, processes=2))
        require_alike(both, local, start, range(2))
        both.save(tmp_path / "saved")
        local.load(tmp_path / "saved")
        require_alike(both, local, start, range(2, 3))
        require_close(both, local, tmp_path)
    finally:
        pool.leave()
