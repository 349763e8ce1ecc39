"""What a model card may say of where models and data came from: of paths, the last part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def hub_name(path: str | None) -> str | None:
    """The path where it may name a repository of the hub ("owner/name"), else None."""
    return path if path and path.count("/") == 1 and path[0] not in "./~" else None


def hub_models(config: Mapping[str, Any]) -> list[str]:
    """The models of a config that were read from the hub: names that are no folder from here.

    To be asked where the models are read; elsewhere a relative folder looks like a repository.
    """
    names = {hub_name(config[role].get("model_name_or_path")) for role in ("actor", "critic")}
    return sorted(name for name in names if name and not Path(name).exists())


def start_of(role: str, config: Mapping[str, Any]) -> str | None:
    """What the model was trained from, as configured; None = made from scratch, or unknown."""
    actor = config.get("actor", {}).get("model_name_or_path")
    return config.get(role, {}).get("model_name_or_path") or actor


def base_model(start: str | None, summary: Mapping[str, Any]) -> str | None:
    """The start where the run's summary records that it was read from the hub, else None."""
    return start if start in summary.get("hub_models", []) else None


def named(start: str | None, summary: Mapping[str, Any]) -> str | None:
    """The start as a card may name it: whole where it is the hub's, else its last part."""
    return base_model(start, summary) or (last_part(start) if start else None)


def last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def without_folders(value: Any) -> Any:
    """Options with every string that looks like a path reduced to its last part, at any depth."""
    if isinstance(value, Mapping):
        return {without_folders(key): without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return last_part(value) if isinstance(value, str) and is_path(value) else value


def is_path(text: str) -> bool:
    """Absolute, home or dotted paths, and words with a slash that no repository could be called.

    Text with a slash in it ("/no_think", "and/or that") is none.
    """
    if re.match(r"/[^/\s]+/|~[^/\s]*/|\.\.?[/\\]|[A-Za-z]:[/\\]|\\\\|[a-z]+://", text):
        return True
    if "/" not in text.lstrip("/") or re.search(r"\s", text):
        return False
    return not hub_name(text) or bool(re.search(r"\.(jsonl?|parquet|csv|txt|py)$", text))
