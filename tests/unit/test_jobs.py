"""Jobs in worker processes: done once, and ended with their parent.

The workers import this module, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paper.jobs import Jobs


def noted(log: str, value: int) -> int:
    """Appends to a log, so that a test sees what was really done."""
    with open(log, "a") as file:
        file.write(f"{value}\n")
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
        "from test_jobs import Jobs, Path, sleeps\n"
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
