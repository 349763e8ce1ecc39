"""Judges an attempt at a word problem line by line: the actor writes freely, the story is known.

    Line 1: Ana buys 33, 7 + 33 is 40, says 40. Right.       what is to be done, what it gives
    Line 2: Ana gives away 23, 40 - 23 is 17, says -7. Wrong: it subtracts 47.
    Left: Ana gives away 23; the answer.                     where no line is wrong

The first mistake ends the list. A right line and a wrong one begin alike, with the calculation that
is due, so that whoever learns to write this has calculated and compared before the verdict.

A calculation is right if its arithmetic is, and if it is on some way to the answer (`ways.py`). A
mistake counts as mended once its calculation was done rightly, or its numbers were used rightly, by
a later line. A right answer makes up for everything, because the verifier reads nothing else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

from genac.tasks.final_answer import read, visible
from genac.tasks.word_problems.equations import Equation, Tree, equations, value_of
from genac.tasks.word_problems.ways import Ways, combined, is_known

MARKS = 64  # meanings of one term that are followed at most
SHOWN = 16  # lines of reasoning at most
READ = 500  # calculations at most
REPEATS = 3  # of known calculations, from which an attempt goes round in circles
VERBS = {"+": "adds", "-": "subtracts", "*": "multiplies by", "/": "divides by"}
WRITING = re.compile(r"[\d.,$]*\s*$")  # a number that may still grow
WRITTEN = re.compile(r"(?i:answer)\W{0,6}?(-?\d{1,9})\s*$")
NUMBER = re.compile(r"-?\d{1,9}(?:\.\d{1,9})?")
ONE_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# Kinds of mistakes.
SLIP, MISUSE, NEEDLESS = "slip of arithmetic", "misused number", "needless calculation"
EARLY, ANSWER = "answer too early", "wrong answer"


@dataclass(frozen=True)
class Mistake:
    """The first one: its line (1 = the first that is not blank), what is wrong, and what would mend
    it: the marks of the calculation meant, or the step.
    """

    line: int
    text: str
    kind: str
    meant: frozenset[int] = frozenset()
    step: int | None = None


@dataclass
class Judgement:
    """What is known of an attempt after its last complete line."""

    lines: list[str] = field(default_factory=list)
    mistake: Mistake | None = None
    left: list[str] = field(default_factory=list)  # events of the steps to be done
    answered: bool | None = None  # rightly; None = there is no answer yet
    repeats: int = 0
    calculations: int = 0
    slips: int = 0  # calculations whose result is wrong
    read: int = 0  # complete lines


class Judge:
    """Reads one attempt; see `judge`."""

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.known: set[int] = set()  # marks of right calculations
        self.results: dict[Fraction, set[int]] = defaultdict(set)
        self.out = Judgement()

    def line(self, number: int, text: str) -> None:
        if self.out.calculations >= READ:
            return
        label = text.partition(":")[0].strip()
        named = [k for k in self.ways.needed if self.ways.steps[k].event == label]
        for equation in equations(text):
            self.out.calculations += 1
            self._equation(number, equation, named)

    def _equation(self, number: int, equation: Equation, named: list[int]) -> None:
        """`named`: the steps that the line says it does, where it uses the words of the story."""
        marks = self._marks(equation.tree)
        slip = equation.value is None or abs(equation.value - equation.claimed) > Fraction(1, 100)
        self.out.slips += slip
        todo = self.ways.left(self.known)
        if marks and not slip and self._does(equation.tree, marks, [k for k in named if k in todo]):
            self._accept(number, equation, marks, todo)
        elif self.out.mistake is None:
            step = self._meant(equation.tree, todo, named) if todo else None
            if slip and (marks or step is None or equation.value is None):
                text, kind = f"{self._event(marks, todo)}{checked(equation)}. Wrong.", SLIP
            else:
                text = self._misuse(equation, todo, step)
                kind = NEEDLESS if step is None else MISUSE
            meant = marks if slip else frozenset()
            self.out.mistake = Mistake(number, f"Line {number}: {text}", kind, meant, step)

    def _does(self, tree: Tree, marks: frozenset[int], named: list[int]) -> bool:
        """Whether a calculation does one of the named steps, or another one with its number."""
        if not named:
            return True
        before, after = self.ways.left(self.known), self.ways.left(self.known | marks)
        used = {Fraction(self.ways.value(r)) for k in named if (r := self.ways.steps[k].right) >= 0}
        done = len(after) < len(before) and bool(used & set(leaves(tree)))
        return done or any(k not in after for k in named)

    def _accept(
        self, number: int, equation: Equation, marks: frozenset[int], todo: list[int]
    ) -> None:
        """A right calculation; it may mend a mistake."""
        if all(is_known(mark, self.known) for mark in marks):
            self.out.repeats += 1
            return
        event, done = self._event(marks, todo), self._done(marks, todo)
        self.known |= marks
        self.results[equation.claimed] |= marks
        self._learn(equation.tree)
        mistake, out = self.out.mistake, self.out
        if mistake is not None:
            mended = mistake.meant & marks if mistake.meant else mistake.step in done
            if not mended:
                return
        shown = f"Line {number}: {event}{checked(equation)}. Right."
        out.lines += [shown] if mistake is None else [mistake.text, f"{shown} That mends it."]
        out.mistake = None

    def _done(self, marks: frozenset[int], todo: list[int]) -> list[int]:
        """The steps that calculations of these marks do."""
        after = set(self.ways.left(self.known | marks))
        return [k for k in todo if k not in after]

    def _event(self, marks: frozenset[int], todo: list[int]) -> str:
        """What the story says of a calculation that does one step; empty for others."""
        done = self._done(marks, todo) if marks else []
        return f"{self.ways.steps[done[0]].event}, " if len(done) == 1 else ""

    def _learn(self, tree: Tree) -> None:
        """The results within a calculation may be used as well."""
        value = value_of(tree)
        if isinstance(tree, tuple) and value is not None:
            self.results[value] |= self._marks(tree)
            self._learn(tree[1])
            self._learn(tree[2])

    def _marks(self, tree: Tree) -> frozenset[int]:
        """The marks of a calculation that are on a way. Its numbers are those of the story and of
        the lines, else results that no line gives; these are right by chance after a mistake.
        """
        marks = self._meanings(tree) & self.ways.valid
        if not marks and self.out.mistake is None:
            marks = self._meanings(tree, skipped=True) & self.ways.valid
        return frozenset(marks)

    def _meanings(self, tree: Tree, skipped: bool = False) -> set[int]:
        """The marks that a term may have."""
        if isinstance(tree, Fraction):
            return self.ways.marks_of(tree, skipped) | self.results.get(tree, set())
        operator, left, right = tree
        rights = self._meanings(right, skipped)
        pairs = ((a, b) for a in self._meanings(left, skipped) for b in rights)
        marks: set[int] = set()
        for a, b in pairs:
            mark = combined(a, operator, b)
            if self.ways.goes_back(a, mark) or self.ways.goes_back(b, mark):
                continue
            marks.add(mark)
            if len(marks) >= MARKS:
                break
        return marks

    # --- words for what is wrong -----------------------------------------------------------------

    def _misuse(self, equation: Equation, todo: list[int], step: int | None) -> str:
        """What is due, what the line says in its place, and what the line does wrongly."""
        act = self._act(equation.tree, todo)
        if step is None:
            return f"it {act}, but nothing is left to calculate. Wrong."
        due, value = self.ways.steps[step], self.ways.value
        says = plain(equation.claimed)
        if equation.claimed == value(~step):  # by chance
            says = f"{written(equation.tree)} = {says}"
        calculation = f"{value(due.left)} {due.operator} {value(due.right)} is {value(~step)}"
        return f"{due.event}, {calculation}, says {says}. Wrong: it {act}."

    def _act(self, tree: Tree, todo: list[int]) -> str:
        assert not isinstance(tree, Fraction)
        operator, left, right = tree
        strange = next((v for v in leaves(tree) if not self._has(v)), None)
        if not (isinstance(left, Fraction) and isinstance(right, Fraction)):
            act = f"calculates {written(tree)}"
        elif strange == left and (operator in "-/" or right not in self.results):
            act = f"starts from {plain(left)}, which nothing gives"
        else:
            act = f"{VERBS[operator]} {plain(left if strange == left else right)}"
        if strange is None and (idle := self._idle(tree)) is not None:
            return f"{act}, and {plain(idle)} is not part of the question"
        if strange is None and self._used(tree, todo):
            return f"{act} again"
        return act

    def _has(self, value: Fraction) -> bool:
        return value in self.results or self.ways.has(value)

    def _idle(self, tree: Tree) -> Fraction | None:
        """A number of the tree that only an idle sentence has."""
        kinds: dict[Fraction, set[str]] = defaultdict(set)
        for number in self.ways.numbers:
            kinds[Fraction(number.value)].add(number.kind)
        values = (v for v in leaves(tree) if v not in self.results)
        return next((v for v in values if kinds[v] == {"idle"}), None)

    def _meant(self, tree: Tree, todo: list[int], named: list[int]) -> int:
        """Of the steps that can be done now, the one that the line names, else the one most like
        its calculation; the first where it names one that cannot be done yet.
        """
        values = set(leaves(tree))
        ready = self.ways.ready(todo)
        for k in named:
            if k in todo:
                return k if k in ready else ready[0]

        def likeness(k: int) -> int:
            step = self.ways.steps[k]
            same = isinstance(tree, tuple) and tree[0] == step.operator
            return same + sum(self.ways.value(ref) in values for ref in (step.left, step.right))

        return max(ready, key=likeness)

    def _used(self, tree: Tree, todo: list[int]) -> bool:
        """Whether the number of a step that is done is used a second time."""
        values = set(leaves(tree)) - self.results.keys()
        for k in self.ways.needed:
            step = self.ways.steps[k]
            if k not in todo and step.right >= 0:
                number = self.ways.numbers[step.right]
                if number.kind == "amount" and number.value in values:
                    return True
        return False


def judge(ways: Ways, answer: int, partial: str) -> Judgement:
    """Everything up to the last complete line, and what of an unfinished one cannot change."""
    complete, _, tail = partial.rpartition("\n")
    tail = WRITING.sub("", tail)
    text = f"{complete}\n{tail}"
    lines = [line for line in text.split("\n") if line.strip()]
    one = Judge(ways)
    for number, line in enumerate(lines, start=1):
        one.line(number, line)
    out = one.out
    out.read = sum(bool(line.strip()) for line in complete.split("\n"))
    out.left = [ways.steps[k].event for k in ways.left(one.known)]
    claim = claimed_answer(partial, text, answer)
    if claim is not None:
        number, value = claim
        out.answered = value == str(answer)
        if not out.answered and (out.mistake is None or number < out.mistake.line):
            text = f"Line {number} {answer_text(out, one, value)}. Wrong."
            out.mistake = Mistake(number, text, EARLY if out.left else ANSWER)
    return out


def answer_text(out: Judgement, one: Judge, value: str) -> str:
    """Why a wrong answer is wrong."""
    shown = value if NUMBER.fullmatch(value) else "with no number"
    if out.left:
        return f"answers {shown}, but this is left: {out.left[0]}"
    total = one.ways.mark(one.ways.answer)
    result = next((v for v, marks in one.results.items() if is_known(total, marks)), None)
    end = "" if result is None else f", but the lines give {plain(result)}"
    return f"answers {shown}{end}"


def claimed_answer(partial: str, text: str, answer: int) -> tuple[int, str] | None:
    """Line and text of the final answer. One that is being written counts once it is the right one,
    or cannot become it.
    """
    written_now = WRITTEN.search(partial.rpartition("\n")[2])
    if written_now:
        digits = written_now[1]
        if digits != str(answer) and str(answer).startswith(digits):
            return None
        return len([line for line in partial.split("\n") if line.strip()]), digits
    value = answer_in(text)
    if value is None:
        return None
    shown = visible(text) or ""
    form = read(shown)
    assert form is not None
    before = text[: len(text) - len(shown) + form.start + 1]
    return len([line for line in before.split("\n") if line.strip()]), value


def answer_in(text: str) -> str | None:
    """The final answer in one of the forms of `final_answer`; a unit may stand behind its number,
    a calculation before it.
    """
    shown = visible(text)
    form = None if shown is None else read(shown)
    if form is None or form.cut or not form.content.strip():
        return None
    content = form.content.rsplit("=", 1)[-1]
    numbers = ONE_NUMBER.findall(content)
    if len(numbers) != 1:
        return " ".join(content.split())
    number = numbers[0].replace(",", "")
    whole, _, decimals = number.partition(".")
    return (whole if not decimals.strip("0") else number).lstrip("0") or "0"


def leaves(tree: Tree) -> list[Fraction]:
    if isinstance(tree, Fraction):
        return [tree]
    return [*leaves(tree[1]), *leaves(tree[2])]


def checked(equation: Equation) -> str:
    """What a calculation gives, and what the line says that it gives."""
    value = equation.value
    if value is None:
        return f"{written(equation.tree)} divides by 0"
    return f"{written(equation.tree)} is {plain(value)}, says {plain(equation.claimed)}"


def written(tree: Tree) -> str:
    """The term with the brackets that it needs."""
    if isinstance(tree, Fraction):
        return plain(tree)
    operator, left, right = tree
    first, second = written(left), written(right)
    if operator in "*/" and isinstance(left, tuple) and left[0] in "+-":
        first = f"({first})"
    if isinstance(right, tuple) and (operator in "*/" or right[0] in "+-") and operator != "+":
        second = f"({second})"
    return f"{first} {operator} {second}"


def plain(value: Fraction) -> str:
    if abs(value) >= 10**9:
        return "a huge number"
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.2f}".rstrip("0").rstrip(".")
