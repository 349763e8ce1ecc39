"""A critic in the middle of training: the one in a checkpoint that a stage wrote to resume from.

    RUN/checkpoints/STAGE/step-000040/critic    its model
    RUN/checkpoints/STAGE/step-000040/state.json, RUN/config.json    its prompt

RUN is a run, or the folder of a stage.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.runs.files import read_json
from genac.runs.manifest import DONE

CARD = "critic.json"  # the prompt and settings of a folder's critic


def critic_of_checkpoint(name: str | Path) -> Path | None:
    """The critic's folder in the checkpoint that was named (step-40 is step-000040 too); None where
    this is the name of no checkpoint. ValueError where it was dropped, is damaged or unfinished,
    holds no critic, or does not name its critic's prompt.
    """
    place = Path(name)
    place = place.parent if place.name == "critic" else place
    # A run's checkpoints are named in six digits; people name them in as many as they see.
    step = re.fullmatch(r"step-(\d+)", place.name)
    if step and not place.exists():
        place = place.with_name(f"step-{int(step[1]):06d}")
    if not step and not (place / "manifest.json").exists():
        return None
    if not (place / "manifest.json").exists():
        if (run_of(place) / DONE).exists() and (run_of(place) / "model").is_dir():
            raise ValueError(
                f"{place} is no checkpoint: a finished stage keeps only its model; name "
                f"{run_of(place) / 'model'}"
            )
        finished = ", ".join(p.name for p in checkpoint.complete(place.parent)) or "none"
        raise ValueError(
            f"{place} is no finished checkpoint; {place.parent} has {finished} (training keeps the "
            f"newest {checkpoint.KEEP}: while it runs, copy what you want to keep to a folder "
            "next to them that is not named step-...)"
        )
    if not (place / "critic").is_dir():
        raise ValueError(
            f"{place} holds no critic: its run trains none; name a checkpoint of a run whose "
            "critic.kind is generative or discriminative"
        )
    checkpoint.verify(place, ("critic/", "state.json"))
    if not checkpoint_card(place / "critic"):
        raise ValueError(
            f"nothing names the prompt of the critic in {place}: {run_of(place)} has no "
            "config.json that names a critic; name the checkpoint inside the run that wrote it"
        )
    return place / "critic"


def critic_card(folder: str | Path) -> dict[str, Any]:
    """critic.json of a folder that this library saved, or what it would say of the critic in a
    checkpoint; empty for any other model.
    """
    file = Path(folder) / CARD
    return read_json(file) if file.exists() else checkpoint_card(Path(folder))


def checkpoint_card(folder: Path) -> dict[str, Any]:
    """What critic.json would say of the critic in a checkpoint; empty for any other folder, and
    where the run does not record it.
    """
    place = folder.resolve().parent
    if folder.name != "critic" or not (place / "state.json").exists():
        return {}
    run = run_of(place)
    config = read_json(run / "config.json") if (run / "config.json").exists() else {}
    if "critic" not in config:
        return {}
    state = read_json(place / "state.json")["critic"]
    return {"kind": config["critic"]["kind"], "config": config["critic"], **state}


def run_of(place: Path) -> Path:
    """The run, or the stage's folder, that a checkpoint is in."""
    return place.resolve().parent.parent.parent


def shown_name(folder: Path) -> str:
    """How judgements of a saved critic are named, unless the user says otherwise."""
    place = folder.resolve()
    if not (place / CARD).exists():
        return f"{place.parent.parent.name}-{place.parent.name}"  # joint-step-000040
    return place.parent.name if place.name == "critic" else place.name
