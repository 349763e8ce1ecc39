"""What flows between the layers: frozen dataclasses and nothing else.

    Problem -> Rollout -> State -> Estimate -> Sample

Worked example, one problem answered twice (token ids invented):

    problem = Problem("train-0", "a+3 b*7", "1", task="arithmetic")
    rollout = Rollout(problem, group=0, member=0, prompt_ids=(5, 6), response_ids=(7, 8, 9, 2), ...)
    state   = State(rollout, start=2, end=4)   # baselines response tokens 2 and 3
    state.prefix_ids == (5, 6, 7, 8)           # the prompt, and response tokens 0 and 1
    estimate = Estimate(state, value=0.7)      # estimated before response token 2 is read
    estimate = Estimate(state, value=None)     # the critic gave no score: missing, never 0

In training a missing value stays None up to `credit.fill_missing`, the only place that decides what
stands in for it. A critic that learns by reward earns 0 for it, which is a reward and no value.

Index convention. Every per-token stream on a `Sample` has the length T of `ids` and entry t speaks
of *token t*, i.e. of the prediction made after reading ids[:t]. A policy loss at t uses the logits
at position t-1; a value target at t is the value of the prefix ids[:t] and also uses position t-1.
Entry 0 is therefore never trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Message = dict[str, str]
SCORE_VALUES = np.arange(11) / 10  # what the scores 0..10 of a generative critic stand for


@dataclass(frozen=True)
class Problem:
    """A question and what is needed to verify an answer."""

    id: str
    prompt: str | list[Message]  # plain text, or chat messages
    answer: str  # the reference, which only the verifier sees
    task: str = ""
    extras: dict[str, Any] = field(default_factory=dict)  # for the task's own reward and oracle
    # The prompt as the model read it ended inside a thought, so that a response without a closing
    # tag is all thought. Set with each response, because chat templates differ.
    opens_thought: bool = False

    @property
    def text(self) -> str:
        """The prompt as plain text (chat messages joined by newlines)."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(m["content"] for m in self.prompt)

    @property
    def question(self) -> str:
        """The text without the beginning of the answer."""
        if isinstance(self.prompt, str) or not self.beginning:
            return self.text
        return "\n".join(m["content"] for m in self.prompt[:-1])

    @property
    def beginning(self) -> str:
        """What a chat prompt has the assistant's answer begin with; mostly nothing."""
        return "" if isinstance(self.prompt, str) else open_answer(self.prompt) or ""


def open_answer(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The content of a final message of the assistant; None where the last message is another's."""
    last = messages[-1] if messages else {}
    return last["content"] if last.get("role") == "assistant" else None


def utf8(value: Any) -> Any:
    """A text with lone surrogates replaced; anything else as it is.

    JSON can hold half a surrogate pair, UTF-8 cannot.
    """
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


@dataclass(frozen=True)
class Rollout:
    """One response of the actor."""

    problem: Problem
    group: int  # which problem of its step
    member: int  # which response of its group
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]  # with the token that ended it, if one did
    # (T,) float32, of response_ids under the sampling policy, at its temperature. Losses take
    # these and do not compute them again: engine and learner round differently.
    logprobs: np.ndarray
    text: str  # of response_ids, without special tokens: what the verifier reads
    finish: str  # "stop" | "length"
    actor_version: int
    reward: float | None = None  # in [0, 1]; None = it could not be scored
    reason: str = ""  # why it could not
    # (T,) float32, nats: of the distribution that each of `logprobs` refers to; None = not known
    entropies: np.ndarray | None = None


# The responses to one problem.
Group = list[Rollout]
# (group, member, segment start) -> advantage; of a dense state (T,), one per token
Advantages = dict[tuple[int, int, int], float | np.ndarray]


@dataclass(frozen=True)
class State:
    """A prefix of a response at which a value is estimated.

    The value is estimated BEFORE response token `start` is read and is the baseline of the segment
    response_ids[start:end] (causal: the prefix holds none of the tokens it will baseline).
    """

    rollout: Rollout
    start: int
    end: int
    trains: bool = True  # whether its return teaches the critic
    dense: bool = False  # a value is estimated before every token of the segment, by one object

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        return self.rollout.prompt_ids + self.rollout.response_ids[: self.start]

    @property
    def key(self) -> tuple[int, ...]:
        """Identity of the state: states with equal token prefixes have the same value.

        The text is no identity: the same text in other tokens continues otherwise.
        """
        return self.prefix_ids


@dataclass(frozen=True)
class Rationale:
    """One completion of the generative critic about a state, kept for the critic to learn from."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: np.ndarray  # (T,) float32, of completion_ids as they were sampled
    text: str
    value: float | None  # the parsed integer / 10, None = missing
    score_at: int | None = None  # index in completion_ids of the score's first token
    score_probs: np.ndarray | None = None  # (11,) probabilities of the scores 0..10, which sum to 1
    # (2,) where 10 is written as 1 and 0: after a 1, the probabilities that no digit follows (the
    # score is 1) and that 0 does (it is 10); the rest of the mass is no score
    after_one: np.ndarray | None = None
    entropies: np.ndarray | None = None  # (T,) float32, nats, as a rollout's

    @property
    def expected(self) -> float | None:
        """sum_i p(i) i/10, the expected-score readout; None where the score is missing."""
        if self.score_probs is None:
            return self.value
        return float(self.score_probs @ SCORE_VALUES)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score distribution, in value units; None = not known."""
        if self.score_probs is None:
            return None
        mean = self.score_probs @ SCORE_VALUES
        return float(np.sqrt(self.score_probs @ (SCORE_VALUES - mean) ** 2))


@dataclass(frozen=True)
class Estimate:
    """A critic's answer about one state. `value` None means missing and is never read as 0: no
    rationale held a score that can be read, or the prompt did not fit and `rationales` is empty.
    """

    state: State
    value: float | None
    rationales: tuple[Rationale, ...] = ()  # none of critics that do not write
    version: int = 0  # of the model that gave the value
    # (end - start,) of a dense state: entry i is the value before token start + i, entry 0 `value`
    token_values: np.ndarray | None = None

    def per_token(self) -> list[Estimate]:
        """The same of a dense state as one estimate per token, to be stored and looked at.

        The loop itself keeps dense states whole: a batch has a million tokens.
        """
        if self.token_values is None:
            return [self]
        state, first = self.state, self.state.start
        return [
            Estimate(State(state.rollout, i, i + 1, state.trains), float(value), (), self.version)
            for i, value in enumerate(self.token_values, start=first)
        ]


@dataclass(frozen=True)
class ScoreTarget:
    """The exact-gradient objective at one token of the critic's score.

    Maximised is sum_i p(i) rewards[i] + (1 - sum_i p(i)) otherwise, the expected reward over all
    tokens that may stand there.
    """

    at: int  # index in Sample.ids of the token
    ids: tuple[int, ...]  # tokens that may stand there
    rewards: tuple[float, ...]  # the expected R_v after each
    otherwise: float = 0.0  # and after any other token


@dataclass(frozen=True)
class Sample:
    """What a learner trains on. Streams are aligned with `ids` (see the index convention above)."""

    ids: tuple[int, ...]
    weights: np.ndarray  # (T,) float32 loss weights, any number; 0 = not trained
    loss: str  # a key of ops.objectives.LOSSES: "sft" | "policy" | "score" | "value"
    advantages: np.ndarray | None = None  # (T,) float32
    old_logprobs: np.ndarray | None = None  # (T,) float32
    ref_logprobs: np.ndarray | None = None  # (T,) float32, of the frozen reference (KL only)
    targets: np.ndarray | None = None  # (T,) float32, value targets in [0, 1]
    scores: tuple[ScoreTarget, ...] = ()
    temperature: float = 1.0  # at which the tokens were sampled; old_logprobs include it
