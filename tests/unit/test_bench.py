"""A benchmark that builds on another still runs, and a call of all benchmarks loses nothing to a
failure.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
MODULES = ("scale", "step", "engine", "gpu", "pretrained", "common")


@pytest.fixture
def bench(monkeypatch):
    """bench(name) -> the module."""
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def engine(bench):
    return bench("engine")


@pytest.fixture
def scale(bench):
    return bench("scale")


@pytest.mark.slow
def test_a_pretrained_model_is_measured_in_both_precisions(bench, tiny_model):
    pretrained = bench("pretrained")
    args = Namespace(
        rows=2, new=4, samples=2, length=64, repeats=1, device="cpu", seed=0, threads=1
    )
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rounded = pretrained.rounding(args, tiny_model, dtypes)
    exact, half = (rounded[f"engine {name}, learner {name}"] for name in dtypes)
    assert exact["mean"] < 1e-5 < half["mean"] and exact["tokens"] == 8
    seconds = pretrained.speed(args, tiny_model, dtypes)
    limits = {name: {"gemm_gflops": 1e6} for name in dtypes}
    shares = pretrained.shares(args, tiny_model, seconds, limits)
    assert len(shares) == 4 and all(0 < s["of_roofline"] < 1 for s in shares.values())


def test_an_iteration_is_measured_by_phase(scale):
    sizes = {"prompt": 8, "response": 16, "rationale": 8, "hidden": 16, "layers": 1, "heads": 2}
    shape = scale.Shape(prompts=2, generations=2, states=2, **sizes)
    phases, spent = scale.measure(Namespace(repeats=1, device="cpu", seed=0, threads=1), shape)
    assert set(phases) == set(spent) == set(scale.METHODS)
    todo = {m: shape.work(m) for m in phases}
    for method, result in phases.items():
        assert all(result[p] > 0 for p in todo[method])


def test_only_others_are_rivals(engine):
    seconds = {engine.OURS: [2.0], "generate": [8.0], engine.VLLM: [4.0]}
    for vllm, than, times in ((False, "generate", 4), (True, engine.VLLM, 2)):
        result = engine.against(seconds, vllm)
        assert result["than"] == than and result["value"] == times
    assert engine.against({engine.OURS: [2.0]}, False) is None


@pytest.fixture
def gpu(bench):
    return bench("gpu")


def python(gpu, name: str, code: str, limit: float = 60.0):
    return gpu.Section(name, (sys.executable, "-c", code, "{out}"), limit)


WELL = "import sys; open(sys.argv[1], 'w').write('{\"rate\": 3}')"
CHILD = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
)


def test_a_section_that_fails_or_takes_too_long_is_reported_and_the_others_go_on(
    gpu, monkeypatch, tmp_path, capsys
):
    chosen = [
        python(gpu, "broken", "print('the reason'); raise SystemExit(3)"),
        python(gpu, "silent", "pass"),
        python(gpu, "well", WELL),
    ]
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "sections", lambda args: chosen)
    monkeypatch.setattr(gpu, "roofline", lambda device: {"gemm_gflops": 1.0})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--json", str(file)])
    assert gpu.main() == 1
    result = json.loads(file.read_text())["sections"]
    assert result["broken"]["why"] == "exit code 3" and result["broken"]["last"] == ["the reason"]
    assert not result["silent"]["ok"] and result["silent"]["result"] is None
    assert result["well"]["ok"] and result["well"]["result"] == {"rate": 3}
    assert "rate 3" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--only", "well"])
    assert gpu.main() == 0


def test_a_section_past_its_limit_ends_with_all_it_started(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 0.1)
    result = gpu.run(python(gpu, "slow", CHILD), 1.0)
    assert not result["ok"] and result["why"] == "it ran past 1 s" and result["seconds"] < 30
    assert gpu.run(python(gpu, "late", WELL), 0.0)["why"] == "no time was left for it"


def test_what_cannot_run_here_is_skipped_with_the_reason(gpu, tmp_path):
    python = tmp_path / "python"
    args = Namespace(vllm_python=str(python), device="cpu", quick=True, seed=0, threads=1)
    joint, workers, tokens = gpu.outside(args)
    assert "does not run as a Python interpreter" in joint.skipped and tokens.skipped
    result = gpu.run(joint, 60.0)
    assert result["ok"] and result["skipped"] == joint.skipped
    python.write_text("#!/bin/sh\necho null\n")
    python.chmod(0o755)
    gpu.version_in.cache_clear()
    assert "has no vLLM; name an interpreter" in gpu.outside(args)[0].skipped
    python.write_text("#!/bin/sh\necho '\"0.32.0\"'\n")
    gpu.version_in.cache_clear()
    joint, _, tokens = gpu.outside(args)
    assert not joint.skipped and f"--python={python}" in joint.command
    assert (workers.skipped == "") == (importlib.util.find_spec("ray") is not None)


class Parsed(Exception):
    """A benchmark's arguments were read."""


def test_what_is_started_on_a_gpu_takes_the_arguments_it_gets(gpu, bench, monkeypatch):
    def parse(options):
        options.parse_args()
        raise Parsed

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu"])
    args = gpu.arguments()
    args.device, args.vllm_python = "cuda", sys.executable
    monkeypatch.setattr(bench("common"), "parse", parse)
    commands = [section.command[1:] for section in gpu.sections(args)]
    scripts = [command for command in commands if command[0] != "-m"]
    assert len(scripts) == len(commands) - 1  # pytest
    for command in scripts:
        monkeypatch.setattr(sys, "argv", [*command])
        with pytest.raises(Parsed):
            runpy.run_path(command[0], run_name="__main__")


def test_counts_and_names_are_read_from_a_test_report(gpu, tmp_path):
    report = tmp_path / "out"
    report.write_text(
        '<?xml version="1.0"?><testsuites><testsuite tests="2" failures="1" errors="0" skipped="0">'
        '<testcase classname="a" name="b"/><testcase classname="a" name="c">'
        '<failure message="no">x</failure></testcase></testsuite></testsuites>'
    )
    result = gpu.read(report)
    assert result == {"tests": 2, "failures": 1, "errors": 0, "skipped": 0, "failed": {"a.c": "no"}}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_section_runs_where_the_call_is_only_tried(gpu, monkeypatch, tmp_path):
    file = tmp_path / "gpu.json"
    command = ["gpu.py", "--device", "cpu", "--quick", "--minutes", "25"]
    command += ["--threads", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu.main() == 0
    result = json.loads(file.read_text())["sections"]
    assert result["tests"]["result"]["tests"] > 0 and result["step"]["result"]["phases"]
