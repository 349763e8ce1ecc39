"""What the stages before joint training cost, by the records in their own folders."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genac.runs.store import Run
from genac.stages.costs import stages_cost


def cost(step: int) -> dict[str, float]:
    done = step + 1.0
    return {"cost/seconds": done, "cost/tokens": 10 * done, "cost/flops": 600 * done}


def stage(root: Path, name: str, steps: int) -> Path:
    run = Run.create(root / f"{name}-0123456789ab", {}, {})
    for step in range(steps):
        run.log(name, step, {"loss": 1.0} | cost(step))
    return run.path


def started(offset: float) -> str:
    return datetime.fromtimestamp(time.time() + offset, UTC).isoformat(timespec="seconds")


def test_a_stage_costs_what_its_last_line_says_and_the_total_is_the_sum(tmp_path: Path) -> None:
    folders = [stage(tmp_path, "base", 3), stage(tmp_path, "critic_rl", 2)]
    result = stages_cost(folders, started(-60))
    one = {"seconds": 3.0, "tokens": 30.0, "flops": 1800.0, "reused": False}
    assert result["base"] == one
    assert result["total"] == {"seconds": 5.0, "tokens": 50.0, "flops": 3000.0}
    assert stages_cost([], started(0)) == {}


def test_what_ended_before_the_run_began_is_reused_and_counts_the_same(tmp_path: Path) -> None:
    folder = stage(tmp_path, "base", 3)
    new, old = (stages_cost([folder], started(offset)) for offset in (-60, 60))
    assert (new["base"].pop("reused"), old["base"].pop("reused")) == (False, True)
    assert new == old


def test_what_was_not_recorded_is_none_and_so_is_the_total(tmp_path: Path) -> None:
    """No line, lines of an older version, and lines of which only the later ones have it."""
    older = Run.create(tmp_path / "critic_sft-0123456789ab", {}, {})
    older.log("critic_sft", 0, {"loss": 1.0})
    mixed = Run.create(tmp_path / "critic_rl-0123456789ab", {}, {})
    mixed.log("critic_rl", 0, {"loss": 1.0})
    mixed.log("critic_rl", 1, cost(0))
    deleted = tmp_path / "candidates-0123456789ab"
    folders = [stage(tmp_path, "base", 1), older.path, mixed.path, deleted]
    result: dict[str, Any] = stages_cost(folders, started(-60))
    assert result["base"]["flops"] == 600.0
    for name in ("critic_sft", "critic_rl", "candidates"):
        assert result[name]["flops"] is None and result[name]["seconds"] is None
    assert result["total"] == {"seconds": None, "tokens": None, "flops": None}
    assert json.loads(json.dumps(result)) == result
