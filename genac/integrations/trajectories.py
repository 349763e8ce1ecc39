"""What the plug-ins for trainers share: settings, what they check and send, how they teach.

A trainer's batch becomes one `Responses`, and the reply one advantage per token of each response.
No torch and no trainer is imported here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from genac.client import Client, CriticService, Gone
from genac.client.messages import Advantages, ChatMessage, Learn, Learnt, Response, Responses

ROUNDING = 1e-6  # a float32 sum of parts that make 1 may pass 1 by as much


@dataclass(frozen=True)
class Settings:
    """Where the critic service is and how it is used; ValueError where a value cannot be."""

    url: str  # of `genac serve --learn`
    api_key_env: str | None = None  # environment variable that holds the service's key
    timeout: float = 600.0  # seconds that one request may take
    learn: bool = True  # False = the critic's weights stay as they are

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"genac.url is {self.url!r}; name the address that `genac serve --learn` prints, "
                "as http://HOST:8077"
            )
        if self.api_key_env is not None and not os.environ.get(str(self.api_key_env)):
            raise ValueError(
                f"genac.api_key_env names {self.api_key_env}, which is not set in this process; "
                "export it where the trainer's driver runs, or pass it in Ray's runtime_env"
            )
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float):
            raise ValueError(f"genac.timeout is {self.timeout!r}; it is a number of seconds")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"genac.timeout is {self.timeout}; it must be positive and finite")
        if not isinstance(self.learn, bool):
            raise ValueError(f"genac.learn is {self.learn!r}; it is true or false")

    @classmethod
    def of(cls, section: Mapping[str, Any] | None) -> Settings:
        """From the section `genac` of a trainer's config."""
        if not isinstance(section, Mapping) or "url" not in section:
            raise ValueError("genac.url is missing; name the address of `genac serve --learn`")
        known = [field.name for field in fields(cls)]
        for name in section:
            if name not in known:
                close = get_close_matches(str(name), known, 1)
                hint = f"did you mean genac.{close[0]}?" if close else f"known: {', '.join(known)}"
                raise ValueError(f"genac.{name} is no setting; {hint}")
        return cls(**section)

    def client(self) -> Client:
        key = os.environ[self.api_key_env] if self.api_key_env else None
        return Client(self.url, api_key=key, timeout=self.timeout)


@dataclass(frozen=True)
class Trajectory:
    """One response as a trainer holds it; `name` says which one in messages."""

    name: str
    group: str
    problem: str | Sequence[Mapping[str, Any]]  # a text or chat messages
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    reward: float | None  # NaN and None = it could not be scored

    def message(self) -> Response:
        """As the service reads it; ValueError for a reward beyond [0, 1] or content that is no
        text.
        """
        return Response(
            problem=texts_of(self.problem, self.name),
            tokens=tuple(self.response_ids),
            prompt_tokens=tuple(self.prompt_ids),
            group=self.group,
            reward=outcome(self.reward, self.name),
        )


def outcome(reward: float | None, name: str) -> float | None:
    """The reward of a response, in [0, 1]; None where there is none."""
    if reward is None or math.isnan(reward):
        return None
    if not -ROUNDING <= reward <= 1 + ROUNDING:
        raise ValueError(
            f"the reward of response {name} is {reward:g}; a generative critic predicts outcomes "
            "in [0, 1]: let the reward function return such, and put penalties into the loss"
        )
    return min(max(reward, 0.0), 1.0)


def texts_of(
    problem: str | Sequence[Mapping[str, Any]], name: str
) -> str | tuple[ChatMessage, ...]:
    """A problem as the service reads it: roles and texts of the chat messages."""
    if isinstance(problem, str):
        return problem
    for message in problem:
        if not isinstance(message.get("content"), str):
            raise ValueError(
                f"the prompt of response {name} holds a message whose content is no text "
                f"({type(message.get('content')).__name__}); the critic reads text only"
            )
    return tuple(ChatMessage(role=str(m["role"]), content=m["content"]) for m in problem)


def taught(critic: CriticService, request: Responses) -> Learnt:
    """The critic learns, under the request's id, from the estimates of a request for advantages."""
    try:
        return critic.learn(Learn(request_id=f"{request.id}", estimates=request.id))
    except Gone:
        # A service that was restarted since keeps no estimates. The same step draws them again.
        again = request.model_copy(update={"id": f"{request.id}-again"})
        critic.advantages(again)
        return critic.learn(Learn(request_id=f"{again.id}", estimates=again.id))


def token_streams(reply: Advantages, rows: Sequence[Trajectory]) -> list[tuple[float, ...]]:
    """One advantage per token of each response; zeros for one without a reward, of which nothing
    can be learnt. RuntimeError where the reply does not fit.
    """
    if len(reply.responses) != len(rows):
        raise RuntimeError(
            f"the critic service answered {len(reply.responses)} of {len(rows)} responses; "
            "are client and service of one version of genac?"
        )
    streams: list[tuple[float, ...]] = []
    for row, answer in zip(rows, reply.responses, strict=True):
        stream = answer.token_advantages
        if stream is None and outcome(row.reward, row.name) is None:
            stream = (0.0,) * len(row.response_ids)
        if stream is None or len(stream) != len(row.response_ids):
            length = "no" if stream is None else len(stream)
            raise RuntimeError(
                f"the critic service gave {length} advantages for the {len(row.response_ids)} "
                f"tokens of response {row.name}; are client and service of one version of genac?"
            )
        streams.append(stream)
    return streams
