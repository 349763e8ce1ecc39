"""The text of each token of a sequence, so that the pieces join to the text of the whole.

A token decoded by itself is not its part of the text. Byte-level tokenizers spread a character over
tokens, and others drop the space at the beginning of whatever is decoded. A character belongs to
the token that completes it; the tokens before it get an empty piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
BROKEN = "\ufffd"  # decoders write it for bytes that are no character, or not yet
CHUNK = 256  # tokens that are split together where one by one does not do
PENDING = 8  # tokens that a character may take before its bytes count as broken


class Pieces:
    """Splits decoded text by tokens. `decode` must give the text of any token ids."""

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self._first: dict[int, str] = {}  # text of a token that begins a sequence
        self._later: dict[int, str] = {}  # and behind another token, the anchor
        self._anchor: tuple[int, int] | None = None

    def of(self, ids: Sequence[int]) -> list[str]:
        """One piece per token; joined they are decode(ids)."""
        ids, whole = list(ids), self.decode(ids)
        alone = self._by_token(ids)
        if "".join(alone) == whole:
            return alone
        out, text = list[str](), ""
        while len(out) < len(ids):
            low, begin = len(out), len(text)
            high = self._cut(ids, low, whole, begin)
            before = [self._anchor[0]] if self._anchor and low else []
            out += self._split([*before, *ids[low:high]])[len(before) :]
            text = "".join(out)
        return out if text == whole else self._split(ids)

    def _cut(self, ids: list[int], low: int, whole: str, begin: int) -> int:
        """Where about CHUNK tokens from `low` end, so that their text stands by itself: it is what
        the whole says from `begin`, and no bytes wait for more.
        """
        if self._anchor is None:
            return len(ids)
        anchor, length = self._anchor
        for high in range(min(len(ids), low + CHUNK), low, -1):
            if low:
                text = self.decode([anchor, *ids[low:high]])[length:]
            else:
                text = self.decode(ids[:high])
            if whole.startswith(text, begin) and (
                high == len(ids) or text[-1:] not in ("", BROKEN)
            ):
                return high
        return len(ids)

    def _by_token(self, ids: list[int]) -> list[str]:
        """What each token says by itself, from memory: the first one alone, the others behind an
        anchor, a token of plain text. Empty pieces where there is no anchor yet.
        """
        if self._anchor is None:
            plain = (i for i in ids if (text := self.decode([i])).isascii() and text.strip())
            anchor = next(plain, None)
            if anchor is None:
                return [""] * len(ids)
            self._anchor = anchor, len(self.decode([anchor]))
        anchor, length = self._anchor
        if ids and ids[0] not in self._first:
            self._first[ids[0]] = self.decode(ids[:1])
        for token in set(ids[1:]) - self._later.keys():
            self._later[token] = self.decode([anchor, token])[length:]
        return [self._first[i] for i in ids[:1]] + [self._later[i] for i in ids[1:]]

    def _split(self, ids: list[int]) -> list[str]:
        """The pieces by decoding again and again."""
        whole = self.decode(ids)
        ends = self._ends(ids, whole, self._lengths(ids), (0, len(ids)), (0, len(whole)))
        return [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]

    def _lengths(self, ids: list[int]) -> list[int]:
        """Characters of the first 0, 1, ... tokens, by windows of tokens that grow until they end
        in a whole character. Not exact where bytes are broken.
        """
        out, start, read, before = [0], 0, 0, 0
        for end in range(1, len(ids) + 1):
            text, total = self.decode(ids[start:end]), out[-1]
            whole = len(text) > before and not text.endswith(BROKEN)
            if whole or end - read >= PENDING or end == len(ids):
                total += max(0, len(text) - before)
                start, read = read, end
                before = len(self.decode(ids[start:read]))
            out.append(total)
        return out

    def _ends(
        self,
        ids: list[int],
        whole: str,
        lengths: list[int],
        tokens: tuple[int, int],
        text: tuple[int, int],
    ) -> list[int]:
        """Where the text of each of the tokens[0]..tokens[1] ends; it is whole[text[0]:text[1]].

        Where `lengths` do not add up to it, the tokens are halved, and the text of everything
        before the middle says where that lies.
        """
        (low, high), (begin, end) = tokens, text
        if lengths[high] - lengths[low] == end - begin:
            return [begin + n - lengths[low] for n in lengths[low + 1 : high + 1]]
        if high - low == 1:
            return [end]
        middle = (low + high) // 2
        cut = min(max(begin, shared(self.decode(ids[:middle]), whole)), end)
        return self._ends(ids, whole, lengths, (low, middle), (begin, cut)) + self._ends(
            ids, whole, lengths, (middle, high), (cut, end)
        )


def shared(one: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low
