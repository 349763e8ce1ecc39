"""The short table of the results page: twelve claims, each judged by one rule.

A claim holds when its interval over trainings lies on the claimed side after Holm's correction for
all tests of the table, and so does the interval over problems where the experiment has one. It
fails ("no, the reverse") when both lie on the other side. Anything else is "not shown". A training
is a seed: the interval of a page holds trainings fixed, this one does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.ops.stats import mean_interval

LEVEL = 0.05
HEAD = "| claim | holds? | paper | here | trainings |\n|---|---|---|---|---|\n"
NEVER_SEEN = ("downstream-fresh", "downstream-parts")  # runs on seeds that no choice had seen
TRANSFER_AIM = 1.25  # of the error of a critic that was taught by the actor itself
HARD = "high (9 steps, half multiplications)"

Records = Mapping[str, Mapping[str, Any]]  # the JSON files, by page


@dataclass(frozen=True)
class Evidence:
    """Paired values, one per training; above 0 is what the claim says. `problems` is the interval
    over problems, in the same direction, or None where the experiment has none."""

    values: tuple[float, ...]
    problems: tuple[float, float] | None = None


@dataclass(frozen=True)
class Claim:
    text: str
    paper: str
    here: str
    trainings: str
    page: str
    evidence: Evidence | None = None  # None: a measurement without a side
    answer: str = ""  # what "holds?" says of a claim without a test


def claims_table(folder: Path) -> str:
    """The table over the JSON files in `folder`; a claim whose files are missing has no row."""
    records = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    claims = []
    for make in CLAIMS:
        try:
            claims.append(make(records))
        except KeyError as error:
            if error.args[0] not in PAGES:
                raise
    verdicts = judge([claim.evidence for claim in claims])
    pages = dict.fromkeys(page for claim in claims for page in claim.page.split())
    links = "".join(
        f"[{page}]: {page}.md\n" for page in pages
    )  # in the rows they take too much room
    return f"{HEAD}{''.join(map(row_text, claims, verdicts))}\n{links}"


def row_text(claim: Claim, verdict: str) -> str:
    pages = ", ".join(f"[{page}]" for page in claim.page.split())
    text = f"{claim.text} ({pages})"
    cells = (text, claim.answer or verdict, claim.paper, claim.here, claim.trainings)
    return f"| {' | '.join(cells)} |\n"


def judge(items: Sequence[Evidence | None]) -> list[str]:
    """A verdict for each, corrected for all of them; "" where there is no evidence."""
    corrected = iter(holm([p_value(item.values) for item in items if item]))
    return [verdict(item, next(corrected)) if item else "" for item in items]


def verdict(evidence: Evidence, p: float) -> str:
    """`p` is corrected."""
    side = float(np.sign(np.mean(evidence.values)))
    agrees = evidence.problems is None or all(np.sign(end) == side for end in evidence.problems)
    if p >= LEVEL or not agrees:
        return "not shown"
    return "**yes**" if side > 0 else "**no, the reverse**"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: each p value for the family of all of them."""
    order, result, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        result[index] = largest
    return result


def p_value(values: Sequence[float]) -> float:
    """Two-sided p of a one-sample t test against 0.

    With x = sqrt(df) tan(a) the tail of Student's t is the integral of cos(a)^(df-1), from
    arctan(|t| / sqrt(df)) to pi/2, over the same integral from 0.
    """
    if len(values) < 2:
        return 1.0  # one training shows nothing
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    df = len(values) - 1
    start = np.arctan(abs(mean) / error / np.sqrt(df))
    return integral(start, df) / integral(0.0, df)


def integral(start: float, df: int) -> float:
    angles = np.linspace(start, np.pi / 2, 20_001)
    return float(np.trapezoid(np.cos(angles) ** (df - 1), angles))


def ratio(values: Sequence[float]) -> str:
    """Geometric mean and t interval of ratios over trainings: 0.21 x [0.12, 0.34]."""
    mean, low, high = mean_interval(np.log(values))
    if low is None or high is None:
        return f"{np.exp(mean):.2f} x"
    return f"{np.exp(mean):.2f} x [{np.exp(low):.2f}, {np.exp(high):.2f}]"


def gap(values: Any) -> str:
    """Mean and t interval of differences over trainings: +0.171 [+0.106, +0.236]."""
    mean, low, high = mean_interval(values)
    if low is None or high is None:
        return f"{mean:+.3f}"
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def lower_error(records: Records) -> Claim:
    shifts = records["approximation"]["mse_ratio_by_shift"]
    own = shifts["none"]
    problems = (-np.log(own["high"]), -np.log(own["low"]))
    return Claim(
        "A critic that reasons predicts better than a value head",
        "yes",
        f"squared error {ratio(own['by_training'])} the head's",
        str(len(own["by_training"])),
        "approximation",
        Evidence(tuple(-np.log(own["by_training"])), problems),
    )


def wider_gap(records: Records) -> Claim:
    shifts = records["approximation"]["mse_ratio_by_shift"]
    near, far = (np.log(shifts[name]["by_training"]) for name in ("none", HARD))
    left = ": no lead is left" if max(np.exp(far)) >= 1 else ""
    others = [f"{s['value']:.2f} x" for name, s in shifts.items() if name not in ("none", HARD)]
    return Claim(
        "Its lead widens under distribution shift",
        "yes",
        f"{' and '.join(others)} under two shifts; {ratio(shifts[HARD]['by_training'])} at nine "
        f"steps{left}",
        str(len(near)),
        "approximation",
        Evidence(tuple(near - far)),
    )


def critic_rl(records: Records) -> Claim:
    shifts = records["stage2"]["rl_minus_sft_by_shift"]
    own = shifts["none"]
    return Claim(
        "Critic RL lowers the error of SFT",
        "yes",
        f"{gap(own['by_training'])} in distribution; {shifts[HARD]['value']:+.3f} at nine steps",
        str(len(own["by_training"])),
        "stage2",
        Evidence(tuple(-v for v in own["by_training"]), (-own["high"], -own["low"])),
    )


def larger(records: Records) -> Claim:
    sizes = records["frontier"]["by_size"].values()
    errors = [row["mse"]["values"] for row in sizes]
    parameters = [row["parameters"] for row in sizes]
    means = ", ".join(f"{np.mean(e):.3f}" for e in errors)
    return Claim(
        "Larger critics are better",
        "yes",
        f"{means} from {parameters[0] / 1e3:.0f} k to {parameters[-1] / 1e6:.1f} M parameters",
        str(len(errors[0])),
        "frontier",
        Evidence(tuple(np.log(errors[0]) - np.log(errors[-1]))),
    )


def conditioning(records: Records) -> Claim:
    own = records["transfer"]["transfer_icc_error_difference"]
    problems = records["transfer"]["by_problem"]["error without ICC less error with"]
    return Claim(
        "Conditioning the critic on the actor's success rate helps (ICC)",
        "yes",
        f"error {gap([-v for v in own['values']])} on actors that it never met",
        str(len(own["values"])),
        "transfer",
        Evidence(tuple(own["values"]), (problems["low"], problems["high"])),
    )


def transferred(records: Records) -> Claim:
    own = records["transfer"]["transfer_error_ratio"]
    problems = records["transfer"]["by_problem"]["ratio with ICC"]
    room = np.log(TRANSFER_AIM) - np.log(own["values"])
    low, high = (float(np.log(TRANSFER_AIM / problems[end])) for end in ("high", "low"))
    return Claim(
        "A critic that other actors taught is within 25% of the error of one that the actor taught",
        "-",
        f"{ratio(own['values'])} its error, with ICC",
        str(len(own["values"])),
        "transfer",
        Evidence(tuple(room), (low, high)),
    )


def ahead(rival: str, pages: Sequence[str], budget: str) -> Callable[[Records], Claim]:
    """GenAC's final success less a rival's at equal samples, over the seeds of some pages."""

    def make(records: Records) -> Claim:
        ours = finals(records, pages, ours_in(records, pages[0]))
        theirs = finals(records, pages, rival.lower())
        return Claim(
            f"A better policy than {rival} at equal samples, {budget}",
            "yes",
            f"success {np.mean(ours):.3f} and {np.mean(theirs):.3f}: {gap(ours - theirs)}",
            str(len(ours)),
            " ".join(pages),
            Evidence(tuple(ours - theirs)),
        )

    return make


def ours_in(records: Records, page: str) -> str:
    return records[page]["plan"]["ours"]


def finals(records: Records, pages: Sequence[str], method: str, key: str = "final") -> np.ndarray:
    """One number per seed: the final success, or that at an equal budget `key`."""
    rows = [records[page]["methods"][method] for page in pages]
    results = [row["final"] if key == "final" else row["at_equal"][key] for row in rows]
    return np.concatenate([result["values"] for result in results])


def equal_tokens(records: Records) -> Claim:
    ours = finals(records, NEVER_SEEN, ours_in(records, NEVER_SEEN[0]), "tokens")
    theirs = finals(records, NEVER_SEEN, "grpo", "tokens")
    return Claim(
        "A better policy than GRPO at equal tokens",
        "-",
        f"success {np.mean(ours):.3f} and {np.mean(theirs):.3f}: {gap(ours - theirs)}",
        str(len(ours)),
        " ".join(NEVER_SEEN),
        Evidence(tuple(ours - theirs)),
    )


def cost(records: Records) -> Claim:
    shapes = records["compute"]["cost_relative_to_ppo"]
    here = "; ".join(
        f"{s['genac']['seconds']['value']:.2f} x PPO's time ({name})" for name, s in shapes.items()
    )
    return Claim(
        "An iteration costs about 2.1 times PPO's",
        "2.1",
        here,
        "1",
        "compute",
        answer="depends on the length of rationales",
    )


SHORT, LONG = "short training (40 steps)", "long training (400 steps)"
CLAIMS: tuple[Callable[[Records], Claim], ...] = (
    lower_error,
    wider_gap,
    critic_rl,
    larger,
    conditioning,
    transferred,
    ahead("GRPO", NEVER_SEEN, SHORT),
    ahead("PPO", NEVER_SEEN, SHORT),
    ahead("VinePPO", NEVER_SEEN[1:], SHORT),
    ahead("GRPO", ["downstream-long"], LONG),
    equal_tokens,
    cost,
)
PAGES = (
    "approximation",
    "stage2",
    "frontier",
    "transfer",
    "compute",
    "downstream-long",
    *NEVER_SEEN,
)
