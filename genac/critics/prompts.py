"""The critic's prompt: a versioned template, assembled from token pieces.

A template is text with the places {problem} and {response}; what the actor wrote is inserted as
tokens (or as plain text when actor and critic have different tokenizers), never as markup: control
tokens that the actor sampled are left out, and what it spelled stays ordinary text. The hash of the
template goes into every checkpoint, because a critic trained under one prompt and asked under
another is silently wrong.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from genac.config.prompt_file import PROBLEM, RESPONSE, is_content, parse
from genac.models.chat import chat_text, prefix_ids, special_ids
from genac.types import Problem, State, utf8

Ids = tuple[int, ...]
REMEMBERED = 4096  # problems whose tokens are kept
GAP = "\n[...]\n"  # stands where a response too long for the context was cut
CHUNK = 16  # characters read per token of room, before a text is known to be too long for it

TASK = (
    "You will see a problem and the beginning of one attempt to solve it. Predict the expected "
    "value of the attempt: an integer from 0 to 10, where 0 means that it is very unlikely to end "
    "in the correct answer and 10 that it is most likely to."
)
STEPS = (
    "1. Judge how difficult the problem is.\n"
    "2. Skim the partial solution for progress, errors and signs of confusion.\n"
    "3. Weigh the chance that it ends correctly if its author goes on from where it stops.\n"
    "4. Answer with one integer between 0 and 10 inside <answer> and </answer>."
)
ICC = (
    "Infer from the partial solution how able its author is, and judge the chance of that author. "
    "The author is a language model with {size} parameters whose recent success rate on such "
    "problems is {rate:.2f}."
)


@dataclass(frozen=True)
class Template:
    """Text of a prompt, with and without in-context conditioning."""

    name: str
    version: int
    text: str
    icc: str  # filled with size and rate, and put where {icc} stands
    hashed_as: str = ""  # the name under which critics were trained with this text, if another
    system: str = ""  # message of a chat; without a chat template it stands before the text
    chat: bool = True  # rendered by the tokenizer's chat template, where it has one

    @cached_property
    def hash(self) -> str:
        parts = f"{self.hashed_as or self.name}\0{self.version}\0{self.text}\0{self.icc}"
        parts += f"\0{self.system}" if self.system else ""
        return hashlib.sha256(parts.encode()).hexdigest()[:12]


TEMPLATES = {
    # The order of the paper: what to do, then the problem, then the partial solution.
    "paper": Template(
        "paper",
        1,
        f"{TASK}\n\n{STEPS}\n{{icc}}\n"
        f"Problem:\n{PROBLEM}\n\nPartial solution:\n{RESPONSE}\n\nYour judgement:\n",
        "5. " + ICC + "\n",
    ),
    # Problem and response first: all states of a response share one prefix, which is read once.
    "prefix-first": Template(
        "prefix-first",
        1,
        f"Problem:\n{PROBLEM}\n\nPartial solution:\n{RESPONSE}\n\n"
        f"(The partial solution ends here.) {TASK}\n\n{STEPS}\n{{icc}}\nYour judgement:\n",
        "5. " + ICC + "\n",
        hashed_as="trunk-first",
    ),
    # For tiny word-level models, which know no English: the shared prefix and a question of a few
    # tokens.
    "compact": Template(
        "compact", 1, f"{PROBLEM}{RESPONSE}<judge>{{icc}}", "size {size}rate {rate10}\n"
    ),
}


@dataclass(frozen=True)
class Context:
    """What in-context conditioning tells the critic of the actor; None = conditioning is off."""

    size: str
    rate: float


def template(name: str) -> Template:
    """The prompt of a config: a built-in one by its name, or the content of a file."""
    if is_content(name):
        return own_template(name)
    if name not in TEMPLATES:
        raise ValueError(
            f"critic.generative.prompt is {name!r}; use one of {sorted(TEMPLATES)}, or a YAML file "
            "of your own"
        )
    return TEMPLATES[name]


def own_template(content: str) -> Template:
    """The template of a file's content. Its hash counts what is written, not how it is called."""
    own = parse(content, "critic.generative.prompt")
    icc = ICC + "\n" if own.icc is None else own.icc
    return Template(own.name, 1, own.text, icc, hashed_as="own", system=own.system)


def with_system(system: str, text: str) -> str:
    """A system's message and a text as one text."""
    return f"{system.rstrip()}\n\n{text}" if system else text


def conditioning(chosen: Template, context: Context | None) -> str:
    """What a prompt says of the actor; '' where that is nothing."""
    if context is None:
        return ""
    rate10 = round(10 * context.rate)
    return chosen.icc.format(size=context.size, rate=context.rate, rate10=rate10)


def size_text(parameters: int) -> str:
    """'877K', '1.7B': a parameter count in words."""
    for unit, divisor in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= divisor:
            return f"{parameters / divisor:.3g}{unit}"
    return str(parameters)


class PromptBuilder:
    """Renders states of one actor for one critic.

    What a chat prompt has the assistant begin its answer with stands in front of the response: the
    critic judges the whole answer.
    """

    def __init__(self, chosen: Template, tokenizer: Any, actor_tokenizer: Any) -> None:
        self.template = chosen
        self.tokenizer = tokenizer
        self.actor_tokenizer = actor_tokenizer
        self.same_tokenizer = tokenizer.get_vocab() == actor_tokenizer.get_vocab()
        self.special = special_ids(actor_tokenizer)
        if self.same_tokenizer:  # two of one vocabulary may still mark other tokens as special
            self.special |= special_ids(tokenizer)
        self._pieces: dict[str, list[Ids]] = {}
        self._problems: dict[tuple[str, str, int | None], tuple[Ids, Ids]] = {}
        # What a template's own text writes, the actor must not be able to write.
        tags = re.findall(r"<[^<>\s]+>", chosen.system + chosen.text + chosen.icc)
        self._markup = Markup(tokenizer, [*self._chat(PROBLEM).split(PROBLEM), *tags])

    def render(
        self, state: State, context: Context | None, limit: int | None = None, cut: bool = True
    ) -> Ids:
        """Token ids of the prompt about a state. With a `limit`, a longer one leaves out the middle
        of the response, where that is enough; without `cut` it stays beyond the limit, and need
        not be whole.
        """
        rollout = state.rollout
        partial = rollout.response_ids[: state.start]
        return self.render_ids(rollout.problem, partial, context, limit, cut)

    def render_ids(
        self,
        problem: Problem,
        partial: Sequence[int],
        context: Context | None,
        limit: int | None = None,
        cut: bool = True,
    ) -> Ids:
        """The same for a partial response as the actor's tokens, without control tokens."""
        kept = tuple(i for i in partial if i not in self.special)
        if not self.same_tokenizer:
            return self.render_text(problem, self._decode(kept), context, limit, cut)
        return self._within(problem, self._markup.spelled(kept), context, limit, cut)

    def segment_ids(self, segment: Sequence[int], context: Context | None) -> Ids:
        """What a further segment of a response adds to a prompt whose critic keeps notes."""
        kept = tuple(i for i in segment if i not in self.special)
        if self.same_tokenizer:
            shown = self._markup.spelled(kept)
        else:
            shown = self._markup.plain(self._decode(kept))
        _, between, after = self._template_pieces(context)
        return (*between, *shown, *after)

    def render_text(
        self,
        problem: Problem,
        partial: str,
        context: Context | None,
        limit: int | None = None,
        cut: bool = True,
    ) -> Ids:
        """The same for a partial response given as text."""
        return self._within(problem, self._ends(partial, limit), context, limit, cut)

    def _ends(self, text: str, limit: int | None) -> Ids:
        """Tokens of a text; of one far beyond a limit only those of its ends.

        At most `limit` of its tokens can be used, from either end, and of each end more than twice
        as many are written. They are those of the whole text, but for a single word of more than
        `limit` tokens, which may be split otherwise.
        """
        head = tail = None
        if limit is not None:
            head = self._part(text, limit)
            tail = self._part(text, limit, last=True) if head else None
        return head + tail if head and tail else self._markup.plain(text)

    def _part(self, text: str, limit: int, last: bool = False) -> Ids | None:
        """The first (or last) more than 2 `limit` tokens; None where half the text has fewer."""
        size = CHUNK * max(1, limit)
        while 2 * size < len(text):
            ids = self._markup.plain(text[-size:] if last else text[:size])
            if len(ids) > 2 * limit:
                return ids
            size *= 4
        return None

    def _within(
        self,
        problem: Problem,
        response: Ids,
        context: Context | None,
        limit: int | None,
        cut: bool,
    ) -> Ids:
        """The prompt; one beyond the limit without the middle of the response."""
        whole = self.assemble(problem, response, context, limit)
        if limit is None or not cut or len(whole) <= limit:
            return whole
        # The beginning says what is attempted, the end where it stands: the middle goes.
        gap = self._markup.plain(GAP)
        room = limit - (len(whole) - len(response)) - len(gap)
        if room < 2:
            return whole
        end = room - room // 2
        shown = (*response[: room // 2], *gap, *response[-end:])
        return self.assemble(problem, shown, context, limit)

    def assemble(
        self,
        problem: Problem,
        response: Sequence[int],
        context: Context | None,
        limit: int | None = None,
    ) -> Ids:
        """The prompt around the tokens of a response. With a `limit`, of a problem far beyond it
        not every token is written, but more than `limit`.
        """
        key = problem.question, problem.beginning, limit
        if key not in self._problems:
            if len(self._problems) >= REMEMBERED:  # a server meets new problems for ever
                self._problems.clear()
            self._problems[key] = self._ends(key[0], limit), self._ends(key[1], limit)
        question, beginning = self._problems[key]
        before, between, after = self._template_pieces(context)
        return (*before, *question, *between, *beginning, *response, *after)

    def _template_pieces(self, context: Context | None) -> list[Ids]:
        icc = conditioning(self.template, context)
        if icc not in self._pieces:
            text = self._chat(self.template.text.replace("{icc}", icc))
            before, rest = text.split(PROBLEM)
            between, after = rest.split(RESPONSE)
            encode = lambda piece: tuple(self.tokenizer.encode(piece, add_special_tokens=False))  # noqa: E731
            bos = () if self._chats else prefix_ids(self.tokenizer)
            self._pieces = {icc: [(*bos, *encode(before)), encode(between), encode(after)]}
        return self._pieces[icc]

    def _chat(self, text: str) -> str:
        system = self.template.system
        if not self._chats:
            return with_system(system, text)
        messages = [{"role": "system", "content": system}] if system else []
        return chat_text(self.tokenizer, [*messages, {"role": "user", "content": text}])

    @property
    def _chats(self) -> bool:
        return self.template.chat and bool(self.tokenizer.chat_template)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.actor_tokenizer.decode(list(ids), skip_special_tokens=True)


class Markup:
    """Keeps untrusted text from writing a tokenizer's markup: control tokens, and added tokens with
    which the prompt's own `texts` are written (its chat format, its tags).

    Other added tokens (Qwen3's <think>, Gemma's runs of line breaks) are content like any word.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        added = {i: t.content for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        used = {i for t in texts for i in tokenizer.encode(t, add_special_tokens=False)}
        # A sign, a word or white space is no markup, whoever added it.
        marks = {i: t for i, t in added.items() if len(t.strip()) > 1 and not t.strip().isalnum()}
        own = {i: text for i, text in marks.items() if i in used}
        control = {i: text for i, text in marks.items() if i in special_ids(tokenizer)}
        names = control | own
        names.pop(tokenizer.unk_token_id, None)  # any character may be unknown
        self._forbidden = frozenset(names)
        longest = sorted(names.values(), key=len, reverse=True)
        self._written = re.compile("|".join(map(re.escape, longest))) if longest else None
        # Sampled control tokens are left out before, so that only the others are to be spelled.
        self._spelled = {i: self.plain(text) for i, text in own.items() - control.items()}

    def plain(self, text: str) -> Ids:
        """Tokens of the text. What looks like markup in it is split as other characters are."""
        clean = utf8(text)
        ids = self._encode(clean)
        if self._forbidden.isdisjoint(ids) or self._written is None:
            return ids
        # Broken behind its first character no name can be read as one token.
        marks = [match.start() + 1 for match in self._written.finditer(clean)]
        pieces = [clean[a:b] for a, b in zip([0, *marks], [*marks, len(clean)], strict=True)]
        return tuple(i for p in pieces for i in self._encode(p) if i not in self._forbidden)

    def spelled(self, ids: Ids) -> Ids:
        """The tokens, with markup among them written out as text."""
        if self._spelled.keys().isdisjoint(ids):
            return ids
        return tuple(j for i in ids for j in self._spelled.get(i, (i,)))

    def _encode(self, text: str) -> Ids:
        return tuple(
            self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )
