"""Prompts that do not fit a context: measured before anything is trained, and named by their rows.

    too_long(tokenizer, problems, room)       # {17: 9123}: index -> tokens
    require_room(splits, tokenizer, 4096, 1024, "actor", REMEDY)

A text has at most as many tokens as bytes, so only long prompts are tokenised: 100,000 short rows
take seconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from genac.critics.prompts import Context, PromptBuilder
from genac.models.chat import encode_prompts, prefix_ids, prompt_text
from genac.tasks.base import SPLITS, Task
from genac.tasks.files import FileTask
from genac.types import Problem, utf8

Splits = Mapping[str, Sequence[Problem]]
AT_ONCE = 1000  # prompts tokenised together
SPARE = 8  # tokens that a tokenizer may put around a text
NAMED = 5  # rows named in a message
REMEDY = (
    "shorten the prompts or remove the rows, set task.options.overlong to 'skip' to leave them "
    "out, lower rollout.max_completion_length, or use a model with a longer context"
)


def splits_of(task: Task) -> Splits:
    """All problems of a finite task; an unlimited one draws its own, of the requested size."""
    sizes = {split: task.size(split) or 0 for split in SPLITS}
    return {s: [task.problem(s, i) for i in range(size)] for s, size in sizes.items()}


def too_long(tokenizer: Any, problems: Sequence[Problem], room: int) -> dict[int, int]:
    """Tokens of every prompt of more than `room`, by its index."""
    bounds: dict[tuple[str, ...], int] = {}
    doubtful = [i for i, p in enumerate(problems) if at_most(tokenizer, p, bounds) > room]
    result = {}
    for first in range(0, len(doubtful), AT_ONCE):
        chosen = doubtful[first : first + AT_ONCE]
        rows = encode_prompts(tokenizer, [problems[i] for i in chosen])
        result |= {i: len(ids) for i, ids in zip(chosen, rows, strict=True) if len(ids) > room}
    return result


def at_most(tokenizer: Any, problem: Problem, bounds: dict[tuple[str, ...], int]) -> float:
    """Tokens that a prompt cannot exceed: bytes of its text and of the template around it.

    Infinite where that is no bound: a message with tools is the template's to write out. `bounds`
    keeps the templates' lengths by the roles of the messages.
    """
    prompt, plain = problem.prompt, isinstance(problem.prompt, str)
    messages = [{"role": "", "content": prompt}] if isinstance(prompt, str) else prompt
    if not all(m.keys() == {"role", "content"} for m in messages):
        return float("inf")
    roles = tuple(m["role"] for m in messages)
    if roles not in bounds:
        empty = "a" if plain else [{"role": role, "content": "a"} for role in roles]
        around = prompt_text(tokenizer, Problem("", empty, ""))
        bounds[roles] = len(around.encode()) + len(prefix_ids(tokenizer)) + SPARE
    return bounds[roles] + sum(most_tokens(m["content"]) for m in messages)


def most_tokens(text: str) -> int:
    """Bytes of the text, decomposed as far as a tokenizer may do that before it reads it."""
    if text.isascii():
        return len(text)
    clean = utf8(text)
    return max(len(clean.encode()), len(unicodedata.normalize("NFKD", clean).encode()))


def require_room(
    splits: Splits, tokenizer: Any, context: int, new_tokens: int, role: str, remedy: str = REMEDY
) -> None:
    """ValueError naming the rows whose prompt and `new_tokens` more exceed the context."""
    room = context - new_tokens
    if room < 1 and any(splits.values()):
        raise ValueError(
            f"{new_tokens} new tokens leave no room for a prompt in the {role}'s context of "
            f"{context}; lower rollout.max_completion_length, or use a model with a longer context"
        )
    long = {split: too_long(tokenizer, problems, room) for split, problems in splits.items()}
    if not any(long.values()):
        return
    split, index = max(((s, i) for s in long for i in long[s]), key=lambda at: long[at[0]][at[1]])
    raise ValueError(
        f"{sum(map(len, long.values()))} of {sum(map(len, splits.values()))} prompts are too long "
        f"({places(splits, long)}): {split} row {number(splits[split][index])} has "
        f"{long[split][index]} tokens, which with {new_tokens} new tokens exceeds the context of "
        f"{context} of the {role}; {remedy}"
    )


def skips(task: Task) -> bool:
    """Whether prompts that are too long are to be left out rather than refused."""
    return isinstance(task, FileTask) and task.overlong == "skip"


def fitting(task: Any, tokenizer: Any, context: int, new_tokens: int) -> Task:
    """A task of data without the problems whose prompt and `new_tokens` more exceed the context.
    ValueError where these are all of a split.
    """
    room, splits = context - new_tokens, splits_of(task)
    long = {split: too_long(tokenizer, problems, room) for split, problems in splits.items()}
    for split, problems in splits.items():
        if problems and len(long[split]) == len(problems):
            raise ValueError(
                f"task.options.overlong 'skip' leaves nothing of the {split} split: all "
                f"{len(problems)} prompts with {new_tokens} new tokens exceed the context of "
                f"{context}; lower rollout.max_completion_length, or use a model with a longer "
                "context"
            )
    return task.without({splits[split][i].id for split, rows in long.items() for i in rows})


def beyond_context(
    splits: Splits, builder: PromptBuilder, room: int, context: Context | None
) -> str:
    """The rows that a critic cannot judge even before anything is written, or ''.

    room: tokens of a prompt. Raises ValueError where these are all.
    """
    around = len(builder.assemble(Problem("", "", ""), (), context)) + SPARE
    long = {
        split: [
            i
            for i, p in enumerate(problems)
            if around + most_tokens(p.text) > room and len(builder.assemble(p, (), context)) > room
        ]
        for split, problems in splits.items()
    }
    count, total = sum(map(len, long.values())), sum(map(len, splits.values()))
    if count and count == total:
        raise ValueError(
            f"no prompt about any of the {total} problems fits the {room} tokens that "
            "critic.generative.max_new_tokens leaves of the critic's context; lower it, choose a "
            "shorter critic.generative.prompt, or use a critic with a longer context"
        )
    return f"{count} of {total} problems ({places(splits, long)})" if count else ""


def places(splits: Splits, long: Mapping[str, Sequence[int] | Mapping[int, int]]) -> str:
    """'train rows 3, 17 and 2 more; heldout row 5', smallest first."""
    parts = []
    for split, indices in long.items():
        numbers = sorted(number(splits[split][i]) for i in indices)
        rest = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
        name = "row" if len(numbers) == 1 else "rows"
        if numbers:
            parts.append(f"{split} {name} {', '.join(map(str, numbers[:NAMED]))}{rest}")
    return "; ".join(parts)


def number(problem: Problem) -> int:
    """The row of a data file, from the problem's name."""
    digits = problem.id.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0
