"""Requests to learn that were accepted and wait, on disk before anyone hears of it.

    FOLDER/service.json               the settings that the service was begun under
    FOLDER/queue/000000000012.learn   a request: its JSON, a line break, estimates that it names

From the moment when learning begins the critic's own journal has it (`genac/service/journal.py`);
the file here is removed once it was learnt, or failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.client.messages import Learn
from genac.runs.files import durable, read_json, sweep

QUEUE, SETTINGS = "queue", "service.json"


class Accepted:
    """The files of one server. Requests have ascending numbers, in the order of learning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / QUEUE
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)

    def put(self, number: int, request: Learn, estimates: bytes = b"") -> None:
        """Once this returns, the request survives kill and power cut. OSError on a full disk."""
        durable(self._file(number), request.model_dump_json().encode() + b"\n" + estimates)

    def numbers(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.learn"))

    def read(self, number: int) -> tuple[Learn, bytes]:
        text, _, estimates = self._file(number).read_bytes().partition(b"\n")
        return Learn.model_validate_json(text), estimates

    def drop(self, number: int) -> None:
        self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:012d}.learn"


def require_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings at a service's first start; ValueError where they are others later.

    A start that failed before there was a critic binds nobody to its settings.
    """
    file = folder / SETTINGS
    own = json.loads(json.dumps(settings))
    if not file.exists() or not checkpoint.complete(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return durable(file, json.dumps(own, indent=1) + "\n")
    begun, now = flat(read_json(file)), flat(own)
    if changed := [key for key in {**begun, **now} if begun.get(key) != now.get(key)]:
        was = ", ".join(f"{key} {begun.get(key)!r}, now {now.get(key)!r}" for key in changed)
        raise ValueError(
            f"the service in {folder} was begun with {was:.600}; use the same settings, or another "
            "folder with --checkpoints"
        )
    return None


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """By dotted key."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        result |= flat(value, f"{above}{key}.") if inner else {f"{above}{key}": value}
    return result
