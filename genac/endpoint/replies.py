"""What an endpoint answers: replies as they are kept, complaints, and what all of it costs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from genac.config.stages import EndpointConfig
from genac.runs.files import encodable

FOREVER = 1e10  # seconds; a longer wait than any is no other wait
NO_TEXT = "the answer holds no text"
UNSPOKEN = ("refusal", "reasoning_content", "reasoning", "tool_calls", "function_call", "audio")
CHARACTERS = 3.0  # per token, for estimates; English has about 4, digits and symbols fewer


@dataclass(frozen=True)
class Reply:
    """An answer as it is kept. `text` is empty where the model wrote nothing."""

    id: str
    text: str = ""
    finish: str = ""
    prompt_tokens: int | None = None  # None where the server does not count
    completion_tokens: int | None = None
    refused: str = ""  # why there is no answer to this prompt, and never will be

    @property
    def came(self) -> bool:
        """Whether the server took the prompt, be it that the model's answer holds no text."""
        return not self.refused or self.refused.startswith(NO_TEXT)


@dataclass(frozen=True)
class Bill:
    """What the answers to some prompts took. Tokens are those that the server reported."""

    prompts: int = 0
    new: int = 0  # sent now; the rest was on disk
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
    """The account of some replies, `fresh` of which were sent now."""
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
    """Retry-After as seconds: it is a number or a date. 0 where it is missing or neither."""
    text = (retry_after or "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return min(float(text), FOREVER)
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError):  # a year that no calendar has overflows
        return 0.0


def parse(text: str) -> Any:
    """The JSON; ValueError where it is none, is nested too deeply, or a number is too long."""
    try:
        return json.loads(text, parse_int=integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def integer(digits: str) -> float:
    """The number; infinity beyond 18 digits, which Python may refuse and arithmetic cannot use."""
    return int(digits) if len(digits) <= 18 else float("inf")


def complaint(text: str, clean: Callable[[str], str]) -> str:
    """What the server says is wrong, on one line; `clean` sees it before it is cut short."""
    try:
        reply = parse(text)
        for key in ("error", "detail", "message"):
            reply = reply.get(key, reply) if isinstance(reply, dict) else reply
        words = reply if isinstance(reply, str) else json.dumps(reply)
    except (ValueError, RecursionError):
        words = text
    return encodable(" ".join(clean(words).split())[:300]) or "no explanation"


def read_reply(name: str, text: str, clean: Callable[[str], str]) -> Reply:
    """The first choice of a chat completion. One without text is a reply that says so in `refused`.

    Raises Retry where the body is no chat completion, with its beginning as `clean` leaves it.
    """
    if text.lstrip().startswith(("data:", "event:")):
        raise Retry("the answer is a stream of events; take 'stream' out of the config's request")
    body: Any = None
    try:
        body = parse(text)
        choice = body["choices"][0]
        message = choice["message"]
        answer, without = spoken(message)
        finish = choice.get("finish_reason") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        if isinstance(body, dict) and body.get("error"):
            raise Retry(f"200, but with an error: {complaint(text, clean)}") from None
        start = " ".join(clean(text).split())[:80]
        raise Retry(f"the answer is no chat completion: {start!r}") from None
    usage = body.get("usage")
    tokens = usage if isinstance(usage, dict) else {}
    return Reply(
        name,
        encodable(answer),
        encodable(str(finish)[:80]),
        counted(tokens.get("prompt_tokens")),
        counted(tokens.get("completion_tokens")),
        encodable(clean(without)[:300]),
    )


def spoken(message: dict[str, Any]) -> tuple[str, str]:
    """The text of a message, and why there is none: ("...", "") or ("", "..."). A message that is
    empty in every way holds no text, which is an answer: ("", "").

    Raises Retry where the content is neither text nor a list of parts.
    """
    other = [kind for kind in UNSPOKEN if message.get(kind)]
    content = message.get("content") if other else message["content"]
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        texts = [text for part in content if (text := part_text(part)) is not None]
        if texts:
            return "".join(texts), ""
        kinds = sorted({str(part.get("type")) for part in content if isinstance(part, dict)})
        return "", f"{NO_TEXT}: the content's parts are {', '.join(kinds)[:100] or 'none'}"
    if content is not None and not isinstance(content, str):
        raise Retry(f"the answer's content is a {type(content).__name__}, not text")
    if content or not other:
        return content or "", ""
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        return "", f"{NO_TEXT}: the model declined: {refusal}"
    return "", f"{NO_TEXT}, only {', '.join(other)}"


def part_text(part: Any) -> str | None:
    """The text of a part of a content; None where it is of another kind (a refusal, an image)."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "output_text"):
        return None
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else None


def counted(tokens: Any) -> int | None:
    """A number of tokens; None where the server reported something else."""
    return tokens if type(tokens) is int and tokens >= 0 else None
