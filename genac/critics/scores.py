"""Reading the critic's score: from its text, and from the probabilities of the score's tokens.

Only the critic's own completion is ever parsed. Whatever the actor wrote (answer tags, closing
tags, orders) lives in the prompt and cannot reach this file. A score that cannot be read is None.

A tokenizer may write every score as one token, or every digit as one and 10 as a 1 and a 0 (as
Qwen's and many others' do). In the second way a 1 may become 1 or 10, and the token behind it
decides:

    q = P(0 | 1),   e = P(no digit | 1)
    P(i) = p(i) for i != 1,   P(1) = p(1) e / (q + e),   P(10) = p(1) q / (q + e)

p are the first tokens' probabilities, renormalised. A first token so counts in full, as it does
where it is the whole score, and what follows only divides 1 from 10. Not the closing tag stands
against the 0 but all that is no digit: white space may come before the tag, and a model may begin
the tag with more than one token. 12 is no score.

Shapes: _K first token (11, or the 10 digits).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from genac.models.loading import load_tokenizer
from genac.pieces import Pieces

OPEN, CLOSE = "<answer>", "</answer>"
ANSWER = re.compile(r"<answer>\s*([0-9]{1,2})\s*</answer>")
SCORES = 11  # the integers 0..10
DIGITS = SCORES - 1
Read = tuple[np.ndarray, np.ndarray | None]


def parse_score(completion: str) -> int | None:
    """The integer of the last well-formed answer tag behind the critic's own thinking; None = none.

    The last one counts, because a rationale may quote a score before it settles on one. Numbers
    outside 0..10 are missing, never clipped.
    """
    tail = completion.rsplit("</think>", 1)[-1]
    result = ANSWER.findall(tail)
    if not result or int(result[-1]) >= SCORES:
        return None
    return int(result[-1])


def score_position(pieces: list[str]) -> int | None:
    """Index of the token at which the score of the last answer tag begins.

    pieces: the text of each of the completion's tokens (genac.pieces); they join to its text.
    """
    text = "".join(pieces)
    matches = list(ANSWER.finditer(text))
    if not matches:
        return None
    target = matches[-1].start(1)
    end = 0
    for index, piece in enumerate(pieces):
        if end <= target < end + len(piece):
            return index
        end += len(piece)
    return None


@dataclass(frozen=True)
class ScoreTokens:
    """The tokens with which the scores begin, in their order: eleven, or the ten digits."""

    ids: tuple[int, ...]

    @property
    def one(self) -> int | None:
        """The token behind which 1 and 10 part; None where 10 is one token."""
        return self.ids[1] if len(self.ids) == DIGITS else None

    def read(self, first_K: np.ndarray, after_one_K: np.ndarray | None) -> Read:
        """Probabilities (11,) of the scores, and `Rationale.after_one`.

        first_K: the first tokens' probabilities at the score; after_one_K: the same behind a 1,
        where 10 is two tokens.
        """
        p = first_K / first_K.sum()
        if self.one is None:
            return p, None
        assert after_one_K is not None
        # e and q of the module's docstring. The sum of float32 probabilities may exceed 1 a little.
        ends = max(0.0, 1.0 - float(after_one_K.sum()))
        zero = float(after_one_K[0])
        share = zero / (zero + ends) if zero + ends > 0 else 0.5
        probs = np.append(p, p[1] * share)
        probs[1] *= 1 - share
        return probs, np.array([ends, zero])


class ScoreReader:
    """Reads completions. As a `Probe` it names what else a score could have begun with; it travels
    to other processes as the name of its tokenizer, which is loaded there once.
    """

    def __init__(self, tokenizer: Any, scores: ScoreTokens | None) -> None:
        self.tokenizer, self.scores = tokenizer, scores
        self._pieces = Pieces(tokenizer.decode)

    def __reduce__(self) -> tuple[Any, ...]:
        return reader_named, (self.tokenizer.name_or_path, self.scores)

    def parse(self, ids: Sequence[int]) -> tuple[str, int | None, int | None]:
        """Text, score and place of the score's first token in a completion."""
        pieces = self._pieces.of(ids)
        text = "".join(pieces)
        score = parse_score(text)
        return text, score, score_position(pieces) if score is not None else None

    def __call__(self, ids: tuple[int, ...]) -> tuple[int, int] | None:
        """A 1 in the place of another score: what may follow it is part of the distribution."""
        at = self.parse(ids)[2]
        assert self.scores is not None and self.scores.one is not None
        if at is None or ids[at] not in self.scores.ids or ids[at] == self.scores.one:
            return None
        return at, self.scores.one


@lru_cache(maxsize=4)
def reader_named(name_or_path: str, scores: ScoreTokens | None) -> ScoreReader:
    return ScoreReader(load_tokenizer(name_or_path), scores)


def score_tokens(tokenizer: Any) -> ScoreTokens | None:
    """The score tokens as they stand between the answer tags; None where digits are not distinct
    by one token, or 10 is neither one token nor a 1 and a 0.
    """
    # The tags are not encoded alone: many tokenizers write the beginning of a text otherwise.
    *digits, ten = (
        tuple(tokenizer.encode(f"{OPEN}{score}{CLOSE}", add_special_tokens=False))
        for score in range(SCORES)
    )
    if len({len(written) for written in digits}) > 1:
        return None
    # The column in which the ten digits differ holds the score; all others write the tags.
    columns = list(zip(*digits, strict=True))
    places = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    if len(places) != 1 or len(set(columns[places[0]])) < DIGITS:
        return None
    (at,), ids = places, columns[places[0]]
    before, after = digits[0][:at], digits[0][at + 1 :]
    if ten == (*before, ids[1], ids[0], *after):
        return ScoreTokens(ids)
    single = len(ten) == len(digits[0]) and ten[at] not in ids
    return ScoreTokens((*ids, ten[at])) if single and ten == (*before, ten[at], *after) else None
