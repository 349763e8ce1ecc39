"""A trajectory as a page, a fragment for notebooks, or Markdown. All model text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genac.runs.examples import colour
from genac.runs.page import esc, number, page
from genac.runs.trajectory import Step, Token, Trajectory

# Inline, so that the fragment looks the same in a notebook, where no style sheet of ours is.
CELL = "padding:.3rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid #8884"
TOKEN = (
    "display:inline-block;margin:1px;padding:0 .2rem;border:1px solid #8884;font-family:monospace"
)
PRE = "margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace"


def document(one: Trajectory, tokens: bool = False) -> str:
    """A whole page, without scripts and without requests."""
    body = f"<h1>{esc(one.problem_id)}</h1>{fragment(one, tokens)}"
    return page(f"{one.problem_id} {one.address}", body)


def fragment(one: Trajectory, tokens: bool = False) -> str:
    """Problem, outcome, and a table of the steps; with `tokens` those of each step and of the
    critic before it, folded.
    """
    head = "".join(
        f'<th style="{CELL}">{name}</th>'
        for name in ("value before", "step", "change", "advantage", "critic's reasoning")
    )
    rows = "".join(_row(one, step, tokens) for step in one.steps)
    return (
        f"<p>{esc(headline(one))}</p><pre style='{PRE}'>{esc(one.prompt or '')}</pre>"
        f'<table style="border-collapse:collapse"><tr>{head}</tr>{rows}</table>'
    )


def headline(one: Trajectory) -> str:
    """One line: where it is and how it went."""
    parts = [f"{one.stage} step {one.step}, response {one.member} of group {one.group}", told(one)]
    if one.answer:
        parts.append(f"expected answer {one.answer}")
    if one.actor_version is not None:
        parts.append(f"actor version {one.actor_version}")
    return " · ".join(parts)


def told(one: Trajectory) -> str:
    """The outcome in words."""
    if one.reward is None:
        return f"not scored ({one.reason or 'no reason given'})"
    return f"reward {number(one.reward)}" + (", cut off" if one.finish == "length" else "")


def shown(step: Step) -> str:
    """A step's value in words."""
    if not step.asked:
        return "not asked"
    return "missing" if step.value is None else f"{step.value:.2f}"


# Control characters as their pictures, but for tabs and line ends: printed, they would drive the
# terminal.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def harmless(text: str) -> str:
    """What a model wrote, for a terminal or a table."""
    return text.translate(CONTROLS)


def visible(text: str) -> str:
    """Spaces and line ends of a token, made visible."""
    for sign, mark in (("\n", "⏎"), ("\t", "⇥"), (" ", "·")):
        text = text.replace(sign, mark)
    return harmless(text) or "∅"


def likelihood(logprob: float | None) -> str:
    """A token's probability, to two digits."""
    if logprob is None:
        return "-"
    return "1" if math.exp(logprob) > 0.995 else f"{math.exp(logprob):#.2g}"


def nats(entropy: float | None) -> str:
    return "-" if entropy is None else f"{entropy:.2f}"


def recorded(tokens: Sequence[Token]) -> str:
    """What their numbers are."""
    known = [token.entropy for token in tokens if token.entropy is not None]
    if not known:
        return "probability (entropy is not recorded in this run)"
    return f"probability, and entropy in nats (mean {sum(known) / len(known):.2f})"


def markdown(one: Trajectory, tokens: bool = False) -> str:
    """Headline, problem, a table of the steps, then the reasoning at each of them; with `tokens`
    those of both.
    """
    lines = [f"# {one.problem_id}", "", headline(one), "", *_fenced(one.prompt or ""), ""]
    lines += ["| | value before | step | change | advantage |", "|---|---|---|---|---|"]
    for index, step in enumerate(one.steps):
        mark = " (largest fall)" if index == one.worst else ""
        text = step.text.strip().replace("|", "\\|").replace("\n", " ⏎ ")
        lines.append(
            f"| {index + 1} | {shown(step)} | {_code(text)} | {signed(step.change)}"
            f"{mark} | {signed(step.advantage)} |"
        )
    for index, step in enumerate(one.steps):
        if step.rationale:
            lines += ["", f"## Before step {index + 1}: value {shown(step)}", ""]
            lines += _fenced(step.rationale)
    for index, step in enumerate(one.steps if tokens else ()):
        lines += _token_table(f"The actor's tokens of step {index + 1}", one.tokens_of(step))
        lines += _token_table(f"The critic's before step {index + 1}", step.thought_tokens())
    return "\n".join(lines) + "\n"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _code(text: str) -> str:
    """An inline code span: more backticks around it than any run within."""
    ticks = "`"
    while ticks in text:
        ticks += "`"
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _fenced(text: str) -> Sequence[str]:
    """A code block whose fence is longer than any run of backticks in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return [fence, text.rstrip("\n"), fence]


def _token_table(title: str, tokens: Sequence[Token]) -> list[str]:
    if not tokens:
        return []
    lines = ["", f"## {title}: {recorded(tokens)}", ""]
    lines += ["| token | probability | entropy |", "|---|---|---|"]
    for token in tokens:
        text = _code(visible(token.text).replace("|", "\\|"))
        lines.append(f"| {text} | {likelihood(token.logprob)} | {nats(token.entropy)} |")
    return lines


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
    ink = "#000" if (step.value or 0) > 0.45 else "#fff"
    paint = f";background:{colour(step.value)};color:{ink}" if step.value is not None else ""
    change = signed(step.change) + (" largest fall" if worst else "")
    written = f"<pre style='{PRE}'>{esc(step.text)}</pre>"
    reasoning = f"<pre style='{PRE}'>{esc(step.rationale)}</pre>"
    if tokens and (found := one.tokens_of(step)):
        written += _folded("tokens", found)
    if tokens and (found := step.thought_tokens()):
        reasoning += _folded("tokens", found)
    cells = (
        f'<td style="{CELL}{paint}">{"<b>" * known}{esc(shown(step))}{"</b>" * known}</td>',
        f'<td style="{CELL}">{written}</td>',
        f'<td style="{CELL}">{change}</td>',
        f'<td style="{CELL}">{signed(step.advantage)}</td>',
        f'<td style="{CELL}">{reasoning}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"
