"""What `genac eval solutions` leaves: a table for people, and Parquet files for the viewer.

The files have the columns of a run folder (docs/run-folder.md). A segment of a solution stands
where a run has a token: `start` and `end` count segments, and the last row of a solution, with
`start` = `end`, holds the value after all of it. `reward` is the solution's correctness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genac.evals.solutions import Judged
from genac.runs.store import atomic_write, stable_hash
from genac.runs.tables import BETWEEN, ESTIMATE_COLUMNS, ROLLOUT_COLUMNS, encode

STAGE = "solutions"
PER_FILE = 256  # problems
Row = dict[str, Any]


# --- tables ---------------------------------------------------------------------------------------


def write_tables(
    folder: Path, judged: Sequence[Judged], rationales: Sequence[Sequence[Sequence[str]]]
) -> None:
    """rollouts/ and estimates/ of the folder, PER_FILE problems each; older ones are replaced."""
    numbers: dict[str, int] = {}
    members: dict[str, int] = {}
    rollouts: dict[int, list[Row]] = {}
    estimates: dict[int, list[Row]] = {}
    for one, texts in zip(judged, rationales, strict=True):
        problem = one.solution.problem
        group = numbers.setdefault(problem, len(numbers))
        members[problem] = member = members.get(problem, -1) + 1
        at = {"problem_id": f"problem-{group}", "group": group, "member": member}
        step = group // PER_FILE
        rollouts.setdefault(step, []).append(at | rollout(one))
        estimates.setdefault(step, []).extend(at | row for row in states(one, texts))
    for name, columns, tables in (
        ("rollouts", ROLLOUT_COLUMNS, rollouts),
        ("estimates", ESTIMATE_COLUMNS, estimates),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for step, rows in tables.items():
            cells = [tuple(row.get(column) for column in columns) for row in rows]
            atomic_write(folder / name / f"{STAGE}-{step:06d}.parquet", encode(cells, columns))
        for file in (folder / name).glob(f"{STAGE}-*.parquet"):
            if int(file.stem.rpartition("-")[2]) not in tables:
                file.unlink()


def rollout(one: Judged) -> Row:
    solution = one.solution
    return {
        "prompt": solution.problem,
        "answer": "",
        "response": solution.prefix(len(solution.segments)),
        "reward": reward(one),
        "reason": "" if solution.correct is not None else "the file has no label of the outcome",
        "finish": "stop",
        "tokens": list(solution.segments),
    }


def states(one: Judged, rationales: Sequence[Sequence[str]]) -> list[Row]:
    """One row per value."""
    solution, last = one.solution, len(one.solution.segments)
    ends = [*one.counts[1:], last]
    return [
        {
            "start": start,
            "end": end,
            "step_text": "".join(solution.segments[start:end]),
            "value": value,
            "reward": reward(one),
            "rationale": BETWEEN.join(texts),
            "state": int(stable_hash([solution.problem, solution.prefix(start)]), 16),
        }
        for start, end, value, texts in zip(one.counts, ends, one.values, rationales, strict=True)
    ]


def reward(one: Judged) -> float | None:
    return None if one.solution.correct is None else float(one.solution.correct)


# --- the table for people -------------------------------------------------------------------------


def markdown(result: Mapping[str, Any], folder: Path) -> str:
    settings = result["settings"]
    writes = result["about"]["kind"] == "generative"
    each = f", rationales per state: {settings['samples']}" if writes else ""
    lines = [
        f"`{settings['critic']}` on `{settings['file']}`: {result['solutions']} solutions of "
        f"{result['problems']} problems, {result['states']} states{each}. {result['missing']} "
        f"scores are missing ({result['too_long']} prompts were too long{open_ones(result)}). "
        f"{result['tokens']:.0f} tokens, {result['seconds']:.0f} s. "
        "[95 % bootstrap interval over problems]; a missing score counts as a guess where pairs "
        "are ranked, and as an error of 1.",
    ]
    if "outcome" in result:
        lines += ["", *outcome_lines(result["outcome"]), "", *calibration_lines(result)]
    if "first_error" in result:
        lines += ["", first_error_line(result["first_error"])]
    if "step_labels" in result:
        lines += ["", step_line(result["step_labels"])]
    return "\n".join([*lines, "", f"'genac view {folder}' shows the solutions with their values."])


def open_ones(result: Mapping[str, Any]) -> str:
    count = result["unanswered"]
    return f"; {count} got no answer: the same command sends them again" if count else ""


def outcome_lines(outcome: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {row['fraction']:.2f} | {spread(row, 'auc')} | {spread(row, 'auc_within_problem')} "
        f"| {row['missing']} |"
        for row in outcome["by_fraction"]
    ]
    return [
        f"{100 * outcome['correct_rate']:.1f} % of the solutions are correct; "
        f"{outcome['problems_with_both']} problems have correct and wrong ones.",
        "",
        "| part read, at most | AUC of the outcome | AUC within a problem | missing |",
        "|---" * 4 + "|",
        *rows,
    ]


def calibration_lines(result: Mapping[str, Any]) -> list[str]:
    c = result["calibration"]
    bins = [
        f"| {b['low']:.1f} to {b['high']:.1f} | {b['count']} | {b['predicted']:.3f} "
        f"| {b['actual']:.3f} |"
        for b in c["reliability"]
        if b["count"]
    ]
    return [
        f"Brier score {spread(c, 'brier')}, of the best constant {c['brier_constant']:.3f}; "
        f"expected calibration error {shown(c['expected_calibration_error'])}.",
        "",
        "| value | states | mean value | correct |",
        "|---" * 4 + "|",
        *bins,
    ]


def first_error_line(f: Mapping[str, Any]) -> str:
    return (
        f"First error: F1 {spread(f, 'f1')} on {f['solutions']} solutions (accuracy with an error "
        f"{shown(f.get('accuracy_error'))}, without {shown(f.get('accuracy_correct'))}); "
        f"{threshold_text(f)}."
    )


def step_line(f: Mapping[str, Any]) -> str:
    return (
        f"Step labels: AUC {spread(f, 'auc')} on {f['steps']} steps, {f['wrong_steps']} of them "
        f"wrong, {f['missing']} scores missing; F1 of the wrong ones {spread(f, 'f1')} on "
        f"{f['solutions']} solutions; {threshold_text(f)}."
    )


def threshold_text(f: Mapping[str, Any]) -> str:
    if f["threshold"] is None:
        return "no threshold could be chosen: too few labelled solutions; give --threshold"
    own = f["threshold_chosen_on"] == "the command line"
    how = "of the command line" if own else f"chosen on the other {f['threshold_chosen_on']}"
    return f"a step is wrong where the value after it is below {f['threshold']:.3f} ({how})"


def spread(row: Mapping[str, Any], key: str) -> str:
    interval = row[f"{key}_interval"]
    if row[key] is None or interval is None:
        return shown(row[key])
    return f"{row[key]:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
