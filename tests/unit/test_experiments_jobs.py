"""Jobs: done once, resumed, and loud when they fail; stages built by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genac.config.run import RunConfig
from genac.stages.artifacts import build_once
from paper.downstream import first, samples_ratio, tune
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


@pytest.mark.parametrize("processes", [1, 2])
def test_equal_jobs_are_done_once_and_kept(tmp_path: Path, processes: int):
    log = str(tmp_path / "log")
    items = [{"log": log, "value": v} for v in (2, 3, 2)]
    assert Jobs(tmp_path / "jobs", processes).map(noted, items) == [4, 9, 4]
    again = Jobs(tmp_path / "jobs", processes)
    assert again.map(noted, [*items, {"log": log, "value": 5}]) == [4, 9, 4, 25]
    assert sorted(Path(log).read_text().split()) == ["2", "3", "5"]
    assert len(again.commits) == 1 and not list((tmp_path / "jobs").glob("*.log"))


def test_a_file_that_a_config_names_tells_jobs_apart_by_what_it_holds(tmp_path: Path):
    data = tmp_path / "problems.jsonl"
    item = {"config": {"task": {"name": "file", "path": str(data)}}}
    data.write_text('{"prompt": "1+1", "answer": "2"}\n')
    jobs, runs = Jobs(tmp_path), tmp_path / "runs"
    before = jobs.file(noted, item), placed(RunConfig(**item["config"]), runs)
    data.write_text('{"prompt": "1+2", "answer": "3"}\n')
    after = jobs.file(noted, item), placed(RunConfig(**item["config"]), runs)
    assert before[0] != after[0] and before[1]["output_dir"] != after[1]["output_dir"]


def sleeps(folder: str, number: int) -> None:
    (Path(folder) / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60)


def alive(process: int) -> bool:
    try:
        return "zombie" not in (Path("/proc") / str(process) / "status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_workers_end_with_their_parent(tmp_path: Path):
    """Killed without a chance to say so."""
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from test_experiments_jobs import Jobs, Path, sleeps\n"
        "if __name__ == '__main__':\n"
        f"    items = [{{'folder': {str(tmp_path)!r}, 'number': n}} for n in (0, 1)]\n"
        f"    Jobs(Path({str(tmp_path / 'jobs')!r}), 2).map(sleeps, items)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        pids = [tmp_path / f"{n}.pid" for n in (0, 1)]
        until(lambda: all(p.exists() and p.read_text() for p in pids), 60)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(alive(int(p.read_text())) for p in pids), 30)


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


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
