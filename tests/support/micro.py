"""A complete run in about two seconds.

It learns just enough for every branch to be live: its base actor solves some problems, its critic
writes scores that parse.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.runs.store import Run

Values = dict[str, Any]

OPTIMIZER = {"learning_rate": 1e-2, "warmup_steps": 5}
MICRO: Values = {
    "name": "micro",
    "task": {
        "name": "arithmetic",
        "options": {"min_steps": 1, "max_steps": 2, "operators": "+"},
    },
    "rollout": {"num_prompts": 4, "num_generations": 4, "max_completion_length": 14},
    "actor": {
        "tiny": {"hidden_size": 32, "layers": 1, "heads": 2, "max_length": 64},
        "optimizer": {"learning_rate": 1e-3},
    },
    "critic": {
        "optimizer": {"learning_rate": 1e-3},
        "generative": {"prompt": "compact", "max_new_tokens": 16},
        "num_continuations": 2,
    },
    "stages": {
        "base": {"steps": 100, "batch_size": 16, "check_fraction": 0.3, "optimizer": OPTIMIZER},
        "synthesize": {"num_prompts": 16, "num_generations": 2, "num_states": 48},
        "sft": {"epochs": 6, "batch_size": 8, "optimizer": OPTIMIZER},
        "critic_rl": {"steps": 2, "save_every": 1},
        "joint": {"steps": 3, "eval_every": 2, "save_every": 1, "log_rollouts_every": 1},
    },
    "evaluate": {
        "num_problems": 4,
        "num_samples": 2,
        "during": 2,
        "panel_problems": 0,
        "panel_continuations": 2,
    },
    "hardware": {"device": "cpu", "threads": 1},
}
NOT_RESULTS = ("time", "cost/seconds")


@dataclass(frozen=True)
class Answer:
    """What a command did; white space in its texts is folded."""

    code: int
    out: str
    err: str


def results(run: Run, stage: str | None = None) -> list[Values]:
    """The metrics of a run without clocks."""
    lines = run.metrics(stage)
    return [{k: v for k, v in line.items() if k not in NOT_RESULTS} for line in lines]


def weights(run: Run) -> dict[str, bytes]:
    """The bytes of the saved models."""
    files = [f for role in ("actor", "critic") for f in (run.path / role).glob("*.safetensors")]
    return {str(f.relative_to(run.path)): f.read_bytes() for f in sorted(files)}


def copy_stages(source: Path, target: Path, *names: str) -> Path:
    """The finished outputs of some stages, so that only later ones are run again."""
    target.mkdir()
    for name in names:
        for folder in source.glob(f"{name}-*"):
            shutil.copytree(folder, target / folder.name)
    return target
