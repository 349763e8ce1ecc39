"""Mistakes that a task's program names: the first ones of the actor's responses, and the critic's
verdicts on them. Both are empty where the task or the critic has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genac.runs.numbers import is_number, percent
from genac.ui.html import esc, table
from genac.ui.report.critic import VERSIONS, measured, versions
from genac.ui.report.folder import part
from genac.ui.report.groups import Group, pool
from genac.ui.report.results import in_percent

FIRST = "first mistake: "
RATES = {
    "verdict_accuracy": "right verdicts",
    "verdict_false_alarms": "false alarms, of states without a mistake",
    "verdict_misses": "misses, of states with one",
    "verdict_mistakes": "states with a mistake",
}


def first_mistakes(groups: Sequence[Group]) -> str:
    """Responses to the held-out problems by their first mistake, before and after training; the
    responses of several seeds are counted together.
    """
    columns: dict[str, Counter[str]] = {}
    for group in groups:
        for moment in ("before", "after"):
            name = moment if len(groups) == 1 else f"{group.name}, {moment}"
            diagnoses = [
                part(part(folder.summary, f"success_{moment}"), "diagnosis")
                for folder in group.folders
            ]
            if counts := added(diagnoses):
                columns[name] = counts
    if not columns:
        return ""
    kinds = sum(columns.values(), Counter()).most_common()
    keys = ["right", *(key for key, _ in kinds if key.startswith(FIRST))]
    rows = [
        [esc(key.removeprefix(FIRST)), *(share(c[key], c["responses"]) for c in columns.values())]
        for key in keys
    ]
    last = [share(c["wrong_calculations"], c["calculations"]) for c in columns.values()]
    rows.append(["wrong results, of all calculations", *last])
    return table(["held-out responses by their first mistake", *columns], rows)


def added(diagnoses: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The sum of all counts; the kinds of mistakes have a prefix."""
    counts: Counter[str] = Counter()
    for diagnosis in diagnoses:
        kinds = {f"{FIRST}{k}": v for k, v in part(diagnosis, "first_mistakes").items()}
        counts.update({k: v for k, v in {**diagnosis, **kinds}.items() if is_number(v)})
    return counts if is_number(counts.get("responses")) else Counter()


def share(count: float, total: float) -> str:
    """41.2 % (79 of 192)"""
    return f"{percent(count / total)} ({count:.0f} of {total:.0f})" if total > 0 else "-"


def verdicts(groups: Sequence[Group]) -> str:
    """How often each version of the critic says rightly whether a mistake stands."""
    rows = []
    for group in groups:
        held = [versions(folder) for folder in group.folders]
        for version, label in VERSIONS.items():
            numbers = [one[version] for one in held if version in one]
            cells = [
                pool([m for n in numbers if (m := measured(n, key)) is not None]) for key in RATES
            ]
            if cells[0] is not None:
                name = label if len(groups) == 1 else f"{group.name}, {label}"
                rows.append([esc(name), *(in_percent(cell) for cell in cells)])
    return table(["the critic's verdicts", *RATES.values()], rows) if rows else ""
