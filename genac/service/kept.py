"""What the critic remembers of requests: replies to repeat, and estimates that may still train.

Both are bounded: the estimates of the newest requests up to KEPT_TOKENS tokens of their responses,
prompts and rationales, their replies up to KEPT_NUMBERS numbers and texts, and both up to
KEPT_REPLIES requests. That is about a gigabyte. The ids of learnt requests are kept for ever, since
forgetting one would learn it twice.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from genac.client.errors import Gone
from genac.client.messages import Advantages, Learnt, ResponseAdvantages, Values
from genac.service.batch import Batch
from genac.types import Estimate

KEPT_TOKENS = 20_000_000
KEPT_NUMBERS = 10_000_000
KEPT_REPLIES = 1000
Reply = Values | Advantages


@dataclass(frozen=True)
class Valuation:
    """A request whose states were valued."""

    batch: Batch
    estimates: list[Estimate]
    step: int

    @cached_property
    def tokens(self) -> int:
        unique = {id(t): t for e in self.estimates for t in e.rationales}
        written = sum(len(t.prompt_ids) + len(t.completion_ids) for t in unique.values())
        return written + sum(len(row.rollout.response_ids) for row in self.batch.rows)


@dataclass(frozen=True)
class Entry:
    digest: str
    reply: Reply
    numbers: int  # in the reply
    valuation: Valuation | None  # None once it was learnt, or had to make room


def digest_of(kind: str, request: BaseModel) -> str:
    """Distinguishes requests of one id."""
    return hashlib.sha256(f"{kind}\0{request.model_dump_json()}".encode()).hexdigest()[:16]


def numbers_in(reply: Reply) -> int:
    """Numbers of a reply, and its texts by what they take instead."""
    count = 0
    for row in reply.responses:
        tokens = row.token_advantages if isinstance(row, ResponseAdvantages) else None
        texts = (len(text) for own in row.rationales or () for text in own)
        count += 4 * len(row.values) + len(tokens or ()) + sum(texts) // 32
    return count


class Kept:
    """Requests for values and advantages, by id."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._learnt_by: dict[str, str] = {}  # of the entries' ids

    def reply(self, name: str, digest: str) -> Reply | None:
        """The first reply to a request; None where this is the first one. ValueError where another
        request had the id."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.digest != digest:
            raise ValueError(f"the id {name!r} was another request's; give each request its own")
        return entry.reply

    def put(self, name: str, digest: str, reply: Reply, valuation: Valuation) -> None:
        """Keeps a request; the oldest ones make room, never the newest."""
        self._entries[name] = Entry(digest, reply, numbers_in(reply), valuation)
        numbers = sum(entry.numbers for entry in self._entries.values())
        while len(self._entries) > 1 and (
            len(self._entries) > KEPT_REPLIES or numbers > KEPT_NUMBERS
        ):
            oldest, entry = self._entries.popitem(last=False)
            self._learnt_by.pop(oldest, None)
            numbers -= entry.numbers
        tokens = 0
        for key, entry in reversed(list(self._entries.items())):
            tokens += entry.valuation.tokens if entry.valuation else 0
            if tokens > KEPT_TOKENS and key != name:
                self._entries[key] = replace(entry, valuation=None)

    def estimates(self, name: str) -> Valuation:
        """The estimates of a request, to be learnt. Gone where they are not kept."""
        if learner := self._learnt_by.get(name):
            raise ValueError(
                f"the estimates {name!r} were learnt by the request {learner!r}; ask for values of "
                "new responses"
            )
        entry = self._entries.get(name)
        if entry is None or entry.valuation is None:
            raise Gone(
                f"the estimates {name!r} are not kept: those of the newest requests are, up to "
                f"{KEPT_TOKENS:,} tokens and {KEPT_REPLIES} requests, and none across a restart; "
                "send the request for values or advantages again, with a new id, then learn"
            )
        return entry.valuation

    def release(self, name: str, learner: str) -> None:
        """Estimates train once, so that a lost reply cannot train them twice."""
        if name in self._entries:
            self._entries[name] = replace(self._entries[name], valuation=None)
            self._learnt_by[name] = learner


class LearntRequests:
    """Which requests were learnt, in order, and the measurements of the newest KEPT_REPLIES."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, str]] = {}
        self._metrics: OrderedDict[str, dict[str, float]] = OrderedDict()

    def reply(self, request_id: str, digest: str | None = None) -> Learnt | None:
        """The first reply; None of a request that was not learnt. ValueError where another request
        had the id."""
        if request_id not in self._steps:
            return None
        step, own = self._steps[request_id]
        if digest is not None and digest != own:
            raise ValueError(
                f"the request_id {request_id!r} was another request's; give each its own"
            )
        return Learnt(
            request_id=request_id,
            status="done",
            version=step,
            step=step,
            metrics=self._metrics.get(request_id, {}),
        )

    def put(self, request_id: str, digest: str, step: int, metrics: dict[str, float]) -> Learnt:
        self._steps[request_id] = step, digest
        self._metrics[request_id] = metrics
        while len(self._metrics) > KEPT_REPLIES:
            self._metrics.popitem(last=False)
        reply = self.reply(request_id)
        assert reply is not None
        return reply

    def state(self) -> dict[str, Any]:
        return {
            "steps": {name: list(value) for name, value in self._steps.items()},
            "metrics": dict(self._metrics),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._steps = {name: (step, own) for name, (step, own) in state["steps"].items()}
        self._metrics = OrderedDict(state["metrics"])


def rewarded(valuation: Valuation, rewards: Sequence[float | None] | None) -> list[Estimate]:
    """The estimates with the outcomes that are now known. ValueError where there are none, or they
    do not fit the request."""
    rows = valuation.batch.rows
    if rewards is None:
        return valuation.estimates
    if len(rewards) != len(rows):
        raise ValueError(f"{len(rewards)} rewards for {len(rows)} responses; send one for each")
    known = {}
    for place, (row, reward) in enumerate(zip(rows, rewards, strict=True)):
        own = row.rollout.reward
        if None not in (own, reward) and own != reward:
            raise ValueError(
                f"response {place} came with the reward {own} and now has {reward}; send one"
            )
        known[id(row.rollout)] = replace(row.rollout, reward=reward if own is None else own)
    return [
        replace(e, state=replace(e.state, rollout=known[id(e.state.rollout)]))
        for e in valuation.estimates
    ]


def require_outcomes(valuation: Valuation, rewards: Sequence[float | None] | None) -> None:
    """ValueError where nobody sent an outcome."""
    own = [row.rollout.reward for row in valuation.batch.rows]
    if all(reward is None for reward in (*own, *(rewards or ()))):
        raise ValueError(
            "no response has a reward, so there is nothing to learn from; send rewards"
        )
