"""A small run for the viewer's tests: two problems with two responses each, at three steps.

Response 0 of every group is right. Response 1 is wrong, and its value falls from 0.8 to 0.2 across
the second of its three steps; in group 1 its second score is missing, so that it falls from 0.8 to
0.1 across the gap.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genac.runs.store import Run
from genac.types import Estimate, Problem, Rationale, Rollout, State

STEPS = (0, 10, 20)
VALUES = {
    (0, 0): (0.5, 0.7, 0.9),
    (0, 1): (0.5, 0.8, 0.2),
    (1, 0): (0.4, 0.6, 0.9),
    (1, 1): (0.8, None, 0.1),
}
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def make(path: Path, steps: tuple[int, ...] = STEPS) -> Run:
    run = Run.create(path, {"algorithm": "genac", "stages": {"joint": {"steps": 40}}}, {})
    for step in steps:
        append(run, step)
    return run


def append(run: Run, step: int, stage: str = "joint") -> None:
    """One more step. Both problems come back at every step, as a small data set's do."""
    responses = {key: rollout(*key, step) for key in VALUES}
    estimates = [
        estimate(responses[key], place, value, step)
        for key, values in VALUES.items()
        for place, value in enumerate(values)
    ]
    advantages = {(g, m, 2 * s): 0.1 - 0.2 * m for g, m in VALUES for s in range(3)}
    run.write_rollouts(stage, step, list(responses.values()), decode)
    run.write_estimates(stage, step, estimates, advantages, decode, decode)
    run.log(stage, step, {"reward": 0.5})


def rejudge(run: Run, step: int, name: str, less: float = 0.1) -> None:
    """Another critic's words about the states of one step: that much less, or missing as there."""
    rows = [
        estimate(rollout(*key, step), place, value if value is None else value - less, 99)
        for key, values in VALUES.items()
        for place, value in enumerate(values)
    ]
    place = run.judged(name)
    run.write_estimates("joint", step, rows, None, decode, decode, folder=place)


def without_entropies(run: Run, step: int, stage: str = "joint") -> None:
    """The step as it was stored before entropies were."""
    import pyarrow.parquet as parquet

    for folder, gone in (("rollouts", "entropies"), ("estimates", "rationale_entropies")):
        path = run.table_path(folder, stage, step)
        parquet.write_table(parquet.read_table(path).drop_columns([gone]), path)


def rollout(group: int, member: int, step: int) -> Rollout:
    problem = Problem(f"problem-{group}", f"what is {group}+1?", str(group + 1))
    ids = (10, 11, 20 + member, 21, 30, 31)  # both share the first step
    reward = 1.0 - member
    return Rollout(
        problem,
        group,
        member,
        (1, 2 + group),
        ids,
        np.linspace(-0.01, -2, 6).astype(np.float32),
        f"response {member} of step {step}",
        "stop",
        step,
        reward,
        entropies=np.linspace(0, 1.25, 6).astype(np.float32),
    )


def estimate(response: Rollout, place: int, value: float | None, step: int) -> Estimate:
    probs = np.exp(-((np.arange(11) / 10 - (value or 0)) ** 2) * 40)
    text = (
        f"step {place} of {response.problem.id} at version {step}\n{HOSTILE if place == 2 else ''}"
    )
    rationale = Rationale(
        (7, place),
        (40, 41),
        np.array([-0.1, -1.5], np.float32),
        text,
        value,
        None if value is None else 1,
        None if value is None else probs / probs.sum(),
        entropies=np.array([0.3, 0.9], np.float32),
    )
    return Estimate(State(response, 2 * place, 2 * place + 2), value, (rationale,), step)


def decode(ids) -> str:
    return "".join(f"t{i} " for i in ids)
