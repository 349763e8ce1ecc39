"""What flows between the layers: frozen dataclasses and nothing else.

    Problem -> Rollout -> State -> Estimate -> Sample

Worked example, one problem answered twice (token ids invented):

    problem = Problem("train-0", "a+3 b*7", "1", task="arithmetic")
    rollout = Rollout(problem, group=0, member=0, prompt_ids=(5, 6), response_ids=(7, 8, 9, 2), ...)
    state   = State(rollout, start=2, end=4)        # asked before response token 2, baselines
    tokens 2..3
    state.prefix_ids == (5, 6, 7, 8)                # everything the actor had written when it was
    asked

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


@dataclass(frozen=True)
class Problem:
    """A question and what is needed to verify an answer. `prompt` is a string or chat messages.
    `opens_thought`: the prompt as the model read it ended inside a thought, so that a response
    without a closing tag is all thought (set with each response: chat templates differ).
    """

    id: str
    prompt: str | list[Message]
    answer: str
    task: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
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
        """What a chat prompt has the assistant begin its answer with, which the actor continues;
        mostly nothing."""
        return "" if isinstance(self.prompt, str) else open_answer(self.prompt) or ""


def open_answer(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The content of a final message of the assistant; None where the last message is another's."""
    last = messages[-1] if messages else {}
    return last["content"] if last.get("role") == "assistant" else None


def utf8(value: Any) -> Any:
    """A text with lone surrogates replaced (JSON can hold half a pair, UTF-8 cannot); anything
    else as it is."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


@dataclass(frozen=True)
class Rollout:
    """One response of the actor. `reward` is in [0, 1], or None with the `reason` it cannot be
    scored.
    """

    problem: Problem
    group: int
    member: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    logprobs: np.ndarray  # (T,) float32, of response_ids under the sampling policy
    text: str
    finish: str  # "stop" | "length"
    actor_version: int
    reward: float | None = None
    reason: str = ""
    # (T,) float32, nats: of the distribution that each of `logprobs` refers to; None = not known
    entropies: np.ndarray | None = None


@dataclass(frozen=True)
class State:
    """A prefix of a response at which a value is asked.

    The value is asked BEFORE response token `start` is read and is the baseline of the segment
    response_ids[start:end] (causal: the prefix holds none of the tokens it will baseline).
    """

    rollout: Rollout
    start: int
    end: int
    trains: bool = True  # whether its return teaches the critic

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        return self.rollout.prompt_ids + self.rollout.response_ids[: self.start]

    @property
    def key(self) -> tuple[int, ...]:
        """Identity of the state: states with equal token prefixes have the same value."""
        return self.prefix_ids


@dataclass(frozen=True)
class Thought:
    """One completion of the generative critic about a state, kept so that the critic can learn from
    it.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: np.ndarray  # (T,) float32
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
        return float(self.score_probs @ (np.arange(11) / 10.0))

    @property
    def spread(self) -> float | None:
        """Standard deviation of the score distribution, in value units; None where it is not
        known.
        """
        if self.score_probs is None:
            return None
        grid = np.arange(11) / 10.0
        mean = self.score_probs @ grid
        return float(np.sqrt(self.score_probs @ (grid - mean) ** 2))


@dataclass(frozen=True)
class Estimate:
    """A critic's answer about one state. `value` None means missing and is never read as 0."""

    state: State
    value: float | None
    thoughts: tuple[Thought, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class ScoreTarget:
    """The exact-gradient objective at one token of the critic's score: maximise
    sum_i p(i) rewards[i] + (1 - sum_i p(i)) otherwise.
    """

    at: int  # index in Sample.ids of the token
    ids: tuple[int, ...]  # tokens that may stand there
    rewards: tuple[float, ...]  # the expected R_v after each
    otherwise: float = 0.0  # and after any other token


@dataclass(frozen=True)
class Sample:
    """What a learner trains on. Streams are aligned with `ids` (see the index convention above)."""

    ids: tuple[int, ...]
    mask: np.ndarray  # (T,) float32 loss weights, 0 = not trained
    loss: str  # a key of ops.losses: "sft" | "policy" | "value"
    advantages: np.ndarray | None = None  # (T,) float32
    old_logprobs: np.ndarray | None = None  # (T,) float32
    ref_logprobs: np.ndarray | None = None  # (T,) float32, of the frozen reference (KL only)
    targets: np.ndarray | None = None  # (T,) float32, value targets in [0, 1]
    scores: tuple[ScoreTarget, ...] = ()
    temperature: float = 1.0  # at which the tokens were sampled; old_logprobs include it
