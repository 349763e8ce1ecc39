"""What an endpoint answers: replies as they are kept, complaints, and what all of it costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from genac.sections import EndpointConfig

CHARACTERS = 3.0  # per token, for estimates; English has about 4, digits and symbols fewer


@dataclass(frozen=True)
class Reply:
    """An answer as it is kept. `text` is empty where the model said nothing."""

    id: str
    text: str = ""
    finish: str = ""
    prompt_tokens: int | None = None  # None where the server does not count
    completion_tokens: int | None = None
    refused: str = ""  # why the server will not answer this prompt


@dataclass(frozen=True)
class Bill:
    """What the answers to some prompts took. Tokens are those that the server reported."""

    prompts: int = 0
    new: int = 0  # asked now; the rest was on disk
    unanswered: int = 0
    refused: int = 0
    retries: int = 0
    uncounted: int = 0  # answers whose tokens the server did not report
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    new_cost: float = 0.0


class Refused(Exception):
    """The server will not answer this prompt."""


class Pointless(ValueError):
    """No request can succeed until the user has changed something."""


class Retry(Exception):
    """This try failed and another may not; `after` is what the server asks to wait, in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def price(cfg: EndpointConfig, prompt_tokens: int, completion_tokens: int) -> float:
    """In the currency of the config's prices, which are per million tokens."""
    return (cfg.price_input * prompt_tokens + cfg.price_output * completion_tokens) / 1e6


def bill(cfg: EndpointConfig, replies: Sequence[Reply], fresh: Sequence[Reply]) -> Bill:
    """The account of some replies, `fresh` of which were asked for now."""
    return Bill(
        prompts=len(replies),
        new=len(fresh),
        refused=sum(bool(r.refused) for r in replies),
        uncounted=sum(r.prompt_tokens is None and not r.refused for r in replies),
        prompt_tokens=sum(r.prompt_tokens or 0 for r in replies),
        completion_tokens=sum(r.completion_tokens or 0 for r in replies),
        cost=cost(cfg, replies),
        new_cost=cost(cfg, fresh),
    )


def cost(cfg: EndpointConfig, replies: Sequence[Reply]) -> float:
    """What the reported tokens come to."""
    counts = [(r.prompt_tokens or 0, r.completion_tokens or 0) for r in replies]
    return price(cfg, sum(p for p, _ in counts), sum(c for _, c in counts))


def plan(cfg: EndpointConfig, prompts: Sequence[str], known: Sequence[str]) -> str:
    """What asking the prompts would take at most, and the first of them, as text."""
    missing = [p for p in dict.fromkeys(prompts) if p not in {*known}]
    read = round(sum(len(p) for p in missing) / CHARACTERS)
    written = cfg.max_tokens * len(missing)
    lines = [
        f"model {cfg.model} at {cfg.base_url}",
        f"{len(missing)} requests ({len({*prompts})} different prompts, {len({*known})} of them "
        "answered already)",
        f"about {read} prompt tokens (one per {CHARACTERS:g} characters)",
        f"at most {written} answer tokens ({cfg.max_tokens} each)",
        f"cost at most about {price(cfg, read, written):.4f}"
        if cfg.price_input or cfg.price_output
        else "cost unknown: set price_input and price_output",
    ]
    if missing:
        lines += ["", "the first prompt:", "", missing[0]]
    return "\n".join(lines)


def seconds(retry_after: str | None) -> float:
    """Retry-After as seconds: it is a number or a date."""
    if retry_after is None:
        return 0.0
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def complaint(text: str, clean: Callable[[str], str]) -> str:
    """What the server says is wrong, on one line; `clean` sees it before it is cut short."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = text
    for key in ("error", "detail", "message"):
        found = found.get(key, found) if isinstance(found, dict) else found
    words = found if isinstance(found, str) else json.dumps(found)
    return " ".join(clean(words).split())[:300] or "no explanation"


def read_reply(name: str, text: str, clean: Callable[[str], str]) -> Reply:
    """The first choice of a chat completion, as it is. Raises Retry where the body is none, with
    its beginning as `clean` leaves it.
    """
    try:
        found = json.loads(text)
        choice = found["choices"][0]
        said = choice["message"]["content"]
        usage = found.get("usage") or {}
        counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        start = " ".join(clean(text).split())[:80]
        raise Retry(f"the answer is no chat completion: {start!r}") from None
    if said is not None and not isinstance(said, str):
        raise Retry(f"the answer's content is a {type(said).__name__}, not text")
    prompt, completion = (int(c) if isinstance(c, int) else None for c in counts)
    return Reply(name, said or "", str(choice.get("finish_reason") or ""), prompt, completion)
