"""A trajectory as a page, a fragment for notebooks, or Markdown. All model text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from genac.runs.examples import colour
from genac.runs.page import esc, number, page
from genac.runs.trajectory import Step, Trajectory

# Inline, so that the fragment looks the same in a notebook, where no style sheet of ours is.
CELL = "padding:.3rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid #8884"
PRE = "margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace"


def document(one: Trajectory) -> str:
    """A whole page, without scripts and without requests."""
    return page(f"{one.problem_id} {one.address}", f"<h1>{esc(one.problem_id)}</h1>{fragment(one)}")


def fragment(one: Trajectory) -> str:
    """Problem, outcome, and a table of the steps."""
    head = "".join(
        f'<th style="{CELL}">{name}</th>'
        for name in ("value before", "step", "change", "advantage", "critic's reasoning")
    )
    rows = "".join(_row(step, index == one.worst) for index, step in enumerate(one.steps))
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


def markdown(one: Trajectory) -> str:
    """Headline, problem, a table of the steps, then the reasoning at each of them."""
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


def _row(step: Step, worst: bool) -> str:
    known = step.value is not None
    ink = "#000" if (step.value or 0) > 0.45 else "#fff"
    paint = f";background:{colour(step.value)};color:{ink}" if step.value is not None else ""
    change = signed(step.change) + (" largest fall" if worst else "")
    reasoning = f"<pre style='{PRE}'>{esc(step.rationale)}</pre>"
    cells = (
        f'<td style="{CELL}{paint}">{"<b>" * known}{esc(shown(step))}{"</b>" * known}</td>',
        f"<td style=\"{CELL}\"><pre style='{PRE}'>{esc(step.text)}</pre></td>",
        f'<td style="{CELL}">{change}</td>',
        f'<td style="{CELL}">{signed(step.advantage)}</td>',
        f'<td style="{CELL}">{reasoning}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"
