"""Cells: done once, resumed, and loud when they fail; stages built by one process at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from genac.experiments.approximation import verdict
from genac.experiments.cells import Cells
from genac.experiments.downstream import first, reach
from genac.stages.outputs import ensure


def noted(log: str, value: int) -> int:
    """Appends to a log, so that a test sees what was really done; fails on 13."""
    with open(log, "a") as file:
        file.write(f"{value}\n")
    if value == 13:
        raise RuntimeError("unlucky")
    return value * value


@pytest.mark.parametrize("processes", [1, 2])
def test_equal_cells_are_done_once_and_kept(tmp_path: Path, processes: int):
    log = str(tmp_path / "log")
    items = [{"log": log, "value": v} for v in (2, 3, 2)]
    assert Cells(tmp_path / "cells", processes).map(noted, items) == [4, 9, 4]
    again = Cells(tmp_path / "cells", processes)
    assert again.map(noted, [*items, {"log": log, "value": 5}]) == [4, 9, 4, 25]
    assert sorted(Path(log).read_text().split()) == ["2", "3", "5"]
    assert len(again.commits) == 1 and not list((tmp_path / "cells").glob("*.log"))


def test_a_failing_cell_names_its_log_and_others_stay(tmp_path: Path):
    cells, log = Cells(tmp_path / "cells"), str(tmp_path / "log")
    with pytest.raises(ValueError, match=r"noted failed: RuntimeError.*its log is .*\.log"):
        cells.map(noted, [{"log": log, "value": v} for v in (2, 13, 5)])
    assert cells.file(noted, {"log": log, "value": 2}).exists()
    assert not cells.file(noted, {"log": log, "value": 13}).exists()


def test_a_stage_is_built_by_one_and_awaited_by_the_other(tmp_path: Path):
    built = []

    def build(run) -> None:
        built.append(run)
        time.sleep(0.2)

    threads = [
        threading.Thread(target=ensure, args=(tmp_path, "base", {"seed": 0}, build))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_samples_to_a_mark_by_hand():
    """Reached half way between 16 and 32 samples; a mark above the curve is never reached."""
    curves = [{"samples": [0, 16, 32], "success": [0.2, 0.4, 0.8]}] * 3
    assert reach(curves, 0.6) == pytest.approx({"value": 24.0, "low": 24.0, "high": 24.0})
    assert reach(curves, 0.9) == {"value": None, "low": None, "high": None}
    assert first(np.array([0, 16]), np.array([0.5, 0.6]), 0.4) == 0.0


def test_verdicts():
    assert verdict(True, False) == "agrees" and verdict(False, True) == "disagrees"
    assert verdict(False, False) == "undecided"
