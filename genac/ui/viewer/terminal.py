"""The viewer for machines without a browser: the list, and one response, as text in colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genac.runs.guard import printable, short_name
from genac.runs.listing import Status, status
from genac.runs.numbers import number, signed
from genac.runs.store import Run
from genac.runs.trajectory import Step, Token, Trajectory, parse_address
from genac.ui.examples import colour
from genac.ui.transcript import (
    headline,
    likelihood,
    nats,
    recorded,
    shown,
    visible,
)
from genac.ui.viewer.filters import Filters


def show(
    run: Run,
    address: str | None,
    filters: Filters,
    *,
    tokens: bool = False,
) -> None:
    """The list under the filters; with an address (STAGE/STEP/GROUP/MEMBER) that response, with
    `tokens` each of its tokens too.
    """
    console = Console()
    if address is not None:
        stage, step, group, member = parse_address(address)
        one = run.trajectory(step, group, member, stage)
        response(console, one, tokens)
        notes(console, one.problems)
        return
    if tokens:
        raise ValueError("--tokens is for one response: give its address, STAGE/STEP/GROUP/MEMBER")
    from genac.ui.viewer.index import Index  # needs the extra ui; `genac ls` does without

    index = Index(run)
    index.refresh()
    page = index.page(filters)
    listing(console, page)
    known = status(run)
    notes(console, [known.result] if known.state == "unreadable" else [])
    notes(console, index.notes())
    if page["rows"]:
        command = f"genac view --terminal {run.path} {_address(page['rows'][0])}"
        console.print(Text(printable(f"\n{command} shows the first one")))


def notes(console: Console, problems: Sequence[str]) -> None:
    """What could not be read."""
    for problem in problems:
        console.print(Text(printable(problem), style="yellow"))


def listing(console: Console, page: dict[str, Any]) -> None:
    """One line per response: its values in order as coloured cells."""
    table = Table(box=None, header_style="bold")
    for name in ("response", "problem", "outcome", "fall", "gap", "missing", "values in order"):
        table.add_column(name, no_wrap=name != "values in order")
    for row in page["rows"]:
        table.add_row(
            Text(short_name(_address(row))),
            Text(printable(row["problem_id"] or "")),
            outcome(row["reward"], row["finish"]),
            *(Text(_short(row[name])) for name in ("fall", "gap")),
            Text(str(row["missing"] or "")),
            strip(row["values"]),
        )
    console.print(table)
    console.print(f"{len(page['rows'])} of {page['total']} responses")


def response(console: Console, one: Trajectory, tokens: bool = False) -> None:
    """Problem, then each step under the value before it and the reasoning; with
    `tokens` those of both.
    """
    console.print(Text(printable(one.problem_id), style="bold"))
    console.print(Text(headline(one)))
    if one.prompt:
        console.print(Text(printable(one.prompt), style="cyan"))
    for index, step in enumerate(one.steps):
        console.print()
        line = Text.assemble(
            cell(step), "  ", Text(printable(step.text.rstrip("\n")), style="bold")
        )
        text = f"   advantage {signed(step.advantage)}, value moves {signed(step.change)}"
        console.print(line + Text(text, style="dim"))
        if index == one.worst:
            console.print(Text("      largest fall of the response", style="yellow"))
        if step.rationale:
            console.print(Text(printable(_indented(step.rationale)), style="dim"))
        if tokens:
            drawn(console, "the actor's tokens", one.tokens_of(step))
            if step.judged:
                drawn(console, "the critic's tokens", step.drawn_rationale())


def drawn(console: Console, title: str, results: Sequence[Token]) -> None:
    """One line per token with its probability and the entropy of what it was drawn from."""
    text = recorded(results) if results else "not in this run"
    console.print(Text(f"      {title}: {text}", style="dim"))
    if not results:
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 6))
    table.add_column("token")
    for name in ("probability", "entropy"):
        table.add_column(name, justify="right")
    for token in results:
        table.add_row(Text(visible(token.text)), likelihood(token.logprob), nats(token.entropy))
    console.print(table)


def runs(results: Sequence[Status]) -> None:
    """`genac ls`: one line per run, on 80 columns too; where there is room, with the algorithm."""
    console = Console()
    wide = console.width >= 100
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("run", "status", *(["algorithm"] if wide else []), "at", "result"):
        table.add_column(name, overflow="fold", no_wrap=name in ("status", "algorithm"))
    styles = {"running": "green", "interrupted": "yellow", "unreadable": "red"}
    for one in results:
        step = "" if one.step is None else str(one.step + 1)
        step += f"/{one.steps}" if step and one.steps else ""
        cells = [
            Text(printable(str(one.path))),
            Text(one.state, style=styles.get(one.state, "")),
            Text(printable(one.algorithm)),
            Text(printable(f"{one.stage} {step}".strip())),
            Text(printable(one.result)),
        ]
        table.add_row(*(cells if wide else [*cells[:2], *cells[3:]]))
    console.print(table)


def strip(values: Sequence[float | None]) -> Text:
    """Digits 0..9 (tenths, rounded down) on the value's colour; ? where it is missing."""
    return Text.assemble(*((_digit(value), _style(value)) for value in values))


def cell(step: Step) -> Text:
    return Text(f" {shown(step)} ", style=_style(step.value))


def outcome(reward: float | None, finish: str | None) -> Text:
    if reward is None:
        return Text("not scored")
    word = "right" if reward >= 0.5 else "wrong"
    return Text(word + (", cut" if finish == "length" else ""))


def _digit(value: float | None) -> str:
    return "?" if value is None else str(max(0, min(9, int(10 * value))))


def _style(value: float | None) -> str:
    if value is None:
        return "default"
    return f"black on {colour(value)}"


def _address(row: dict[str, Any]) -> str:
    return f"{row['stage']}/{row['step']}/{row['group']}/{row['member']}"


def _short(value: float | None) -> str:
    return "" if value is None else number(round(value, 2))


def _indented(text: str) -> str:
    return "\n".join("      " + line for line in text.rstrip("\n").split("\n"))
