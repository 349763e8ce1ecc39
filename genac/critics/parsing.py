"""Reading the critic's score. Only the critic's own completion is ever parsed.

Whatever the actor wrote (answer tags, closing tags, orders) lives in the prompt and cannot reach
this file.
"""

from __future__ import annotations

import re

OPEN, CLOSE = "<answer>", "</answer>"
ANSWER = re.compile(r"<answer>\s*([0-9]{1,2})\s*</answer>")
SCORES = 11  # the integers 0..10


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
