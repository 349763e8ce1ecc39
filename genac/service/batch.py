"""From the responses of a request to what the joint stage works on: groups, rollouts, states.

Text has no tokens of its own, so the actor's tokenizer makes them: they identify states, and a
splitter cuts at them. A boundary in characters stands before the first token that ends behind it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from genac.client.messages import Response
from genac.config.run import StatesConfig
from genac.models.chat import encode_prompt
from genac.states import split
from genac.types import Group, Message, Problem, Rollout, State, utf8

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One response of a request."""

    rollout: Rollout
    starts: tuple[int, ...] | None  # token places of the boundaries that were sent, ascending
    boundaries: tuple[int, ...] | None  # as they were sent
    # Characters at which each token begins, of a response that came as text.
    characters: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """A request's responses in their order, and the same rollouts by group."""

    rows: list[Row]
    groups: list[Group]

    @property
    def rollouts(self) -> list[Rollout]:
        """By group, as the joint stage orders them."""
        return [rollout for group in self.groups for rollout in group]


class BatchReader:
    """Reads the responses of one actor."""

    def __init__(self, tokenizer: Any, cfg: StatesConfig) -> None:
        self.tokenizer, self.cfg = tokenizer, cfg
        self.size = len(tokenizer)

    def read(self, responses: Sequence[Response]) -> Batch:
        """ValueError where a response does not fit this actor, or its own boundaries."""
        groups: dict[Any, Group] = {}
        problems: dict[Any, Problem] = {}
        prompts: dict[Any, Ids] = {}
        numbers: dict[Any, int] = {}
        rows = []
        for place, response in enumerate(responses):
            key = group_key(response)
            if key not in groups:
                name = response.group or f"group-{len(groups)}"
                numbers[key], groups[key] = len(groups), []
                problems[key] = Problem(name, prompt_of(response), answer="")
            problem = problems[key]
            if problem.prompt != prompt_of(response):
                raise ValueError(
                    f"response {place} is of group {response.group!r} but of another problem; a "
                    "group holds the responses to one problem"
                )
            if response.prompt_tokens is not None:
                prompt = self._known(response.prompt_tokens, f"the prompt of response {place}")
            else:  # by the actor's chat template, where it has one
                prompt = prompts.get(key) or encode_prompt(self.tokenizer, problem)
                prompts[key] = prompt
            row = self._row(place, response)
            rollout = replace(
                row.rollout,
                problem=problem,
                group=numbers[key],
                member=len(groups[key]),
                prompt_ids=prompt,
            )
            rows.append(replace(row, rollout=rollout))
            groups[key].append(rollout)
        return Batch(rows, list(groups.values()))

    def states(self, batch: Batch) -> list[State]:
        """The states to be judged, by group: at the boundaries that were sent, else
        where the splitter cuts."""
        starts = {id(row.rollout): row.starts for row in batch.rows}
        states: list[State] = []
        for rollout in batch.rollouts:
            own = starts[id(rollout)]
            if own is None:
                states += split([rollout], self.cfg, self.tokenizer)
                continue
            # Boundaries inside one token of a text have one state.
            unique = list(dict.fromkeys(own))
            ends = [*unique[1:], len(rollout.response_ids)]
            states += [State(rollout, a, b) for a, b in zip(unique, ends, strict=True)]
        return states

    def _row(self, place: int, response: Response) -> Row:
        """The row of a response, whose problem and group are set by `read`."""
        if response.tokens is not None:
            ids, spans = self._known(response.tokens, f"response {place}"), None
        else:
            assert response.text is not None
            ids, spans = self._encode(response.text)
        rollout = Rollout(
            problem=Problem("", "", ""),
            group=0,
            member=0,
            prompt_ids=(),
            response_ids=ids,
            logprobs=self._logprobs(place, response, len(ids)),
            text=response.text or "",
            finish="stop",
            actor_version=0,
            reward=response.reward,
        )
        starts = response.boundaries
        if starts is not None:
            length = len(ids) if response.text is None else len(response.text)
            require_ascending(place, starts, length)
        if starts is not None and spans is not None:
            ends = [end for _, end in spans]
            starts = tuple(bisect_right(ends, at) if at else 0 for at in starts)
        first = None if spans is None else tuple(start for start, _ in spans)
        return Row(rollout, starts, response.boundaries, first)

    def _known(self, ids: Ids, name: str) -> Ids:
        """The ids; ValueError where one is no token of the actor's tokenizer."""
        if ids and max(ids) >= self.size:
            raise ValueError(
                f"{name} holds the token {max(ids)}, but the tokenizer "
                f"{self.tokenizer.name_or_path!r} has {self.size} tokens: states of another "
                "tokenizer? Load the critic with the tokenizer of the actor that sampled them"
            )
        return ids

    def _encode(self, text: str) -> tuple[Ids, list[tuple[int, int]]]:
        """Tokens of a text, and the characters of each."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(
                f"the tokenizer {self.tokenizer.name_or_path!r} does not report which characters a "
                "token has; send responses as tokens"
            )
        coded = self.tokenizer(utf8(text), add_special_tokens=False, return_offsets_mapping=True)
        return tuple(coded["input_ids"]), [(a, b) for a, b in coded["offset_mapping"]]

    def _logprobs(self, place: int, response: Response, length: int) -> np.ndarray:
        """(T,) float32; zeros where they are not known and nothing reads them."""
        if response.logprobs is None:
            if self.cfg.splitter == "low_probability" and response.boundaries is None:
                raise ValueError(
                    f"response {place} has no logprobs, by which states.splitter low_probability "
                    "cuts; send them, or boundaries, or choose another splitter"
                )
            return np.zeros(length, np.float32)
        if response.tokens is None or len(response.logprobs) != length:
            raise ValueError(
                f"response {place} has {len(response.logprobs)} logprobs for "
                f"{'a text' if response.tokens is None else f'{length} tokens'}; send one per token"
            )
        return np.array(response.logprobs, np.float32)


def require_ascending(place: int, starts: Sequence[int], length: int) -> None:
    """ValueError where boundaries do not ascend from 0 to at most the response's end."""
    if not starts or starts[0] != 0:
        raise ValueError(
            f"the boundaries of response {place} begin with {list(starts[:1])}; the first segment "
            "starts at 0"
        )
    for before, at in pairwise(starts):
        if at <= before:
            raise ValueError(
                f"the boundaries of response {place} do not ascend: {at} stands behind {before}"
            )
    if starts[-1] > length:
        raise ValueError(
            f"boundary {starts[-1]} is beyond response {place}, which has {length} tokens (or "
            "characters, where it came as text)"
        )


def prompt_of(response: Response) -> str | list[Message]:
    """The problem as `Problem.prompt` holds it."""
    if isinstance(response.problem, str):
        return response.problem
    return [{"role": m.role, "content": m.content} for m in response.problem]


def group_key(response: Response) -> Any:
    """Which responses belong together."""
    return ("group", response.group) if response.group is not None else response.problem
