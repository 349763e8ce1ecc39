"""The critic that a trainer talks to: an object in this process, or a service over HTTP.

Both answer `advantages` and `learn` with the same messages. They differ in what a checkpoint of the
trainer holds: the critic itself, or which state of the service it goes with.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

from genac.client import Client, CriticService, Version
from genac.config.run import HardwareConfig
from genac.critics.prompts import size_text
from genac.models.loading import parameter_count
from genac.runs.files import read_json, write_json
from genac.service import LearningCritic
from genac.service.loading import source_of

SERVICE = "service.json"


class Learning(CriticService, Protocol):
    """A `genac.service.LearningCritic`."""

    def describe_version(self) -> Version: ...

    def save(self, folder: Path) -> Any: ...

    def load(self, folder: Path) -> None: ...

    def save_model(self, folder: Path) -> None: ...


class InProcess:
    """A critic in the trainer's main process."""

    def __init__(self, critic: Learning) -> None:
        self.critic = self.answers = critic

    def state(self) -> Version:
        return self.critic.describe_version()

    def require_saving(self) -> None:
        """It saves wherever the trainer does."""

    def save(self, folder: Path) -> None:
        self.critic.save(folder)

    def load(self, folder: Path) -> None:
        """ValueError where the checkpoint is that of a service."""
        if (folder / SERVICE).exists():
            url = read_json(folder / SERVICE)["url"]
            raise ValueError(
                f"{folder.parent} was saved with the critic service at {url}; resume with "
                f"critic={url!r}"
            )
        self.critic.load(folder)

    def export(self, folder: Path) -> None:
        """An ordinary critic folder, for `genac score` and `genac serve`."""
        self.critic.save_model(folder)


class Service:
    """A critic behind `genac serve --learn`, which keeps its own checkpoints."""

    def __init__(self, client: Client) -> None:
        self.client = self.answers = client

    def state(self) -> Version:
        return self.client.version()

    def require_saving(self) -> None:
        """ValueError, before anything is trained, where the service has no checkpoints."""
        self.client.checkpoint()

    def save(self, folder: Path) -> None:
        """The service saves itself; the folder records which of its states that is."""
        state = self.client.checkpoint()
        record = {"url": self.client.url, "version": state.version, "step": state.step}
        write_json(folder / SERVICE, record)

    def load(self, folder: Path) -> None:
        """ValueError where the service has not learnt what it had when the checkpoint was saved; a
        warning where it has learnt more, as it has behind a trainer that was killed.
        """
        if not (folder / SERVICE).exists():
            raise ValueError(
                f"{folder.parent} was saved with a critic in the trainer's process; resume with "
                "critic=PATH or a LearningCritic"
            )
        saved, state = read_json(folder / SERVICE), self.client.version()
        differs = (
            f"{folder.parent} goes with step {saved['step']} (version {saved['version']}) of the "
            f"critic service, but {self.client.url} is at step {state.step} (version "
            f"{state.version})"
        )
        if state.step < saved["step"]:
            raise ValueError(
                f"{differs}; start the service with the --checkpoints folder that it had, or start "
                f"from the model in {folder.parent} without resuming"
            )
        if state.step > saved["step"]:
            warnings.warn(
                f"{differs}: the critic keeps what it learnt since, so this run will differ from "
                "one that was not interrupted",
                stacklevel=2,
            )

    def export(self, folder: Path) -> None:
        """Nothing: the service owns the critic's model."""


def require_critic(critic: Any) -> None:
    """ValueError for what `connect` does not take, before the actor is loaded."""
    if is_url(critic) or isinstance(critic, Client):
        return
    if isinstance(critic, str | Path):
        source_of(critic)
    elif not all(hasattr(critic, name) for name in ("advantages", "learn", "save", "load")):
        raise ValueError(
            f"critic is a {type(critic).__name__}; it must be a LearningCritic, a genac.client."
            "Client, the URL of `genac serve --learn`, or a saved critic's folder"
        )


def is_url(critic: Any) -> bool:
    return isinstance(critic, str) and critic.startswith(("http://", "https://"))


def connect(critic: Any, tokenizer: Any, model: Any) -> InProcess | Service:
    """From what a user gives as `critic`: an object, a client, an address or a folder.

    A folder's critic reads the actor's tokens by `tokenizer` and is conditioned on the size of
    `model`. ValueError for a critic that reads another actor's tokens.
    """
    own = opened(critic, tokenizer, model)
    size = own.state().critic.get("actor_tokens")
    if size is not None and size != len(tokenizer):
        raise ValueError(
            f"the critic reads an actor of {size} tokens, but the trainer's tokenizer "
            f"{tokenizer.name_or_path!r} has {len(tokenizer)}; start the critic with that "
            "tokenizer (actor_tokenizer)"
        )
    return own


def opened(critic: Any, tokenizer: Any, model: Any) -> InProcess | Service:
    """As `connect`, before it is known whose tokens the critic reads."""
    if is_url(critic):
        return Service(Client(critic))
    if isinstance(critic, Client):
        return Service(critic)
    if isinstance(critic, str | Path):
        loaded = LearningCritic.from_pretrained(
            critic,
            actor_tokenizer=tokenizer,
            actor_size=size_text(parameter_count(model)),
            hardware=HardwareConfig(processes=1),  # the other GPUs are the trainer's
        )
        return InProcess(loaded)  # type: ignore[arg-type]
    return InProcess(critic)
