"""Whole runs on the GPU: every stage, every algorithm, resumed, and a saved critic that scores."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MICRO, results, weights

from genac import Critic, checkpoint
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.runs.store import Run
from genac.stages.pipeline import train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
CLOSE = 1e-2
PROBLEM, PARTIAL = "3 a+3>", "a+3="


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs of one precision share."""
    return tmp_path_factory.mktemp("gpu-stages")


@pytest.fixture
def run(device: torch.device, stages: Path, tmp_path: Path) -> Callable[..., Run]:
    """run(precision, **overrides) -> the finished run on the device."""

    def finished(precision: str, **overrides: Any) -> Run:
        places = {
            "output_dir": str(tmp_path / "run"),
            "stages": {"folder": str(stages / precision)},
            "hardware": {"device": device.type, "precision": precision},
        }
        return Run.open(train(resolve(merge(merge(MICRO, places), overrides))))

    return finished


def finite(run: Run) -> None:
    for line in run.metrics():
        for key, value in line.items():
            assert not isinstance(value, float) or math.isfinite(value), (key, line)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_stages_and_the_saved_critic(run, precision, device):
    done = run(precision)
    finite(done)
    stages = {line["stage"] for line in done.metrics()}
    assert "joint" in stages and done.summary()
    places = [(device.type, precision), (device.type, "fp32"), ("cpu", "fp32")]
    result = [
        Critic.from_pretrained(done.path / "critic", device=where, precision=how).score(
            PROBLEM, PARTIAL, rationales=4
        )
        for where, how in places
    ]
    assert all(len(judged.rationales) == 4 for judged in result)
    # In one precision the device changes nothing; another rounds rationales elsewhere.
    assert result[1].rationales == result[2].rationales
    assert result[1].value == pytest.approx(result[2].value, abs=CLOSE)


@pytest.mark.parametrize("algorithm", ["ppo", "vineppo", "grpo", "rloo"])
def test_other_algorithms(run, algorithm):
    done = run("fp32", algorithm=algorithm, stages={"joint": {"steps": 2}})
    finite(done)
    assert [m["step"] for m in done.metrics("joint")] == [0, 1]


def test_value_histograms_and_adapters(run):
    pytest.importorskip("peft")
    shape = {"algorithm": "ppo", "stages": {"joint": {"steps": 2}}}
    critic = {"discriminative": {"head": "hl_gauss"}, "lora": {"rank": 2}}
    finite(run("bf16", **shape, actor={"lora": {"rank": 2}}, critic=critic))


@pytest.mark.parametrize("algorithm", ["genac", "ppo"])
def test_a_run_that_was_interrupted_goes_on(run, algorithm, tmp_path):
    whole = run("fp32", algorithm=algorithm)
    kept = Run.open(shutil.copytree(whole.path, tmp_path / "whole"))
    newest = checkpoint.complete(whole.checkpoints / "joint")[-1]
    shutil.rmtree(newest)
    (whole.path / "summary.json").unlink()
    again = run("fp32", algorithm=algorithm)
    assert [e["step"] for e in again.events("resumed")] == [2]
    for result, expected in zip(results(again, "joint"), results(kept, "joint"), strict=True):
        assert result.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=CLOSE, abs=CLOSE)
            assert result[key] == value, key
    assert weights(again).keys() == weights(kept).keys()


def test_a_run_begun_there_is_read_on_a_cpu(run, tmp_path):
    """Checkpoints name no device."""
    done = run("fp32", algorithm="ppo")
    state = torch.load(
        next(checkpoint.complete(done.checkpoints / "joint")[-1].glob("actor.optimizer.pt")),
        map_location="cpu",
        weights_only=True,
    )
    moments = state["optimizer"]["state"][0]
    assert moments["exp_avg"].device.type == "cpu" and torch.isfinite(moments["exp_avg"]).all()
