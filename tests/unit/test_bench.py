"""A benchmark that builds on another still runs."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import pytest


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    import scale

    yield scale
    for name in ("scale", "step", "common"):
        sys.modules.pop(name, None)


def test_an_iteration_is_measured_by_phase(scale):
    sizes = {"prompt": 8, "response": 16, "thought": 8, "hidden": 16, "layers": 1, "heads": 2}
    shape = scale.Shape(prompts=2, generations=2, states=2, **sizes)
    phases, spent = scale.measure(Namespace(repeats=1, device="cpu", seed=0, threads=1), shape)
    assert set(phases) == set(spent) == set(scale.METHODS)
    todo = {m: shape.work(m) for m in phases}
    for method, found in phases.items():
        assert all(found[p] > 0 for p in todo[method])
