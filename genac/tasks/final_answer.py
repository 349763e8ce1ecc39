r"""The final answer of a text: which part of a response, or of a reference solution, is judged.

    visible(text)          what stands behind the thought; None inside an open one
    read(text)             the last answer in one of the forms below, or None
    final_answer(text)     its text; the last line where there is no form
    normalise(answer)      the same text for answers that differ in dress only
    number(answer)         a decimal number's shortest writing

    forms      \boxed{5}  \fbox{5}  \boxed 5     <answer>5</answer>     ans=5     #### 5
               Answer: 5  (also in bold, on the next line, in small letters at a line's start)
               The final answer is 5;  the answer is 5, A: 5  (these two on the last line only)

The last form counts. Everything here is linear in the length of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

CLOSE = "</answer>"
TAG = re.compile(r"</?answer>", re.IGNORECASE)
PROSE = 4  # words from which what follows "Answer:" is a sentence about the answer

# The tags that reasoning models write around a thought, in any capitals.
THOUGHT = re.compile(
    r"<(?P<close>/)?(?:(?:seed:)?think(?:ing)?|thoughts?|reasoning)\s*>"
    r"|\[(?P<bracket>/)?THINK\]|\u25c1(?P<kimi>/)?think\u25b7"
    r"|<\|(?:(?:start|begin)|(?P<end>end))_(?:of_)?(?:thought|thinking)\|>",
    re.IGNORECASE,
)
BRACES = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{|\\.|[{}]", re.DOTALL)
# A box without braces holds what its formula does, or else a number or one command.
BARE = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])[^\S\n]{0,9}(?!\\[()\[\]])"
    r"(?:(?P<formula>[^\s{$](?:(?!\s[A-Za-z]{2})[^$\n]){0,200}?)(?:\$|\\\)|\\\])"
    r"|(?P<token>[-+\u2212\d.,]*\d|\\[a-z]+[^\s$]*))"
)
MARKERS = re.compile(
    r"(?P<ans>(?<![A-Za-z])ans=)"
    r"|(?P<hash>(?<!\#)\#{4}(?!\#))"
    r"|(?P<answer>(?:Answer|ANSWER"
    r"|(?i:^[ \t>*_\#-]{0,12}(?:(?:the|my|our|so)\s)?(?:(?:final|correct)\s)?answer))"
    r"[*_]{0,3}[^\S\n]?[:\uff1a][*_]{0,3})"
    r"|(?P<final>(?i:\bfinal[ ]answer[ ]is\b)(?:[ ]that)?[^\S\n]?:?)"
    r"|(?P<phrase>(?i:\banswer[ ]is\b)(?:[ ]that)?[^\S\n]?:?)"
    r"|(?P<short>^A[:\uff1a])",
    re.MULTILINE,
)
ON_THE_NEXT_LINE = ("answer", "final", "phrase")
ON_THE_LAST_LINE = ("phrase", "short")
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
HOPE = "I hope it is correct"
BETWEEN = re.compile(
    r"[\s$]*(?:\\[)\]])?\s*(?:[,;]\s*)?(?:\\text\{\s*)?(?:and|or|,|;)(?:\s*\})?\s*(?:\\[(\[])?[\s$]*"
)
DELIMITERS = (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$"))

SIGNS = dict.fromkeys((0x2212, 0xFE63, 0xFF0D), "-") | {0xFF10 + n: str(n) for n in range(10)}
# A dash at the beginning of a number is its sign: 1\u20135 is a range, (\u20131, 5) is not.
DASH = re.compile(r"(?<![^\s(,\[{=$])[\u2010-\u2013](?=[\d.\\])")
SEPARATOR = r"(?:,\\!|,|\{,\}|\\,|[\u00a0\u2009\u202f])"
THOUSANDS = re.compile(
    rf"(?<![\d.])(?<!\d,)(?<!\d\{{,\}})(?<!\d\\,)[1-9]\d{{0,2}}(?:{SEPARATOR}\d{{3}})+(?!\d|{SEPARATOR}\d)"
)
BRACKETS = re.compile(r"[(\[]|\\\{|\\langle")
DRESS = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}|\{([^{}]*)\}|(?:\*{1,3}|`)([^*`]+)(?:\*{1,3}|`)"
)
NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,9}))?")


@dataclass(frozen=True)
class Form:
    """An answer in one of the forms. A weak one counts only where there is no other. `cut`: the
    text ends inside a box that says something else, so there is no final answer.
    """

    start: int
    content: str
    kind: str  # "box" | "tag" | "line"
    strong: bool = True
    cut: bool = False


def visible(text: str) -> str | None:
    """What stands behind the last closing tag of a thought; None where a thought is still open."""
    last = None
    for tag in THOUGHT.finditer(text):
        last = tag
    if last is None:
        return text
    return text[last.end() :] if last.lastgroup else None


def opens_thought(prompt: str) -> bool:
    """Whether a prompt ends with the opening tag of a thought, which the response goes on in."""
    tail = prompt[-40:].rstrip()
    return any(t.end() == len(tail) and not t.lastgroup for t in THOUGHT.finditer(tail))


def final_answer(text: str) -> str:
    """The text of the last form (see above); without any, the last line, "" of an open thought."""
    text = (visible(text) or "").strip()
    form = read(text)
    return last_line(text) if form is None or form.cut else form.content


def last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1].strip()


def read(text: str, depth: int = 2) -> Form | None:
    """The last answer in one of the forms, or None. `depth` of the forms may lie in each other."""
    boxes, unfinished = boxes_of(text)
    forms = [joined(text, boxes), tag_of(text), line_of(text, outermost(boxes))]
    chosen = max(
        (f for f in forms if f is not None), key=lambda f: (f.strong, f.start), default=None
    )
    if unfinished is not None and (chosen is None or chosen.start < unfinished.start):
        # A box is cut by the length limit. It does not count, but it may take back what did.
        begun = unfinished.content.strip()
        if chosen is None or not squeezed(chosen.content).startswith(squeezed(begun)):
            return Form(unfinished.start, begun, "box", cut=True)
    if chosen is None or chosen.kind == "line" or depth == 0:
        return chosen
    inner = read(chosen.content, depth - 1)  # <answer>Answer: 42</answer>
    content = chosen.content if inner is None or inner.cut else inner.content
    return Form(chosen.start, content.strip(), chosen.kind)


def squeezed(text: str) -> str:
    return "".join(text.split())


class Box(NamedTuple):
    """Places in a text: of a box, and of what it holds."""

    start: int
    end: int
    first: int
    last: int


def boxes_of(text: str) -> tuple[list[Box], Form | None]:
    """Complete boxes by their beginning, and the one that the text ends in."""
    if "box" not in text:
        return [], None
    boxes = [Box(m.start(), m.end(), *m.span(m.lastgroup or 0)) for m in BARE.finditer(text)]
    opened: list[tuple[int, int]] = []
    for token in BRACES.finditer(text):
        start, end = token.span()
        if token[0] == "}":
            opening, first = opened.pop() if opened else (0, 1)
            if first - opening > 1:  # longer than a brace
                boxes.append(Box(opening, end, first, start))
        elif text[end - 1] == "{" and token[0] != "\\{":
            opened.append((start, end))
    cut = next((o for o in reversed(opened) if o[1] - o[0] > 1), None)
    boxes.sort()
    return boxes, None if cut is None else Form(cut[0], text[cut[1] :], "box")


def joined(text: str, boxes: list[Box]) -> Form | None:
    r"""The last filled box. Several in a row are one answer: "\boxed{1} and \boxed{2}" is 1, 2."""
    row: list[Box] = []
    for box in reversed(boxes):
        if row and not (
            box.end <= row[-1].start <= box.end + 40
            and BETWEEN.fullmatch(text, box.end, row[-1].start)
        ):
            break
        if text[box.first : box.last].strip():
            row.append(box)
    contents = list(dict.fromkeys(text[b.first : b.last].strip() for b in reversed(row)))
    return Form(row[0].start, ", ".join(contents), "box") if row else None


def boxed(text: str) -> bool:
    """Whether a filled box is the last of the text's boxes that is not empty."""
    boxes, unfinished = boxes_of(text)
    last = joined(text, boxes)
    return last is not None and (unfinished is None or unfinished.start < last.start)


def outermost(boxes: list[Box]) -> list[Box]:
    """Without those inside others; none overlap."""
    kept: list[Box] = []
    for box in boxes:
        if not kept or box.start >= kept[-1].end:
            kept.append(box)
    return kept


def tag_of(text: str) -> Form | None:
    """The last <answer></answer> that holds something."""
    opened, last = None, None
    for tag in TAG.finditer(text):
        if "/" not in tag[0]:
            opened = tag
        elif opened is not None:
            last, opened = (opened, tag), None
    if last is None:
        return None
    content = text[last[0].end() : last[1].start()].strip()
    return Form(last[0].start(), content, "tag") if content else None


def line_of(text: str, boxes: list[Box]) -> Form | None:
    """What stands behind the last marker outside boxes that is surely one, else behind the last
    that may be one. Each reads up to the next marker at most.
    """
    starts = [box.start for box in boxes]
    weak, end, stop = None, len(text.rstrip()), len(text)
    markers = [(*m.span(), m.lastgroup or "") for m in MARKERS.finditer(text)]
    for start, first, kind in reversed(markers):
        place = bisect_right(starts, start)
        inside = place > 0 and start < boxes[place - 1].end
        if first < stop and not inside:
            content, content_end = behind(text, first, stop, kind in ON_THE_NEXT_LINE)
            strong = STRONG[kind](content)
            early = kind not in ON_THE_LAST_LINE and (strong or kind == "answer")
            if content and (early or content_end >= end):
                form = Form(start, content, "line", strong)
                if strong:
                    return form
                weak = weak or form
        stop = start
    return weak


def behind(text: str, first: int, stop: int, next_line: bool) -> tuple[str, int]:
    """The rest of the line (or the next that holds something) in plain dress, and where it ends."""
    while first < stop and text[first].isspace() and (next_line or text[first] != "\n"):
        first += 1
    closing = {"$$": "$$", "\\[": "\\]"}.get(text[first : first + 2])
    end = text.find(closing, first + 2, stop) if closing else -1
    end = end + 2 if end >= 0 else text.find("\n", first, stop)
    end = end if end >= 0 else stop
    content = text[first:end].partition(CLOSE)[0].strip().lstrip("*`")
    bare = content.rstrip("*`.")
    if content[len(bare) :].strip("."):  # **42**.
        content = bare
    content = content.strip()
    head, hope, tail = content.rpartition(HOPE)
    return undelimited(head.strip() if hope and not tail.strip(".") else content), end


def undelimited(content: str) -> str:
    r"""Without the signs of mathematics around the whole: \(42\), $42$."""
    bare = content.rstrip(".").rstrip()
    for opening, closing in DELIMITERS:
        inner = bare[len(opening) : -len(closing)]
        whole = len(bare) >= len(opening + closing) and bare.startswith(opening)
        if whole and bare.endswith(closing) and opening not in inner and closing not in inner:
            return inner.strip()
    return content


def words(content: str) -> int:
    """How many words of a language, commands of LaTeX aside."""
    return sum(1 for _ in WORD.finditer(content))


def stated(content: str) -> bool:
    """Whether this is an answer and no sentence, heading or question."""
    return words(content) == 0 and not content.endswith("?")


# Whether what stands behind a marker is beyond doubt an answer. "#### Check" is a heading.
STRONG: dict[str, Callable[[str], bool]] = {
    "ans": lambda content: True,
    "answer": lambda content: words(content) < PROSE,
    "hash": stated,
    "final": stated,
    "phrase": stated,
    "short": lambda content: False,
}


def normalise(answer: str) -> str:
    r"""The answer without its dress: delimiters, \text, braces, currency, the thousands' commas,
    surrounding blanks and trailing dots; decimal numbers without needless zeros.

    Commas of lists stay: "1,2", "1,23", "0,123", and all within brackets, so that (1,234) is a
    pair. 1,234 without brackets is a number.
    """
    answer = DASH.sub("-", answer.translate(SIGNS)).strip()
    for _ in range(4):
        dressed = undelimited(answer.rstrip(".").strip())
        match = DRESS.fullmatch(dressed)
        answer = dressed if match is None else match[match.lastindex or 0].strip()
    answer = re.sub(r"\\?\$", "", answer).replace("\\%", "%")
    if not BRACKETS.search(answer):
        answer = THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[0]), answer)
    answer = ",".join(part.strip() for part in answer.split(","))
    answer = answer.strip().rstrip(".").strip()
    return number(answer) or answer


def number(text: str) -> str | None:
    """A decimal number in its shortest writing: "+1.50" is "1.5"; None of anything else."""
    match = NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    whole, fraction, exponent = match[2], match[3] or "", int(match[4] or 0)
    if abs(exponent) > 400:
        return None
    if exponent > 0:
        whole, fraction = whole + fraction[:exponent].ljust(exponent, "0"), fraction[exponent:]
    elif exponent < 0:
        padded = whole.rjust(-exponent, "0")
        whole, fraction = padded[:exponent], padded[exponent:] + fraction
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if match[1] == "-" and value != "0" else value
