"""The panel: states of held-out problems with mixed outcomes, and their Monte-Carlo values.

It is the ground truth that critics are measured against.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.run import StatesConfig
from genac.critics.base import unique_states
from genac.critics.monte_carlo import MonteCarloValue, monte_carlo_values
from genac.evals.policy import success
from genac.evals.verdicts import Verdicts, program_verdicts
from genac.rollout import World, collect, problems_at, response_text
from genac.runs.store import atomic_write
from genac.runtime import Runtime
from genac.states import split
from genac.types import Group, Rollout, State

RESPONSES = 8  # per candidate problem
FEWEST = 2  # problems with mixed outcomes of a panel
FIRST_PROBLEM = 100_000  # of an endless task: apart from those of the success evaluation


class NoPanel(ValueError):
    """No held-out problem is both solved and failed: there is nothing to rank critics on."""


@dataclass(frozen=True)
class Panel:
    """Unique states with their Monte-Carlo values; entry i of every list speaks of state i."""

    states: list[State]
    values: list[MonteCarloValue]
    problem_rate: list[float]  # success rate of the state's problem among its responses (hindsight)
    verdicts: Verdicts | None = None  # None = the task's program gives none

    @property
    def noise(self) -> float:
        """Mean sampling variance of the values: the least MSE a perfect critic could show."""
        return float(np.nanmean([v.variance for v in self.values]))


def build_panel(
    actor: Runtime, world: World, states_cfg: StatesConfig, num_problems: int, continuations: int
) -> Panel:
    """K continuations from every state of `num_problems` held-out problems with both outcomes."""
    groups = with_mixed_outcomes(actor, world, num_problems)
    rollouts = [r for group in groups for r in group]
    states, _ = unique_states(split(rollouts, states_cfg, actor.tokenizer))
    values = monte_carlo_values(actor, world, states, continuations, "panel")
    rates = {
        group[0].problem.id: float(np.mean([success(r.reward) for r in group])) for group in groups
    }
    return known_only(states, values, [rates[s.rollout.problem.id] for s in states])


def with_mixed_outcomes(actor: Runtime, world: World, expected: int) -> list[Group]:
    """Groups of held-out problems that the actor both solves and fails."""
    sampling = replace(
        world, rollout=world.rollout.model_copy(update={"num_generations": RESPONSES})
    )
    size = world.task.size("heldout")
    results: list[Group] = []
    tried = solved = 0
    for attempt in range(8):
        first = FIRST_PROBLEM + attempt * 2 * expected if size is None else attempt * 2 * expected
        if size is not None and first >= size:
            break
        count = 2 * expected if size is None else min(2 * expected, size - first)
        groups = collect(
            actor, sampling, problems_at(world, "heldout", first, count), "panel", attempt
        )
        scored = [[r for r in group if r.reward is not None] for group in groups]
        tried += len(groups)
        solved += sum(bool(g) and all(r.reward == 1.0 for r in g) for g in scored)
        results += [g for g in scored if len({r.reward for r in g}) > 1]
        if len(results) >= expected:
            return results[:expected]
    if len(results) < min(expected, FEWEST):
        raise NoPanel(
            f"{tried} held-out problems were tried with {RESPONSES} responses each; {len(results)} "
            f"had mixed outcomes (right and wrong responses), {FEWEST} are needed. {solved} were "
            f"always solved, {tried - solved - len(results)} never: choose "
            f"{'a harder' if 2 * solved > tried else 'an easier'} task or "
            f"{'more held-out problems' if tried < 4 * expected else 'another actor'}, or set "
            "evaluate.panel_problems to 0"
        )
    warnings.warn(
        f"the panel has {len(results)} problems with mixed outcomes instead of {expected} (of "
        f"{tried} tried): intervals are wide",
        stacklevel=2,
    )
    return results


def revalue(panel: Panel, actor: Runtime, world: World, continuations: int) -> Panel:
    """The same states under another actor's continuation (for example after training)."""
    values = monte_carlo_values(actor, world, panel.states, continuations, "revalue")
    later = known_only(panel.states, values, panel.problem_rate)
    return replace(later, verdicts=program_verdicts(later.states, world, actor))


def known_only(states: list[State], values: list[MonteCarloValue], rates: list[float]) -> Panel:
    """States none of whose continuations could be scored have no value and are left out."""
    kept = [i for i, v in enumerate(values) if v.value is not None]
    return Panel([states[i] for i in kept], [values[i] for i in kept], [rates[i] for i in kept])


def save_panel(panel: Panel, file: Path, actor: Runtime) -> None:
    """JSON lines: a head that says whose panel it is, then one state per line."""
    head = {"actor": actor.fingerprint(), "tokenizer": vocabulary_hash(actor.tokenizer)}
    rows = [head] + [
        {
            "problem": state.rollout.problem.id,
            "prompt_ids": state.rollout.prompt_ids,
            "response_ids": state.rollout.response_ids,
            "reward": state.rollout.reward,
            "group": state.rollout.group,
            "member": state.rollout.member,
            "start": state.start,
            "end": state.end,
            "value": value.value,
            "count": value.count,
            "standard_error": None if value.count < 2 else value.variance**0.5,
            "problem_rate": rate,
        }
        for state, value, rate in zip(panel.states, panel.values, panel.problem_rate, strict=True)
    ]
    atomic_write(file, "\n".join(json.dumps(row) for row in rows))


def load_panel(file: Path, world: World, actor: Runtime) -> Panel:
    """A saved panel; problems are made again from their place in the task.

    ValueError where it was made by another actor or tokenizer, or for another task.
    """
    head, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    if head.get("tokenizer") != vocabulary_hash(actor.tokenizer):
        raise ValueError(
            f"the panel {file} was made with another tokenizer than this actor's, so its token "
            "prefixes mean something else; build a panel with this actor"
        )
    if head.get("actor") != actor.fingerprint():
        raise ValueError(
            f"the panel {file} was made by another actor (or another checkpoint of it): its values "
            "are that actor's; build a panel with this actor"
        )
    tokenizer = actor.tokenizer
    expected = {row["problem"] for row in rows}
    size = world.task.size("heldout")
    first, last = (FIRST_PROBLEM, FIRST_PROBLEM + 100_000) if size is None else (0, size)
    problems = {}
    for index in range(first, last):
        if len(problems) == len(expected):
            break
        problem = problems_at(world, "heldout", index, 1)[0]
        if problem.id in expected:
            problems[problem.id] = problem
    if lost := sorted(expected - set(problems)):
        raise ValueError(
            f"the panel {file} has problems that this task does not ({lost[0]!r} and "
            f"{len(lost) - 1} more); give the task, seed and options that it was built with"
        )
    rollouts: dict[tuple[str, int], Rollout] = {}
    states = [_state(row, problems, rollouts, tokenizer) for row in rows]
    values = [MonteCarloValue(row["value"], row["count"]) for row in rows]
    rates = [row["problem_rate"] for row in rows]
    return Panel(states, values, rates, program_verdicts(states, world, actor))


def vocabulary_hash(tokenizer: Any) -> str:
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()[
        :12
    ]


def _state(
    row: dict[str, Any],
    problems: dict[str, Any],
    rollouts: dict[tuple[str, int], Rollout],
    tokenizer,
) -> State:
    key = (row["problem"], row["member"])
    if key not in rollouts:
        ids = tuple(row["response_ids"])
        rollouts[key] = Rollout(
            problem=problems[row["problem"]],
            group=row["group"],
            member=row["member"],
            prompt_ids=tuple(row["prompt_ids"]),
            response_ids=ids,
            logprobs=np.zeros(len(ids), np.float32),
            text=response_text(tokenizer, ids),
            finish="stop",
            actor_version=0,
            reward=row["reward"],
        )
    return State(rollouts[key], row["start"], row["end"])
