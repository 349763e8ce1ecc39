"""Numbers guard changes: one that is not meant to alter computation reproduces these metrics.

Written anew, on purpose, by

    python tests/golden/test_golden.py

and then looked at with `git diff`: every changed number wants an explanation in the commit. Sampled
tokens are compared through the metrics, and a processor or a torch whose arithmetic rounds
otherwise may flip one: the file names what it was made on, elsewhere the comparison is skipped.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from genac.config.recipes import resolve
from genac.native.library import library
from genac.runs.store import Run
from genac.stages.pipeline import train

GOLDEN = Path(__file__).parent / "genac_joint.json"
TOLERANCE = 1e-3
CLOCKS = ("time", "cost/seconds")
# C++ and torch read other tokens: rows that ended are left out by one of them only.
PATHS = ("cost/tokens", "cost/flops")

OPTIMIZER = {"learning_rate": 1e-2, "warmup_steps": 5}
RECIPE: dict[str, Any] = {
    "task": {
        "name": "arithmetic",
        "options": {"min_steps": 1, "max_steps": 2, "operators": "+-"},
    },
    "rollout": {"num_prompts": 4, "num_generations": 4, "max_completion_length": 14},
    "actor": {
        "tiny": {"hidden_size": 32, "layers": 1, "heads": 2, "max_length": 64},
        "optimizer": {"learning_rate": 1e-3},
    },
    "critic": {
        "optimizer": {"learning_rate": 1e-3},
        "generative": {"prompt": "compact", "max_new_tokens": 16},
    },
    "stages": {
        "base": {"steps": 100, "batch_size": 16, "check_fraction": 0.3, "optimizer": OPTIMIZER},
        "synthesize": {"num_prompts": 16, "num_generations": 2, "num_states": 48},
        "sft": {"epochs": 6, "batch_size": 8, "optimizer": OPTIMIZER},
        "critic_rl": {"steps": 2},
        "joint": {"steps": 3, "eval_every": 3},
    },
    "evaluate": {"num_problems": 4, "num_samples": 2, "during": 4, "panel_problems": 0},
    "hardware": {"device": "cpu", "threads": 1},
}


def here() -> dict[str, str]:
    """What decides how sums are rounded, and which tokens are computed."""
    loops = "native" if library() else "torch"
    cpu = torch.backends.cpu.get_cpu_capability()
    return {"cpu": cpu, "torch": torch.__version__, "loops": loops}


def measure(folder: Path) -> list[dict[str, Any]]:
    """The metrics of the last step of each stage, and of every joint step."""
    places = {"output_dir": str(folder / "run"), "stages": {"folder": str(folder / "stages")}}
    threads = torch.get_num_threads()
    run = Run.open(train(resolve(RECIPE, places)))
    torch.set_num_threads(threads)
    early = [run.metrics(stage)[-1] for stage in ("base", "synthesize", "critic_sft", "critic_rl")]
    return [
        {key: value for key, value in line.items() if key not in CLOCKS}
        for line in [*early, *run.metrics("joint")]
    ]


def same_metrics(line: dict[str, Any], golden: dict[str, Any]) -> None:
    place = f"{golden['stage']} step {golden['step']}"
    assert set(line) == set(golden), f"{place}: the metrics have other names"
    for key, value in golden.items():
        if isinstance(value, float):
            close = pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
            assert line[key] == close, f"{place}: {key}"
        else:
            assert line[key] == value, f"{place}: {key}"


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return measure(tmp_path_factory.mktemp("golden"))


def test_three_joint_steps_give_the_golden_metrics(metrics: list[dict[str, Any]]) -> None:
    golden = json.loads(GOLDEN.read_text())
    if golden["made_on"] != here():
        pytest.skip(f"golden metrics are of {golden['made_on']}, this is {here()}")
    expected = golden["metrics"]
    places = [(line["stage"], line["step"]) for line in expected]
    assert [(line["stage"], line["step"]) for line in metrics] == places
    for line, other in zip(metrics, expected, strict=True):
        same_metrics(line, other)


@pytest.mark.skipif(library() is None, reason="needs a C++ compiler")
def test_without_the_native_path_every_stage_begins_alike(
    metrics: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages up to the first joint step. Behind it the weights differ by rounding, which Adam
    makes larger, and sampled tokens with them.
    """
    monkeypatch.setenv("GENAC_NATIVE", "0")
    library.cache_clear()
    try:
        assert here()["loops"] == "torch"
        by_torch = measure(tmp_path)
    finally:
        monkeypatch.undo()
        library.cache_clear()
    assert [set(line) for line in by_torch] == [set(line) for line in metrics]
    alike = [line for line in metrics if line["stage"] != "joint" or line["step"] == 0]
    assert {line["stage"] for line in alike} == {line["stage"] for line in metrics}
    for line, other in zip(by_torch, alike, strict=False):
        for key in PATHS:
            assert line.pop(key, None) is None or other[key] > 0
        same_metrics(line, {key: value for key, value in other.items() if key not in PATHS})


def test_the_golden_run_is_a_live_one() -> None:
    """Zeros would guard nothing."""
    lines = json.loads(GOLDEN.read_text())["metrics"]
    steps = [line for line in lines if line["stage"] == "joint"]
    assert any(line["reward"] > 0 for line in steps)
    assert all(line["grad_norm"] > 0 and line["critic/grad_norm"] > 0 for line in steps)
    assert all(line["critic/parse_failure_rate"] < 0.5 for line in steps)
    assert all(math.isfinite(v) for line in steps for v in line.values() if isinstance(v, float))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = {"made_on": here(), "metrics": measure(Path(folder))}
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {GOLDEN}", file=sys.stderr)
