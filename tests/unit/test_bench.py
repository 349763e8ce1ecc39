"""A benchmark that builds on another still runs; one on a GPU tells what graphs bring."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    yield
    for name in ("scale", "step", "engine", "common"):
        sys.modules.pop(name, None)


@pytest.fixture
def scale(bench):
    import scale

    return scale


@pytest.fixture
def engine(bench, monkeypatch):
    import engine

    # What the engine sees of its environment.
    monkeypatch.setattr(engine, "ours", lambda *_: lambda work: os.environ.get("GENAC_GRAPHS"))
    return engine


def test_an_iteration_is_measured_by_phase(scale):
    sizes = {"prompt": 8, "response": 16, "thought": 8, "hidden": 16, "layers": 1, "heads": 2}
    shape = scale.Shape(prompts=2, generations=2, states=2, **sizes)
    phases, spent = scale.measure(Namespace(repeats=1, device="cpu", seed=0, threads=1), shape)
    assert set(phases) == set(spent) == set(scale.METHODS)
    todo = {m: shape.work(m) for m in phases}
    for method, found in phases.items():
        assert all(found[p] > 0 for p in todo[method])


@pytest.mark.parametrize("before", [None, "1"])
def test_on_a_gpu_the_engine_runs_without_graphs_as_well(before, engine, monkeypatch):
    monkeypatch.delenv("GENAC_GRAPHS", raising=False)
    if before is not None:
        monkeypatch.setenv("GENAC_GRAPHS", before)
    model: Any = SimpleNamespace(device=torch.device("cuda"))
    found = engine.candidates("groups", 128, model, None)
    work: Any = None
    assert found[engine.EAGER](work) == "0" and found[engine.OURS](work) == before
    model.device = torch.device("cpu")
    on_cpu = engine.candidates("groups", 128, model, None)
    assert list(found) == [engine.OURS, engine.EAGER, *list(on_cpu)[1:]]


def test_only_others_are_rivals(engine):
    seconds = {engine.OURS: [2.0], engine.EAGER: [1.0], "generate": [8.0], engine.VLLM: [4.0]}
    for vllm, than, times in ((False, "generate", 4), (True, engine.VLLM, 2)):
        found = engine.against(seconds, vllm)
        assert found["than"] == than and found["value"] == times
    assert engine.against({engine.OURS: [2.0], engine.EAGER: [1.0]}, False) is None
