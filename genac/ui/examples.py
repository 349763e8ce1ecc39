"""Example trajectories for the report: each step with the value before it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from genac.runs.numbers import is_number, number, signed
from genac.ui.html import clip, esc

Row = Mapping[str, Any]

EXAMPLES = 4
MAX_STEPS = 24  # shown per trajectory; token-wise critics have thousands of states
# vermilion 0, neutral 0.5, blue 1, as the viewer's light theme: safe for colour-blind eyes
SCALE = ("#e8743b", "#e9ecef", "#4c9bd6")


def trajectories(estimates: Sequence[Row], rollouts: Sequence[Row]) -> str:
    """Two right and two wrong responses, those in which the critic's value moves most."""
    by_response: dict[tuple, list[Row]] = defaultdict(list)
    for row in estimates:
        by_response[(row.get("group"), row.get("member"))].append(row)
    written = {(row.get("group"), row.get("member")): row for row in rollouts}
    keys = _chosen(by_response)
    shown = (_trajectory(by_response[key], written.get(key, {})) for key in keys)
    return _legend() + "".join(shown)


def _chosen(by_response: Mapping[tuple, list[Row]]) -> list[tuple]:
    ranked = _distinct(by_response, sorted(by_response, key=lambda k: -_movement(by_response[k])))
    right = [key for key in ranked if _succeeded(by_response[key])]
    wrong = [key for key in ranked if key not in set(right)]
    half = EXAMPLES // 2
    first = right[:half] + wrong[:half]
    return first + [key for key in ranked if key not in first][: EXAMPLES - len(first)]


def _distinct(by_response: Mapping[tuple, list[Row]], keys: Sequence[tuple]) -> list[tuple]:
    """The responses without those whose text, for the same problem, came before."""
    first: dict[Any, tuple] = {}
    for key in keys:
        rows = sorted(by_response[key], key=lambda row: row.get("start") or 0)
        texts = tuple(row.get("step_text") for row in rows)
        place = key if None in texts else (rows[0].get("problem_id"), texts)
        first.setdefault(place, key)
    return list(first.values())


def _succeeded(rows: Sequence[Row]) -> bool:
    reward = rows[0].get("reward")
    return is_number(reward) and reward > 0.5


def _movement(rows: Sequence[Row]) -> float:
    values = [row["value"] for row in rows if is_number(row.get("value"))]
    return max(values) - min(values) if values else -1.0


def _trajectory(rows: Sequence[Row], rollout: Row) -> str:
    rows = sorted(rows, key=lambda row: row.get("start") or 0)
    first = rows[0]
    title = f"{first.get('problem_id')}, response {first.get('member')}"
    parts = [f"<b>{esc(title)}</b> · reward {esc(number(first.get('reward')))}"]
    if rollout:
        parts.append(f"<pre>{esc(clip(rollout.get('prompt') or '', 1500))}</pre>")
    steps = "".join(_step(row) for row in rows[:MAX_STEPS])
    head = (
        "<tr><th>value before</th><th>step</th><th>advantage</th><th>critic's reasoning</th></tr>"
    )
    parts.append(f'<div class="wide"><table class="stacked">{head}{steps}</table></div>')
    if len(rows) > MAX_STEPS:
        parts.append(f'<p class="muted">{len(rows) - MAX_STEPS} more states not shown</p>')
    return f'<div class="trajectory">{"".join(parts)}</div>'


def _step(row: Row) -> str:
    text = row.get("step_text")
    if text is None:
        text = f"tokens {row.get('start')} to {row.get('end')}"
    cells = (
        f"<td>{_chip(row.get('value'))}</td>",
        f'<td class="text"><pre>{esc(clip(text, 800))}</pre></td>',
        f'<td data-name="advantage">{signed(row.get("advantage"))}</td>',
        f'<td class="text">{_reasoning(row.get("rationale") or "")}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"


def _reasoning(text: str) -> str:
    if not text.strip():
        return "-"
    summary, full = esc(ending(text)), esc(clip(text, 3000))
    return f"<details><summary>{summary}</summary><pre>{full}</pre></details>"


def ending(text: str, size: int = 80) -> str:
    """The last words, where rationales that begin alike come to differ; without the tags."""
    words = re.sub(r"</?answer>", " ", text).split()
    whole = " ".join(words)
    if len(whole) <= size:
        return whole
    return f"\u2026 {whole[-size:].partition(' ')[2]}"


def _chip(value: float | None) -> str:
    if not is_number(value):
        return '<span class="chip">missing</span>'
    style = f"background:{colour(value)};color:#000"
    return f'<span class="chip" style="{style}">{value:.2f}</span>'


def colour(value: float) -> str:
    """The scale's colour at a value in [0, 1], linearly between its stops."""
    place = min(1.0, max(0.0, value)) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    pairs = zip(_rgb(SCALE[low]), _rgb(SCALE[low + 1]), strict=True)
    return "#" + "".join(f"{round(a + (place - low) * (b - a)):02x}" for a, b in pairs)


def _rgb(code: str) -> list[int]:
    return [int(code[i : i + 2], 16) for i in (1, 3, 5)]


def _legend() -> str:
    gradient = f"linear-gradient(90deg,{','.join(SCALE)})"
    return (
        f'<p class="muted">value 0 <span class="scale" style="background:{gradient}"></span> 1. '
        "Each value was estimated before its step. Chosen: two right and two wrong responses in "
        "which the value moves most.</p>"
    )
