"""A story while it is drawn: sentences, the numbers in them, and the steps of a solution.

A reference names a number: i >= 0 is number i of the story, ~k the result of step k.

    numbers  (7, "amount") (33, "amount") (23, "amount")
    steps    ("Ana buys 33", 0, "+", 1)  ("Ana gives away 23", ~0, "-", 2)      40, then 17
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from genac.tasks.word_problems.wording import Person, Wording, sentence

OPERATORS = "+", "-", "*", "/"
LEAST = 2  # of a story's numbers: with 1 every noun would need its singular


class Number(NamedTuple):
    """kind: "amount"; "count" (of equal parts, which may also be added one by one); "idle", which
    the answer does not depend on.
    """

    value: int
    kind: str


class Step(NamedTuple):
    """One calculation on references; `event` says what of the story it is."""

    event: str
    left: int
    operator: str
    right: int


class Redraw(Exception):
    """The numbers drawn do not make a story; draw again."""


def result_of(left: int, operator: str, right: int) -> int:
    """Raises Redraw where a division leaves a remainder."""
    if operator == "/":
        if right == 0 or left % right:
            raise Redraw
        return left // right
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


class Draft:
    """Collects a story. Every number and every result is an integer in [1, limit]."""

    def __init__(
        self,
        rng: random.Random,
        words: Wording,
        limit: int,
        short: bool = True,
        operators: Sequence[str] = OPERATORS,
    ) -> None:
        """`short`: "3 more" may stand for "3 more books", since nothing else is counted. A step by
        an operator that is not in `operators` raises Redraw.
        """
        self.rng, self.words, self.limit, self.short = rng, words, limit, short
        self.operators = operators
        self.sentences: list[str] = []
        self.numbers: list[Number] = []
        self.steps: list[Step] = []
        self.results: list[int] = []
        self.question = ""
        self.things = rng.choice(words.things)[1]
        self._opener = ""

    def value(self, ref: int) -> int:
        return self.numbers[ref].value if ref >= 0 else self.results[~ref]

    def number(self, value: int, kind: str = "amount") -> int:
        if not LEAST <= value <= self.limit:
            raise Redraw
        self.numbers.append(Number(value, kind))
        return len(self.numbers) - 1

    def amount(self, low: int, high: int) -> int:
        """A new number of [low, high], unlike the story's others."""
        used = {n.value for n in self.numbers} | set(self.results)
        low, high = max(low, LEAST), min(high, self.limit)
        free = [v for v in range(low, high + 1) if v not in used]
        if not free:
            raise Redraw
        return self.number(self.rng.choice(free))

    def step(self, event: str, left: int, operator: str, right: int) -> int:
        result = result_of(self.value(left), operator, self.value(right))
        if operator not in self.operators or not 1 <= result <= self.limit:
            raise Redraw
        self.steps.append(Step(event, left, operator, right))
        self.results.append(result)
        return ~(len(self.steps) - 1)

    def person(self, *others: Person) -> Person:
        return self.rng.choice([p for p in self.words.people if p not in others])

    def say(self, who: str, what: str) -> None:
        """A sentence that happens after the one before."""
        self._opener = self.rng.choice([o for o in self.words.openers if o != self._opener])
        self.sentences.append(sentence(f"{self._opener}{who} {what}."))

    def begin(self, person: Person, amount: str) -> None:
        text = self.rng.choice(self.words.starts).format(name=person.name, k=amount)
        self.sentences.append(text)

    def gain(self, person: Person, state: int, who: str) -> int:
        """The person gets some more of the things."""
        amount = self.amount(LEAST, min(self.limit - self.value(state), 2 * self.limit // 3))
        n = self.value(amount)
        counted = (f"{n} more {self.things}", f"{n} more")[: 1 + self.short]
        clause, event = self._phrase(self.words.gains, person, n, counted)
        self.say(who, clause)
        return self.step(event, state, "+", amount)

    def lose(self, person: Person, state: int, who: str) -> int:
        """The person parts with some of the things, never with all."""
        amount = self.amount(LEAST, self.value(state) - LEAST)
        n = self.value(amount)
        counted = (f"{n} {self.things}", f"{n} of {person.her} {self.things}")
        clause, event = self._phrase(self.words.losses, person, n, counted)
        self.say(who, clause)
        return self.step(event, state, "-", amount)

    def change(self, person: Person, state: int, who: str) -> int:
        """Gain or lose, as the numbers and the operators permit."""
        up = "+" in self.operators and self.limit - self.value(state) > LEAST + 1
        down = "-" in self.operators and self.value(state) > 2 * LEAST + 1
        if up and (not down or self.rng.random() < 0.5):
            return self.gain(person, state, who)
        return self.lose(person, state, who)

    def ask(self, person: Person) -> None:
        text = self.rng.choice(self.words.questions)
        self.question = text.format(things=self.things, name=person.name)

    def _phrase(
        self, phrases: tuple[str, ...], person: Person, n: int, counted: tuple[str, ...]
    ) -> tuple[str, str]:
        """What the story says, and the event in short."""
        short, _, more = self.rng.choice(phrases).partition("|")
        clause = short.format(k=self.rng.choice(counted)) + more
        return clause, f"{person.name} {short.format(k=n)}"
