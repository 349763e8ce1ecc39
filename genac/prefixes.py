"""Which sequences begin alike: what they share is read once, by engine and learner.

The states of one response are prefixes of each other, the responses of a group share their prompt,
Monte-Carlo continuations share their state: all of them are found here, from the tokens alone. No
caller says what belongs together, so nothing can be said wrongly.

    families    for the learner: every sequence behind the longest one that begins like it
    trees       for the engine: a trunk, which is read once, and a branch per distinct prompt
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

Ids = tuple[int, ...]

# A sequence joins a longer one if that saves it this much of its reading; those that found nobody
# may still share a prompt with each other.
SHARED_MOST, SHARED_SOME = 0.5, 0.2
# Trees may have LARGEST times the rows of the median tree, and up to SMALL rows in any case.
LARGEST, SMALL = 1.5, 4


@dataclass(frozen=True)
class Kin:
    """One distinct sequence: its first `shared` tokens are those of the family's leader."""

    ids: Ids
    shared: int
    members: tuple[int, ...]  # places in the input that hold this sequence


@dataclass(frozen=True)
class Family:
    """Sequences that begin like the first of them, the leader (whose `shared` is its length)."""

    kin: tuple[Kin, ...]

    @property
    def tokens(self) -> int:
        """Tokens to read when what is shared is read once."""
        return len(self.kin[0].ids) + sum(len(k.ids) - k.shared for k in self.kin[1:])

    @property
    def members(self) -> list[int]:
        return [m for kin in self.kin for m in kin.members]


@dataclass(frozen=True)
class Branch:
    """One distinct prompt: it sees `shared` tokens of the trunk and then reads `tail`."""

    shared: int
    tail: Ids  # at least one token, so that there is something to predict from
    members: tuple[int, ...]  # the requests that have this prompt


@dataclass(frozen=True)
class Tree:
    """Prompts that begin like `trunk`."""

    trunk: Ids
    branches: tuple[Branch, ...]

    @property
    def rows(self) -> int:
        return sum(len(branch.members) for branch in self.branches)


def families(sequences: Sequence[Ids]) -> list[Family]:
    """Every sequence in one family, the longest leaders first.

    The longest come first, so that one that is whole within another finds it there. In sorted order
    the sequence with the longest common beginning is a neighbour, so two comparisons are enough.
    """
    members: dict[Ids, list[int]] = {}
    for index, sequence in enumerate(sequences):
        members.setdefault(sequence, []).append(index)
    leaders: list[Ids] = []  # sorted: the best match of a sequence stands next to its place
    followers: dict[Ids, list[tuple[Ids, int]]] = {}
    for sequence in sorted(members, key=lambda s: (-len(s), s)):
        at = bisect_left(leaders, sequence)
        near = leaders[max(0, at - 1) : at + 1]
        shared, leader = max(((common_prefix(sequence, n), n) for n in near), default=(0, ()))
        if shared and shared >= SHARED_MOST * len(sequence):
            followers[leader].append((sequence, shared))
        else:
            leaders.insert(at, sequence)
            followers[sequence] = []
    join_the_lonely(leaders, followers)
    found = []
    for leader, joined in followers.items():
        rest = [Kin(ids, shared, tuple(members[ids])) for ids, shared in joined]
        found.append(Family((Kin(leader, len(leader), tuple(members[leader])), *rest)))
    return sorted(found, key=lambda family: -len(family.kin[0].ids))


def join_the_lonely(leaders: list[Ids], followers: dict[Ids, list[tuple[Ids, int]]]) -> None:
    """Leaders without followers join the one before them in order, if they share something.

    Responses that share a short prompt only, and so saved too little above, meet here.
    """
    head: Ids = ()  # the last leader that stayed one
    for leader in leaders:
        shared = common_prefix(leader, head)
        if not followers[leader] and shared and shared >= SHARED_SOME * len(leader):
            followers[head].append((leader, shared))
            del followers[leader]
        else:
            head = leader


def trees(prompts: Sequence[Ids], max_rows: int) -> list[Tree]:
    """Prompts as trunks and branches, at most `max_rows` requests each, the longest trunks first.
    `members` index `prompts`.

    A trunk ends where the last branch leaves it, so that every prompt has a tail.
    """
    found: list[Tree] = []
    for family in families(prompts):
        leader, *rest = family.kin
        last = len(leader.ids) - 1  # a token is left to read, which the first one is predicted from
        shared = [min(kin.shared, len(kin.ids) - 1, last) for kin in rest]
        # The leader's tail is no longer than the others', which are read beside it.
        tails = [len(kin.ids) - n for kin, n in zip(rest, shared, strict=True)]
        own = max(*shared, len(leader.ids) - max(tails)) if rest else last
        branches = [
            Branch(n, kin.ids[n:], kin.members)
            for n, kin in zip([own, *shared], family.kin, strict=True)
        ]
        found.append(Tree(leader.ids[:own], tuple(branches)))
    # Parts of a large tree leave room for each other: one need not wait for an empty batch.
    most = max(min(SMALL, max_rows), max_rows // 4)
    parts = [p for tree in found for p in (split(tree, most) if tree.rows > max_rows else [tree])]
    return sorted(parts, key=lambda tree: -len(tree.trunk))


def balanced(found: Sequence[Tree]) -> list[Tree]:
    """Trees that are much larger than the others split.

    For engines that compute rows in a grid as wide as the largest tree.
    """
    most = max(SMALL, round(LARGEST * median([tree.rows for tree in found])))
    parts = [part for tree in found for part in split(tree, most)]
    return sorted(parts, key=lambda tree: -len(tree.trunk))


def split(tree: Tree, most: int) -> list[Tree]:
    """Trees of at most `most` rows, each with as much of the trunk as its rows see."""
    if tree.rows <= most:
        return [tree]
    # Rows that see little of the trunk come first: a part's trunk ends where its last row leaves.
    single = [(b, m) for b in sorted(tree.branches, key=lambda b: b.shared) for m in b.members]
    parts = -(-len(single) // most)  # rounded up
    size = -(-len(single) // parts)  # parts of nearly one size, not one small rest
    out = []
    for low in range(0, len(single), size):
        part = single[low : low + size]
        out.append(Tree(tree.trunk[: part[-1][0].shared], tuple(regroup(part))))
    return out


def regroup(pairs: Sequence[tuple[Branch, int]]) -> list[Branch]:
    """Branches restored from (branch, member) pairs."""
    chosen: dict[int, tuple[Branch, list[int]]] = {}
    for branch, member in pairs:
        chosen.setdefault(id(branch), (branch, []))[1].append(member)
    return [Branch(b.shared, b.tail, tuple(found)) for b, found in chosen.values()]


def common_prefix(one: Ids, other: Ids) -> int:
    """Number of equal tokens at the beginning."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:  # the common case: one is the beginning of the other
        return length
    # Halving with tuple slices compares at C speed.
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
