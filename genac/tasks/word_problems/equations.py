"""Equations in free text: where they stand, what they calculate and what they claim.

    equations("So she has 7+33 = 40 - 23 = 17 books.")   ->   7 + 33 = 40   and   40 - 23 = 17

Words may stand around an equation, and as units behind its numbers. A chain is read as it is meant:
as equal terms where they are equal, else as one result after the other. All is linear in the
length of the text, but for terms of at most TERM tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

TERM = 40  # tokens of one side at most; a longer one is no calculation that anyone would check
UNITS = 3  # words that may stand behind a number
SIGNS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u2014": "-",
        "\u00d7": "*",
        "\u00b7": "*",
        "\u22c5": "*",
        "\u2217": "*",
        "\u00f7": "/",
        "\u2215": "/",
        "\u00a0": " ",
        "\u202f": " ",
        "$": " ",
        "\u20ac": " ",
        "\u00a3": " ",
        "[": "(",
        "]": ")",
    }
)
SPELLED = (
    (re.compile(r"\*\*|__|`|\\[()\[\],;!]|\\(?:left|right|text)\b"), " "),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"(?<=\d)[ ]{0,3}[xX][ ]{0,3}(?=\d)"), "*"),
    (re.compile(r"\b(?:multiplied by|times)\b"), "*"),
    (re.compile(r"\bdivided by\b"), "/"),
    (re.compile(r"\bplus\b"), "+"),
    (re.compile(r"\bminus\b"), "-"),
    (re.compile(r"\b(?:equals|is equal to)\b"), "="),
    (re.compile(r"^[ \t]*(?:[-*\u2022>#]+[ \t]+)"), ""),  # bullets
    (re.compile(r"^[ \t]*(?:(?i:step|line)[ ]?)?\d{1,2}[).:-](?=[ \t])"), ""),  # numbered lines
)
TOKEN = re.compile(
    r"(?P<number>(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,9}(?:\.\d{1,9})?(?!\d))"
    r"|(?P<sign>[-+*/()])|(?P<equals>=)|(?P<word>[A-Za-z']+)|(?P<other>\d+|\S)"
)
Tree = Fraction | tuple[str, "Tree", "Tree"]


@dataclass(frozen=True)
class Equation:
    """A calculation and the result that its author wrote."""

    tree: Tree
    claimed: Fraction

    @property
    def value(self) -> Fraction | None:
        """The true result; None of a division by zero."""
        return value_of(self.tree)


def equations(line: str) -> list[Equation]:
    """The equations of one line, in order."""
    line = line.translate(SIGNS)
    for pattern, instead in SPELLED:
        line = pattern.sub(instead, line)
    return [equation for run in runs(line) for equation in chain(run)]


def runs(line: str) -> list[list[list[str]]]:
    """Tokens of terms between equals signs, for each stretch of text that may be an equation."""
    every: list[list[list[str]]] = []
    sides: list[list[str]] = [[]]
    units = 0
    for match in TOKEN.finditer(line):
        kind, text = match.lastgroup, match[0]
        if kind == "word" and units < UNITS and sides[-1] and ends_value(sides[-1][-1]):
            units += 1
            continue
        second_value = kind == "number" and bool(sides[-1]) and ends_value(sides[-1][-1])
        if kind in ("word", "other") or second_value:
            every.append(sides)
            sides, units = [[]], 0
        if kind == "equals":
            sides.append([])
        elif kind in ("number", "sign"):
            sides[-1].append(text)
        units = 0
    every.append(sides)
    return [sides for sides in every if len(sides) > 1]


def ends_value(token: str) -> bool:
    return token == ")" or token[0].isdigit()


def chain(sides: list[list[str]]) -> list[Equation]:
    """The equations of `a = b = c`. Where a term cannot be read, the chain is cut there."""
    first, last = 0, len(sides) - 1
    trees: list[Tree | None] = []
    for place, side in enumerate(sides):
        trees.append(some_tree(side, place == first, place == last))
    results: list[Equation] = []
    for left, right in pairwise(trees):
        if left is None or right is None:
            continue
        if isinstance(left, tuple):
            results.append(Equation(left, claim(left, right)))
        elif isinstance(right, tuple) and right is trees[-1] and left is trees[0]:
            results.append(Equation(right, left))  # 40 = 7 + 33
    return results


def claim(left: Tree, right: Tree) -> Fraction:
    """What `left = right` says the left side is: a running result, unless both are equal."""
    whole = value_of(right)
    if whole is not None and whole == value_of(left):
        return whole
    while isinstance(right, tuple):
        right = right[1]
    return right


def value_of(tree: Tree) -> Fraction | None:
    if isinstance(tree, Fraction):
        return tree
    sign, left, right = tree[0], value_of(tree[1]), value_of(tree[2])
    if left is None or right is None or (sign == "/" and right == 0):
        return None
    return calculate(left, sign, right)


def calculate(left: Fraction, sign: str, right: Fraction) -> Fraction:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    return left * right if sign == "*" else left / right


# --- terms ---------------------------------------------------------------------------------------


def some_tree(tokens: list[str], from_left: bool, from_right: bool) -> Tree | None:
    """The tree of all tokens; at an end of the chain, of as many as can be read."""
    if not tokens:
        return None
    if len(tokens) > TERM:
        return None
    starts = range(len(tokens)) if from_left else range(1)
    ends = range(len(tokens), 0, -1) if from_right else range(len(tokens), len(tokens) - 1, -1)
    for start in starts:
        for end in ends:
            tree = parsed(tokens[start:end])
            if tree is not None:
                return tree
    return None


def parsed(tokens: list[str]) -> Tree | None:
    try:
        tree, end = total(tokens, 0)
    except (IndexError, ValueError):
        return None
    return tree if end == len(tokens) else None


def total(tokens: list[str], at: int) -> tuple[Tree, int]:
    """Sums and differences; IndexError or ValueError where the tokens are no term."""
    tree, at = product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        right, end = product(tokens, at + 1)
        tree, at = (tokens[at], tree, right), end
    return tree, at


def product(tokens: list[str], at: int) -> tuple[Tree, int]:
    tree, at = factor(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        right, end = factor(tokens, at + 1)
        tree, at = (tokens[at], tree, right), end
    return tree, at


def factor(tokens: list[str], at: int) -> tuple[Tree, int]:
    token = tokens[at]
    if token == "(":
        tree, end = total(tokens, at + 1)
        if tokens[end] != ")":
            raise ValueError(token)
        return tree, end + 1
    if token == "-":
        number = tokens[at + 1]
        return -Fraction(number.replace(",", "")), at + 2
    return Fraction(token.replace(",", "")), at + 1
