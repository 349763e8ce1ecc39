"""Which sequences begin alike: what they share is read once, by engine and learner.

The states of one response are prefixes of each other, the responses of a group share their prompt,
Monte-Carlo continuations share their state: all of this is read off the tokens alone. No
caller says what belongs together, so nothing can be declared wrongly.

    prefix groups    for the learner: every sequence behind the longest one that begins like it
    trees       for the engine: a shared prefix, which is read once, and a suffix per distinct
    prompt
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

Ids = tuple[int, ...]

# A sequence joins a longer one if that saves it this much of its reading; those without a partner
# may still share a prompt with each other.
SHARED_MOST, SHARED_SOME = 0.5, 0.2
# Trees may have LARGEST times the rows of the median tree, and up to SMALL rows in any case.
LARGEST, SMALL = 1.5, 4
CHUNKS_PER_WORKER = 2  # a prefix group beyond this part of a worker's fair share is divided


@dataclass(frozen=True)
class GroupedSequence:
    """One distinct sequence: its first `shared` tokens are those of the prefix group's longest
    sequence.
    """

    ids: Ids
    shared: int
    members: tuple[int, ...]  # places in the input that hold this sequence


@dataclass(frozen=True)
class PrefixGroup:
    """Sequences that begin like the first of them, the longest sequence (whose `shared` is its
    length).
    """

    sequences: tuple[GroupedSequence, ...]

    @property
    def tokens(self) -> int:
        """Tokens to read when what is shared is read once."""
        return len(self.sequences[0].ids) + sum(len(k.ids) - k.shared for k in self.sequences[1:])

    @property
    def members(self) -> list[int]:
        return [m for sequence in self.sequences for m in sequence.members]


@dataclass(frozen=True)
class Suffix:
    """One distinct prompt: it sees `shared` tokens of the shared prefix and then reads `tail`."""

    shared: int
    tail: Ids  # at least one token, so that there is something to predict from
    members: tuple[int, ...]  # the requests that have this prompt


@dataclass(frozen=True)
class Tree:
    """Prompts that begin like `prefix`."""

    prefix: Ids
    suffixes: tuple[Suffix, ...]

    @property
    def rows(self) -> int:
        return sum(len(suffix.members) for suffix in self.suffixes)


def prefix_groups(sequences: Sequence[Ids]) -> list[PrefixGroup]:
    """Every sequence in one prefix group, the longest first.

    The longest come first, so that one that is whole within another finds it there. In sorted order
    the sequence with the longest common beginning is a neighbour, so two comparisons are enough.
    """
    members: dict[Ids, list[int]] = {}
    for index, sequence in enumerate(sequences):
        members.setdefault(sequence, []).append(index)
    all_longest: list[Ids] = []  # sorted: the best match of a sequence stands next to its place
    shorter: dict[Ids, list[tuple[Ids, int]]] = {}
    for sequence in sorted(members, key=lambda s: (-len(s), s)):
        at = bisect_left(all_longest, sequence)
        near = all_longest[max(0, at - 1) : at + 1]
        shared, longest = max(((common_prefix(sequence, n), n) for n in near), default=(0, ()))
        if shared and shared >= SHARED_MOST * len(sequence):
            shorter[longest].append((sequence, shared))
        else:
            all_longest.insert(at, sequence)
            shorter[sequence] = []
    group_leftovers(all_longest, shorter)
    results = []
    for longest, joined in shorter.items():
        rest = [GroupedSequence(ids, shared, tuple(members[ids])) for ids, shared in joined]
        results.append(
            PrefixGroup((GroupedSequence(longest, len(longest), tuple(members[longest])), *rest))
        )
    return sorted(results, key=lambda group: -len(group.sequences[0].ids))


def group_leftovers(all_longest: list[Ids], shorter: dict[Ids, list[tuple[Ids, int]]]) -> None:
    """Longest sequences without others join the one before them in order, if they share something.

    Responses that share a short prompt only, and so saved too little above, meet here.
    """
    head: Ids = ()  # the last longest sequence that stayed one
    for longest in all_longest:
        shared = common_prefix(longest, head)
        if not shorter[longest] and shared and shared >= SHARED_SOME * len(longest):
            shorter[head].append((longest, shared))
            del shorter[longest]
        else:
            head = longest


def trees(prompts: Sequence[Ids], max_rows: int) -> list[Tree]:
    """Prompts as shared prefixes and suffixes, at most `max_rows` requests each, the longest shared
    prefixes first. `members` index `prompts`.

    A shared prefix ends where the last suffix leaves it, so that every prompt has a tail.
    """
    results: list[Tree] = []
    for group in prefix_groups(prompts):
        longest, *rest = group.sequences
        # a token is left to read, which the first one is predicted from
        last = len(longest.ids) - 1
        shared = [min(sequence.shared, len(sequence.ids) - 1, last) for sequence in rest]
        # The longest sequence's tail is no longer than the others', which are read with it.
        tails = [len(sequence.ids) - n for sequence, n in zip(rest, shared, strict=True)]
        own = max(*shared, len(longest.ids) - max(tails)) if rest else last
        suffixes = [
            Suffix(n, sequence.ids[n:], sequence.members)
            for n, sequence in zip([own, *shared], group.sequences, strict=True)
        ]
        results.append(Tree(longest.ids[:own], tuple(suffixes)))
    # Parts of a large tree leave room for each other: one need not wait for an empty batch.
    most = max(min(SMALL, max_rows), max_rows // 4)
    parts = [p for tree in results for p in (split(tree, most) if tree.rows > max_rows else [tree])]
    return sorted(parts, key=lambda tree: -len(tree.prefix))


def partition(sequences: Sequence[Ids], written: Sequence[int], workers: int) -> list[list[int]]:
    """Places of the sequences by worker, each list in order; `written` tokens follow sequence i."""
    result = prefix_groups(sequences)
    total = sum(group.tokens for group in result) + sum(written)
    limit = total / workers / CHUNKS_PER_WORKER
    parts = [part for group in result for part in chunks(group, written, limit)]
    loads, out = [0.0] * workers, [[] for _ in range(workers)]
    for cost, members in sorted(parts, key=lambda part: (-part[0], part[1])):
        least = loads.index(min(loads))
        loads[least] += cost
        out[least] += members
    return [sorted(members) for members in out]


def chunks(
    group: PrefixGroup, written: Sequence[int], limit: float
) -> list[tuple[float, list[int]]]:
    """(tokens, members) of a prefix group cut into neighbours of at most `limit` tokens, or one
    member.

    Every piece reads again what its first sequence shares.
    """
    out: list[tuple[float, list[int]]] = []
    cost, members = 0.0, []
    for number, sequence in enumerate(group.sequences):
        own = len(sequence.ids) - (sequence.shared if number else 0)
        for place, member in enumerate(sequence.members):
            added = written[member] + (0 if place else own)
            if members and cost + added > limit:
                out.append((cost, members))
                cost, members = 0.0, []
            if not members:
                added = written[member] + len(sequence.ids)
            cost, members = cost + added, [*members, member]
    return [*out, (cost, members)] if members else out


def balanced(results: Sequence[Tree]) -> list[Tree]:
    """Trees that are much larger than the others split.

    For engines that compute rows in a grid as wide as the largest tree.
    """
    most = max(SMALL, round(LARGEST * median([tree.rows for tree in results])))
    parts = [part for tree in results for part in split(tree, most)]
    return sorted(parts, key=lambda tree: -len(tree.prefix))


def split(tree: Tree, most: int) -> list[Tree]:
    """Trees of at most `most` rows, each with as much of the shared prefix as its rows see."""
    if tree.rows <= most:
        return [tree]
    # Rows that see little of the shared prefix come first: a part's shared prefix ends where its
    # last row leaves.
    single = [(b, m) for b in sorted(tree.suffixes, key=lambda b: b.shared) for m in b.members]
    parts = -(-len(single) // most)  # rounded up
    size = -(-len(single) // parts)  # parts of nearly one size, not one small rest
    out = []
    for low in range(0, len(single), size):
        part = single[low : low + size]
        out.append(Tree(tree.prefix[: part[-1][0].shared], tuple(regroup(part))))
    return out


def regroup(pairs: Sequence[tuple[Suffix, int]]) -> list[Suffix]:
    """Suffixes restored from (suffix, member) pairs."""
    chosen: dict[int, tuple[Suffix, list[int]]] = {}
    for suffix, member in pairs:
        chosen.setdefault(id(suffix), (suffix, []))[1].append(member)
    return [Suffix(b.shared, b.tail, tuple(result)) for b, result in chosen.values()]


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
