"""Runs that differ in their seed only are one group: one colour, one line, one row.

Legend: a point is (x, y, low, high, n), where low..high is what its band shows, None where there is
none, and n the number of runs that y is the mean of.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genac.runs.numbers import is_number, mean
from genac.ui.report.folder import Folder, part, steps

Point = tuple[float, float, float | None, float | None, int]
Steps = dict[int, float]

# What may differ between two runs of one configuration; results do not depend on the last three.
OF_A_RUN = ("seed", "name", "output_dir", "stages.folder")
INTERVALS = {"eval/success": ("eval/success_low", "eval/success_high")}


@dataclass(frozen=True)
class Group:
    """The runs of one configuration, by seed."""

    name: str
    folders: tuple[Folder, ...]
    style: int  # of its colour, dashes and symbol, the same in every chart

    @property
    def title(self) -> str:
        """The name with the number of seeds."""
        many = len(self.folders)
        return self.name if many == 1 else f"{self.name} ({many} seeds)"

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(str(x.get("stage")) for f in self.folders for x in f.metrics))


def grouped(folders: Sequence[Folder]) -> list[Group]:
    """Groups in the order of their first runs."""
    result: dict[str, list[Folder]] = {}
    for folder in folders:
        flat = {k: v for k, v in flatten(folder.config).items() if k not in OF_A_RUN}
        key = json.dumps(flat, sort_keys=True, default=str) if flat else str(folder.run.path)
        result.setdefault(key, []).append(folder)
    members = [tuple(sorted(one, key=_seed)) for one in result.values()]
    names = _names(members)
    return [Group(n, m, i) for i, (n, m) in enumerate(zip(names, members, strict=True))]


def _seed(folder: Folder) -> tuple[float, str]:
    seed = folder.config.get("seed")
    return (seed if is_number(seed) else -1, folder.place)


def _names(members: Sequence[tuple[Folder, ...]]) -> list[str]:
    """The runs' common name; where two groups share it, with what sets them apart."""
    names = [_common([folder.name for folder in one]) for one in members]
    shared = {name for name, count in Counter(names).items() if count > 1}
    for name in shared:
        rivals = [index for index, other in enumerate(names) if other == name]
        apart = differences([members[index][0] for index in rivals])
        for place, index in enumerate(rivals):
            rows = [
                f"{key.rpartition('.')[2]}={row[place]}" for key, row in list(apart.items())[:2]
            ]
            names[index] = f"{name} ({', '.join(rows) or members[index][0].place})"
    places = [_common([folder.place for folder in one]) for one in members]
    return [n if names.count(n) == 1 else f"{n} [{p}]" for n, p in zip(names, places, strict=True)]


def _common(names: Sequence[str]) -> str:
    """ "sweep-seed0" and "sweep-seed1" are "sweep"."""
    if len(set(names)) == 1:
        return names[0]
    shared = zip(*names, strict=False)
    end = next((i for i, letters in enumerate(shared) if len(set(letters)) > 1), None)
    start = min(names, key=len)[:end]
    return re.sub(r"[-_ ,.]*(seed)?[-_=]*\d*$", "", start) or names[0]


def flatten(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def differences(folders: Sequence[Folder]) -> dict[str, list[str]]:
    """Dotted key -> its value in each run, for keys in which the runs differ; "-" where absent."""
    flat = [flatten(folder.config) for folder in folders]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = {k: [_shown(one, k) for one in flat] for k in keys if k not in OF_A_RUN}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _shown(flat: Mapping[str, Any], key: str) -> str:
    if key not in flat:
        return "-"
    value = flat[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def over_steps(group: Group, stage: str, key: str) -> list[Point]:
    """A metric over the steps of a stage: of one run with the interval that was logged with it,
    of several their mean within the lowest and highest.
    """
    first, *others = group.folders
    if others:
        return _pooled([(steps(f.lines(stage), key), None) for f in group.folders])
    lines = first.lines(stage)
    ends = INTERVALS.get(key, ("", ""))
    low, high = steps(lines, ends[0]), steps(lines, ends[1])
    return [(x, y, low.get(x), high.get(x), 1) for x, y in sorted(steps(lines, key).items())]


def over_budget(group: Group, budget: str) -> list[Point]:
    """Held-out success against what joint training had spent; over several seeds the mean of both
    at each evaluation, within the lowest and highest success.
    """
    return _pooled([spent(folder, budget) for folder in group.folders])


def spent(folder: Folder, budget: str) -> tuple[Steps, Steps]:
    """(success, budget used) at each evaluation of joint training. The evaluation before it, which
    costs nothing of the budget, is step -1; the final one is of the last step.
    """
    lines = folder.lines("joint")
    values, used = steps(lines, "eval/success"), BUDGETS[budget](folder, lines)
    ends = {-1: success(folder, "before"), last_step(folder): success(folder, "after")}
    values |= {x: one["mean"] for x, one in ends.items() if x is not None and one}
    used = {-1: 0.0, **used}
    return {step: y for step, y in sorted(values.items()) if step in used}, used


def last_step(folder: Folder) -> int | None:
    """The last step of joint training, whose actor the final evaluation is of."""
    numbers = [x["step"] for x in folder.lines("joint") if is_number(x.get("step"))]
    return int(max(numbers)) if numbers else None


def _samples(folder: Folder, lines: list[dict[str, Any]]) -> Steps:
    rollout = part(folder.config, "rollout")
    each = [rollout.get("num_prompts"), rollout.get("num_generations")]
    if not (is_number(each[0]) and is_number(each[1])):
        return {}
    return {x: (x + 1) * each[0] * each[1] for x in steps(lines, "step")}


BUDGETS: dict[str, Callable[[Folder, list[dict[str, Any]]], Steps]] = {
    "samples": _samples,
    "tokens": lambda folder, lines: steps(lines, "cost/tokens"),
    "seconds": lambda folder, lines: steps(lines, "cost/seconds"),
}


def _pooled(runs: Sequence[tuple[Steps, Steps | None]]) -> list[Point]:
    """(y by step, x by step or the step itself) of each run -> one point per step."""
    points: list[Point] = []
    for step in sorted({step for ys, _ in runs for step in ys}):
        held = [(ys[step], step if xs is None else xs[step]) for ys, xs in runs if step in ys]
        y_values, n = [y for y, _ in held], len(held)
        low, high = (min(y_values), max(y_values)) if len(runs) > 1 else (None, None)
        points.append((sum(x for _, x in held) / n, sum(y_values) / n, low, high, n))
    return points


def at_equal(folders: Sequence[Folder], budget: str) -> tuple[float | None, list[float | None]]:
    """The largest budget that every run reached, and each run's success there, between two
    evaluations linearly; None where a run has no curve.
    """
    curves = [_curve(folder, budget) for folder in folders]
    ends = [curve[-1][0] for curve in curves if len(curve) > 1]
    if not ends:
        return None, [None] * len(folders)
    limit = min(ends)
    return limit, [_between(curve, limit) if len(curve) > 1 else None for curve in curves]


def _curve(folder: Folder, budget: str) -> list[tuple[float, float]]:
    success, used = spent(folder, budget)
    return sorted((used[step], y) for step, y in success.items())


def _between(curve: Sequence[tuple[float, float]], x: float) -> float:
    import numpy as np

    return float(np.interp(x, [a for a, _ in curve], [y for _, y in curve]))


def success(folder: Folder, when: str) -> dict[str, Any] | None:
    """{mean, low, high} of held-out success "before" or "after" joint training."""
    value = folder.summary.get(f"success_{when}")
    middle = mean(value)
    if middle is None:
        return None
    ends = [value.get("low"), value.get("high")] if isinstance(value, Mapping) else [None]
    low, high = ends if all(map(is_number, ends)) else (None, None)
    return {"mean": middle, "low": low, "high": high}


def of_group(group: Group, when: str) -> dict[str, Any] | None:
    """`success`, over several seeds as their mean within lowest and highest."""
    return pool([one for folder in group.folders if (one := success(folder, when))])


def pool(values: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One estimate as it is; of several the mean of their means, within the lowest and highest."""
    if not values:
        return None
    if len(values) == 1:
        return dict(values[0])
    means = [value["mean"] for value in values]
    return {"mean": sum(means) / len(means), "low": min(means), "high": max(means)}
