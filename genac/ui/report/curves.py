"""Curves over steps, one chart per line of a literal table, and success against budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genac.runs.numbers import is_number, number
from genac.ui.html import esc, note
from genac.ui.report.charts import Chart, Series, figure, grid
from genac.ui.report.folder import part, steps
from genac.ui.report.groups import (
    BUDGETS,
    Group,
    Point,
    last_step,
    over_budget,
    over_steps,
    pool,
    spent,
)
from genac.ui.report.groups import success as evaluated

FRACTION = (0.0, 1.0)
SEEDS = "lowest to highest seed"
PROBLEMS = "95 % interval over problems"


@dataclass(frozen=True)
class Curve:
    """A chart of a stage. `keys`: metric -> name in the legend; the report of several runs draws
    the first one only, a line per configuration.
    """

    title: str
    keys: Mapping[str, str]
    says: str = ""
    limits: tuple[float, float] | None = None
    zero: float | None = None
    joint_only: bool = False


CRITIC = (
    Curve(
        "Critic error",
        {"critic/mse": "critic", "constant": "best constant"},
        "(value - reward)², mean. Rewards of 0 and 1 keep it above 0 even for a perfect critic.",
    ),
    Curve(
        "Explained variance",
        {"critic/explained_variance": "explained variance"},
        "1 is perfect, 0 is no better than a constant, below 0 worse.",
        zero=0.0,
    ),
    Curve(
        "AUC within a problem",
        {"critic/auc_within_problem": "AUC"},
        "0.5: sees the problem's difficulty only. Above: sees the response.",
        FRACTION,
        zero=0.5,
    ),
    Curve(
        "Advantage gap",
        {"critic/advantage_gap": "gap"},
        "Mean value of right minus wrong responses; below 0 credit points the wrong way.",
        zero=0.0,
    ),
    Curve(
        "Scores not parsed",
        {"critic/parse_failure_rate": "failures"},
        "Share of states without a value; above 0.2 an alarm.",
        FRACTION,
        zero=0.2,
    ),
    Curve(
        "Mean value and mean reward",
        {"critic/score_mean": "value", "reward": "reward"},
        "A gap between the two: a biased critic, or one that describes an earlier actor.",
        FRACTION,
    ),
    Curve("Critic reward", {"critic/reward": "R_v"}, "1 - (value - reward)²; missing counts 0."),
    Curve(
        "Length of rationales",
        {"critic/rationale_length": "tokens"},
        "At its limit, scores go missing.",
    ),
    Curve("Critic entropy", {"critic/entropy": "entropy"}, "Nats per token of its rationales."),
    Curve(
        "Responses the critic was not used for",
        {"critic/gated": "gated"},
        "Share credited by leave-one-out instead; near 1 the critic is idle.",
        FRACTION,
        joint_only=True,
    ),
)
ACTOR = (
    Curve("Reward", {"reward": "reward"}, "Mean over the step's responses.", FRACTION),
    Curve(
        "Rewards within a group",
        {"frac_reward_zero_std": "groups with equal rewards", "reward_std": "standard deviation"},
        "All groups equal: value-free methods learn nothing.",
        FRACTION,
    ),
    Curve(
        "Response length",
        {"completions/mean_length": "mean", "completions/max_length": "longest"},
        "Tokens. A drift to the limit is a warning.",
    ),
    Curve(
        "Entropy",
        {"entropy": "entropy"},
        "Of the actor, in nats per token. At 0 exploration has ended.",
    ),
    Curve("KL to the reference", {"kl": "KL"}, "Logged with actor.loss.beta above 0."),
    Curve(
        "Clip fraction",
        {"clip_ratio/region_mean": "clipped"},
        "Share of tokens beyond the clip range; 0 on-policy.",
    ),
    Curve("Gradient norm", {"grad_norm": "norm"}, "Before clipping."),
    Curve("Loss", {"loss": "loss"}, "In RL no measure of progress."),
    Curve(
        "Engine against learner",
        {"sampling/sampling_logp_difference/mean": "difference"},
        "Mean difference of log-probabilities; above 0.05 (in bf16 0.15) an alarm.",
    ),
)
LEADING = ("AUC within a problem", "Entropy")  # next to success, error and calibration
OF_THE_CRITIC = ("Advantage gap", "Mean value and mean reward")  # next to its scores
SUPERVISED = {
    "critic_sft": Curve("Critic SFT", {"loss": "loss"}, "Cross-entropy in nats per token."),
    "base": Curve("The base model", {"loss": "loss"}, "Cross-entropy in nats per token."),
    "warmup": Curve("Actor warm-up", {"loss": "loss"}, "Cross-entropy in nats per token."),
}


def derived(group: Group, stage: str, key: str) -> list[Point]:
    """A logged metric, or what a constant predictor would have for an error: Var(reward)."""
    if key != "constant":
        return over_steps(group, stage, key)
    lines = group.folders[0].lines(stage) if len(group.folders) == 1 else []
    return [(x, y * y, None, None, 1) for x, y in sorted(steps(lines, "reward_std").items())]


def drawn(groups: Sequence[Group], stage: str, curves: Sequence[Curve]) -> tuple[str, list[str]]:
    """The charts of a stage whose metrics were logged, and the titles of the others. What never
    changed is a line of text. Those that the report of one configuration draws unfolded are not
    among them.
    """
    opened = (*LEADING, *OF_THE_CRITIC) if stage == "joint" and len(groups) == 1 else ()
    queries = [
        c for c in curves if c.title not in opened and (stage == "joint" or not c.joint_only)
    ]
    figures, still, missing = [], [], []
    for curve in queries:
        chart = _chart(groups, stage, curve)
        if not any(len(one.points) for one in chart.series):
            missing.append(curve.title)
        elif (text := _constant(chart)) is not None:
            still.append(f"{curve.title} {text}")
        else:
            figures.append(figure(chart))
    text = f'<p class="muted">The same at every step: {esc("; ".join(still))}.</p>' if still else ""
    return grid(figures) + text, missing


def chosen(groups: Sequence[Group], titles: Sequence[str]) -> list[str]:
    """Some charts of joint training, for a place of their own."""
    own = [curve for curve in (*CRITIC, *ACTOR) if curve.title in titles]
    return [figure(_chart(groups, "joint", curve)) for curve in own]


def _constant(chart: Chart) -> str | None:
    """What every line of a chart says, where none of them ever changes; None of other charts."""
    lines = {one.name: [point[1] for point in one.points] for one in chart.series if one.points}
    if any(len(values) < 2 or len(set(values)) > 1 for values in lines.values()):
        return None
    texts = {name: number(values[0]) for name, values in lines.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{name} {value}" for name, value in texts.items())


def fold(title: str, inside: str, groups: Sequence[Group]) -> str:
    """Charts to unfold; of several configurations they are the comparison, and stand open."""
    count = inside.count("<figure")
    if not count:
        return f"<h3>{esc(title)}</h3>{inside}"
    name = f"{title} ({count} chart{'s' * (count != 1)})"
    state = " open" if len(groups) > 1 else ""
    return f'<details class="more"{state}><summary>{esc(name)}</summary>{inside}</details>'


def supervised(groups: Sequence[Group]) -> str:
    """The losses of the stages that imitate."""
    charts = [figure(_chart(groups, stage, curve)) for stage, curve in SUPERVISED.items()]
    return fold("Supervised stages", grid(charts), groups) if any(charts) else ""


def _chart(groups: Sequence[Group], stage: str, curve: Curve) -> Chart:
    title = (
        f"{curve.title} ({next(iter(curve.keys.values()))})" if _ambiguous(groups, curve) else ""
    )
    return Chart(
        "lines",
        title or curve.title,
        lines(groups, stage, curve.keys),
        says=curve.says,
        limits=curve.limits,
        zero=curve.zero,
        band=SEEDS if any(len(g.folders) > 1 for g in groups) else PROBLEMS,
        alarms=alarms(groups, stage),
    )


def _ambiguous(groups: Sequence[Group], curve: Curve) -> bool:
    """Whether only one of the curve's metrics is drawn, so that the title must name it."""
    return len(groups) > 1 and len(curve.keys) > 1 and "constant" not in curve.keys


def lines(groups: Sequence[Group], stage: str, keys: Mapping[str, str]) -> list[Series]:
    """One line per metric of a single configuration, one per configuration of the first metric."""
    if len(groups) == 1:
        pairs = enumerate(keys.items())
        return [Series(name, derived(groups[0], stage, key), i) for i, (key, name) in pairs]
    key = next(iter(keys))
    return [Series(group.name, derived(group, stage, key), group.style) for group in groups]


def alarms(
    groups: Sequence[Group], stage: str, place: Callable[[Group, int], float | None] | None = None
) -> list[tuple[float, str]]:
    """(x, what fired) of every alarm of a stage, of several runs with the run's name."""
    result: dict[tuple[float, str], None] = {}
    many = sum(len(group.folders) for group in groups) > 1
    for group in groups:
        for folder in group.folders:
            for alarm in folder.alarms:
                step = alarm.get("step")
                if alarm.get("stage") != stage or not is_number(step):
                    continue
                x = place(group, int(step)) if place else float(step)
                if x is not None:
                    name = f" ({folder.place})" if many else ""
                    result[x, f"alarm {alarm.get('alarm')}{name}"] = None
    return sorted(result)


def success(groups: Sequence[Group]) -> str:
    """The chart that says what happened: held-out success over the steps of joint training, from
    the evaluation before it, which stands at step -1, to the final one at the last step.
    """
    one = len(groups) == 1
    series = [
        Series("held-out success" if one else group.name, _with_ends(group), group.style)
        for group in groups
    ]
    if one:
        series.append(Series("reward in training", over_steps(groups[0], "joint", "reward"), 1))
    several = any(len(group.folders) > 1 for group in groups)
    return figure(
        Chart(
            "lines",
            "Held-out success over joint training",
            series,
            says=f"The number that matters. {evaluated_on(groups)}Marks ▲: alarms.",
            limits=FRACTION,
            band=SEEDS if several else PROBLEMS,
            alarms=alarms(groups, "joint"),
        ),
        wide=True,
    )


def _with_ends(group: Group) -> list[Point]:
    """The evaluations during training between the two that the headline names."""
    points = {point[0]: point for point in over_steps(group, "joint", "eval/success")}
    last = [step for folder in group.folders if (step := last_step(folder)) is not None]
    if not last:
        return []
    ended = [f for f in group.folders if last_step(f) == max(last) and evaluated(f, "after")]
    ends = [(-1.0, "before", group.folders), (float(max(last)), "after", ended)]
    for x, when, folders in ends:
        known = [one for folder in folders if (one := evaluated(folder, when))]
        held = points[x][4] if x in points else 0  # a mean over more seeds is not replaced
        if (value := pool(known)) is None or len(known) < held:
            continue
        # one seed of several has an interval over problems, which the band is not
        alone = len(known) == 1 < len(group.folders)
        low, high = (value["mean"],) * 2 if alone else (value["low"], value["high"])
        points[x] = (x, value["mean"], low, high, len(known))
    return [points[x] for x in sorted(points)]


def evaluated_on(groups: Sequence[Group]) -> str:
    """Why the curve may jump at its end: the evaluations between are of fewer problems."""
    folder = groups[0].folders[0]
    during = part(folder.config, "evaluate").get("during")
    whole = part(folder.summary, "success_after").get("problems")
    if not (is_number(during) and is_number(whole)) or during >= whole:
        return ""
    return (
        f"The first and the last point are over {whole} problems, those between over {during} of "
        "them. "
    )


def budgets(groups: Sequence[Group]) -> str:
    """Held-out success against samples, tokens and seconds, and what keeps a run from a chart."""
    says = {
        "samples": f"Responses of the actor so far. {evaluated_on(groups)}".strip(),
        "tokens": "Read, written and trained by any model, in joint training.",
        "seconds": "Of joint training, evaluations excluded.",
    }
    figures = [
        figure(
            Chart(
                "lines",
                f"Success against {budget}",
                [Series(g.name, over_budget(g, budget), g.style) for g in groups],
                x=budget,
                says=says[budget],
                limits=FRACTION,
                band=SEEDS,
            )
        )
        for budget in BUDGETS
    ]
    without = [
        folder.place
        for group in groups
        for folder in group.folders
        if len(spent(folder, "samples")[0]) < 2
    ]
    text = note(f"Without a curve, as no evaluation is known: {', '.join(without)}.")
    return grid(figures) + (text if without else "")


def absent(titles: Sequence[str], stage: str) -> str:
    """Says which charts a stage has no numbers for."""
    if not titles:
        return ""
    return f'<p class="muted">Not logged in stage {esc(stage)}: {esc(", ".join(titles))}.</p>'
