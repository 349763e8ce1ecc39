"""The report's view of summary.json: success, critic, cost. Every key may be absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genac.runs.charts import histogram, reliability_chart
from genac.runs.page import (
    esc,
    estimate,
    figure,
    is_number,
    note,
    number,
    percent,
    seconds,
    table,
    tiles,
)

Summary = Mapping[str, Any]

FLOORS = {
    "mse_constant": "constant predictor",
    "mse_success_rate": "success rate only",
    "mse_untrained": "untrained critic",
}
ERRORS = {
    "mse": "critic",
    **FLOORS,
    "mse_sft": "critic after stage 1 (SFT)",
    "mse_rl": "critic after stage 2 (RL pretraining)",
}
BIN_KEYS = {"predicted", "actual", "count"}


def part(summary: Summary, key: str) -> Mapping[str, Any]:
    """A nested object of the summary, empty where it is absent or something else."""
    value = summary.get(key)
    return value if isinstance(value, Mapping) else {}


def mean(value: Any) -> float | None:
    """The mean of an estimate with an interval, or the bare number."""
    value = value.get("mean") if isinstance(value, Mapping) else value
    return value if is_number(value) else None


def headline(summary: Summary) -> str:
    """The few numbers that matter, in large print."""
    before, after = mean(summary.get("success_before")), mean(summary.get("success_after"))
    critic = part(summary, "critic")
    floors = [m for key in FLOORS if (m := mean(critic.get(key))) is not None]
    cells = []
    if before is not None or after is not None:
        gain = (
            f"{100 * (after - before):+.1f} points"
            if before is not None and after is not None
            else ""
        )
        cells.append(("held-out success", f"{percent(before)} → {percent(after)}", gain))
    if (mse := mean(critic.get("mse"))) is not None:
        best = f"best floor {number(min(floors))}" if floors else ""
        cells.append(("critic MSE", number(mse), best))
    for key, label in (("seconds", "time"), ("tokens", "tokens")):
        found = {k: v for k, v in part(summary, key).items() if is_number(v)}
        total = sum(v for k, v in found.items() if key == "seconds" or k != "evaluation")
        if total:
            cells.append((label, seconds(total) if key == "seconds" else number(total), ""))
    return tiles(cells) if cells else ""


def success(summary: Summary) -> str:
    keys = ("success_before", "success_after", "pass_at_k")
    rows = [row for key in keys if key in summary for row in _flat(key, summary[key])]
    absent = [key for key in keys if key not in summary]
    parts = [table(("held-out success", "mean [interval]"), rows)] if rows else []
    if absent:
        parts.append(note(f"summary.json lacks {', '.join(absent)}: evaluate the run."))
    return "".join(parts)


def critic_error(summary: Summary) -> str:
    """The critic's error beside its floors, and its other numbers."""
    critic = part(summary, "critic")
    if not critic:
        return note("summary.json has no critic: the run has none, or it was not evaluated.")
    rows = [
        (esc(name), esc(estimate(critic[key]))) for key, name in ERRORS.items() if key in critic
    ]
    others = [
        row
        for key, value in critic.items()
        if key not in ERRORS and not isinstance(value, list)
        for row in _flat(key, value)
    ]
    absent = [key for key in ERRORS if key not in critic]
    tables = table(("MSE against Monte-Carlo values", ""), rows) + table(("critic", ""), others)
    return tables + (note(f"Not evaluated: {', '.join(absent)}.") if absent else "")


def calibration(summary: Summary, values: Sequence[float], where: str) -> str:
    """Reliability diagram of the evaluation, histogram of the last scores in training."""
    bins = part(summary, "critic").get("calibration")
    known = [b for b in bins if _is_bin(b)] if isinstance(bins, list) else []
    charts, absent = [], []
    if known:
        caption = "Reliability: predicted against Monte-Carlo success"
        charts.append(figure(caption, reliability_chart(caption, known)))
    else:
        absent.append("No reliability diagram: summary.json has no critic calibration.")
    if values:
        caption = f"Scores given at {where}"
        charts.append(figure(caption, histogram(caption, values)))
    else:
        absent.append("No score histogram: the run wrote no estimates.")
    return f'<div class="charts">{"".join(charts)}</div>' + "".join(map(note, absent))


def cost(summary: Summary) -> str:
    """Tokens, FLOPs and seconds by role, with each role's share of the time."""
    columns = [part(summary, key) for key in ("tokens", "flops", "seconds")]
    roles = list(dict.fromkeys(role for column in columns for role in column))
    total = sum(v for v in columns[2].values() if is_number(v))
    rows = []
    for role in roles:
        spent = columns[2].get(role)
        share = spent / total if total and is_number(spent) else 0
        bar = f'<span class="bar" style="width:{10 * share:.2f}rem"></span> {percent(share)}'
        amounts = [esc(number(column.get(role))) for column in columns]
        rows.append((esc(role.replace("_", " ")), *amounts, bar if share else ""))
    absent = [key for key in ("tokens", "flops", "seconds") if not part(summary, key)]
    missing = note(f"summary.json lacks {', '.join(absent)} by role.") if absent else ""
    head = ("role", "tokens", "FLOPs", "seconds", "share of time")
    return (table(head, rows) if rows else "") + missing


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """(label, text) of a value, going into nested objects that are no estimates."""
    if isinstance(value, Mapping) and "mean" not in value:
        for key, item in value.items():
            yield from _flat(f"{name} {key}", item)
    else:
        yield esc(name.replace("_", " ")), esc(estimate(value))


def _is_bin(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and all(is_number(value.get(key)) for key in BIN_KEYS)
        and value["count"] > 0
    )
