"""The loop for reading does what it says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genac.config.recipes import resolve

EXAMPLE = Path(__file__).parents[2] / "examples" / "genac_loop.py"


def test_the_loop_trains_actor_and_critic(micro: Callable[..., dict[str, Any]], capsys) -> None:
    spec = importlib.util.spec_from_file_location("genac_loop", EXAMPLE)
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    rewards = example.train(resolve(micro()))
    assert len(rewards) == 3 and all(0 <= reward <= 1 for reward in rewards)
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("step ")]  # not the stages' progress
    assert len(lines) == 5 and all("of" in line and "values missing" in line for line in lines)
