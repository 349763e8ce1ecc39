"""Checkpoints of every model of a run, written atomically and verified on load.

    checkpoints/step-000040/
        actor/  critic/            Hugging Face folders
        actor.optimizer.pt  ...    optimiser states
        state.json                 step, versions, running averages, hashes
        manifest.json              sha256 of every file, written last

A checkpoint is built in a temporary folder and renamed, so a killed process or a full disk leaves
the previous one intact. Random numbers and the data position need no saving: both are functions of
the step.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from genac.runs.files import read_json, sync, sync_below
from genac.runs.manifest import digest, is_weights
from genac.runtime import Runtime

KEEP = 2
# What writers raise on a full disk: Python, torch.save and safetensors, in this order.
WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


def save(root: Path, step: int, runtimes: Mapping[str, Runtime], state: dict[str, Any]) -> Path:
    """Writes step-NNNNNN under `root` and drops all but the newest KEEP; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{step:06d}"
    temporary = temporary_name(final)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, step, runtimes, state)
        shutil.rmtree(final, ignore_errors=True)  # a step that is repeated after a resume
        os.rename(temporary, final)
        sync(root)  # its name too, before older ones go
    except (ConnectionError, ChildProcessError, TimeoutError):
        # The writer failed, died or is silent, which is no matter of the disk.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except WRITE_ERRORS as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"checkpoint {final} could not be written ({reason}); free some disk space and resume: "
            "the previous checkpoint is intact",
        ) from error
    drop(root, KEEP)
    return final


def drop(root: Path, keep: int = 0) -> None:
    """Deletes the checkpoints under `root` but for the newest `keep`, and what killed writers left.

    Each loses its name first, so one that has it is whole, whenever the process is killed. That
    holds for one writer: where no lock keeps a second out (`runs.files.alone`), each deletes what
    the other has synchronised and not yet renamed, and a name may stand for a folder with holes,
    which `load` refuses.
    """
    kept = complete(root)[-keep:] if keep else []
    for old in named(root):
        if old not in kept:
            hidden = temporary_name(old)
            shutil.rmtree(hidden, ignore_errors=True)
            os.rename(old, hidden)
    for hidden in root.glob(".step-*.tmp"):
        shutil.rmtree(hidden, ignore_errors=True)


def temporary_name(folder: Path) -> Path:
    """A checkpoint while it is being written or deleted."""
    return folder.with_name(f".{folder.name}.tmp")


def _write(folder: Path, step: int, runtimes: Mapping[str, Runtime], state: dict[str, Any]) -> None:
    folder.mkdir()
    for name, runtime in runtimes.items():
        runtime.save_model(folder / name)
        runtime.learner.save(folder / f"{name}.optimizer.pt")
    versions = {name: runtime.version for name, runtime in runtimes.items()}
    (folder / "state.json").write_text(
        json.dumps({**state, "step": step, "versions": versions}, indent=1)
    )
    manifest = {
        f.relative_to(folder).as_posix(): digest(f)
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    # On disk before the folder gets its final name, or a power cut could leave that name alone.
    sync_below(folder)


def named(root: Path) -> list[Path]:
    """What has a checkpoint's name under `root`, oldest first."""
    return sorted(
        (p for p in root.glob("step-*") if re.fullmatch(r"step-[0-9]{6,18}", p.name)), key=step_of
    )


def complete(root: Path) -> list[Path]:
    """Finished checkpoints under `root`, oldest first."""
    return [p for p in named(root) if (p / "manifest.json").exists()]


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def verify(folder: Path, parts: tuple[str, ...] = ("",)) -> dict[str, str]:
    """The manifest: file name to sha256. ValueError where a file whose name begins with one of
    `parts` is not as it was written, or is none that the manifest lists.
    """
    manifest = read_json(folder / "manifest.json")
    held = [f.relative_to(folder).as_posix() for f in sorted(folder.rglob("*")) if f.is_file()]
    for name in held:
        if name.startswith(parts) and name != "manifest.json" and name not in manifest:
            raise damaged(folder, f"{name} is not in manifest.json")
    for name, expected in manifest.items():
        if not name.startswith(parts):
            continue
        if not (folder / name).is_file() or digest(folder / name) != expected:
            raise damaged(folder, f"{name} is missing or differs from its hash in manifest.json")
    return manifest


def damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(
        f"checkpoint {folder} is damaged: {reason}; delete that folder to resume from the "
        "checkpoint before it, or from the start where there is none"
    )


def saved_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state without its models, e.g. to look before anything is loaded."""
    verify(folder, ("state.json",))
    return read_json(folder / "state.json")


def require_models(folder: Path, names: Iterable[str]) -> None:
    """ValueError where a file is missing or damaged, or there is no model of one of these names."""
    manifest = verify(folder)
    for name in names:
        weights = any(f.startswith(f"{name}/") and is_weights(f) for f in manifest)
        if not weights or f"{name}.optimizer.pt" not in manifest:
            raise ValueError(
                f"checkpoint {folder} holds no {name} (model and optimiser state); it was written "
                "by a run without one, so it cannot be resumed by this config: "
                "start a new output_dir"
            )
    if "state.json" not in manifest:
        raise damaged(folder, "state.json is not in manifest.json")


def load(folder: Path, runtimes: Mapping[str, Runtime]) -> dict[str, Any]:
    """Restores every runtime and returns the saved state; refuses what is missing or damaged."""
    require_models(folder, runtimes)
    state = read_json(folder / "state.json")
    for name, runtime in runtimes.items():
        runtime.load_weights(folder / name)
        runtime.learner.load(folder / f"{name}.optimizer.pt")
        runtime.publish(state["versions"][name])
    return state
