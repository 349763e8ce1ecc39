"""What every saved critic can do, and the right class for what the user named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from genac.critics.saved import critic_card, critic_of_checkpoint
from genac.runs.manifest import require_saved
from genac.scoring.generative import Critic, Judgement, Prompt, local_folder
from genac.scoring.value_head import ValueHead


class Scorer(Protocol):
    """Values of partial responses."""

    @property
    def rationales(self) -> int:
        """Rationales per partial response where a call names no number."""
        ...

    @property
    def processed_tokens(self) -> int:
        """Tokens read and written so far."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is and how it is prompted; fit for JSON."""
        ...

    def prompt(self, problem: Prompt, partial: str, success_rate: float | None = None) -> Any:
        """The prompt; TooLong, a ValueError, where it does not fit."""
        ...

    def judge(
        self, prompts: Sequence[Any], seeds: Sequence[int], rationales: int | None = None
    ) -> list[Judgement]:
        """One judgement per prompt, each with its own seed."""
        ...


KINDS: dict[str, type[Critic] | type[ValueHead]] = {
    "generative": Critic,
    "discriminative": ValueHead,
}


def critic_place(name: str | Path) -> Path:
    """The folder of the critic in a folder, a run, a checkpoint or on the hub ("owner/name").

    ValueError where there is no critic, or one that is not saved.
    """
    place = critic_of_checkpoint(name) or local_folder(name)
    if not card_of(place) and card_of(place / "critic"):
        place = place / "critic"
    card = card_of(place)
    if not card:
        raise ValueError(
            f"{name} holds no critic.json; give a run that trained a critic, or the 'critic' "
            "folder of one"
        )
    if card["kind"] not in KINDS:
        raise ValueError(f"the critic in {place} is {card['kind']!r}; use one of {sorted(KINDS)}")
    return place


def card_of(place: Path) -> dict[str, Any]:
    """As `critic_card`; ValueError where it cannot be read, with the remedy for a finished run."""
    try:
        return critic_card(place)
    except ValueError:
        require_saved(place)
        raise


def load_scorer(name: str | Path, **settings: Any) -> Critic | ValueHead:
    """The critic in `critic_place(name)`; settings are those of `Critic.from_pretrained`."""
    place = critic_place(name)
    return KINDS[critic_card(place)["kind"]].from_pretrained(place, **settings)
