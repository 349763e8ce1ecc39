"""The summary of the transfer experiment: figures, verdicts, text, drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paper.approximation_report import pooled
from paper.claims import TRANSFER_AIM
from paper.critics import mean
from paper.figures import dots
from paper.pairs import compare
from paper.plan import Findings, Plan
from paper.runs import interval, ratio_interval, show
from paper.verdicts import above, below, brackets, shown, verdict

OWN = "taught by the actor itself"
WITH, WITHOUT = "taught by others, with ICC", "taught by others, without ICC"
MEAN_RATE = "with ICC, but told the others' mean rate"
LEARNT = (OWN, WITH, WITHOUT, MEAN_RATE)
ORACLE, STRENGTH = "oracle", "rate"
PREDICTORS = (ORACLE, STRENGTH)
NAMES = {ORACLE: "oracle, told the rate", STRENGTH: "the rate alone"}


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
    gaps: Mapping[str, dict[str, float]],
) -> Findings:
    forms = {form: summary(select(table, form)) for form in (*LEARNT, *PREDICTORS)}
    sft = {form: summary(select(table, form, "sft")) for form in (OWN, WITH, WITHOUT)}
    figures = comparisons(table) | {"theory": theory(gaps)}
    drawn = {f: forms[f]["by_actor"] for f in (OWN, WITH, WITHOUT)}
    return Findings(
        figures,
        verdicts(figures, table),
        text(plan, forms, sft, met, panels, figures),
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
    own, given, bare = (select(table, form) for form in (OWN, WITH, WITHOUT))
    ratios = {
        "with": against(given, own, "mse", "ratio"),
        "without": against(bare, own, "mse", "ratio"),
    }
    values = {name: result["by_training"] for name, result in ratios.items()}
    gain = against(bare, given, "mse", "difference")
    return {
        "transfer_error_ratio": ratio_interval(values["with"]),
        "transfer_without_icc": ratio_interval(values["without"]),
        "transfer_icc_ratio_difference": interval(
            [b - a for a, b in zip(values["with"], values["without"], strict=True)]
        ),
        "transfer_icc_error_difference": interval(gain["by_training"]),
        "by_problem": {
            "ratio with ICC": ratios["with"],
            "ratio without ICC": ratios["without"],
            "error without ICC less error with": gain,
            "error with ICC but another rate less error with": against(
                select(table, MEAN_RATE), given, "mse", "difference"
            ),
        },
    }


def theory(gaps: Mapping[str, dict[str, float]]) -> dict[str, Any]:
    """See `paper.transfer.value_gaps`: means over the unmet actors' panels, and by actor."""
    keys = next(iter(gaps.values()))
    return {key: mean([gap[key] for gap in gaps.values()]) for key in keys} | {
        "by_actor": dict(gaps)
    }


def sums(table: Sequence[Judged]) -> dict[str, Any]:
    """Squared errors and states by problem, from which every interval can be made again."""
    return {
        f"{row.form} | {row.stage} | seed {row.seed} | {row.actor}": dict(
            zip(row.result["problem_ids"], row.result["by_problem"]["mse"], strict=True)
        )
        for row in table
        if row.stage == "rl"
    }


def over_trainings(result: Mapping[str, Any]) -> dict[str, Any]:
    """An interval over trainings as verdicts read it."""
    low, high = result["low"], result["high"]
    return {"value": result["mean"], "low": low, "high": high, "by_training": result["values"]}


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
            f"{brackets(gain[1], 4)}; theory: at most about "
            f"{figures['theory']['from_met']:.4f}",
            "verdict": verdict(all(above(g, 0) for g in gain), all(below(g, 0) for g in gain)),
        },
        {
            "claim": "(ours) conditioning is more than actor strength: AUC within a problem",
            "ours": f"gap to the rate alone {brackets(ranks, 3)} (first training)",
            "verdict": verdict(above(ranks, 0), below(ranks, 0)),
        },
    ]


def text(
    plan: Plan, forms: Any, sft: Any, met: Mapping[str, float], panels: Any, figures: Any
) -> str:
    names = list(panels)
    lines = [
        f"Critics judged on {len(names)} actors, trainings {plan.seeds}: squared error as mean [95 "
        "% t interval over trainings]. Taught by: "
        + ", ".join(f"{n} (success {r:.2f})" for n, r in met.items())
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
        *conclusions(forms, names, figures),
    ]
    return "\n".join(lines)


def conclusions(forms: Any, names: list[str], figures: Any) -> list[str]:
    problems, gaps = figures["by_problem"], figures["theory"]
    biases = "; ".join(
        f"{form}: " + ", ".join(f"{n} {shown(forms[form]['bias'][n])}" for n in names)
        for form in LEARNT
    )
    return [
        f"**Ratio** to the critic taught by the actor itself, over trainings: with ICC "
        f"{show(figures['transfer_error_ratio'], 2)}, without "
        f"{show(figures['transfer_without_icc'], 2)}; without less with "
        f"{show(figures['transfer_icc_ratio_difference'], 2)}. Over problems: "
        f"{brackets(problems['ratio with ICC'])} and {brackets(problems['ratio without ICC'])}.",
        "",
        f"**What ICC is worth**: error without less error with, "
        f"{show(figures['transfer_icc_error_difference'], 4)} over trainings, "
        f"{brackets(problems['error without ICC less error with'], 4)} over problems. Told the met "
        "actors' mean rate instead of the actor's own, the error changes by "
        f"{brackets(problems['error with ICC but another rate less error with'], 4)}.",
        "",
        "**What theory predicts**: at equal prefixes the values of the judged actors have variance "
        f"{gaps['variance']:.4f}, which no predictor can know that is not told who acts. A perfect "
        f"critic of the met actors' mix would err by {gaps['from_met']:.4f} on them ("
        + ", ".join(f"{n} {g['from_met']:.4f}" for n, g in gaps["by_actor"].items())
        + "). A prefix also tells of its actor, so both are upper bounds.",
        "",
        f"Bias: {biases}.",
    ]
