"""A critic's verdicts on the states of a panel against those of the task's program: whether a
mistake stands in what is written so far.

Nothing is sampled: the rationales are those that the critic's values were read from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from genac.rollout import World, response_text
from genac.runtime import Runtime
from genac.tasks.base import ReadsVerdicts
from genac.types import Estimate, State

Verdict = bool | None  # whether a mistake stands; None = nothing is said of it


@dataclass(frozen=True)
class Verdicts:
    """The program's verdict on each state of a panel, and how one is read in a rationale."""

    program: list[Verdict]
    read: Callable[[str], Verdict]


def program_verdicts(states: Sequence[State], world: World, actor: Runtime) -> Verdicts | None:
    """What the task's oracle says of each state; None where the task reads no verdicts."""
    task = world.task
    if not isinstance(task, ReadsVerdicts):
        return None
    program = []
    for state in states:
        partial = response_text(actor.tokenizer, state.rollout.response_ids[: state.start])
        trace = world.task.oracle(state.rollout.problem, partial, None)
        program.append(task.verdict(trace.reasoning))
    return Verdicts(program, task.verdict)


def verdict_sums(
    estimates: Sequence[Estimate], verdicts: Verdicts, truth_N: np.ndarray, problems_N: np.ndarray
) -> dict[str, list[list[float]]]:
    """Statistic -> (numerator, denominator) per problem, in the order of the panel; see
    docs/metrics.md for each key. Empty where no rationale says whether a mistake stands.

    All rationales of a state are read, and each counts 1 / their number. Silence is no right
    verdict: it is neither a false alarm nor the naming of a mistake.
    """
    rows = [[verdicts.read(r.text) for r in e.rationales] or [None] for e in estimates]
    alarm_N = np.array([np.mean([v is True for v in row]) for row in rows])
    clear_N = np.array([np.mean([v is False for v in row]) for row in rows])
    known_N = np.array([v is not None for v in verdicts.program])
    if not (alarm_N + clear_N)[known_N].any():
        return {}
    wrong_N = np.array([v is True for v in verdicts.program])
    right_N = known_N & ~wrong_N
    error_N = squared_distance(truth_N, (wrong_N, right_N))
    pairs = {
        "verdict_accuracy": (np.where(wrong_N, alarm_N, clear_N), known_N),
        "verdict_false_alarms": (alarm_N, right_N),
        "verdict_misses": (1 - alarm_N, wrong_N),
        "verdict_rate": (alarm_N + clear_N, known_N),
        "verdict_mistakes": (wrong_N.astype(float), known_N),
        "mse_verdict": (error_N, known_N),
    }
    groups = [problems_N == problem for problem in dict.fromkeys(problems_N.tolist())]
    return {
        key: [[float(top_N[own_N & of_N].sum()), float((own_N & of_N).sum())] for own_N in groups]
        for key, (top_N, of_N) in pairs.items()
    }


def squared_distance(truth_N: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) squared difference of each state to the mean of its group; 0 outside of all groups."""
    error_N = np.zeros(len(truth_N))
    for of_N in groups:
        if of_N.any():
            error_N[of_N] = (truth_N[of_N] - truth_N[of_N].mean()) ** 2
    return error_N
