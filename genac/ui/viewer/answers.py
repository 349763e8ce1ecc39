"""What the page requests of a run, as JSON can hold it: the server's answers, and those that a page
in one file holds itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from genac.runs.listing import status
from genac.runs.store import Run
from genac.runs.trajectory import Step, Trajectory, prefix
from genac.ui.viewer.index import Index, newest_first

VERSIONS = 12  # groups that are looked through for the same state
JUDGEMENT = (  # the columns that are needed for it
    *("group", "member", "problem_id", "response_ids", "reward", "start", "end", "step_text"),
    *("value", "rationale", "critic_version", "score_probs"),
)


def describe(run: Run, index: Index) -> dict[str, Any]:
    """The run in a few words, how much of it was read, and what is missing."""
    result, (done, total) = status(run), index.indexed()
    missing = [result.result] if result.state == "unreadable" else []
    missing += index.notes()
    if not total:
        missing.append(
            "No rollouts yet: they are written every stages.*.log_rollouts_every steps, and at "
            "the last one."
        )
    return {
        "name": run.path.resolve().name,
        "path": str(run.path),
        "status": result.state,
        "algorithm": result.algorithm,
        "stage": result.stage,
        "step": result.step,
        "steps": result.steps,
        "result": "" if result.state == "unreadable" else result.result,
        "missing": missing,
        "indexed": {"done": done, "total": total},
        "version": index.version,
        **index.overview(),
    }


def same_state(
    run: Run, index: Index, address: tuple[str, int, int, int], start: int
) -> list[dict[str, Any]]:
    """The judgement of every version of the critic of one state (same problem, same prefix), newest
    first; each version of a stage once, where the chosen response was judged by it as there.
    """
    group = run.group(*address[:3])
    own = member_of(group, address[3])
    expected = {prefix(own, step) for step in own.steps if step.start == start}
    if not expected:
        raise ValueError(f"{own.address} has no state at token {start}")
    others = [p for p in index.occurrences(own.problem_id, VERSIONS) if p != address[:3]]
    responses = chain([own], group, *(run.group(*place, JUDGEMENT) for place in others))
    result: dict[Any, dict[str, Any]] = {}
    for one in responses:
        for state in one.steps:
            if state.judged and prefix(one, state) in expected:
                result.setdefault((one.stage, state.critic_version), _judgement(one, state))
    queries = {j: answer for j in run.judges() if (answer := _also(run, index, j, own, start))}
    every = [*result.values(), *queries.values()]
    return sorted(every, key=lambda state: newest_first(state["stage"], state["step"]))


def _also(run: Run, index: Index, judge: str, own: Trajectory, start: int) -> dict[str, Any] | None:
    """Another critic's judgement of the state, where there is one (`genac eval states`)."""
    folder = run.judged(judge)
    if not run.table_path(folder, own.stage, own.step).exists():
        return None
    try:
        group = run.group(own.stage, own.step, own.group, JUDGEMENT, folder)
    except ValueError as error:  # damaged, or of another run
        index.note((own.stage, own.step), [f"{folder}: {error}"])
        return None
    index.note((own.stage, own.step), group[0].problems)
    steps = (s for one in group if one.member == own.member for s in one.steps)
    answer = next((s for s in steps if s.start == start and s.judged), None)
    return None if answer is None else _judgement(own, answer, judge)


def _judgement(one: Trajectory, state: Step, judge: str | None = None) -> dict[str, Any]:
    return {
        "judge": judge,  # None: the run's own critic
        "address": one.address,
        "stage": one.stage,
        "step": one.step,
        "start": state.start,
        "critic_version": state.critic_version,
        "value": state.value,
        "observed": state.observed,
        "observed_count": state.observed_count,
        "rationale": state.rationale,
        "score_probs": state.score_probs,
    }


def member_of(group: list[Trajectory], member: int) -> Trajectory:
    for one in group:
        if one.member == member:
            return one
    raise ValueError(f"group {group[0].group} has no response {member}")


def with_siblings(one: Trajectory, group: Sequence[Trajectory]) -> dict[str, Any]:
    """A response, and which others answer its problem."""
    others = [{"member": s.member, "reward": s.reward} for s in group]
    return one.as_dict() | {"siblings": others}
