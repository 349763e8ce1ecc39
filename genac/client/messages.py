"""What a client and `genac serve --learn` send each other: JSON, checked at both ends.

    POST /values       Responses            -> Values
    POST /advantages   Responses (rewards)  -> Advantages
    POST /learn        Learn                -> Learnt

A response is cut into segments, and a value stands before the first token of each. The server
cuts by its own splitter where a response names no boundaries. Positions count tokens where the
response holds `tokens`, else characters of `text`. Rewards are in [0, 1]. A missing value or reward
is null and never 0.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Unit = Annotated[float, Field(ge=0, le=1)]
Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ChatMessage(Strict):
    role: str
    content: str


class Response(Strict):
    """One response of the actor to a problem."""

    problem: str | Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    tokens: tuple[Annotated[int, Field(ge=0)], ...] | None = None  # of the actor's tokenizer
    text: str | None = None  # instead of tokens
    # Tokens of the prompt as the actor read it. States with equal prefixes are one state.
    prompt_tokens: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    group: str | None = None  # responses to one problem share it; None = the problem's text
    # Starts of the segments, ascending from 0; None = the server's splitter.
    boundaries: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    # Of the tokens, as they were sampled; only the splitter low_probability reads them.
    logprobs: tuple[float, ...] | None = None
    reward: Unit | None = None  # None = it could not be scored

    @model_validator(mode="after")
    def _consistent(self) -> Response:
        if (self.tokens is None) == (self.text is None):
            raise ValueError("a response has either tokens or text")
        return self


class Responses(Strict):
    """A batch: all responses of a step of the trainer, or a part that holds whole groups."""

    responses: Annotated[tuple[Response, ...], Field(min_length=1)]
    rationales: bool = False  # whether the reply holds the critic's reasoning
    # Keep the estimates under this id, so that `learn` can train the rationales that answered.
    # A repeated request with the same id gets the first one's reply.
    id: Id | None = None
    # Draws the critic's samples, and which states train it. None = the server's number of `learn`s.
    step: Annotated[int, Field(ge=0)] | None = None


class ResponseValues(Strict):
    """Of one response; all tuples have one entry per segment."""

    boundaries: tuple[int, ...]
    values: tuple[float | None, ...]
    spreads: tuple[float | None, ...]  # standard deviation of the score distribution
    rationales: tuple[tuple[str, ...], ...] | None = None


class ResponseAdvantages(ResponseValues):
    # One per segment; None where the response has no reward, and of a segment without tokens: no
    # loss takes them.
    advantages: tuple[float | None, ...]
    # (T,) one per token; None where the response came as text or has no reward
    token_advantages: tuple[float, ...] | None = None


class Values(Strict):
    responses: tuple[ResponseValues, ...]
    version: int  # of the weights that answered
    metrics: dict[str, float] = {}


class Advantages(Strict):
    responses: tuple[ResponseAdvantages, ...]
    version: int
    metrics: dict[str, float] = {}  # critic/*


class Learn(Strict):
    """Outcomes to learn from: of an earlier request, or of responses sent with their rewards."""

    request_id: Id  # a request that is repeated under one id is learnt once
    # The `id` of a /values or /advantages request whose estimates are kept; its rationales train.
    estimates: Id | None = None
    # For `estimates`: rewards in its order, where the request had none.
    rewards: tuple[Unit | None, ...] | None = None
    # Without `estimates`: the critic judges these first (stage 2 of the method).
    responses: Annotated[tuple[Response, ...], Field(min_length=1)] | None = None
    wait: bool = True  # False = reply at once with status "queued"; ask GET /learn/{request_id}

    @model_validator(mode="after")
    def _consistent(self) -> Learn:
        if (self.estimates is None) == (self.responses is None):
            raise ValueError("learn needs either estimates or responses")
        if self.rewards is not None and self.estimates is None:
            raise ValueError("rewards belong to estimates; responses carry their own")
        return self


class Learnt(Strict):
    request_id: str
    status: str  # "queued" | "done" | "failed"
    version: int | None = None  # of the weights after it
    step: int | None = None  # how many requests have been learnt, with this one
    metrics: dict[str, float] = {}
    error: str | None = None


class SuccessRate(Strict):
    """What a conditioned critic's prompts say of the actor until the next `learn`."""

    rate: Unit | None  # None = nothing is known


class Version(Strict):
    version: int
    step: int
    critic: dict[str, Any] = {}  # as GET /card
