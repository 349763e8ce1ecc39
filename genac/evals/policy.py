"""Held-out success of a policy: pass@1 and pass@k with intervals clustered by problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genac.ops.stats import bootstrap_interval, pass_at_k
from genac.rollout import World, collect, problems_at
from genac.runtime import Runtime
from genac.tasks.base import Diagnoses, Task
from genac.types import Group

UNNAMED = "no mistake named"  # in a response that is not right


@dataclass(frozen=True)
class PolicyScore:
    """Mean success over problems with a 95 % bootstrap interval over problems."""

    mean: float
    low: float
    high: float
    pass_at_k: float
    pass_at_k_low: float
    pass_at_k_high: float
    k: int
    problems: int
    by_problem: tuple[float, ...] = ()  # mean success on each, in order
    diagnosis: Mapping[str, Any] | None = None  # see `diagnosed`; None = the task gives none

    def logged(self) -> dict[str, float]:
        """As metrics of a step."""
        return {
            "eval/success": self.mean,
            "eval/success_low": self.low,
            "eval/success_high": self.high,
        }

    def as_dict(self) -> dict[str, Any]:
        values = vars(self) | {"by_problem": list(self.by_problem)}
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PolicyScore:
        """From `as_dict`."""
        return cls(**{**values, "by_problem": tuple(values.get("by_problem", ()))})

    def gain_over(self, before: PolicyScore) -> dict[str, float] | None:
        """Mean difference to a score on the same problems, with a 95 % bootstrap interval of the
        differences by problem. It is mostly narrower than two intervals: what makes a problem easy
        is in both scores. None where the problems are not known, or not as many.
        """
        if not self.by_problem or len(self.by_problem) != len(before.by_problem):
            return None
        change = np.subtract(self.by_problem, before.by_problem)
        low, high = bootstrap_interval([np.array([one]) for one in change])
        return {"mean": float(change.mean()), "low": low, "high": high}


def evaluate_policy(
    actor: Runtime, world: World, num_problems: int, num_samples: int
) -> PolicyScore:
    """Success on the first `num_problems` held-out problems, with `num_samples` responses to each.

    Problems and seeds are the same at every call. Raises ValueError where none is held out.
    """
    size = world.task.size("heldout")
    count = num_problems if size is None else min(num_problems, size)
    if count < 1:
        raise ValueError(
            "no held-out problem to evaluate on; give the task more data or a larger held-out part"
        )
    fixed = replace(
        world, rollout=world.rollout.model_copy(update={"num_generations": num_samples})
    )
    groups = collect(actor, fixed, problems_at(world, "heldout", 0, count), "evaluate")
    return replace(policy_score(groups), diagnosis=diagnosed(world.task, groups))


def diagnosed(task: Task, groups: Sequence[Group]) -> dict[str, Any] | None:
    """How many responses are right, the kinds of the others' first mistakes, most frequent first,
    and how many of all calculations have a wrong result. None where the task does not diagnose.
    """
    if not isinstance(task, Diagnoses):
        return None
    rollouts = [r for group in groups for r in group]
    results = [task.diagnose(r.problem, r.text) for r in rollouts]
    failed = [d for r, d in zip(rollouts, results, strict=True) if r.reward != 1.0]
    return {
        "responses": len(rollouts),
        "right": len(rollouts) - len(failed),
        "first_mistakes": dict(Counter(d.mistake or UNNAMED for d in failed).most_common()),
        "calculations": sum(d.calculations for d in results),
        "wrong_calculations": sum(d.wrong_calculations for d in results),
    }


def success(reward: float | None) -> float:
    """A reward as evaluations count it: a response that could not be scored is a failure."""
    return 0.0 if reward is None else reward


def policy_score(groups: list[Group]) -> PolicyScore:
    """Success of groups, with intervals over problems."""
    rows = [np.array([success(r.reward) for r in group]) for group in groups]
    low, high = bootstrap_interval(rows)
    k = len(rows[0])
    solved = [pass_at_k(len(row), int((row == 1.0).sum()), k) for row in rows]
    pass_low, pass_high = bootstrap_interval([np.array([s]) for s in solved])
    return PolicyScore(
        mean=float(np.concatenate(rows).mean()),
        low=low,
        high=high,
        pass_at_k=float(np.mean(solved)),
        pass_at_k_low=pass_low,
        pass_at_k_high=pass_high,
        k=k,
        problems=len(rows),
        by_problem=tuple(float(row.mean()) for row in rows),
    )
