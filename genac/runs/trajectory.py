"""One response as its steps, each with the value before it and the critic's words.

    for t in group_of("joint", 39, run.table("rollouts", ...), run.table("estimates", ...)): ...

Rows come from the run folder's Parquet files; columns that an older run lacks read as None.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

Row = Mapping[str, Any]
FALL = 0.1  # of a value: what is less is no more than one score's width


@dataclass(frozen=True)
class Token:
    """A token as it was drawn: its log-probability, and the entropy of the distribution that it was
    drawn from, in nats; None = not known.
    """

    text: str
    logprob: float | None
    entropy: float | None


@dataclass(frozen=True)
class Step:
    """A segment of the response. `value` was estimated before it; None with `judged` is a score
    that could not be read. `after` is the next known value, at the end the reward.
    """

    start: int
    end: int
    text: str
    judged: bool = True
    value: float | None = None
    after: float | None = None
    advantage: float | None = None
    expected: float | None = None
    rationale: str = ""
    critic_version: int | None = None
    observed: float | None = None  # mean reward of the group's responses through this state
    observed_count: int = 0
    critic_prompt: str | None = None
    score_probs: tuple[float, ...] | None = None  # of the scores 0..10
    rationale_tokens: tuple[str, ...] | None = None
    rationale_logprobs: tuple[float | None, ...] | None = None
    rationale_entropies: tuple[float | None, ...] | None = None  # nats

    @property
    def change(self) -> float | None:
        """How much the value moves across the step."""
        return None if self.value is None or self.after is None else self.after - self.value

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score distribution, in value units."""
        if not self.score_probs:
            return None
        mean = sum(p * i / 10 for i, p in enumerate(self.score_probs))
        second = sum(p * (i / 10 - mean) ** 2 for i, p in enumerate(self.score_probs))
        return math.sqrt(max(second, 0.0))

    def drawn_rationale(self) -> list[Token]:
        """The critic's; none where the run does not hold them."""
        return _drawn(self.rationale_tokens, self.rationale_logprobs, self.rationale_entropies)


@dataclass(frozen=True)
class Trajectory:
    """One response with its problem, outcome and steps. In a notebook it shows itself."""

    stage: str
    step: int
    group: int
    member: int
    problem_id: str
    prompt: str | None  # None where the rollouts of this step are not in the run folder
    answer: str | None
    response: str | None
    reward: float | None
    reason: str
    finish: str | None
    actor_version: int | None
    ids: tuple[int, ...] | None
    tokens: tuple[str, ...] | None  # text of each response token
    logprobs: tuple[float | None, ...] | None  # of each response token under the actor
    entropies: tuple[float | None, ...] | None  # nats, of what each was drawn from
    steps: tuple[Step, ...]
    problems: tuple[str, ...] = ()  # what of the files of this step could not be read

    @property
    def address(self) -> str:
        """Where it is in the run, e.g. joint/39/0/3: stage, step, group, member."""
        return f"{self.stage}/{self.step}/{self.group}/{self.member}"

    @property
    def worst(self) -> int | None:
        """Index of the step across which the value falls most; None where none falls by FALL. Only
        from one value to the next: what lies between the last one and the reward is no fall.
        """
        known = [(s.value, i) for i, s in enumerate(self.steps) if s.value is not None]
        falls = [(after - value, i) for (value, i), (after, _) in pairwise(known)]
        result = min(falls, default=(0.0, 0))
        return result[1] if result[0] <= -FALL + 1e-6 else None

    def tokens_of(self, step: Step) -> list[Token]:
        """The actor's tokens of a step, by id where the run has no text; [] without either."""
        texts = self.tokens
        if texts is None and self.ids is not None:
            texts = tuple(f"#{token}" for token in self.ids)
        return _drawn(texts, self.logprobs, self.entropies)[step.start : step.end]

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        steps = [asdict(s) | {"change": s.change, "spread": s.spread} for s in self.steps]
        return asdict(self) | {"steps": steps, "address": self.address, "worst": self.worst}

    def to_markdown(self, tokens: bool = False) -> str:
        """With `tokens` each token of actor and critic, its probability and entropy."""
        from genac.ui.transcript import markdown

        return markdown(self, tokens)

    def to_html(self, tokens: bool = False) -> str:
        """A page of its own; with `tokens` each token of actor and critic, as in Markdown."""
        from genac.ui.transcript import document

        return document(self, tokens)

    def _repr_html_(self) -> str:
        from genac.ui.transcript import fragment

        return fragment(self)


def group_of(
    stage: str,
    step: int,
    rollouts: Sequence[Row],
    estimates: Sequence[Row],
    problems: Sequence[str] = (),
) -> list[Trajectory]:
    """The responses of one group, by member. Either list may lack responses that the other has.
    `problems` are handed on.

    ValueError where the rows lack what every run wrote.
    """
    for name, rows, needed in (
        ("rollouts", rollouts, {"group", "member"}),
        ("estimates", estimates, {"group", "member", "start", "end"}),
    ):
        if rows and (absent := needed - rows[0].keys()):
            raise ValueError(f"the {name} of {stage} step {step} lack {', '.join(sorted(absent))}")
    written = {row["member"]: row for row in rollouts}
    judged: dict[int, list[Row]] = defaultdict(list)
    for row in estimates:
        judged[row["member"]].append(row)
    results = [
        replace(
            _trajectory(stage, step, written.get(member), judged[member]),
            problems=tuple(problems),
        )
        for member in sorted(written.keys() | judged.keys())
    ]
    return _observed(results)


def parse_address(address: str) -> tuple[str, int, int, int]:
    """'joint/39/0/3' -> ('joint', 39, 0, 3); ValueError on anything else."""
    parts = address.strip("/").split("/")
    numbers = parts[1:]
    if len(parts) != 4 or not parts[0] or not all(n.isdecimal() and n.isascii() for n in numbers):
        raise ValueError(
            f"{address!r} is no address of a response: write STAGE/STEP/GROUP/MEMBER, for example "
            "joint/39/0/3"
        )
    return parts[0], int(parts[1]), int(parts[2]), int(parts[3])


def _trajectory(stage: str, step: int, rollout: Row | None, rows: Sequence[Row]) -> Trajectory:
    rows = sorted(rows, key=lambda row: row["start"])
    record: Row = rollout or rows[0]
    tokens, ids = record.get("tokens"), record.get("response_ids")
    reward = record.get("reward")
    steps = _linked(_steps(rows, record, len(ids) if ids is not None else None), reward)
    return Trajectory(
        stage=stage,
        step=step,
        group=record["group"],
        member=record["member"],
        problem_id=record.get("problem_id") or "",
        prompt=record.get("prompt"),
        answer=record.get("answer"),
        response=record.get("response"),
        reward=reward,
        reason=record.get("reason") or "",
        finish=record.get("finish"),
        actor_version=record.get("actor_version"),
        ids=None if ids is None else tuple(ids),
        tokens=None if tokens is None else tuple(tokens),
        logprobs=_numbers(record.get("logprobs")),
        entropies=_numbers(record.get("entropies")),
        steps=tuple(steps),
    )


def _steps(rows: Sequence[Row], rollout: Row, length: int | None) -> list[Step]:
    """The judged segments, and between them those without a value."""
    steps, at = [], 0
    for row in rows:
        if row["start"] > at:
            steps.append(Step(at, row["start"], _text(rollout, at, row["start"]), judged=False))
        steps.append(_judged(row, rollout))
        at = row["end"]
    if length is not None and at < length:
        steps.append(Step(at, length, _text(rollout, at, length), judged=False))
    return steps


def _text(rollout: Row, start: int, end: int) -> str:
    """Text of response tokens, as well as the run knows it."""
    if tokens := rollout.get("tokens"):
        return "".join(tokens[start:end])
    whole = start == 0 and end == len(rollout.get("response_ids") or ())
    return (whole and rollout.get("response")) or f"(tokens {start} to {end})"


def _judged(row: Row, rollout: Row) -> Step:
    probs, tokens = row.get("score_probs"), row.get("rationale_tokens")
    text = row.get("step_text")
    return Step(
        start=row["start"],
        end=row["end"],
        text=_text(rollout, row["start"], row["end"]) if text is None else text,
        value=_number(row.get("value")),
        advantage=_number(row.get("advantage")),
        expected=_number(row.get("expected")),
        rationale=row.get("rationale") or "",
        critic_version=row.get("critic_version"),
        critic_prompt=row.get("critic_prompt"),
        score_probs=None if probs is None else _known(probs),
        rationale_tokens=None if tokens is None else tuple(tokens),
        rationale_logprobs=_numbers(row.get("rationale_logprobs")),
        rationale_entropies=_numbers(row.get("rationale_entropies")),
    )


def _linked(steps: Sequence[Step], reward: float | None) -> list[Step]:
    """Each step with the value after it."""
    after, out = _number(reward), []
    for step in reversed(steps):
        out.append(replace(step, after=after))
        after = after if step.value is None else step.value
    return out[::-1]


def _observed(group: Sequence[Trajectory]) -> list[Trajectory]:
    """Adds the mean reward of all judged responses through a state, where they are at least two:
    a Monte-Carlo value that the run holds anyway.
    """
    rewards: dict[Any, list[float]] = defaultdict(list)
    for one in group:
        for step in one.steps:
            if step.judged and one.reward is not None:
                rewards[prefix(one, step)].append(one.reward)
    out = []
    for one in group:
        steps = []
        for step in one.steps:
            seen = rewards[prefix(one, step)] if step.judged else []
            known = {"observed": sum(seen) / len(seen)} if len(seen) > 1 else {}
            steps.append(replace(step, observed_count=len(seen), **known))
        out.append(replace(one, steps=tuple(steps)))
    return out


def prefix(one: Trajectory, step: Step) -> Any:
    """What two responses to one problem share when they are in the same state: the tokens so far,
    or their text where the run has no tokens.
    """
    if one.ids is not None:
        return one.ids[: step.start]
    return tuple(s.text for s in one.steps if s.end <= step.start)


def _drawn(
    texts: Sequence[str] | None,
    logprobs: Sequence[float | None] | None,
    entropies: Sequence[float | None] | None,
) -> list[Token]:
    if texts is None or logprobs is None:
        return []
    known = [None] * len(texts) if entropies is None else entropies
    return [Token(*drawn) for drawn in zip(texts, logprobs, known, strict=True)]


def _number(value: Any) -> float | None:
    """Finite numbers only: NaN is no JSON, and missing is None here."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _known(values: Sequence[Any]) -> tuple[float, ...] | None:
    """The numbers, None unless all are known."""
    numbers = [_number(value) for value in values]
    return tuple(n for n in numbers if n is not None) if None not in numbers else None


def _numbers(values: Sequence[Any] | None) -> tuple[float | None, ...] | None:
    return None if values is None else tuple(_number(value) for value in values)
