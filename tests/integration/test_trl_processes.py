"""GenACTrainer in two gloo processes on a CPU, as `accelerate launch` starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # both processes import TRL

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "trl_processes.py"


def ranks(actor: Path, output: Path, *options: str) -> list[dict[str, Any]]:
    """What each of two processes reports."""
    output.mkdir()
    paths = os.pathsep.join((str(ROOT), str(SCRIPT.parent)))
    env = os.environ | {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, str(SCRIPT), str(actor), str(output), *options]
    with open(output / "log", "w+") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            code = process.wait(timeout=300)
        finally:
            process.terminate()  # the launcher ends its processes; killed, it would leave them
            process.wait(timeout=60)
    assert code == 0, (output / "log").read_text()[-3000:]
    return [json.loads((output / f"rank{i}.json").read_text()) for i in (0, 1)]


def test_the_main_process_sends_for_all_and_each_gets_its_own(
    tiny_folder: Path, tmp_path: Path
) -> None:
    first, second = ranks(tiny_folder, tmp_path / "run")
    assert first["problem"] is second["problem"] is None
    assert second["requests"] == []
    assert [group for group, *_ in first["requests"]] == ["0"] * 8  # two steps of one group of four
    # In a step the first half is the main process's; TRL shuffles within each process.
    requests = [(tokens, advantages) for _, tokens, advantages in first["requests"]]
    for step in (0, 1):
        part = requests[4 * step : 4 * step + 4]
        for rank, own in ((first, part[:2]), (second, part[2:])):
            rows = sorted(rank["rows"][2 * step : 2 * step + 2])
            assert [tokens for tokens, _ in rows] == sorted(tokens for tokens, _ in own)
            for (_, advantages), (_, expected) in zip(rows, sorted(own), strict=True):
                assert advantages == pytest.approx(expected)
    assert first["logged"] == [0.25, 0.25]
    assert json.loads((tmp_path / "run/checkpoint-2/critic/ramp.json").read_text()) == 2


def test_one_response_per_process_and_problem_is_enough(tiny_folder: Path, tmp_path: Path) -> None:
    first, second = ranks(tiny_folder, tmp_path / "run", "single")
    assert first["problem"] is second["problem"] is None
    assert [group for group, *_ in first["requests"]] == ["0", "1"] * 2


def test_an_error_of_the_critic_ends_every_process(tiny_folder: Path, tmp_path: Path) -> None:
    first, second = ranks(tiny_folder, tmp_path / "run", "refuse")
    assert first["problem"] == "no more"
    assert second["problem"] == "the critic failed in the main process: ValueError('no more')"
