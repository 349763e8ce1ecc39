"""Problems that two data sets share, by their words: case, punctuation and white space aside."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

OPENING = 8  # words by which a candidate is recognised; shorter problems must be the whole text

Words = tuple[str, ...]


def shared(problems: Sequence[str], others: Sequence[str]) -> set[int]:
    """Indices of the problems that hold one of the others' texts, or are held by one: either may
    be wrapped in instructions."""
    inside, own = Overlap(others), Overlap(problems)
    results = {i for i, text in enumerate(problems) if any(True for _ in inside.held_by(text))}
    return results.union(*(own.held_by(text) for text in others))


class Overlap:
    """Finds which of the given texts stand, word for word, in another text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = [words(text) for text in texts]
        self._whole: dict[Words, list[int]] = defaultdict(list)
        self._by_opening: dict[Words, list[int]] = defaultdict(list)
        for index, result in enumerate(self._words):
            self._whole[result].append(index)
            if len(result) > OPENING:
                self._by_opening[result[:OPENING]].append(index)

    def held_by(self, text: str) -> Iterator[int]:
        """Indices of the texts that `text` holds; one of up to OPENING words must be all of it."""
        result = words(text)
        yield from self._whole.get(result, ())
        for start in range(len(result) - OPENING):
            for index in self._by_opening.get(result[start : start + OPENING], ()):
                candidate = self._words[index]
                if result[start : start + len(candidate)] == candidate:
                    yield index


def words(text: str) -> Words:
    """Words and numbers, and the signs that change a problem (3 + 5 is not 3 - 5)."""
    plain = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").casefold()
    return tuple(re.findall(r"[^\W_]+|[-+*/^=<>]", plain))
