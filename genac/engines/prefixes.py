"""Which prompts begin alike: a trunk that is read once, and the branches that leave it.

The states of one response are prefixes of each other, the responses of a group share their prompt,
Monte-Carlo continuations share their state: all of them are found here, from the tokens alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

Ids = tuple[int, ...]


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


def trees(prompts: Sequence[Ids], max_rows: int) -> list[Tree]:
    """Groups prompts into trees of at most `max_rows` requests, the longest trunks first.

    A prompt joins the longer prompt it shares most with, if that saves it at least half of its
    reading; otherwise it opens a tree of its own.
    """
    members: dict[Ids, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(index)
    leaders: list[Ids] = []  # sorted; the best match of a prompt stands next to its place
    followers: dict[Ids, list[tuple[Ids, int]]] = {}
    for prompt in sorted(members, key=lambda p: (-len(p), p)):
        at = bisect_left(leaders, prompt)
        near = [(common_prefix(prompt, leader), leader) for leader in leaders[max(0, at - 1) : at + 1]]
        shared, leader = max(near, default=(0, ()))
        shared = min(shared, len(prompt) - 1)
        if shared and 2 * shared >= len(prompt):
            followers[leader].append((prompt, shared))
        else:
            leaders.insert(at, prompt)
            followers[prompt] = []
    found = []
    for leader, joined in followers.items():
        own = max((shared for _, shared in joined), default=len(leader) - 1)
        own = min(own, len(leader) - 1)
        branches = [(leader, own), *joined]
        whole = [Branch(n, p[n:], tuple(members[p])) for p, n in branches]
        found += split(Tree(leader[:own], tuple(whole)), max_rows)
    return sorted(found, key=lambda tree: -len(tree.trunk))


def split(tree: Tree, max_rows: int) -> list[Tree]:
    """Trees of at most max_rows rows with the same trunk."""
    if tree.rows <= max_rows:
        return [tree]
    single = [(b, m) for b in tree.branches for m in b.members]
    parts = [single[low : low + max_rows] for low in range(0, len(single), max_rows)]
    return [Tree(tree.trunk, tuple(regroup(part))) for part in parts]


def regroup(pairs: Sequence[tuple[Branch, int]]) -> list[Branch]:
    """Branches restored from (branch, member) pairs."""
    chosen: dict[int, tuple[Branch, list[int]]] = {}
    for branch, member in pairs:
        chosen.setdefault(id(branch), (branch, []))[1].append(member)
    return [Branch(b.shared, b.tail, tuple(found)) for b, found in chosen.values()]


def common_prefix(one: Ids, other: Ids) -> int:
    """Number of equal tokens at the beginning."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
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


def tokens(found: Sequence[Tree]) -> int:
    """Prompt tokens that are read when every trunk and every distinct branch is read once."""
    return sum(len(tree.trunk) + sum(len(b.tail) for b in tree.branches) for tree in found)
