"""Word problems in English with one integer as the answer.

    Ana has 7 books. She buys 33 more in a shop. Then she gives away 23 books.
    How many books does Ana have now?

    Ana buys 33: 7 + 33 = 40.
    Ana gives away 23: 40 - 23 = 17.
    Answer: 17

Every number of a story and every result on the way is an integer of 1 to `max_number`. The verifier
reads the answer only; the oracle reads every line (see `oracle.py`).
"""

from __future__ import annotations

import functools
import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from genac.tasks.answers import answer_key, whole_text
from genac.tasks.base import SPLITS, Diagnosis, OracleTrace, draw_in_split
from genac.tasks.exact import guess_score
from genac.tasks.files import vocabulary
from genac.tasks.word_problems.grammars import GRAMMARS, add_idle
from genac.tasks.word_problems.oracle import REPEATS, SHOWN, Judgement, answer_in, judge
from genac.tasks.word_problems.story import OPERATORS, Draft, Number, Redraw, Step, result_of
from genac.tasks.word_problems.ways import Ways
from genac.tasks.word_problems.wording import WORDINGS
from genac.types import Problem

INSTRUCTION = (
    "Write one line per step with its calculation. "
    'Then write a last line: "Answer:" and the number.'
)
# The faults of demonstrations: probability of a wrong result, by operator.
FAULTS = {"+": 0.1, "-": 0.2, "*": 0.3, "/": 0.3}
MOST_FAULTS = 0.5  # at any fault_rate: results that are mostly wrong teach to expect wrong ones
EXERCISE = "Check each line."
EXERCISED = 6  # calculations of an exercise
STEPS = 2, 6
SMALLEST = 30  # of max_number: below it no story of six steps can be drawn
DRAWS = 2000
SAMPLED = 40  # problems per grammar and wording, for the words of the alphabet
UNANSWERED = "no answer"  # the kind of mistake of a response without another one
WRONG = re.compile(r"\bWrong[.:]")
MENDED = re.compile(r"\bThat mends it|^The answer \S+ is right")


@dataclass(frozen=True)
class WordProblemTask:
    """Difficulty and distribution shift are settings of the generator."""

    seed: int = 0
    min_steps: int = STEPS[0]
    max_steps: int = STEPS[1]
    max_number: int = 99
    grammars: Sequence[str] = tuple(GRAMMARS)
    wording: str = "train"
    operators: Sequence[str] = OPERATORS  # of the calculations that a story may ask for
    distractors: int = 0  # sentences that the answer does not depend on
    name: str = "word_problems"
    trusted: bool = True

    def __post_init__(self) -> None:
        if not STEPS[0] <= self.min_steps <= self.max_steps <= STEPS[1]:
            raise ValueError(
                f"steps {self.min_steps}..{self.max_steps} are impossible; "
                f"use {STEPS[0]} <= min_steps <= max_steps <= {STEPS[1]}"
            )
        if not SMALLEST <= self.max_number <= 999:
            raise ValueError(f"max_number is {self.max_number}; use {SMALLEST} to 999")
        strange = sorted(set(self.grammars) - set(GRAMMARS))
        if isinstance(self.grammars, str) or strange or not self.grammars:
            raise ValueError(f"grammars is {self.grammars!r}; use a list of {sorted(GRAMMARS)}")
        strange = sorted(set(self.operators) - set(OPERATORS))
        if isinstance(self.operators, str) or strange or not self.operators:
            raise ValueError(f"operators is {self.operators!r}; use a list of {list(OPERATORS)}")
        if self.wording not in WORDINGS:
            raise ValueError(f"wording is {self.wording!r}; use one of {sorted(WORDINGS)}")
        if not 0 <= self.distractors <= 3:
            raise ValueError(f"distractors is {self.distractors}; use 0 to 3")

    def problem(self, split: str, index: int) -> Problem:
        return draw_in_split(lambda rng: self._draw(rng, split, index), self.seed, split, index)

    def size(self, split: str) -> int | None:
        return None

    def _draw(self, rng: random.Random, split: str, index: int) -> Problem:
        grammar, steps = (
            rng.choice(list(self.grammars)),
            rng.randint(self.min_steps, self.max_steps),
        )
        draft, ways = self._story(rng, grammar, steps)
        story = " ".join([*draft.sentences, draft.question])
        return Problem(
            id=f"{self.name}-{split}-{index}",
            prompt=[{"role": "user", "content": f"{story}\n{INSTRUCTION}"}],
            answer=str(draft.results[-1]),
            task=self.name,
            extras={
                "grammar": grammar,
                "numbers": tuple(map(tuple, draft.numbers)),
                "steps": tuple(map(tuple, draft.steps)),
                "needed": tuple(ways.needed),
            },
        )

    def _story(self, rng: random.Random, grammar: str, steps: int) -> tuple[Draft, Ways]:
        """Drawn again until numbers and steps fit."""
        for _ in range(DRAWS):
            words = WORDINGS[self.wording]
            draft = Draft(
                rng, words, self.max_number, short=not self.distractors, operators=self.operators
            )
            try:
                GRAMMARS[grammar](draft, steps)
                for _ in range(self.distractors):
                    add_idle(draft)
            except Redraw:
                continue
            ways = Ways(draft.numbers, draft.steps)
            if len(ways.needed) == steps:
                return draft, ways
        raise ValueError(
            f"no story of grammar {grammar!r} with {steps} steps in {DRAWS} draws of numbers up to "
            f"{self.max_number} with operators {list(self.operators)}; raise max_number or allow "
            "more operators"
        )

    def verify(self, problem: Problem, text: str) -> float | None:
        return float(self.answer_of(whole_text(problem, text)) == problem.answer)

    def answer_of(self, text: str) -> str | None:
        """The number behind "Answer:" or in another form of a final answer; else the last line."""
        answer = answer_in(text)
        return answer_key(text) if answer is None else answer

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        """A line per step. A wrong result is off by one, ten or up to nine; later lines use it."""
        numbers, steps = parts(problem)
        results: dict[int, int] = {}
        lines = []
        for k in problem.extras["needed"]:
            event, left, operator, right = steps[k]
            a, b = (numbers[r].value if r >= 0 else results[~r] for r in (left, right))
            result = faulty(a, operator, b, rng, fault_rate)
            results[k] = result
            lines.append(f"{event}: {a} {operator} {b} = {result}.")
        return "\n".join([*lines, f"Answer: {results[len(steps) - 1]}"])

    def exercise(self, rng: random.Random) -> tuple[str, str]:
        """Calculations to check in the oracle's words, half of them wrong. Their numbers are those
        that a story may have. In traces results are mostly right, so that a critic learns sooner
        to repeat them than to calculate; here repeating is no better than guessing.
        """
        lines, checks = [], []
        for number in range(1, EXERCISED + 1):
            a, operator, b, true = self._calculation(rng)
            claim = true if rng.random() < 0.5 else wrong_result(true, rng)
            lines.append(f"{a} {operator} {b} = {claim}.")
            verdict = "Right" if claim == true else "Wrong"
            checks.append(f"Line {number}: {a} {operator} {b} is {true}, says {claim}. {verdict}.")
        return "\n".join([EXERCISE, "", *lines]), "\n".join(checks)

    def _calculation(self, rng: random.Random) -> tuple[int, str, int, int]:
        """Two numbers and what they give, each of 1 to `max_number`."""
        operator = rng.choice(tuple(self.operators))
        if operator in "+-":
            whole = rng.randint(2, self.max_number)
            part = rng.randint(1, whole - 1)
            rest = whole - part
        else:
            part = rng.randint(1, self.max_number)
            rest = rng.randint(1, self.max_number // part)
            whole = part * rest
        back = operator in "-/"
        return (whole, operator, part, rest) if back else (part, operator, rest, whole)

    def judge(self, problem: Problem, partial: str) -> Judgement:
        """The oracle's findings in parts."""
        return judge(Ways(*parts(problem)), int(problem.answer), partial)

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        """Check each line, name the first mistake or what is left, and give a score.

        The score: 10 for a right answer; 0 for a wrong one, and after a mistake that no later line
        mends; else a guess from the fraction of the steps left, `success_rate ** fraction`, and
        1 - fraction / 2 without a rate. It is halved where lines calculate nothing, and at most 2
        where the attempt goes round in circles.
        """
        result = self.judge(problem, partial)
        guess = score(result, problem, success_rate)
        return OracleTrace(reasoning(result, problem.answer), guess, kind=kind(result, problem))

    def verdict(self, reasoning: str) -> bool | None:
        """A mistake stands unless a later line mends it, or the answer is right all the same. None
        where the text ends before it names one or what is left.
        """
        stands: bool | None = None
        for line in reasoning.splitlines():
            if WRONG.search(line):
                stands = True
            elif MENDED.search(line) or (stands is None and line.startswith("Left:")):
                stands = False
        return stands

    def diagnose(self, problem: Problem, response: str) -> Diagnosis:
        """The first mistake and the wrong results of a response that has ended."""
        result = self.judge(problem, f"{whole_text(problem, response)}\n")
        if result.answered:
            named = ""
        else:
            named = UNANSWERED if result.mistake is None else result.mistake.kind
        return Diagnosis(named, result.calculations, result.slips)

    def alphabet(self) -> list[str]:
        """The words of many problems; letters, with which any other word can be written."""
        words = set(string.ascii_letters + string.digits + string.punctuation + " \n")
        for wording in WORDINGS:
            words |= sampled_words(wording)
        return sorted(words)


@functools.lru_cache(maxsize=4)
def sampled_words(wording: str) -> frozenset[str]:
    task = WordProblemTask(wording=wording, distractors=1)
    problems = [task.problem(split, i) for split in SPLITS for i in range(SAMPLED * len(GRAMMARS))]
    solved = [task.demonstration(p, random.Random(0), 0.0) for p in problems]
    verdicts = [
        "Line Right Wrong Left the answer is says but it adds subtracts multiplies divides by",
        EXERCISE,
    ]
    return frozenset(vocabulary([*(p.text for p in problems), *solved, *verdicts]))


def parts(problem: Problem) -> tuple[list[Number], list[Step]]:
    numbers = [Number(*number) for number in problem.extras["numbers"]]
    return numbers, [Step(*step) for step in problem.extras["steps"]]


def faulty(a: int, operator: str, b: int, rng: random.Random, fault_rate: float) -> int:
    """The result, or one that is off; after a wrong result a division is rounded down."""
    true = a // b if operator == "/" and b and a % b else result_of(a, operator, b)
    if rng.random() >= min(MOST_FAULTS, FAULTS[operator] * fault_rate):
        return true
    return wrong_result(true, rng)


def wrong_result(true: int, rng: random.Random) -> int:
    """Off by one, by ten, or by anything below; never negative."""
    claim = true
    while claim == true or claim < 0:
        claim = true + rng.choice((-10, -1, 1, 10, rng.randint(-9, 9)))
    return claim


def reasoning(result: Judgement, answer: str) -> str:
    lines = result.lines[:SHOWN]
    if result.mistake is not None:
        lines.append(result.mistake.text)
    if result.answered:
        lines.append(f"The answer {answer} is right.")
    elif result.repeats >= REPEATS:
        lines.append("The lines repeat what is known.")
    if result.read and not result.calculations and result.answered is None:
        lines.append("No line calculates anything.")
    if result.answered is None and result.mistake is None:
        lines.append(f"Left: {'; '.join([*result.left, 'the answer'])}.")
    return "".join(f"{line}\n" for line in lines)


def kind(result: Judgement, problem: Problem) -> str:
    """Steps done of those needed, where they are all that the score is guessed from."""
    stuck = result.repeats >= REPEATS or (result.read and not result.calculations)
    if result.answered is not None or result.mistake is not None or stuck:
        return ""
    needed = len(problem.extras["needed"])
    return f"{needed - len(result.left)} of {needed}"


def score(result: Judgement, problem: Problem, success_rate: float | None) -> int:
    if result.answered is not None:
        return 10 if result.answered else 0
    if result.mistake is not None:
        return 0
    guess = guess_score(len(result.left) / len(problem.extras["needed"]), success_rate)
    if result.read and not result.calculations:
        guess //= 2
    return min(guess, 2) if result.repeats >= REPEATS else guess
