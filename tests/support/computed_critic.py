"""A critic that computes from what it is sent, with the methods of `genac.service.LearningCritic`.

The value of a segment is the share of its response that lies behind it; the advantage of a token is
the reward less the share in front of it. What was learnt is kept to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from genac.client.messages import (
    Advantages,
    Learn,
    Learnt,
    Response,
    ResponseAdvantages,
    Responses,
    ResponseValues,
    Values,
)


class ComputedCritic:
    def __init__(self, values: Sequence[float | None] = ()) -> None:
        self.version = self.step = 0
        self.scripted = tuple(values)  # instead of the shares
        self.requests: dict[str, Responses] = {}
        self.learnt_ids: list[str] = []

    def values(self, request: Responses) -> Values:
        return Values(responses=tuple(map(self._row, request.responses)), version=self.version)

    def _row(self, response: Response) -> ResponseValues:
        length = len(response.tokens if response.tokens is not None else response.text or "")
        starts = response.boundaries or (0,)
        values = self.scripted or tuple(1 - at / max(1, length) for at in starts)
        reasons = tuple((f"read up to {at}",) for at in starts)
        none = (None,) * len(starts)
        return ResponseValues(boundaries=starts, values=values, spreads=none, rationales=reasons)

    def advantages(self, request: Responses) -> Advantages:
        if request.id is not None:
            self.requests[request.id] = request
        replies = []
        for response in request.responses:
            reward, length = response.reward, len(response.tokens or ())
            stream = None
            if reward is not None:
                stream = tuple(reward - i / length for i in range(length))
            row = self._row(response).model_copy(update={"rationales": None})
            parts = row.model_dump() | {"advantages": (None,), "token_advantages": stream}
            replies.append(ResponseAdvantages.model_validate(parts))
        return Advantages(responses=tuple(replies), version=self.version)

    def learn(self, request: Learn) -> Learnt:
        assert request.estimates in self.requests
        if request.request_id not in self.learnt_ids:
            self.learnt_ids.append(request.request_id)
            self.step = self.version = len(self.learnt_ids)
        return Learnt(
            request_id=request.request_id, status="done", version=self.version, step=self.step
        )

    def save(self) -> None:
        pass
