"""The critic's prompt: a versioned template, assembled from token pieces.

A template is text with the places {problem} and {response}; what the actor wrote is inserted as
tokens (or as plain text when actor and critic have different tokenizers), never as markup: special
tokens in it stay ordinary text. The hash of the template goes into every checkpoint, because a
critic trained under one prompt and asked under another is silently wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genac.models.loading import chat_text
from genac.types import Problem, State

PROBLEM, RESPONSE = "{problem}", "{response}"
REMEMBERED = 4096  # problems whose tokens are kept
GAP = "\n[...]\n"  # stands where a response too long for the context was cut

TASK = (
    "You will see a problem and the beginning of one attempt to solve it. Predict the expected "
    "value of the "
    "attempt: an integer from 0 to 10, where 0 means that it is very unlikely to end in the "
    "correct answer "
    "and 10 that it is most likely to."
)
STEPS = (
    "1. Judge how difficult the problem is.\n"
    "2. Skim the partial solution for progress, errors and signs of confusion.\n"
    "3. Weigh the chance that it ends correctly if its author goes on from where it stops.\n"
    "4. Answer with one integer between 0 and 10 inside <answer> and </answer>."
)
ICC = (
    "Infer from the partial solution how able its author is, and judge the chance of that "
    "author. The author "
    "is a language model with {size} parameters whose recent success rate on such problems is "
    "{rate:.2f}."
)


@dataclass(frozen=True)
class Template:
    """Text of a prompt, with and without in-context conditioning."""

    name: str
    version: int
    text: str
    icc: str  # filled with size and rate, and put where {icc} stands

    @cached_property
    def hash(self) -> str:
        parts = f"{self.name}\0{self.version}\0{self.text}\0{self.icc}"
        return hashlib.sha256(parts.encode()).hexdigest()[:12]


TEMPLATES = {
    # The order of the paper: what to do, then the problem, then the partial solution.
    "paper": Template(
        "paper",
        1,
        f"{TASK}\n\n{STEPS}\n{{icc}}\nProblem:\n{PROBLEM}\n\nPartial "
        f"solution:\n{RESPONSE}\n\nYour judgement:\n",
        "5. " + ICC + "\n",
    ),
    # Problem and response first: all states of a response share one prefix, which is read once.
    "trunk-first": Template(
        "trunk-first",
        1,
        f"Problem:\n{PROBLEM}\n\nPartial solution:\n{RESPONSE}\n\n(The partial solution ends "
        f"here.) {TASK}\n\n"
        f"{STEPS}\n{{icc}}\nYour judgement:\n",
        "5. " + ICC + "\n",
    ),
    # For tiny word-level models, which know no English: the trunk and a question of a few tokens.
    "compact": Template(
        "compact", 1, f"{PROBLEM}{RESPONSE}<judge>{{icc}}", "size {size}rate {rate10}\n"
    ),
    # The same in the order of the paper, to measure what the order does.
    "compact-paper": Template(
        "compact-paper",
        1,
        f"<judge>{{icc}}{PROBLEM}{RESPONSE}<judge>",
        "size {size}rate {rate10}\n",
    ),
}


@dataclass(frozen=True)
class Context:
    """What in-context conditioning tells the critic of the actor; None = conditioning is off."""

    size: str
    rate: float


def template(name: str) -> Template:
    if name not in TEMPLATES:
        raise ValueError(f"critic.generative.prompt is {name!r}; use one of {sorted(TEMPLATES)}")
    return TEMPLATES[name]


def size_text(parameters: int) -> str:
    """'877K', '1.7B': a parameter count in words."""
    for unit, divisor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= divisor:
            return f"{parameters / divisor:.3g}{unit}"
    return str(parameters)


class PromptBuilder:
    """Renders states of one actor for one critic."""

    def __init__(self, chosen: Template, tokenizer: Any, actor_tokenizer: Any) -> None:
        self.template, self.tokenizer, self.actor_tokenizer = chosen, tokenizer, actor_tokenizer
        self.same_tokenizer = tokenizer.get_vocab() == actor_tokenizer.get_vocab()
        self.special = frozenset(actor_tokenizer.all_special_ids)
        self._pieces: dict[str, list[tuple[int, ...]]] = {}
        self._problems: dict[str, tuple[int, ...]] = {}

    def render(
        self, state: State, context: Context | None, limit: int | None = None
    ) -> tuple[int, ...]:
        """Token ids of the prompt about a state. With a `limit`, a longer one leaves out the middle
        of the response, where that is enough."""
        rollout = state.rollout
        return self.render_ids(rollout.problem, rollout.response_ids[: state.start], context, limit)

    def render_ids(
        self,
        problem: Problem,
        partial: Sequence[int],
        context: Context | None,
        limit: int | None = None,
    ) -> tuple[int, ...]:
        """The same for a partial response given as the actor's tokens; special ones are left
        out.
        """
        kept = tuple(i for i in partial if i not in self.special)
        response = kept if self.same_tokenizer else self._plain(self._decode(kept))
        return self._within(problem, response, context, limit)

    def _within(
        self,
        problem: Problem,
        response: Sequence[int],
        context: Context | None,
        limit: int | None,
    ) -> tuple[int, ...]:
        """The prompt; one beyond the limit without the middle of the response."""
        whole = self.assemble(problem, response, context)
        if limit is None or len(whole) <= limit:
            return whole
        gap = self._plain(GAP)
        room = limit - (len(whole) - len(response)) - len(gap)
        if room < 2:
            return whole
        end = room - room // 2
        return self.assemble(problem, (*response[: room // 2], *gap, *response[-end:]), context)

    def render_text(
        self, problem: Problem, partial: str, context: Context | None, limit: int | None = None
    ) -> tuple[int, ...]:
        """The same for a partial response given as text."""
        return self._within(problem, self._plain(partial), context, limit)

    def assemble(
        self, problem: Problem, response: Sequence[int], context: Context | None
    ) -> tuple[int, ...]:
        if problem.text not in self._problems:
            if len(self._problems) >= REMEMBERED:  # a server meets new problems for ever
                self._problems.clear()
            self._problems[problem.text] = self._plain(problem.text)
        before, between, after = self._template_pieces(context)
        return (*before, *self._problems[problem.text], *between, *response, *after)

    def _template_pieces(self, context: Context | None) -> list[tuple[int, ...]]:
        icc = ""
        if context is not None:
            rate10 = round(10 * context.rate)
            icc = self.template.icc.format(size=context.size, rate=context.rate, rate10=rate10)
        if icc not in self._pieces:
            text = self._chat(self.template.text.replace("{icc}", icc))
            before, rest = text.split(PROBLEM)
            between, after = rest.split(RESPONSE)
            encode = lambda piece: tuple(self.tokenizer.encode(piece, add_special_tokens=False))  # noqa: E731
            bos = self._bos() if not self.tokenizer.chat_template else ()
            self._pieces = {icc: [(*bos, *encode(before)), encode(between), encode(after)]}
        return self._pieces[icc]

    def _chat(self, text: str) -> str:
        if not self.tokenizer.chat_template:
            return text
        return chat_text(self.tokenizer, [{"role": "user", "content": text}])

    def _bos(self) -> tuple[int, ...]:
        return (
            tuple(self.tokenizer.encode(""))[:1] if self.tokenizer.bos_token_id is not None else ()
        )

    def _plain(self, text: str) -> tuple[int, ...]:
        """Untrusted text: special tokens written in it are split like any other characters."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return tuple(
            self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True)
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return self.actor_tokenizer.decode(list(ids), skip_special_tokens=True)
