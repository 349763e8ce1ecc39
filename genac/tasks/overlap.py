"""Problems that two data sets share, by their words: case, punctuation and white space aside."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

OPENING = 8  # words by which a candidate is found; shorter problems must be the whole text

Words = tuple[str, ...]


class Overlap:
    """Which texts hold one of the given problems. A training prompt may wrap it in instructions."""

    def __init__(self, problems: Iterable[str]) -> None:
        self._whole: set[Words] = set()
        self._by_opening: dict[Words, list[Words]] = defaultdict(list)
        for problem in problems:
            found = words(problem)
            self._whole.add(found)
            if len(found) > OPENING:
                self._by_opening[found[:OPENING]].append(found)

    def in_text(self, text: str) -> bool:
        found = words(text)
        if found in self._whole:
            return True
        return any(
            found[start : start + len(problem)] == problem
            for start in range(len(found) - OPENING)
            for problem in self._by_opening.get(found[start : start + OPENING], ())
        )


def words(text: str) -> Words:
    """Words and numbers, and the signs that change a problem (3 + 5 is not 3 - 5)."""
    return tuple(re.findall(r"[^\W_]+|[-+*/^=<>]", text.casefold()))
