"""What may be calculated on the way to a story's answer, whatever the order.

Every number and every calculation has a mark: its value with each number of the story replaced by a
random residue modulo a large prime. Two calculations have the same mark if they are the same
function of the story's numbers (or by a chance of 1e-17). So `7 + 33` by line 1 and
`33 - 23` are distinguished from `7 + 23`, although nobody says which 7 is meant.

On the way to the answer are the parts of each sum: the terms of `7 + 33 - 23`, any of them added up
with their signs, or with all signs turned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction

from genac.tasks.word_problems.story import Number, Step, result_of

PRIME = (1 << 61) - 1


@dataclass
class Group:
    """The terms of a sum. `joins`: a step, and the terms on its two sides as bits. `sums`: the mark
    of each subset of the terms, by its bits.
    """

    terms: list[tuple[int, int]] = field(default_factory=list)  # sign, reference
    joins: list[tuple[int, int, int]] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)


class Ways:
    """The structure of one story: marks of all that is on a way, and what is left of it."""

    def __init__(self, numbers: Sequence[Number], steps: Sequence[Step]) -> None:
        self.numbers, self.steps = numbers, steps
        self.answer = ~(len(steps) - 1)
        self._number_marks = [number_mark(i, number) for i, number in enumerate(numbers)]
        self._step_marks: list[int] = []
        self._step_values: list[int] = []
        self._below: list[frozenset[int]] = []  # the numbers that each step depends on
        for step in steps:
            left, right = self.mark(step.left), self.mark(step.right)
            self._step_marks.append(combined(left, step.operator, right))
            values = self.value(step.left), step.operator, self.value(step.right)
            self._step_values.append(result_of(*values))
            self._below.append(self._numbers(step.left) | self._numbers(step.right))
        used = {ref for step in steps for ref in (step.left, step.right)}
        self._groups: dict[int, Group] = {}
        for k, step in enumerate(steps):
            if ~k not in used:
                self._add_group(~k)
            if step.operator in "*/" or self._is_apart(step):
                for ref in (r for r in (step.left, step.right) if r < 0):
                    self._add_group(ref)
        sums = [mark for group in self._groups.values() for mark in group.sums[1:]]
        self.valid = (frozenset(sums) | {-mark % PRIME for mark in sums}) - {0}
        self._sizes = [sizes_of(group) for group in self._groups.values()]
        self.needed = self.left(frozenset())

    def mark(self, ref: int) -> int:
        return self._number_marks[ref] if ref >= 0 else self._step_marks[~ref]

    def value(self, ref: int) -> int:
        return self.numbers[ref].value if ref >= 0 else self._step_values[~ref]

    def ready(self, todo: list[int]) -> list[int]:
        """Those of the steps whose numbers are there: no step before them is still to be done."""
        return [k for k in todo if not self._before(k) & set(todo)]

    def _before(self, k: int) -> set[int]:
        """The steps that a step depends on."""
        own = {~ref for ref in (self.steps[k].left, self.steps[k].right) if ref < 0}
        return own.union(*(self._before(j) for j in own))

    def marks_of(self, value: Fraction, skipped: bool) -> set[int]:
        """Whatever of the story has this value, and the bare number; with `skipped` also the steps
        with this result, which their author may have done in the head.
        """
        bare = value.numerator * pow(value.denominator, -1, PRIME) % PRIME
        own = zip(self.numbers, self._number_marks, strict=True)
        steps = zip(self._step_values, self._step_marks, strict=True)
        marks = {bare} | {mark for number, mark in own if number.value == value}
        return marks | {mark for result, mark in steps if skipped and result == value}

    def has(self, value: Fraction) -> bool:
        """Whether a number of the story or the result of one of its steps has this value."""
        return value in self._step_values or any(n.value == value for n in self.numbers)

    def goes_back(self, part: int, result: int) -> bool:
        """Whether a calculation takes out of a sum what was in it: `40 - 33` behind `7 + 33`."""
        none = (0, 0)
        pairs = [(s.get(part, none)[0], s[result][1]) for s in self._sizes if result in s]
        return bool(pairs) and all(before > after for before, after in pairs)

    def left(self, known: Set[int]) -> list[int]:
        """The steps still to be done where calculations with the marks `known` are."""
        todo: set[int] = set()
        self._left(self.answer, known, todo)
        return sorted(todo)

    def _left(self, ref: int, known: Set[int], todo: set[int]) -> None:
        if ref >= 0 or is_known(self.mark(ref), known):
            return
        step = self.steps[~ref]
        if step.operator in "*/":
            todo.add(~ref)
            self._left(step.left, known, todo)
            self._left(step.right, known, todo)
            return
        group = self._group(ref)
        blocks = self._blocks(group, known)
        todo.update(k for k, a, b in group.joins if not any(s & a and s & b for s in blocks))
        for place, (_, term) in enumerate(group.terms):
            if not any(block >> place & 1 for block in blocks):
                self._left(term, known, todo)

    def _group(self, ref: int) -> Group:
        if ref not in self._groups:
            self._add_group(ref)
        return self._groups[ref]

    def _add_group(self, ref: int) -> None:
        group = Group()
        self._flatten(ref, 1, group)
        group.sums = [0]
        for sign, term in group.terms:
            mark = sign * self.mark(term)
            group.sums += [(before + mark) % PRIME for before in group.sums]
        self._groups[ref] = group

    def _numbers(self, ref: int) -> frozenset[int]:
        return frozenset((ref,)) if ref >= 0 else self._below[~ref]

    def _is_apart(self, step: Step) -> bool:
        """Of a difference between two people's numbers the terms stay apart: with a number in
        both, what one person gets could be taken for what the other one loses.
        """
        shared = self._numbers(step.left) & self._numbers(step.right)
        return step.operator == "-" and bool(shared)

    def _flatten(self, ref: int, sign: int, group: Group, whole: bool = False) -> int:
        """The bits of the terms below a reference; `whole`: it is one term."""
        step = self.steps[~ref] if ref < 0 else None
        if whole or step is None or step.operator in "*/":
            group.terms.append((sign, ref))
            return 1 << (len(group.terms) - 1)
        apart = self._is_apart(step)
        left = self._flatten(step.left, sign, group, apart)
        turned = sign if step.operator == "+" else -sign
        right = self._flatten(step.right, turned, group, apart)
        group.joins.append((~ref, left, right))
        return left | right

    def _blocks(self, group: Group, known: Set[int]) -> list[int]:
        """Terms that are added up already, as few and as large blocks as possible."""
        known_subsets = [
            subset for subset in range(1, len(group.sums)) if is_known(group.sums[subset], known)
        ]

        def order(subset: int) -> tuple[int, int]:
            joined = sum((a | b) & subset == a | b for _, a, b in group.joins)
            return -subset.bit_count(), -joined

        blocks: list[int] = []
        for subset in sorted(known_subsets, key=order):
            if not any(subset & block for block in blocks):
                blocks.append(subset)
        return blocks


def sizes_of(group: Group) -> dict[int, tuple[int, int]]:
    """The least and the largest number of terms of the group that a mark may stand for."""
    sizes: dict[int, tuple[int, int]] = {}
    for subset, mark in enumerate(group.sums):
        size = subset.bit_count()
        for one in (mark, -mark % PRIME):
            least, most = sizes.get(one, (size, size))
            sizes[one] = min(least, size), max(most, size)
    return sizes


def is_known(mark: int, known: Set[int]) -> bool:
    return mark in known or -mark % PRIME in known


def number_mark(index: int, number: Number) -> int:
    """A count is a plain number, so that `12 + 12 + 12` is three times 12."""
    if number.kind == "count":
        return number.value
    digest = hashlib.sha256(f"{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % PRIME


def combined(left: int, operator: str, right: int) -> int:
    """The mark of a calculation; of a division by zero 0, which is on no way."""
    if operator == "/":
        return left * pow(right, -1, PRIME) % PRIME if right % PRIME else 0
    return {"+": left + right, "-": left - right, "*": left * right}[operator] % PRIME
