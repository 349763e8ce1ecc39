"""What happened, in a few numbers: of one configuration in words, of several in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genac.runs.numbers import is_number, number, percent, seconds
from genac.ui.html import esc, note, table, tiles
from genac.ui.report.critic import best_baseline, measured
from genac.ui.report.folder import Folder, part
from genac.ui.report.groups import BUDGETS, Group, at_equal, of_group, over_steps, pool, success

COSTS = ("tokens", "FLOPs", "seconds")


def critic_error(group: Group) -> dict[str, Any] | None:
    """The error of the critic that joint training starts from."""
    results = [measured(part(folder.summary, "critic")) for folder in group.folders]
    return pool([one for one in results if one])


def spent(folder: Folder, what: str) -> float | None:
    """Seconds, tokens or FLOPs of joint training without its evaluations; of a run without a
    summary, what the last line says.
    """
    roles = {k: v for k, v in part(folder.summary, what).items() if is_number(v)}
    if roles:
        return sum(value for role, value in roles.items() if role != "evaluation")
    lines = [x for x in folder.lines("joint") if is_number(x.get(f"cost/{what}"))]
    return lines[-1][f"cost/{what}"] if lines else None


def in_percent(value: Mapping[str, Any] | None) -> str:
    """31.7 % [27.2, 36.9]"""
    if value is None:
        return "?"
    if value["low"] is None:
        return percent(value["mean"])
    return f"{percent(value['mean'])} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def in_numbers(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    interval = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['mean']:.3f}{interval}"


def sentence(group: Group) -> str:
    """What happened, in words."""
    before, after = of_group(group, "before"), of_group(group, "after")
    if before is None or after is None:
        return _so_far(group)
    judged = [folder for folder in group.folders if success(folder, "after")]
    many = len(judged) > 1
    text = f"{len(judged)} seeds, lowest and highest" if many else "95 % intervals"
    text += "" if many else _over(judged[0])
    if len(judged) < len(group.folders):
        text += f"; {len(group.folders) - len(judged)} without a final evaluation"
    gain = None if many else _gain(judged[0])
    verdict = _verdict(before, after) if gain is None else _paired_verdict(gain)
    return (
        f"Held-out success went from {in_percent(before)} to {in_percent(after)} ({text}): "
        f"{verdict}"
    )


def _so_far(group: Group) -> str:
    """The last word of a run that has no final evaluation."""
    for key, name in (("eval/success", "held-out success"), ("reward", "reward in training")):
        points = over_steps(group, "joint", key)
        if points:
            step, value = points[-1][:2]
            return f"No final evaluation yet; {name} at joint step {step:.0f}: {percent(value)}."
    return "No result yet: neither an evaluation nor a reward of joint training is known."


def _over(folder: Folder) -> str:
    problems = part(folder.summary, "success_after").get("problems")
    return f" over {problems} problems" if is_number(problems) else " over problems"


def _gain(folder: Folder) -> Mapping[str, Any] | None:
    """The difference on the same problems; None of a run that did not record it."""
    gain = part(folder.summary, "success_gain")
    return gain if all(is_number(gain.get(key)) for key in ("mean", "low", "high")) else None


def _paired_verdict(gain: Mapping[str, Any]) -> str:
    mean, low, high = (100 * gain[key] for key in ("mean", "low", "high"))
    return f"{_word(gain)}, {mean:+.1f} points [{low:+.1f}, {high:+.1f}] on the same problems."


def _word(gain: Mapping[str, Any]) -> str:
    return (
        "a clear gain"
        if gain["low"] > 0
        else "a clear loss"
        if gain["high"] < 0
        else "no clear change"
    )


def _verdict(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if before["high"] is None or after["high"] is None:
        return "no interval is known."
    if after["low"] > before["high"]:
        return "a clear gain."
    return "a clear loss." if after["high"] < before["low"] else "the intervals overlap."


def headline(group: Group) -> str:
    """The numbers that matter, in large print."""
    before, after = of_group(group, "before"), of_group(group, "after")
    cells = []
    if before or after:
        gain = f"{100 * (after['mean'] - before['mean']):+.1f} points" if before and after else ""
        if gain and len(group.folders) == 1 and (paired := _gain(group.folders[0])):
            gain = f"{gain}, {_word(paired)}"
        shown = [percent(one["mean"]) if one else "?" for one in (before, after)]
        cells.append(("held-out success", " → ".join(shown), gain))
    cells += _critic_tiles(group)
    cells += _cost_tiles(group)
    fired = [alarm for folder in group.folders for alarm in folder.alarms]
    cells.append(
        ("alarms", str(len(fired)), ", ".join(dict.fromkeys(str(a.get("alarm")) for a in fired)))
    )
    return tiles(cells)


def _critic_tiles(group: Group) -> list[tuple[str, str, str]]:
    """What the critic that joint training starts from is worth, each number with its verdict."""
    cells = []
    panels = [part(folder.summary, "critic") for folder in group.folders]
    if error := critic_error(group):
        remark = _interval(error) + _next_to_baselines(error, panels)
        cells.append(("critic's squared error, before joint training", error, remark))
    if auc := pool([one for panel in panels if (one := measured(panel, "auc_within_problem"))]):
        remark = _interval(auc) + _against(auc, 0.5, "chance, 0.5", "worse better")
        cells.append(("critic tells right from wrong within a problem (AUC)", auc, remark))
    return [(label, f"{value['mean']:.3f}", remark) for label, value, remark in cells]


def _next_to_baselines(error: Mapping[str, Any], panels: Sequence[Mapping[str, Any]]) -> str:
    """The verdict on the critic's error: by the paired difference where every run recorded one,
    else, as of older runs, by the error's own interval.
    """
    best, judged = best_baseline(panels), [panel for panel in panels if measured(panel)]
    if best is None:
        return ""
    name = f"the best trivial baseline, {best[1]:.3f} ({best[0]})"
    gains = [one for panel in judged if (one := measured(panel, "mse_gain"))]
    gain = pool(gains) if len(gains) == len(judged) else None
    if gain is None or gain["low"] is None:
        return _against(error, best[1], name)
    low, high = -gain["high"], -gain["low"]
    what = "on the same problems" if len(judged) == 1 else "over seeds, each against its own"
    text = _against({"mean": -gain["mean"], "low": low, "high": high}, 0.0, name)
    return f"{text}, [{low:+.3f}, {high:+.3f}] {what}"


def _interval(value: Mapping[str, Any]) -> str:
    return "" if value["low"] is None else f"[{value['low']:.3f}, {value['high']:.3f}]; "


def _against(value: Mapping[str, Any], limit: float, name: str, words: str = "better worse") -> str:
    """How far a number lies from a limit, and whether its interval says so too. `words`: what
    below and above the limit are.
    """
    above = value["mean"] > limit
    text = f"{abs(value['mean'] - limit):.3f} {'above' if above else 'below'} {name}"
    if value["low"] is None:
        return text
    unclear = value["low"] <= limit <= value["high"]
    return f"{text}: {'no clear difference' if unclear else f'clearly {words.split()[above]}'}"


def _cost_tiles(group: Group) -> list[tuple[str, str, str]]:
    each = " per run" if len(group.folders) > 1 else ""
    cells = []
    for what, label in (("seconds", "joint training"), ("tokens", "tokens of all models")):
        known = [v for f in group.folders if (v := spent(f, what)) is not None]
        if known:
            middle = sum(known) / len(known)
            steps = max(len(folder.lines("joint")) for folder in group.folders)
            remark = f"{steps} steps{each}" if what == "seconds" else each.strip()
            cells.append(
                (label, seconds(middle) if what == "seconds" else number(round(middle)), remark)
            )
    return cells


def ranking(groups: Sequence[Group]) -> str:
    """Which configuration did best, and which do not differ from it clearly, in words."""
    ranked = [(group, result) for group in _ranked(groups) if (result := of_group(group, "after"))]
    if not ranked:
        return "No run has a final evaluation yet."
    (best, top), others = ranked[0], ranked[1:]
    close = [group.name for group, value in others if _overlap(value, top)]
    apart = (
        f"; its interval overlaps that of {', '.join(close)}."
        if close
        else (", apart from all others." if others else ".")
    )
    return f"Highest held-out success: {best.title}, {in_percent(top)}{apart}"


def _overlap(value: Mapping[str, Any], top: Mapping[str, Any]) -> bool:
    """Whether a value may equal the highest one; without intervals any may."""
    return None in (value["high"], top["low"]) or value["high"] >= top["low"]


def _ranked(groups: Sequence[Group]) -> list[Group]:
    return sorted(groups, key=lambda g: -((of_group(g, "after") or {}).get("mean") or -1.0))


def comparison(groups: Sequence[Group]) -> str:
    """One row per configuration, the best first; success also at budgets that every run reached."""
    folders = [folder for group in groups for folder in group.folders]
    result = {budget: at_equal(folders, budget) for budget in BUDGETS}
    reached = {name: limit for name, (limit, _) in result.items() if limit is not None}
    places = [str(folder.run.path) for folder in folders]
    equal = [dict(zip(places, result[name][1], strict=True)) for name in reached]
    head = [
        *("configuration", "seeds", "success before", "success after"),
        *(f"at {number(round(limit))} {name}" for name, limit in reached.items()),
        *("critic's error", "tokens", "seconds", "alarms"),
    ]
    rows = [_row(group, equal) for group in _ranked(groups)]
    known = [i for i in range(len(head)) if any(row[i] not in ("-", "?") for row in rows)]
    shown = table([head[i] for i in known], [[esc(row[i]) for i in known] for row in rows])
    return shown + (
        '<p class="muted">One seed: 95 % interval over problems. Several: mean [lowest, highest '
        "seed]. At equal samples, tokens, seconds: success during training, linear between two "
        "evaluations, at what every run reached. Tokens and seconds are those of joint "
        "training.</p>"
    )


def _row(group: Group, equal: Sequence[Mapping[str, float | None]]) -> list[str]:
    at = []
    for values in equal:
        known = [v for f in group.folders if (v := values[str(f.run.path)]) is not None]
        at.append(percent(sum(known) / len(known)) if known else "-")
    costs = []
    for what in ("tokens", "seconds"):
        known = [v for f in group.folders if (v := spent(f, what)) is not None]
        costs.append(number(round(sum(known) / len(known))) if known else "-")
    fired = sum(len(folder.alarms) for folder in group.folders)
    return [
        group.name,
        str(len(group.folders)),
        in_percent(of_group(group, "before")),
        in_percent(of_group(group, "after")),
        *at,
        in_numbers(critic_error(group)),
        *costs,
        str(fired),
    ]


def cost(folder: Folder) -> str:
    """Tokens, FLOPs and seconds by role, with each role's share of the time."""
    columns = [part(folder.summary, key) for key in ("tokens", "flops", "seconds")]
    roles = list(dict.fromkeys(role for column in columns for role in column))
    total = sum(v for v in columns[2].values() if is_number(v))
    rows = []
    for role in roles:
        used = columns[2].get(role)
        share = used / total if total and is_number(used) else 0
        bar = f'<span class="bar" style="width:{10 * share:.2f}rem"></span> {percent(share)}'
        amounts = [esc(number(column.get(role))) for column in columns]
        rows.append((esc(role.replace("_", " ")), *amounts, bar if share else ""))
    missing = [key for key in ("tokens", "flops", "seconds") if not part(folder.summary, key)]
    text = note(f"summary.json lacks {', '.join(missing)} by role.") if missing else ""
    shown = table(("role", *COSTS, "share of time"), rows) if rows else ""
    return shown + stages_cost(folder) + text


def stages_cost(folder: Folder) -> str:
    """The same of the stages before joint training, with their total."""
    rows = []
    for name, stage in part(folder.summary, "stages_cost").items():
        if isinstance(stage, Mapping):
            amounts = [esc(number(stage.get(key))) for key in ("tokens", "flops", "seconds")]
            remark = "made before this run" if stage.get("reused") is True else ""
            rows.append((esc(name.replace("_", " ")), *amounts, remark))
    return table(("stage before joint training", *COSTS, ""), rows) if rows else ""
