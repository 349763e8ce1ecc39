"""genac: generative critics for LLM reinforcement learning.

Names are loaded on first use, so that `import genac` needs neither torch nor a tracker.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genac.config import RunConfig
    from genac.recipes import read_recipe, resolve
    from genac.runs.store import Run
    from genac.runs.trajectory import Trajectory
    from genac.scoring import Critic
    from genac.stages.pipeline import train

_WHERE = {
    "Critic": "genac.scoring",
    "Run": "genac.runs.store",
    "RunConfig": "genac.config",
    "Trajectory": "genac.runs.trajectory",
    "read_recipe": "genac.recipes",
    "resolve": "genac.recipes",
    "train": "genac.stages.pipeline",
}
__all__ = ["Critic", "Run", "RunConfig", "Trajectory", "read_recipe", "resolve", "train"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'genac' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
