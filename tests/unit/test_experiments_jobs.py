"""Jobs: done once, resumed, and loud when they fail; stages built by one process at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genac.config.run import RunConfig
from genac.stages.artifacts import build_once
from paper.downstream import add_compute, add_stages, first, samples_ratio, tune
from paper.jobs import Jobs
from paper.runs import placed
from paper.verdicts import above, below, brackets, verdict


def noted(log: str, value: int) -> int:
    """Appends to a log, so that a test sees what was really done; fails on 13."""
    with open(log, "a") as file:
        file.write(f"{value}\n")
    if value == 13:
        raise RuntimeError("unlucky")
    return value * value


def test_a_file_that_a_config_names_identifies_jobs_by_its_contents(tmp_path: Path):
    data = tmp_path / "problems.jsonl"
    item = {"config": {"task": {"name": "file", "path": str(data)}}}
    data.write_text('{"prompt": "1+1", "answer": "2"}\n')
    jobs, runs = Jobs(tmp_path), tmp_path / "runs"
    before = jobs.file(noted, item), placed(RunConfig(**item["config"]), runs)
    data.write_text('{"prompt": "1+2", "answer": "3"}\n')
    after = jobs.file(noted, item), placed(RunConfig(**item["config"]), runs)
    assert before[0] != after[0] and before[1]["output_dir"] != after[1]["output_dir"]


def test_a_failing_job_names_its_log_and_others_stay(tmp_path: Path):
    jobs, log = Jobs(tmp_path / "jobs"), str(tmp_path / "log")
    with pytest.raises(ValueError, match=r"noted failed: RuntimeError.*its log is .*\.log"):
        jobs.map(noted, [{"log": log, "value": v} for v in (2, 13, 5)])
    assert jobs.file(noted, {"log": log, "value": 2}).exists()
    assert not jobs.file(noted, {"log": log, "value": 13}).exists()


def test_a_stage_is_built_by_one_and_awaited_by_the_other(tmp_path: Path):
    built = []

    def build(run) -> None:
        built.append(run)
        time.sleep(0.2)

    threads = [
        threading.Thread(target=build_once, args=(tmp_path, "base", {"seed": 0}, build))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_samples_to_a_mark_by_hand():
    """The mark 0.6 is reached at 24 samples, half way between 16 and 32; the other needs 48."""
    ours = [{"samples": [0, 16, 32, 48], "success": [0.2, 0.4, 0.8, 0.9]}] * 3
    theirs = [{"samples": [0, 16, 32, 48], "success": [0.2, 0.3, 0.5, 0.6]}] * 3
    half = {"value": 0.5, "low": 0.5, "high": 0.5}
    assert samples_ratio(ours, theirs) == pytest.approx(half)
    assert samples_ratio(ours, theirs, before=24)["value"] == pytest.approx(1.0)
    assert samples_ratio(theirs, ours) == {"value": None, "low": None, "high": None}
    assert samples_ratio(ours, ours)["value"] == 1.0
    longer = [{"samples": [0, 160, 320, 480], "success": [0.2, 0.4, 0.8, 0.9]}] * 3
    assert samples_ratio(longer, theirs)["value"] == pytest.approx(5.0)
    assert first(np.array([0, 16]), np.array([0.5, 0.6]), 0.4) == 0.0


def test_compute_to_a_mark_by_hand():
    """Half of the samples, each of which costs ten times as much: five times the compute. The other
    has steps of 8 responses in place of 16, at a twentieth of the cost.
    """

    def row(responses: int, flops: float, ratio: float | None):
        return {
            "responses_per_step": responses,
            "per_step": {"flops": flops, "seconds": flops},
            "samples_ratio": {"value": ratio, "low": ratio, "high": None},
        }

    table = {"ours": row(16, 10.0, 0.5), "theirs": row(8, 0.5, 1.0), "never": row(16, 2.0, None)}
    add_compute(table, "theirs")
    assert table["ours"]["cost_ratio"] == {"flops": 10.0, "seconds": 10.0}
    assert table["ours"]["compute_ratio"]["flops"] == {"value": 5.0, "low": 5.0, "high": None}
    assert table["theirs"]["compute_ratio"]["seconds"]["value"] == 1.0
    assert table["never"]["compute_ratio"]["flops"]["value"] is None


def test_compute_to_a_mark_with_the_critics_stages_by_hand():
    """The mark takes 24 responses of 10 FLOPs where the other needs 48 of 5. The critic's stages
    cost 480 FLOPs, as much as 48 responses: 72 * 10 / (48 * 5) whole, 36 * 10 / (48 * 5) in four.
    """
    slow = {"samples": [0, 16, 32, 48], "success": [0.2, 0.3, 0.5, 0.6]}
    quick = {"samples": [0, 16, 32, 48], "success": [0.2, 0.4, 0.8, 0.9]}

    def cost(value: float | None) -> dict[str, Any]:
        return {"flops": value, "seconds": value, "reused": False}

    base = {"base": cost(1e9), "total": cost(1e9)}
    taught = base | {"critic_sft": cost(300.0), "critic_rl": cost(180.0)}
    old = {"curve": quick}  # of a version that recorded nothing
    stages = {"ours": taught, "theirs": base, "unknown": base | {"critic_rl": cost(None)}}
    curves = {"ours": quick, "theirs": slow, "unknown": quick}
    results = {
        (name, seed): {"curve": curves[name], "stages_cost": stages[name]}
        for name in curves
        for seed in (1, 2)
    } | {("old", seed): old for seed in (1, 2)}

    def row(flops: float) -> dict[str, Any]:
        spent = {"flops": 8 * flops, "seconds": 8 * flops}
        ratios = {"flops": flops / 5, "seconds": flops / 5}
        return {"responses_per_step": 8, "per_step": spent, "cost_ratio": ratios}

    table = {"ours": row(10.0), "theirs": row(5.0), "unknown": row(10.0), "old": row(10.0)}
    plan: Any = SimpleNamespace(values={"against": "theirs"}, seeds=[1, 2])
    add_stages(plan, table, results)
    assert table["ours"]["critic_stages"] == {"flops": 480.0, "seconds": 480.0}
    assert table["ours"]["compute_ratio_unamortised"]["flops"]["value"] == pytest.approx(3.0)
    assert table["ours"]["compute_ratio_amortised"]["seconds"]["high"] == pytest.approx(1.5)
    assert table["theirs"]["compute_ratio_unamortised"]["flops"]["value"] == 1.0
    for name in ("unknown", "old"):
        assert "compute_ratio_unamortised" not in table[name], "invented"


def test_verdicts():
    assert verdict(True, False) == "agrees" and verdict(False, True) == "disagrees"
    assert verdict(False, False) == "undecided"


def test_an_interval_alone_is_not_enough_for_a_verdict():
    """One training on the other side of the mark leaves it undecided."""
    result = {"value": 0.5, "low": 0.4, "high": 0.6, "by_training": [0.45, 0.55]}
    assert below(result, 0.7) and not above(result, 0.7) and not below(result, 0.55)
    assert not below(result | {"by_training": [0.3, 0.9]}, 0.7)
    assert above(result, 0.3) and not above(result | {"by_training": [0.2, 0.9]}, 0.3)
    empty = {"value": None, "low": None, "high": None, "by_training": [None]}
    assert not below(empty, 1) and not above(empty, 1) and brackets(empty) == "-"


def test_settings_fixed_beforehand_are_not_tuned(tmp_path):
    """One point per method and no tuning seed: nothing is run, the point is what is used."""
    methods: dict[str, Any] = {
        "a": {"grid": {"credit.lam": [0.5]}},
        "b": {"like": "a", "credit": {"gate": "none"}},
    }
    plan: Any = SimpleNamespace(
        values={"methods": methods, "tuning_seeds": []}, jobs=Jobs(tmp_path, 1)
    )
    best, grid = tune(plan)
    assert grid == {} and best["a"] == {"credit": {"lam": 0.5}}
    assert best["b"] == {"credit": {"lam": 0.5, "gate": "none"}}
    methods["a"]["grid"]["credit.lam"].append(1.0)
    with pytest.raises(ValueError, match="one point"):
        tune(plan)
