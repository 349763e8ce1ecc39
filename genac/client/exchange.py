"""When a request is sent again, and what an answer means: the same for both clients.

A request is repeated on a broken connection and on 408, 429, 502, 503 and 504, after the server's
Retry-After where it sends one. That is safe: values change nothing, and a request that is learnt
has an id under which it is learnt once.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from genac.client.errors import Gone, ServiceError

T = TypeVar("T")
AGAIN = (408, 429, 502, 503, 504)
FIRST, LONGEST = 0.25, 30.0  # seconds between two tries, unless the server says


@dataclass(frozen=True)
class Call:
    """One request of the contract."""

    method: str
    path: str
    body: BaseModel | None = None

    @property
    def content(self) -> str | None:
        """JSON of all that differs from a default; only a POST has a body."""
        if self.method != "POST":
            return None
        return "{}" if self.body is None else self.body.model_dump_json(exclude_defaults=True)


@dataclass(frozen=True)
class Send:
    """To do next: one try, within `seconds`."""

    call: Call
    seconds: float


@dataclass(frozen=True)
class Wait:
    """To do next: nothing."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    retry_after: str | None = None


@dataclass(frozen=True)
class Broken:
    """No answer came."""

    reason: str


Talk = Generator[Send | Wait, Answer | Broken | None, T]


def talk(
    call: Call, url: str, timeout: float, retries: int, read: Callable[[Answer], T]
) -> Talk[T]:
    """The tries of one call: yields what is to be done, is sent what came of it, returns what
    `read` makes of the answer.

    ServiceError where no answer came within `timeout` seconds, or within `retries` tries behind the
    first, and where the service failed; ValueError where it refused the request. A service that
    says when to come back is tried again until the time is up.
    """
    end, failures = time.monotonic() + timeout, 0
    while True:
        outcome = yield Send(call, max(0.001, end - time.monotonic()))
        if isinstance(outcome, Answer) and outcome.status not in AGAIN:
            return read(outcome)
        pause = requested_pause(outcome)
        if pause is None:
            pause = min(LONGEST, FIRST * 2**failures) * random.uniform(0.5, 1.0)
            failures += 1
        left = end - time.monotonic()
        if failures > retries or pause >= left:
            limit = f"{retries} retries" if failures > retries else f"{timeout:g} s"
            raise ServiceError(
                f"{url}{call.path} gave no answer within {limit}: {described(outcome)}; see "
                "whether the service runs and what its log says, or raise timeout or retries"
            )
        yield Wait(pause)


def requested_pause(outcome: Answer | Broken | None) -> float | None:
    """Seconds until the service accepts the next try, and a little more, so that not all clients
    come at once; None where it does not say."""
    seconds = number_of(outcome.retry_after) if isinstance(outcome, Answer) else None
    return None if seconds is None else seconds * random.uniform(1.0, 1.25)


def number_of(text: str | None) -> float | None:
    """Seconds of a Retry-After; None where it is a date or nothing."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def described(outcome: Answer | Broken | None) -> str:
    if isinstance(outcome, Answer):
        return f"status {outcome.status}, {error_of(outcome)}"
    return outcome.reason if outcome else "nothing"


def error_of(answer: Answer) -> str:
    """What the server says is wrong: its JSON's "error", else the beginning of its text."""
    try:
        return ErrorBody.model_validate_json(answer.text).error
    except ValidationError:
        return answer.text[:200] or "without a text"


class ErrorBody(BaseModel):
    error: str


def refused(answer: Answer) -> Exception | None:
    """The error that an answer is; None where it is none."""
    if answer.status < 300:
        return None
    text = error_of(answer)
    if answer.status == 410:
        return Gone(text)
    if 400 <= answer.status < 500:
        return ValueError(f"the critic service refused the request ({answer.status}): {text}")
    return ServiceError(
        f"the critic service failed ({answer.status}): {text}; its log says more, and the request "
        "may be sent again under its id"
    )


def message(kind: type[Any]) -> Callable[[Answer], Any]:
    """Reads an answer as a message of the contract."""

    def read(answer: Answer) -> Any:
        if error := refused(answer):
            raise error
        try:
            return kind.model_validate_json(answer.text)
        except ValidationError as error:
            fault = error.errors()[0]
            raise ServiceError(
                f"the answer is no {kind.__name__} ({fault['msg']} at "
                f"{'.'.join(map(str, fault['loc']))}); is the address that of genac serve --learn, "
                "of the same version?"
            ) from None

    return read


def samples(answer: Answer) -> dict[str, float]:
    """The numbers of a Prometheus page, by name and labels."""
    if error := refused(answer):
        raise error
    rows = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    return {row[0]: float(row[1]) for row in rows if len(row) == 2}
