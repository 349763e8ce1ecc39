"""One set of LoRA adapters at a service: new ones, or those that a pointer names.

    tinker.json     {"path": "tinker://...", "base_model": "Qwen/Qwen3-8B", "steps": 40, ...}

The adapters are created when they are first trained: until then the base model is what they are.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.distributed.tinker.service import Service
from genac.runs.files import read_json
from genac.runs.manifest import POINTER


@dataclass
class Adapter:
    """Weights and moments of one model. `path`: where the service saved them last."""

    service: Service
    base_model: str
    role: str
    rank: int
    seed: int
    path: str | None = None  # None = as new
    _client: Any = None
    _changes: int = 0  # optimiser steps since `path` was saved
    unpublished: int = 0  # and since the newest sampler was made

    @property
    def untrained(self) -> bool:
        return self._client is None and self.path is None

    @property
    def client(self) -> Any:
        """What trains them."""
        if self._client is None:
            sdk = self.service.client
            if self.path is None:
                make = lambda: sdk.create_lora_training_client(  # noqa: E731
                    base_model=self.base_model,
                    rank=self.rank,
                    seed=self.seed,
                    train_unembed=False,  # our own adapters leave it out as well
                )
            else:
                make = lambda: sdk.create_training_client_from_state(self.path)  # noqa: E731
            self._client = self.service.create(make, f"a request for {self.role} adapters")
        return self._client

    def sampler(self) -> Any:
        """A client that samples with the present weights, whatever they become later."""
        if self.untrained:
            sdk = self.service.client
            make = lambda: sdk.create_sampling_client(base_model=self.base_model)  # noqa: E731
        else:
            make = self.client.save_weights_and_get_sampling_client
        self.unpublished = 0
        return self.service.create(make, f"a request to publish the {self.role}")

    def stepped(self) -> None:
        """An optimiser step was requested."""
        self._changes += 1
        self.unpublished += 1

    def save(self, steps: int) -> str | None:
        """Where the service keeps weights and moments; None where they are as new."""
        if self.untrained or (self.path is not None and not self._changes):
            return self.path
        name = f"{self.role}-{steps}-{uuid.uuid4().hex[:12]}"
        future = self.client.save_state(name)
        self.path = self.service.wait(future, f"a request to save the {self.role}").path
        self._changes = 0
        return self.path

    def restore(self, path: str | None) -> None:
        """Weights and moments as they were saved there."""
        self.path, self._changes, self.unpublished, self._client = path, 0, 0, None
        if path is not None:
            make = self.service.client.create_training_client_from_state_with_optimizer
            self._client = self.service.create(
                lambda: make(path), f"a request to restore the {self.role} from {path}"
            )

    @property
    def identity(self) -> str:
        """Tells weights apart."""
        saved = f"{self.base_model}@{self.path or 'new'}"
        return f"{saved}/{self._client.model_id}+{self._changes}" if self._changes else saved


def read_pointer(folder: str | Path) -> dict[str, Any] | None:
    """tinker.json of a folder; None for an ordinary model."""
    file = Path(folder).expanduser() / POINTER
    return read_json(file) if file.exists() else None
