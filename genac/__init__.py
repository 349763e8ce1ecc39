"""genac: generative critics for LLM reinforcement learning.

These names are the public objects. They are loaded on first use, so that `import genac` needs
neither torch nor a tracker. The method starts in `stages/joint.py`; what flows is in `types.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genac.config.recipes import read_recipe, resolve
    from genac.config.run import RunConfig
    from genac.runs.store import Run
    from genac.runs.trajectory import Trajectory
    from genac.scoring import Critic
    from genac.stages.callbacks import StopTraining
    from genac.stages.pipeline import train
    from genac.trainer import Trainer

_WHERE = {
    "Critic": "genac.scoring",
    "Run": "genac.runs.store",
    "RunConfig": "genac.config.run",
    "StopTraining": "genac.stages.callbacks",
    "Trainer": "genac.trainer",
    "Trajectory": "genac.runs.trajectory",
    "read_recipe": "genac.config.recipes",
    "resolve": "genac.config.recipes",
    "train": "genac.stages.pipeline",
}
__all__ = [
    "Critic",
    "Run",
    "RunConfig",
    "StopTraining",
    "Trainer",
    "Trajectory",
    "read_recipe",
    "resolve",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name == "GenACTrainer":  # ImportError, for Python hides an AttributeError of "from genac"
        raise ImportError(
            "genac.Trainer has TRL's arguments and trains by this library's loop; TRL's own "
            "trainer with a critic is genac.integrations.trl.GenACTrainer"
        )
    if name not in _WHERE:
        from difflib import get_close_matches

        near = "".join(f"; did you mean {n}?" for n in get_close_matches(name, __all__, 1))
        raise AttributeError(f"module 'genac' has no attribute {name!r}{near}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    """That of the installed package; of a clone that is not installed "unknown"."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("genac")
    except PackageNotFoundError:
        return "unknown"
