"""A run of long English, LaTeX and Markdown for the viewer's tests, written without a model.

Two problems with three responses each, at two steps. Response 1 of group 0 is wrong, and its value
falls from 0.8 to 0.2 across its third step; two rationales speak of each state and disagree there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genac.runs.store import Run
from genac.types import Estimate, Problem, Rationale, Rollout, State

PROBLEMS = (
    r"Let $f(x) = \frac{x^2 - 5x + 6}{x - 2}$ for $x \neq 2$. What is the sum of all real $x$ with "
    r"$f(x)^2 = 16$? Tickets cost $5 each and $7 at the door, which does not matter here.",
    "A bakery sells boxes of 12 rolls for $18 and single rolls for $2. How much does a customer "
    "save on 36 rolls by buying boxes only?",
)
RIGHT = (
    "**Step 1: factor.** The numerator is a product of two linear factors, because the numbers "
    "that multiply to $6$ and add to $-5$ are $-2$ and $-3$, so\n",
    "\\[\n",
    "x^2 - 5x + 6 = (x - 2)(x - 3).\n",
    "\\]\n",
    "**Step 2: cancel.** For $x \\neq 2$ the factor $x - 2$ cancels and what is left is the line "
    "$f(x) = x - 3$; the condition becomes $(x-3)^2 = 16$.\n",
    "Taking roots gives two candidates:\n\n- $x - 3 = 4$, so $x = 7$;\n- $x - 3 = -4$, so "
    "$x = -1$.\n",
    "Neither is the excluded point, so the sum is $7 + (-1) = \\boxed{6}$.",
)
WRONG = (
    "**Step 1: factor.** We look for two numbers that multiply to $6$ and add to $-5$. These are "
    "$-2$ and $-3$, so the fraction can be written as $$\\frac{(x-2)(x-3)}{x-2}.$$\n",
    "After cancelling the common factor, which is allowed wherever the denominator does not "
    "vanish, the function is simply $f(x) = x - 3$ on its whole domain.\n",
    "Now $f(x)^2 = 16$ means $f(x) = 4$, since a square root is never negative, so there is one "
    "solution $x = 7$ and we may *stop here* without looking at the other sign.\n",
    "| candidate | $f(x)$ | kept |\n|---|---|---|\n| $7$ | $4$ | yes |\n| $-1$ | $-4$ | no |\n",
    "```python\nsum(x for x in (7,) if x != 2)  # 7\n```\n",
    "The sum of all solutions is $\\boxed{7}$. <img src=x onerror=\"document.title='owned'\">",
)
MONEY = (
    "Thirty-six rolls are 36 / 12 = <<36/12=3>>3 boxes, which cost 3 * 18 = $<<3*18=54>>54.\n",
    "Bought one by one, 36 rolls cost 36 * 2 = $<<36*2=72>>72, as each single roll is $2.\n",
    "The customer saves $72 - $54 = $18.\nA: 18",
)
RESPONSES = {
    (0, 0): (RIGHT, (0.5, 0.6, 0.62, 0.7, 0.71, 0.86, 0.95), 1.0),
    (0, 1): (WRONG, (0.5, 0.75, 0.8, 0.2, 0.15, 0.12), 0.0),
    (0, 2): (RIGHT[:5], (0.5, 0.58, 0.6, 0.66, None), None),
    (1, 0): (MONEY, (0.7, 0.82, 0.93), 1.0),
    (1, 1): (MONEY[:2], (0.68, 0.64), 0.0),
    (1, 2): (MONEY, (0.72, 0.8, 0.9), 1.0),
}
SPLIT = re.compile(r"\s*\S+|\s+")
words: list[str] = []
numbers: dict[str, int] = {}


def make(path: Path, steps: Sequence[int] = (0, 10), stage: str = "joint") -> Run:
    run = Run.create(path, {"algorithm": "genac", "stages": {stage: {"steps": 11}}}, {})
    for step in steps:
        write(run, step, stage)
    return run


def write(run: Run, step: int, stage: str = "joint") -> None:
    rollouts, estimates, advantages = [], [], {}
    for (group, member), (segments, values, reward) in RESPONSES.items():
        parts = [encode(segment) for segment in segments]
        one = rollout(group, member, [i for part in parts for i in part], step, reward)
        rollouts.append(one)
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        for place, value in enumerate(values):
            state = State(one, starts[place], starts[place + 1])
            estimates.append(Estimate(state, value, rationales(value, place), step))
            after = (*values, reward)[place + 1]
            if value is not None and after is not None:
                advantages[group, member, starts[place]] = after - value
    run.write_rollouts(stage, step, rollouts, decode)
    run.write_estimates(stage, step, estimates, advantages, decode, decode)
    run.log(stage, step, {"reward": 0.6})


def rollout(group: int, member: int, ids: list[int], step: int, reward: float | None) -> Rollout:
    problem = Problem(f"algebra-{group}", PROBLEMS[group], ("6", "18")[group])
    draws = np.random.default_rng(group * 10 + member)
    return Rollout(
        problem,
        group,
        member,
        tuple(encode(PROBLEMS[group])),
        tuple(ids),
        -draws.exponential(0.3, len(ids)).astype(np.float32),
        decode(ids),
        "stop" if reward is not None else "length",
        step,
        reward,
        entropies=draws.exponential(0.4, len(ids)).astype(np.float32),
    )


def rationales(value: float | None, place: int) -> tuple[Rationale, ...]:
    """Two that agree, but for step 3, where they are far apart; one without a score for None."""
    if value is None:
        return (rationale("The text breaks off before I can judge it, so I give no", None),)
    scores = (0.0, 0.4) if place == 3 and value < 0.5 else (value, value)
    return tuple(rationale(words_of(place, score), score) for score in scores)


def words_of(place: int, score: float) -> str:
    good = score >= 0.5
    return (
        f"The solution has written {place} steps. What matters is whether both signs of "
        f"$\\sqrt{{16}}$ are kept, because $f(x)^2 = 16$ has the solutions $x = 3 \\pm 4$.\n\n"
        f"- The factors $(x-2)(x-3)$ are right.\n- The square root is **"
        f"{'not yet taken' if good else 'taken with one sign only'}**.\n\n"
        f"{'It is on its way.' if good else 'The sum will be 7 in place of 6.'}\n"
        f"<answer>{round(10 * score)}</answer>"
    )


def rationale(text: str, score: float | None) -> Rationale:
    ids = encode(text)
    probs = np.exp(-((np.arange(11) / 10 - (score or 0)) ** 2) * 60)
    return Rationale(
        tuple(encode("You judge a partial solution. How likely is it to end well?")),
        tuple(ids),
        np.linspace(-0.05, -1.2, len(ids)).astype(np.float32),
        text,
        score,
        None if score is None else 1,
        None if score is None else probs / probs.sum(),
        entropies=np.linspace(0.1, 1.1, len(ids)).astype(np.float32),
    )


def encode(text: str) -> list[int]:
    out = []
    for word in SPLIT.findall(text):
        if word not in numbers:
            numbers[word] = len(words)
            words.append(word)
        out.append(numbers[word])
    return out


def decode(ids: Sequence[int]) -> str:
    return "".join(words[i] for i in ids)
