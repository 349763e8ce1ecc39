"""Draws the figures of docs/concepts.md as SVG: python tools/figures.py"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parents[1] / "docs" / "figures"
INK, MUTED, BLUE, ORANGE, GREEN, PAPER = (
    "#1b1f24", "#57606a", "#0072b2", "#d55e00", "#009e73", "#ffffff",
)  # fmt: skip
PALE = {BLUE: "#e3f0f8", ORANGE: "#fbe9df", GREEN: "#e0f3ec", MUTED: "#f0f2f4"}


class Drawing:
    """Boxes, arrows and lines of text, in pixels from the top left."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'width="{width}" font-family="system-ui, sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{MUTED}"/></marker>'
            "</defs>",
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
        ]

    def text(self, x: float, y: float, line: str, colour: str = INK, **style: str) -> None:
        own = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in style.items())
        self.parts.append(f'<text x="{x:g}" y="{y:g}" fill="{colour}"{own}>{escape(line)}</text>')

    def box(self, x: float, y: float, w: float, h: float, colour: str, *lines: str) -> None:
        """A box with its first line in bold, centred."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="{PALE[colour]}" '
            f'stroke="{colour}"/>'
        )
        top = y + h / 2 - 9 * (len(lines) - 1) + 5
        for i, line in enumerate(lines):
            bold = {"font_weight": "600"} if i == 0 else {"font_size": "13"}
            ink = INK if i == 0 else MUTED
            self.text(x + w / 2, top + 18 * i, line, ink, text_anchor="middle", **bold)

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{MUTED}" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = MUTED) -> None:
        self.parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{colour}" stroke-width="2"/>'
        )

    def bar(self, x: float, y: float, w: float, h: float, colour: str) -> None:
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" fill="{colour}"/>'
        )

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def stages() -> str:
    d = Drawing(880, 310, "The three stages of training a generative critic")
    d.box(20, 30, 150, 60, MUTED, "base model")
    columns = (
        (220, BLUE, "1  SFT", "imitate traces:", "reasoning, then 0..10"),
        (440, BLUE, "2  critic RL", "reward 1 - (r - v)²", "the actor is frozen"),
        (660, GREEN, "3  joint RL", "actor: advantages", "critic: reward as in 2"),
    )
    for x, colour, *lines in columns:
        d.box(x, 20, 200, 80, colour, *lines)
    for x in (170, 420, 640):
        d.arrow(x, 60, x + (48 if x == 170 else 18), 60)
    feeds = (
        (220, ORANGE, "oracle's traces", "program, API, or the", "critic's own reasoning"),
        (440, ORANGE, "responses and rewards", "of the frozen actor"),
        (660, ORANGE, "responses and rewards", "of the actor that learns"),
    )
    for x, colour, *lines in feeds:
        d.box(x, 150, 200, 70, colour, *lines)
        d.arrow(x + 100, 150, x + 100, 102)
    d.text(20, 260, "What is kept:", INK, font_weight="600")
    kept = ((220, "traces, a critic that reasons"), (440, "a critic that is calibrated"))
    for x, line in (*kept, (660, "actor and critic, both saved")):
        d.text(x + 100, 260, line, INK, text_anchor="middle")
    d.text(20, 290, "Value-free methods (GRPO, RLOO) start at stage 3 and have no critic.", MUTED)
    return d.svg()


# Before each line of a wrong response: its text, the critic's value, whether the line is right.
RESPONSE = (("a+3=9", 0.6, True), ("b*7=4", 0.7, False), ("c-8=6", 0.1, True), ("ans=6", 0.1, True))


def segments() -> str:
    d = Drawing(880, 350, "One response cut into segments: a value before each, and its advantage")
    d.text(20, 32, "Problem: 6 a+3 b*7 c-8>", INK, font_weight="600")
    d.text(
        230, 32, "(6 + 3 = 9, 9 * 7 ends in 3, so the second line is wrong; reward r = 0)", MUTED
    )
    for x, title in ((20, "segment"), (230, "value read BEFORE it"), (520, "advantage")):
        d.text(x, 66, title, MUTED)
    values = [value for _, value, _ in RESPONSE] + [0.0]
    for i, (line, value, right) in enumerate(RESPONSE):
        y, gain = 84 + 56 * i, values[i + 1] - value
        d.box(20, y, 170, 40, MUTED if right else ORANGE, line)
        d.bar(230, y + 12, 180, 16, PALE[MUTED])
        d.bar(230, y + 12, 180 * value, 16, BLUE)
        d.text(420, y + 25, f"V = {value:.1f}", INK)
        start = 640 + min(0.0, gain) * 150
        if gain:
            d.bar(start, y + 12, abs(gain) * 150, 16, GREEN if gain > 0 else ORANGE)
        target = f"{values[i + 1]:.1f}" if i < len(RESPONSE) - 1 else "r: 0.0"
        d.text(740, y + 25, f"{target} - {value:.1f} = {gain + 0:+.1f}", INK)
    d.line(640, 76, 640, 300)
    note = (
        "Drawn for lambda = 0. A state's value never saw the segment whose advantage it decides; "
        "a larger lambda mixes in the reward."
    )
    d.text(20, 326, note, MUTED, font_size="13")
    return d.svg()


def prefixes() -> str:
    d = Drawing(880, 290, "All states of a response share one prefix, which is read once")
    d.text(20, 32, "One by one: the prefix is read again for every state", INK, font_weight="600")
    d.text(500, 32, "Shared: each token is read once", INK, font_weight="600")
    parts = (90, 60, 60, 60)
    for state in range(4):
        y, width = 50 + 42 * state, sum(parts[: state + 1])
        d.bar(20, y, 90, 22, BLUE)
        d.bar(110, y, width - 90, 22, "#7fb8d8")
        d.bar(20 + width + 4, y, 70, 22, ORANGE)
    d.bar(500, 50, 90, 22, BLUE)
    d.bar(590, 50, 180, 22, "#7fb8d8")
    for state in range(4):
        x, y = 500 + sum(parts[: state + 1]), 92 + 36 * (3 - state)
        d.line(x, 72, x, y + 11, MUTED)
        d.line(x, y + 11, x + 12, y + 11, MUTED)
        d.bar(x + 14, y, 70, 22, ORANGE)
    legend = (
        (20, BLUE, "problem"),
        (130, "#7fb8d8", "response so far"),
        (290, ORANGE, "question and rationale"),
    )
    for x, colour, line in legend:
        d.bar(x, 254, 14, 14, colour)
        d.text(x + 22, 266, line, INK, font_size="13")
    return d.svg()


FIGURES = {"stages": stages, "segments": segments, "prefixes": prefixes}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())
