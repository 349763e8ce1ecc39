"""What a trainer needs of a critic, wherever it is."""

from __future__ import annotations

from typing import Protocol

from genac.client.messages import Advantages, Learn, Learnt, Responses, SuccessRate, Values


class CriticService(Protocol):
    """`Client` speaks to one over HTTP; `genac.service.LearningCritic` is one in this process."""

    def values(self, request: Responses) -> Values:
        """A value at the start of every segment."""
        ...

    def advantages(self, request: Responses) -> Advantages:
        """Values, and the advantages that they and the rewards make."""
        ...

    def learn(self, request: Learn) -> Learnt:
        """Learns from outcomes. `Gone`, a ValueError, where the estimates are not kept any more:
        ask for them again under a new id."""
        ...

    def set_success_rate(self, request: SuccessRate) -> None:
        """What a conditioned critic's prompts say of the actor until the next `learn`."""
        ...
