"""A trajectory as a page, a fragment for notebooks, or Markdown. All model text is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from genac.runs.guard import printable
from genac.runs.numbers import number, signed
from genac.runs.trajectory import Step, Token, Trajectory
from genac.ui.examples import colour
from genac.ui.html import CSS, STACKED, esc, page

# Inline, so that the fragment looks the same in a notebook, where no style sheet of ours is.
CELL = "padding:.3rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid #8884"
TOKEN = (
    "display:inline-block;margin:1px;padding:0 .2rem;border:1px solid #8884;font-family:monospace"
)
PRE = "margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace"


def document(one: Trajectory, tokens: bool = False) -> str:
    """A whole page, without scripts and without requests."""
    body = f"<h1>{esc(one.problem_id)}</h1>{fragment(one, tokens)}"
    return page(f"{one.problem_id} {one.address}", body, style=CSS + STACKED)


def fragment(one: Trajectory, tokens: bool = False) -> str:
    """Problem, outcome, and a table of the steps; with `tokens` those of each step and of the
    critic before it, folded.
    """
    head = "".join(
        f'<th style="{CELL}">{name}</th>'
        for name in ("value before", "step", "change", "advantage", "critic's reasoning")
    )
    rows = "".join(_row(one, step, tokens) for step in one.steps)
    notes = "".join(f"<p><b>Not shown</b>: {esc(problem)}</p>" for problem in one.problems)
    return (
        f"<p>{esc(headline(one))}</p>{notes}<pre style='{PRE}'>{esc(one.prompt or '')}</pre>"
        f'<table class="stacked" style="border-collapse:collapse"><tr>{head}</tr>{rows}</table>'
    )


def headline(one: Trajectory) -> str:
    """One line: where it is and how it went."""
    parts = [
        f"{one.stage} step {one.step}, response {one.member} of group {one.group}",
        outcome(one),
    ]
    if one.answer:
        parts.append(f"expected answer {one.answer}")
    if one.actor_version is not None:
        parts.append(f"actor version {one.actor_version}")
    return " · ".join(parts)


def outcome(one: Trajectory) -> str:
    """The outcome in words."""
    if one.reward is None:
        return f"not scored ({one.reason or 'no reason given'})"
    return f"reward {number(one.reward)}" + (", cut off" if one.finish == "length" else "")


def shown(step: Step) -> str:
    """A step's value in words."""
    if not step.judged:
        return "not judged"
    return "missing" if step.value is None else f"{step.value:.2f}"


def visible(text: str) -> str:
    """Spaces and line ends of a token, made visible."""
    for sign, mark in (("\n", "⏎"), ("\t", "⇥"), (" ", "·")):
        text = text.replace(sign, mark)
    return printable(text) or "∅"


def likelihood(logprob: float | None) -> str:
    """A token's probability, to two digits."""
    if logprob is None:
        return "-"
    return "1" if logprob > math.log(0.995) else f"{math.exp(logprob):#.2g}"


def nats(entropy: float | None) -> str:
    return "-" if entropy is None else f"{entropy:.2f}"


def recorded(tokens: Sequence[Token]) -> str:
    """What their numbers are."""
    known = [token.entropy for token in tokens if token.entropy is not None]
    if not known:
        return "probability (entropy is not recorded in this run)"
    return f"probability, and entropy in nats (mean {sum(known) / len(known):.2f})"


def markdown(one: Trajectory, tokens: bool = False) -> str:
    """Headline, problem, a table of the values, then each step with the reasoning before it; with
    `tokens` those of both. What models wrote stands in indented blocks: nothing in them can end
    them, which holds for every dialect of Markdown.
    """
    # a word of ours comes first: a line that begins with "1." would open a list
    lines = [f"# Problem {inline(one.problem_id)}", "", f"Response at {inline(headline(one))}", ""]
    lines += [*_block(one.prompt or ""), ""]
    lines += ["| step | value before | change | advantage |", "|---|---|---|---|"]
    for index, step in enumerate(one.steps):
        mark = " (largest fall)" if index == one.worst else ""
        numbers = f"{shown(step)} | {signed(step.change)}{mark} | {signed(step.advantage)}"
        lines.append(f"| {index + 1} | {numbers} |")
    for index, step in enumerate(one.steps):
        lines += ["", f"## Step {index + 1}: value before it {shown(step)}", "", *_block(step.text)]
        if step.rationale:
            lines += ["", "The critic's reasoning before it:", "", *_block(step.rationale)]
    for index, step in enumerate(one.steps if tokens else ()):
        lines += _tokens(f"The actor's tokens of step {index + 1}", one.tokens_of(step))
        lines += _tokens(f"The critic's before step {index + 1}", step.drawn_rationale())
    if one.problems:
        lines += ["", "## Not shown", "", *(f"- Note: {inline(p)}" for p in one.problems)]
    return "\n".join(lines) + "\n"


# What could begin markup within a line. Entities are read by every dialect, backslashes are not.
# Of a URL one character is enough; so that numbers and fractions stay readable, a dot only before a
# letter, a colon only before what is no space, a slash only before another.
MARKUP = re.compile(r"[&<>`*\[\]{}|\\#!~$^@]|(?<![^\W_])_|_(?![^\W_])|\.(?=[^\W\d])|:(?=\S)|/(?=/)")


def inline(text: str) -> str:
    """Text of unknown origin for a line of Markdown, where no part of it is markup."""
    one_line = " ".join(printable(text).split())
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", one_line)


def _block(text: str) -> list[str]:
    """An indented block of code: it ends with the first line that is not indented, which is ours.
    Lines end where any program ends them.
    """
    lines = printable(text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    lines = [line for whole in lines for line in whole.splitlines() or [""]]
    while lines and not lines[-1].strip():
        lines.pop()
    while lines and not lines[0].strip():
        lines.pop(0)
    return [f"    {line}" if line.strip() else "" for line in lines]


def _tokens(title: str, tokens: Sequence[Token]) -> list[str]:
    if not tokens:
        return []
    rows = [("probability", "entropy", "token")]
    rows += [(likelihood(t.logprob), nats(t.entropy), visible(t.text)) for t in tokens]
    block = "\n".join(f"{a:>11} {b:>8}  {text}" for a, b, text in rows)
    return ["", f"## {title}: {recorded(tokens)}", "", *_block(block)]


def _folded(title: str, tokens: Sequence[Token]) -> str:
    """Tokens with their two numbers below, unfolded on demand."""
    cells = "".join(
        f'<span style="{TOKEN}">{esc(visible(token.text))}<br><small>'
        f"{likelihood(token.logprob)} / {nats(token.entropy)}</small></span>"
        for token in tokens
    )
    return f"<details><summary>{title}: {recorded(tokens)}</summary>{cells}</details>"


def _row(one: Trajectory, step: Step, tokens: bool) -> str:
    known, worst = step.value is not None, one.worst is not None and one.steps[one.worst] is step
    paint = ""
    if step.value is not None:
        paint = f";background:{colour(step.value)};color:#000"
    change = signed(step.change) + (" largest fall" if worst else "")
    written = f"<pre style='{PRE}'>{esc(step.text)}</pre>"
    reasoning = f"<pre style='{PRE}'>{esc(step.rationale)}</pre>"
    if tokens and (result := one.tokens_of(step)):
        written += _folded("tokens", result)
    if tokens and (result := step.drawn_rationale()):
        reasoning += _folded("tokens", result)
    cells = (
        f'<td style="{CELL}{paint}">{"<b>" * known}{esc(shown(step))}{"</b>" * known}</td>',
        f'<td class="text" style="{CELL}">{written}</td>',
        f'<td data-name="change" style="{CELL}">{change}</td>',
        f'<td data-name="advantage" style="{CELL}">{signed(step.advantage)}</td>',
        f'<td class="text" style="{CELL}">{reasoning}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"
