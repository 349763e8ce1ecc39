"""The summary of a downstream comparison: verdicts, tables and drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paper.figures import lines
from paper.plan import Findings, Plan, Record
from paper.runs import difference, show
from paper.staleness import staleness, staleness_drawing
from paper.verdicts import above, below, shown, verdict

UNITS = {"flops": "FLOPs", "seconds": "seconds"}


def report(
    plan: Plan, table: dict[str, Any], grid: dict[str, float], settings: dict[str, Any]
) -> Findings:
    against, ours = plan.values["against"], plan.values.get("ours", "")
    named, compared = plan.values.get("rivals", {}), rivals(plan, table)
    # Variants of a method are compared on our account: nobody else claims anything of them.
    methods = plan.values["methods"]
    own = {name for name, method in named.items() if "like" in methods[method]}
    gaps = {
        name: difference(table[ours]["final"]["values"], row["final"]["values"])
        for name, row in compared.items()
    }
    figures = {
        "rl_final_success": {m: row["final"] for m, row in table.items()},
        "rl_samples_ratio_to_grpo": {m: row["samples_ratio"] for m, row in table.items()},
        "rl_gap_of_genac": gaps,
        f"cost_vs_{against}": {m: row["cost_ratio"] for m, row in table.items()},
        f"compute_to_{against}_final": {m: row["compute_ratio"] for m, row in table.items()},
    }
    for name in ("unamortised", "amortised"):  # of methods whose runs recorded their stages
        ratios = {m: r for m, row in table.items() if (r := row.get(f"compute_ratio_{name}"))}
        if ratios:
            figures[f"compute_to_{against}_final_{name}"] = ratios
    return Findings(
        figures,
        [
            *(verdicts(table, ours, against, gaps, compared, own) if ours else []),
            *contrasts(table, pair_gaps(plan, table)),
        ],
        {"": success_drawing(table, against), "staleness": staleness_drawing(table)},
        {"methods": table, "settings": settings, "tuning_grid": grid},
    )


def rivals(plan: Plan, table: dict[str, Any]) -> dict[str, Any]:
    """Whom GenAC is compared with: the best form of PPO, and those that the plan names."""
    forms = sorted(plan.values.get("ppo_forms", []), key=lambda m: -table[m]["final"]["mean"])
    best = {f"PPO's best ({m})": table[m] for m in forms[:1]}
    return best | {name: table[method] for name, method in plan.values.get("rivals", {}).items()}


def pair_gaps(plan: Plan, table: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """One variant's final success less another's, paired by seed."""
    return {
        (one, other): difference(table[one]["final"]["values"], table[other]["final"]["values"])
        for one, other in plan.values.get("pairs", [])
    }


def verdicts(
    table: dict[str, Any],
    ours: str,
    against: str,
    gaps: dict[str, Any],
    compared: dict[str, Any],
    own: set[str],
) -> list[dict[str, str]]:
    rows = [
        {
            "claim": ("(ours) " if name in own else "")
            + f"GenAC above {name} in final success {budget(table[ours], compared[name])}",
            "ours": f"{table[ours]['final']['mean']:.3f}; difference {show(gap)}",
            "verdict": verdict(above(gap, 0), below(gap, 0)),
        }
        for name, gap in gaps.items()
    ]
    ratio = table[ours]["samples_ratio"]
    rows.append(
        {
            "claim": f"(aim) GenAC reaches {against}'s final success in half of its samples",
            "ours": f"{part(ratio)} of them, {part(table[ours]['samples_ratio_with_preparation'])} "
            "with the responses that its critic's stages used",
            "verdict": verdict(
                ratio["high"] is not None and ratio["high"] <= 0.5,
                ratio["low"] is None or ratio["low"] > 0.5,
            ),
        }
    )
    compute = table[ours]["compute_ratio"]
    rows.append(
        {
            "claim": f"(aim) GenAC reaches {against}'s final success in 0.8 of its compute",
            "ours": f"{part(compute['flops'])} of its FLOPs, {part(compute['seconds'])} of its "
            f"seconds, its critic's stages not counted{with_stages(table[ours])}",
            "verdict": verdict(
                all((high := c["high"]) is not None and high <= 0.8 for c in compute.values()),
                any(c["low"] is None or c["low"] > 0.8 for c in compute.values()),
            ),
        }
    )
    for kind in ("tokens", "seconds"):
        order = sorted(table, key=lambda m: -table[m]["at_equal"][kind]["mean"])
        rows.append(
            {
                "claim": f"(ours) place at equal {kind}",
                "ours": f"GenAC {order.index(ours) + 1} of {len(order)}: "
                f"{show(table[ours]['at_equal'][kind])}, {against} "
                f"{show(table[against]['at_equal'][kind])}",
                "verdict": "-",
            }
        )
    return rows


def with_stages(row: dict[str, Any]) -> str:
    """The same with them, where the runs recorded it."""
    if "compute_ratio_unamortised" not in row:
        return ""
    whole, shared = (
        " and ".join(f"{part(r)} of its {UNITS[kind]}" for kind, r in row[key].items())
        for key in ("compute_ratio_unamortised", "compute_ratio_amortised")
    )
    return f"; {whole} with them, {shared} with a quarter of them"


def stages_table(table: dict[str, Any], against: str) -> list[str]:
    """Compute to the mark with the critic's own stages, of methods whose stages are known."""
    keys = ("compute_ratio", "compute_ratio_unamortised", "compute_ratio_amortised")
    rows = [
        f"| {name} | {UNITS[kind]} | {' | '.join(part(row[key][kind]) for key in keys)} |"
        for name, row in table.items()
        for kind in row.get("critic_stages", ())
    ]
    if not rows:
        return []
    return [
        "",
        f"Compute to {against}'s final success as a part of {against}'s own: of joint training, "
        "with the critic's own stages, and with a quarter of them, as if four runs used one "
        "critic. The base model is every method's and is not counted.",
        "",
        "| method | of | joint training | with the critic's stages | with a quarter of them |",
        "|---" * 5 + "|",
        *rows,
    ]


def stages_note(measured: Mapping[str, Any]) -> str:
    """How the stages' cost came to a page whose runs did not record it."""
    return (
        "These runs did not record what their stages cost. So the stages alone were repeated "
        f"later, by `{measured['command']}` ({measured['machine']}) at commit "
        f"{measured['commit']}: with its code, not with that of the runs. FLOPs are the same on "
        "any machine; seconds of another one are not, and are left out. The intervals are those of "
        "the samples only: what the stages and a response cost counts as known."
    )


def contrasts(
    table: dict[str, Any], pairs: dict[tuple[str, str], dict[str, Any]]
) -> list[dict[str, str]]:
    """One variant against another, paired by seed."""
    return [
        {
            "claim": f"(ours) {one} above {other} in final success "
            f"{budget(table[one], table[other])}",
            "ours": f"{table[one]['final']['mean']:.3f}, worst seed "
            f"{min(table[one]['final']['values']):.2f} against "
            f"{min(table[other]['final']['values']):.2f}; difference {show(gap)}",
            "verdict": verdict(above(gap, 0), below(gap, 0)),
        }
        for (one, other), gap in pairs.items()
    ]


def pair_line(one: str, other: str, gap: dict[str, Any]) -> str:
    return f"\n{one} less {other}: {show(gap)}."


def budget(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Under which budget two methods' final success is compared."""
    own, theirs = (row["curve"]["samples"][-1] for row in (one, other))
    if own == theirs:
        return "at equal samples"
    return f"after {own:.0f} responses against {theirs:.0f}"


def part(ratio: dict[str, float | None]) -> str:
    """0.45 [0.40, 0.52]; "-" for an end that lies beyond the budget."""
    value, low, high = (shown(ratio[k], 2) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def success_drawing(table: dict[str, Any], against: str) -> str:
    """Success by samples; what was trained for longer than `against` is cut at its end."""
    last = table[against]["curve"]["samples"][-1]
    series = {}
    for method, row in table.items():
        points = zip(row["curve"]["samples"], row["curve"]["success"], strict=True)
        series[method] = [(at, success) for at, success in points if at <= last]
    title = "Held-out success against actor samples"
    return lines(title, series, "responses of the actor", "held-out success")


def introduction(plan: Plan, table: dict[str, Any]) -> str:
    """What was compared, and how settings were chosen."""
    ends = {name: row["curve"]["samples"][-1] for name, row in table.items()}
    usual = ends[plan.values["against"]]
    longer = [f"{name} {end:.0f}" for name, end in ends.items() if end != usual]
    chosen = "Settings were fixed beforehand."
    if tuning := plan.values.get("tuning_seeds"):
        chosen = (
            f"Every method at the best point of its grid (late success on seeds {tuning}, in the "
            "JSON)."
        )
    if longer:
        chosen += f" Trained for longer, on so many responses: {', '.join(longer)}."
    return (
        f"Held-out success after {usual:.0f} responses, seeds {plan.seeds} over base models "
        f"{plan.values.get('bases', 'of their own')}: mean [95 % t interval over seeds]. {chosen} "
        "Tokens and seconds are those of joint training; what a critic's earlier stages cost is "
        "not in them (the responses they used are a column), nor are VinePPO's continuations "
        "counted as samples."
    )


def text(plan: Plan, record: Record) -> str:
    table, against = record["methods"], plan.values["against"]
    later = record.get("stages_measured")
    return "\n".join(
        [
            introduction(plan, table),
            "",
            *results_table(plan, table),
            "",
            *settings_table(table, record["settings"]),
            *columns_table(table),
            "",
            "The critic as its actor improves: mean (value - return), squared error against "
            "returns, by quarter of training.",
            "",
            "| method | first | second | third | last |",
            "|---" * 5 + "|",
            *staleness(table),
            "",
            f"Final success less that of {against}, paired by seed: "
            + "; ".join(f"{n} {show(row['minus_against'])}" for n, row in table.items())
            + ".",
            *distances(plan, table, rivals(plan, table)),
            *stages_table(table, against),
            *(pair_line(*pair, gap) for pair, gap in pair_gaps(plan, table).items()),
            *(["", stages_note(later)] if later else []),
        ]
    )


def results_table(plan: Plan, table: dict[str, Any]) -> list[str]:
    """One row per method, the best final success first."""
    against, columns = plan.values["against"], len(plan.values.get("columns", {}))
    return rows_of(
        table,
        {
            "final": lambda row: show(row["final"]),
            "its worst seed": lambda row: f"{min(row['final']['values']):.2f}",
            "mean over training": lambda row: show(row["mean_over_training"]),
            **({f"{columns} columns": lambda row: show(row["column_mean"])} if columns else {}),
            "equal tokens": lambda row: show(row["at_equal"]["tokens"]),
            "equal seconds": lambda row: show(row["at_equal"]["seconds"]),
            f"samples to {against}'s final, {against} = 1": lambda row: part(row["samples_ratio"]),
        },
    )


def settings_table(table: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What each method was run with, and what it cost, in the same order."""
    chosen = {
        name: ", ".join(f"{key} {value:g}" for key, value in values.items())
        for name, values in settings.items()
    }
    return rows_of(
        {name: row | {"settings": chosen[name]} for name, row in table.items()},
        {
            "settings": lambda row: row["settings"],
            "responses before": lambda row: str(row["responses_before"]),
            "tokens per step": lambda row: f"{row['per_step']['tokens']:,.0f}",
            "seconds per step": lambda row: f"{row['per_step']['seconds']:.2f}",
        },
    )


def rows_of(table: dict[str, Any], cells: dict[str, Callable[[dict[str, Any]], str]]) -> list[str]:
    """A table with a row per method, the best final success first."""
    lines = [f"| method | {' | '.join(cells)} |", "|---" * (1 + len(cells)) + "|"]
    for name, row in sorted(table.items(), key=lambda item: -item[1]["final"]["mean"]):
        lines.append(f"| {name} | {' | '.join(f(row) for f in cells.values())} |")
    return lines


def columns_table(table: dict[str, Any]) -> list[str]:
    """Success on each of the plan's other held-out tasks, if it has any."""
    columns = list(next(iter(table.values()))["columns"])
    if not columns:
        return []
    return [
        "",
        f"| column | {' | '.join(columns)} |",
        "|---" * (1 + len(columns)) + "|",
        *(
            f"| {name} | {' | '.join(show(row['columns'][c], 2) for c in columns)} |"
            for name, row in table.items()
        ),
    ]


def distances(plan: Plan, table: dict[str, Any], compared: dict[str, Any]) -> list[str]:
    """What GenAC has more than those it is compared with."""
    if not compared:
        return []
    kinds = {"final": "final", "mean_over_training": "mean over training"}
    if columns := len(plan.values.get("columns", {})):
        kinds["column_mean"] = f"{columns} columns"
    ours = table[plan.values["ours"]]
    rows = [
        f"| {name} | "
        + " | ".join(show(difference(ours[k]["values"], row[k]["values"])) for k in kinds)
        + " |"
        for name, row in compared.items()
    ]
    head = f"| GenAC less this, paired by seed | {' | '.join(kinds.values())} |"
    return ["", head, "|---" * (1 + len(kinds)) + "|", *rows]
