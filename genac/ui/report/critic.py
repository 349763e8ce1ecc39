"""What the critic sees: its error, the trivial baselines, calibration, its scores, and its
curves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genac.runs.numbers import estimate, is_number, mean
from genac.ui.html import esc, note, table
from genac.ui.report import curves
from genac.ui.report.charts import Chart, Series, figure, grid
from genac.ui.report.folder import VALUES, Folder, part
from genac.ui.report.groups import Group, pool

TRIVIAL_BASELINES = {
    "mse_constant": "best constant",
    "mse_success_rate": "problem's success rate",
}
ERRORS = {
    **TRIVIAL_BASELINES,
    "mse_untrained": "untrained critic",
    "mse_sft": "after SFT (stage 1)",
    "mse_rl": "after critic RL (stage 2)",
}
VERSIONS = {"sft": "after SFT", "rl": "after critic RL", "after_joint": "after joint training"}
BASELINE_AFTER = "best baseline then"
SCORES = range(11)
FEWEST = 10  # states of a bin whose mean says something


def measured(critic: Mapping[str, Any], key: str = "mse") -> dict[str, Any] | None:
    """{mean, low, high} of an error, whose interval may not hold it; None where it is absent."""
    value = mean(critic.get(key))
    if value is None:
        return None
    held = critic.get(key)
    interval = critic.get(f"{key}_interval")
    if isinstance(held, Mapping):
        interval = [held.get("low"), held.get("high")]
    if isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval)):
        return {"mean": value, "low": interval[0], "high": interval[1]}
    return {"mean": value, "low": None, "high": None}


def best_baseline(panels: Sequence[Mapping[str, Any]]) -> tuple[str, float] | None:
    """(name, error) of the trivial baseline with the smallest error, as a mean over panels."""
    errors = {}
    for key, name in TRIVIAL_BASELINES.items():
        if known := [m for panel in panels if (m := mean(panel.get(key))) is not None]:
            errors[name] = sum(known) / len(known)
    return min(errors.items(), key=lambda one: one[1]) if errors else None


def versions(folder: Folder) -> dict[str, Mapping[str, Any]]:
    """The panel's numbers of each version of the critic that was judged."""
    critic = part(folder.summary, "critic")
    stages = part(critic, "stages")
    result = {key: part(critic if key == "after_joint" else stages, key) for key in VERSIONS}
    if not result["sft"] and not result["rl"] and "calibration" in critic:
        result["rl"] = critic  # the only version that was judged
    return {key: value for key, value in result.items() if value}


def errors(group: Group) -> dict[str, dict[str, Any]]:
    """Label -> error: trivial baselines first, then each version; over several seeds mean and
    range.
    """
    row = {label: [] for label in (*ERRORS.values(), VERSIONS["after_joint"], BASELINE_AFTER)}
    for folder in group.folders:
        critic = part(folder.summary, "critic")
        stages = part(critic, "stages")
        for key, label in ERRORS.items():
            stage = part(stages, key.removeprefix("mse_"))
            row[label].append(measured(stage) or measured(critic, key))
        after = part(critic, "after_joint")
        row[VERSIONS["after_joint"]].append(measured(after))
        if best := best_baseline([after]):
            row[BASELINE_AFTER].append({"mean": best[1], "low": None, "high": None})
    pooled = {label: pool([v for v in values if v]) for label, values in row.items()}
    return {label: value for label, value in pooled.items() if value}


def error_chart(groups: Sequence[Group]) -> str:
    """Errors on the panel and of the trivial baselines. The untrained critic is left to the table:
    where it writes no scores its error is near 1, which would squeeze the others together.
    """
    series = []
    for group in groups:
        points = [
            (label, value["mean"], value["low"], value["high"])
            for label, value in errors(group).items()
            if label != ERRORS["mse_untrained"]
        ]
        series.append(Series(group.name, points, group.style))
    return figure(
        Chart(
            "dots",
            "Critic error against Monte-Carlo values",
            series,
            x="mean squared error",
            says="On held-out states. A critic left of both trivial baselines (the best constant, "
            "the problem's success rate) is better than looking at no response. After joint "
            "training the states are the trained actor's, with a baseline of their own.",
            band=curves.SEEDS if _several(groups) else curves.PROBLEMS,
        )
    )


def page(groups: Sequence[Group]) -> str:
    """Everything about the critic, joint training first."""
    if len(groups) > 1:
        others = [reliability(groups), error_chart(groups)]
    else:  # that report opens with these two
        others = curves.chosen(groups, curves.OF_THE_CRITIC)
    parts = [grid([_scores(groups), *others])]
    for stage, title in (("joint", "joint training"), ("critic_rl", "critic RL (actor frozen)")):
        if not any(stage in group.stages for group in groups):
            continue
        drawn, missing = curves.drawn(groups, stage, curves.CRITIC)
        if drawn and len(missing) < len(curves.CRITIC) - 2:  # the reward is no word of a critic
            text = curves.absent(missing, stage)
            parts.append(curves.fold(f"Over {title}", drawn + text, groups))
    return "".join([*parts, _panels(groups)])


def reliability(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        result: dict[str, list] = {}
        for folder in groups[0].folders:
            for key, numbers in versions(folder).items():
                result.setdefault(key, []).append(numbers.get("calibration"))
        pairs = [(VERSIONS[k], v, i) for i, k in enumerate(VERSIONS) if (v := result.get(k))]
        says = (
            "predicted against actual success, by tenths. On the dashed line: calibrated. "
            "Monte-Carlo value: the share of sampled continuations that end right."
        )
    else:
        pairs = [
            (g.name, [part(f.summary, "critic").get("calibration") for f in g.folders], g.style)
            for g in groups
        ]
        says = "of the critic that joint training starts from. On the dashed line: calibrated."
    whole = [(name, bins(calibrations), style) for name, calibrations, style in pairs]
    few = sum(n < FEWEST for _, points, _ in whole for *_, n in points)
    says += f" {few} tenths with fewer than {FEWEST} states are left out." if few else ""
    series = [Series(n, [p for p in points if p[2] >= FEWEST], i) for n, points, i in whole]
    return figure(
        Chart(
            "reliability",
            "Reliability",
            series,
            x="predicted value",
            y="Monte-Carlo value",
            says=says[0].upper() + says[1:],
        )
    )


def bins(calibrations: Sequence[Any]) -> list[tuple[float, float, float]]:
    """(predicted, actual, states) by tenth of the prediction; seeds weighted by their states."""
    sums: dict[int, list[float]] = {}
    for calibration in calibrations:
        for one in calibration if isinstance(calibration, list) else []:
            if not _is_bin(one):
                continue
            total = sums.setdefault(int(min(9, max(0, 10 * one["predicted"]))), [0.0, 0.0, 0.0])
            total[0] += one["predicted"] * one["count"]
            total[1] += one["actual"] * one["count"]
            total[2] += one["count"]
    return [(p / n, a / n, n) for _, (p, a, n) in sorted(sums.items())]


def _is_bin(value: Any) -> bool:
    keys = ("predicted", "actual", "count")
    return (
        isinstance(value, Mapping)
        and all(is_number(value.get(key)) for key in keys)
        and value["count"] > 0
    )


def _scores(groups: Sequence[Group]) -> str:
    """How often each score was given: at the first and last stored step, or in several
    configurations at their last.
    """
    series = []
    if len(groups) == 1:
        for index, which in enumerate((0, -1)):
            keys = {key for f in groups[0].folders if (key := _joint_key(f, which))}
            values = [v for f in groups[0].folders for v in _values(f, _joint_key(f, which))]
            name = ", ".join(f"{stage} step {step}" for stage, step in sorted(keys))
            if name not in [one.name for one in series]:
                series.append(Series(name, histogram(values), index))
    else:
        for group in groups:
            values = [v for f in group.folders for v in _values(f, _joint_key(f, -1))]
            series.append(Series(group.name, histogram(values), group.style))
    says = (
        "Share of states by value in tenths, at stored steps"
        if len(groups) == 1
        else ("Share of states by value in tenths, at the last stored step")
    )
    few = len([one for one in series if one.points]) <= 2
    return figure(
        Chart("bars" if few else "lines", "Scores given", series, x="score", says=f"{says}.")
    )


def _joint_key(folder: Folder, which: int) -> tuple[str, int] | None:
    """The first or last stored estimates of the last stage that stored any."""
    keys = folder.stored()
    last = [key for key in keys if key[0] == keys[-1][0]]
    return last[which] if last else None


def _values(folder: Folder, key: tuple[str, int] | None) -> list[float]:
    rows = folder.table("estimates", key, VALUES) if key else []
    return [row["value"] for row in rows if is_number(row.get("value"))]


def histogram(values: Sequence[float]) -> list[tuple[float, float]]:
    """(score, share) for the scores 0..10; values of critics without scores go to the nearest."""
    counts = Counter(round(min(10, max(0, 10 * value))) for value in values)
    return [(float(s), counts[s] / len(values)) for s in SCORES] if values else []


def _panels(groups: Sequence[Group]) -> str:
    """All numbers of every panel to unfold, and which runs have none and why."""
    parts, without, unjudged = [], [], []
    for group in groups:
        for folder in group.folders:
            if part(folder.summary, "critic"):
                parts.append(_panel(folder))
            elif part(folder.config, "critic").get("kind") == "none":
                without.append(folder.place)
            else:
                unjudged.append(folder.place)
    if without:
        parts.append(f'<p class="muted">Without a critic: {esc(", ".join(without))}.</p>')
    if unjudged:
        text = (
            "No critic's error against Monte-Carlo values in summary.json (no panel was judged): "
        )
        parts.append(note(f"{text}{', '.join(unjudged)}."))
    return "".join(parts)


def _panel(folder: Folder) -> str:
    """The numbers of each version of the critic; those of the trivial baselines hold for the panel
    before joint training and stand next to the version that it starts from.
    """
    critic = part(folder.summary, "critic")
    row = {"untrained": part(part(critic, "stages"), "untrained"), **versions(folder)}
    columns = {key: dict(_flat(value)) for key, value in row.items() if value}
    trivial_baselines = {key: estimate(critic[key]) for key in TRIVIAL_BASELINES if key in critic}
    start = columns.setdefault("rl" if "rl" in columns or not columns else list(columns)[-1], {})
    start |= {key: value for key, value in trivial_baselines.items() if key not in start}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [[esc(key), *(esc(c.get(key, "-")) for c in columns.values())] for key in keys]
    head = ["panel", *(VERSIONS.get(key, key) for key in columns)]
    return (
        f"<details><summary>{esc(folder.place)}: every number of the panel</summary>"
        f"{table(head, rows)}</details>"
    )


def _flat(numbers: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of a panel's numbers, without its lists of bins and stages."""
    for key, value in numbers.items():
        name = f"{above}{key}"
        if key in ("stages", "after_joint", "mse_untrained", "mse_sft", "mse_rl"):
            continue
        if isinstance(value, Mapping) and "mean" not in value:
            yield from _flat(value, f"{name} ")
        elif isinstance(value, list) and len(value) == 2 and all(map(is_number, value)):
            yield name, f"[{value[0]:.4g}, {value[1]:.4g}]"
        elif not isinstance(value, list):
            yield name, estimate(value)


def _several(groups: Sequence[Group]) -> bool:
    return any(len(group.folders) > 1 for group in groups)
