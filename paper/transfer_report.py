"""The summary of the transfer experiment: figures, verdicts, text, drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paper.approximation_report import pooled
from paper.claims import TRANSFER_AIM
from paper.critics import mean
from paper.downstream_report import part
from paper.figures import dots
from paper.pairs import compare
from paper.plan import Findings, Plan, Record
from paper.runs import interval, over_trainings, ratio_interval, show
from paper.verdicts import above, below, brackets, shown, verdict

OWN = "taught by the actor itself"
WITH, WITHOUT = "taught by others, with ICC", "taught by others, without ICC"
MEAN_RATE = "with ICC, but the others' mean rate in the prompt"
LEARNT = (OWN, WITH, WITHOUT, MEAN_RATE)
ORACLE, STRENGTH, EXACT = "oracle", "rate", "actor_likelihood"
PREDICTORS = (ORACLE, STRENGTH, EXACT)
GRPO = "grpo"  # whose success joint training with these critics has to reach
NAMES = {
    ORACLE: "oracle, with the rate",
    STRENGTH: "the rate alone",
    EXACT: "the actor's own probabilities",
}
THEORY = ("variance", "from_met", "from_met_blind")  # see `paper.transfer.outlook`


@dataclass(frozen=True)
class Judged:
    """A critic of one training on the panel of one actor."""

    form: str
    stage: str
    seed: int  # of the critic's training
    actor: str
    actor_seed: int  # actors of one seed share the problems of their panels
    result: dict[str, Any]


def report(
    plan: Plan,
    table: Sequence[Judged],
    met: Mapping[str, float],
    panels: Mapping[str, dict[str, float]],
    outlooks: Mapping[str, Mapping[str, float]],
) -> Findings:
    forms = {form: summary(select(table, form)) for form in (*LEARNT, *PREDICTORS)}
    sft = {form: summary(select(table, form, "sft")) for form in (OWN, WITH, WITHOUT)}
    figures = comparisons(table) | {"theory": theory(outlooks)}
    drawn = {f: forms[f]["by_actor"] for f in (OWN, WITH, WITHOUT)}
    return Findings(
        figures,
        verdicts(figures, table),
        {"": dots("Squared error on actors that the shared critic never met", drawn, "MSE")},
        {
            "critics": forms,
            "critics_after_sft": sft,
            "met": dict(met),
            "panels": dict(panels),
            "sums_by_problem": sums(table),
        },
    )


def select(table: Sequence[Judged], form: str, stage: str = "rl") -> list[Judged]:
    return [row for row in table if (row.form, row.stage) == (form, stage)]


def summary(rows: Sequence[Judged]) -> dict[str, Any]:
    """Errors pooled over actors, by training and by actor."""
    seeds = list(dict.fromkeys(row.seed for row in rows))
    names = list(dict.fromkeys(row.actor for row in rows))
    by_seed = [[r.result for r in rows if r.seed == seed] for seed in seeds]
    return {
        "mse": interval([mean_error(results) for results in by_seed]),
        "by_actor": {n: interval([r.result["mse"] for r in rows if r.actor == n]) for n in names},
        "bias": {n: bias([r.result["bias"] for r in rows if r.actor == n]) for n in names},
        "auc": pooled([r.result for r in rows], "auc_within_problem"),
        "parse_rate": mean([r.result["parse_rate"] for r in rows]),
    }


def mean_error(results: list[dict[str, Any]]) -> float:
    """Over all states of some panels; a missing value is an error of 1."""
    error = pooled(results, "mse")
    assert error is not None, "a panel has states"
    return error


def bias(values: Sequence[float | None]) -> float | None:
    """Mean over the trainings that gave any score."""
    known = [v for v in values if v is not None]
    return mean(known) if known else None


def against(a: Sequence[Judged], b: Sequence[Judged], key: str, how: str) -> dict[str, Any]:
    """One form against another. The trainings are judged on the same panels, so a problem is
    resampled with its states in all of them."""
    assert [(x.seed, x.actor) for x in a] == [(y.seed, y.actor) for y in b]
    left, right = [x.result for x in a], [y.result for y in b]
    by_training = compare(left, right, key, how, groups=[x.seed for x in a])["by_training"]
    problems = compare(left, right, key, how, groups=[x.actor_seed for x in a])
    return {**problems, "by_training": by_training}


def comparisons(table: Sequence[Judged]) -> dict[str, Any]:
    own, conditioned, bare, misled = (select(table, form) for form in LEARNT)
    by_problem = {
        "ratio with ICC": against(conditioned, own, "mse", "ratio"),
        "ratio without ICC": against(bare, own, "mse", "ratio"),
        "error without ICC less error with": against(bare, conditioned, "mse", "difference"),
        "error with another rate less error with": against(
            misled, conditioned, "mse", "difference"
        ),
    }
    values = {name: result["by_training"] for name, result in by_problem.items()}
    return {
        "transfer_error_ratio": ratio_interval(values["ratio with ICC"]),
        "transfer_without_icc": ratio_interval(values["ratio without ICC"]),
        "transfer_icc_error_difference": interval(values["error without ICC less error with"]),
        "transfer_other_rate_difference": interval(
            values["error with another rate less error with"]
        ),
        "by_problem": by_problem,
    }


def theory(outlooks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Means over the unmet actors' panels, and by actor."""
    means = {key: mean([outlook[key] for outlook in outlooks.values()]) for key in THEORY}
    return {**means, "by_actor": dict(outlooks)}


def sums(table: Sequence[Judged]) -> dict[str, Any]:
    """Squared errors and states by problem, from which every interval can be made again."""
    return {
        f"{row.form} | {row.stage} | seed {row.seed} | {row.actor}": dict(
            zip(row.result["problem_ids"], row.result["by_problem"]["mse"], strict=True)
        )
        for row in table
        if row.stage == "rl"
    }


def verdicts(figures: Mapping[str, Any], table: Sequence[Judged]) -> list[dict[str, str]]:
    """Both intervals must agree: over trainings, and over problems."""
    problems = figures["by_problem"]
    ratio = [over_trainings(figures["transfer_error_ratio"]), problems["ratio with ICC"]]
    gain = [
        over_trainings(figures["transfer_icc_error_difference"]),
        problems["error without ICC less error with"],
    ]
    first = [row for row in select(table, WITH) if row.seed == table[0].seed]
    ranks = against(first, select(table, STRENGTH), "auc_within_problem", "difference")
    return [
        {
            "claim": "(aim) a critic taught by others is within 25 % of the error of one taught by "
            "the actor, with ICC",
            "ours": f"ratio {brackets(ratio[0])}; over problems {brackets(ratio[1])}",
            "verdict": verdict(
                all(below(r, TRANSFER_AIM) for r in ratio),
                all(above(r, TRANSFER_AIM) for r in ratio),
            ),
        },
        {
            "claim": "ICC lowers the error on actors that the critic never met",
            "ours": f"error without less error with {brackets(gain[0], 4)}; over problems "
            f"{brackets(gain[1], 4)}; a perfect critic would gain "
            f"{figures['theory']['from_met']:.4f}",
            "verdict": verdict(all(above(g, 0) for g in gain), all(below(g, 0) for g in gain)),
        },
        {
            "claim": "(ours) conditioning is more than actor strength: AUC within a problem",
            "ours": f"gap to the rate alone {brackets(ranks, 3)} (first training)",
            "verdict": verdict(above(ranks, 0), below(ranks, 0)),
        },
    ]


def text(plan: Plan, record: Record) -> str:
    forms, sft, panels = (record[key] for key in ("critics", "critics_after_sft", "panels"))
    names = list(panels)
    lines = [
        f"Critics judged on {len(names)} actors, trainings {plan.seeds}: squared error as mean [95 "
        "% t interval over trainings]. Taught by: "
        + ", ".join(f"{n} (success {r:.2f})" for n, r in record["met"].items())
        + ".",
        "",
        "| critic | all actors | "
        + " | ".join(f"{n} (success {panels[n]['rate']:.2f})" for n in names)
        + " | AUC in problem | after SFT only |",
        "|---" * (4 + len(names)) + "|",
        "| best constant | - | "
        + " | ".join(f"{panels[n]['mse_constant']:.4f}" for n in names)
        + " | - | - |",
        *(
            f"| {NAMES.get(form, form)} | {show(row['mse'], 4)} | "
            + " | ".join(f"{row['by_actor'][n]['mean']:.4f}" for n in names)
            + f" | {shown(row['auc'])} | {show(sft[form]['mse'], 4) if form in sft else '-'} |"
            for form, row in forms.items()
        ),
        "",
        *conclusions(forms, names, record),
        *(policy_table(plan, record["policy"]) if "policy" in record else []),
    ]
    return "\n".join(lines)


def conclusions(forms: Any, names: list[str], figures: Any) -> list[str]:
    problems, gaps = figures["by_problem"], figures["theory"]
    rows = {
        "Ratio to the critic taught by the actor itself, with ICC": (
            "transfer_error_ratio", "ratio with ICC", 2,
        ),
        "The same without ICC": ("transfer_without_icc", "ratio without ICC", 2),
        "Error without ICC less error with": (
            "transfer_icc_error_difference", "error without ICC less error with", 4,
        ),
        "Error with another rate in the prompt less error with": (
            "transfer_other_rate_difference", "error with another rate less error with", 4,
        ),
    }  # fmt: skip
    expected = {
        "Variance of the value between the met actors at an equal prefix": "variance",
        "Error of a perfect critic of the met actors without ICC": "from_met",
        "The same if a prefix showed nothing of its actor": "from_met_blind",
    }
    biases = "; ".join(
        f"{form}: " + ", ".join(f"{n} {shown(forms[form]['bias'][n])}" for n in names)
        for form in LEARNT
    )
    return [
        "| comparison | over trainings | over problems |",
        "|---|---|---|",
        *(
            f"| {name} | {show(figures[key], digits)} | {brackets(problems[pair], digits)} |"
            for name, (key, pair, digits) in rows.items()
        ),
        "",
        "What theory predicts, from the actors' own probabilities on the judged states, whose "
        "error against Monte-Carlo values is in the first table. A perfect critic that knows the "
        "actor errs by 0, so the second row is what ICC can be worth to a perfect critic.",
        "",
        "| quantity | all actors | " + " | ".join(names) + " |",
        "|---" * (2 + len(names)) + "|",
        *(
            f"| {name} | {gaps[key]:.4f} | "
            + " | ".join(f"{gaps['by_actor'][n][key]:.4f}" for n in names)
            + " |"
            for name, key in expected.items()
        ),
        "",
        f"Bias: {biases}.",
    ]


def policy_table(plan: Plan, table: dict[str, dict[str, Any]]) -> list[str]:
    """What paper/transfer_policy.py measured."""
    names = {GRPO: "GRPO", OWN: f"GenAC, critic {OWN}", WITH: f"GenAC, critic {WITH}"}
    lines = [
        "",
        f"Joint training of an actor, seeds {plan.values['policy']['seeds']}, with a critic that "
        "is one of the trainings above. Samples until the mean success reaches GRPO's last one, as "
        "a part of those that GRPO needs; those that taught the critic are not counted.",
        "",
        "| actor | method | final success | less GRPO's, paired by seed | samples, GRPO = 1 |",
        "|---" * 5 + "|",
    ]
    for actor, rows in table.items():
        lines += [
            f"| {actor} | {names[method]} | {show(row['final'])} | {show(row['minus_grpo'])} "
            f"| {part(row['samples_ratio'])} |"
            for method, row in rows.items()
        ]
    return lines
