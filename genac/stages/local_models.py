"""Models as ordinary folders: a GGUF file is dequantised once and kept next to the stage outputs.

    local_model("model.gguf", cfg.stages.folder, "fp32")   ->  stages/gguf-HASH/model
    local_model("owner/name", ...)                         ->  the same name

The folder is named by the file's contents and the stored precision, so a moved file is not unpacked
again. What hashes count of such a model is the file (`contents.model_digest`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from genac.config.run import RunConfig
from genac.models.gguf import dequantise, is_gguf, require_gguf
from genac.runs.manifest import MODELS
from genac.runs.store import Run
from genac.stages.artifacts import build_once, is_built
from genac.stages.contents import model_digest
from genac.stages.loop import warn

FORMAT = 1  # of the folders; raise it where other files are written from the same input


def local_model(path: str | Path, root: str | Path, dtype: str = "fp32") -> str:
    """The folder or hub name that a model is loaded from. ValueError where `dequantise` has one."""
    if not is_gguf(path):
        return str(path)
    file = Path(path).expanduser()
    key = key_of(file, dtype)

    def build(run: Run) -> None:
        warn(f"dequantising {file} once, into {run.path / 'model'}")
        weights = torch.bfloat16 if dtype == "bf16" else torch.float32
        dequantise(file, run.path / "model", weights)

    return str(build_once(root, "gguf", key, build) / "model")


def key_of(file: Path, dtype: str) -> dict[str, Any]:
    if not file.is_file():
        require_gguf(file)
    return {"file": model_digest(file), "dtype": dtype, "format": FORMAT}


def critic_start(cfg: RunConfig, actor: Path) -> Path:
    """The model that the critic starts from: its own as it is, never warmed up, or what the actor
    starts from, warmed up where that is. Adapters on a shared base need the latter.
    """
    own = None if cfg.critic.share_base else cfg.critic.model_name_or_path
    return Path(own) if own else actor


def require_models(cfg: RunConfig) -> None:
    """ValueError where a config names a GGUF file that cannot be read, before anything is made."""
    for role in MODELS:
        model = getattr(cfg, role)
        if not (model.model_name_or_path and is_gguf(model.model_name_or_path)):
            continue
        file = Path(model.model_name_or_path).expanduser()
        if not is_built(cfg.stages.folder, "gguf", key_of(file, model.load.dtype)):
            require_gguf(file)
