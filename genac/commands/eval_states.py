"""genac eval states RUN CRITIC: what another critic says of the states that a run stored.

Written next to the run's own estimates, into judged/NAME/ of its folder, with the same columns; the
viewer shows both side by side. CRITIC is a run, a stage's folder, any folder with critic.json, or a
checkpoint inside a run or stage (RUN/checkpoints/joint/step-000040).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.commands import parsers
from genac.commands.eval_critics import critic_folder, load_critic
from genac.config.recipes import recorded
from genac.critics.base import Critic, rollouts_of
from genac.critics.saved import critic_card, shown_name
from genac.models.chat import encode_prompt
from genac.runs.files import read_json, stable_hash, write_json
from genac.runs.progress import Progress
from genac.runs.store import Run
from genac.runs.tables import state_hash
from genac.runtime import Runtime
from genac.stages.finish import require_trained
from genac.stages.setup import Setup, evaluated_here
from genac.types import Estimate, Problem, Rollout, State

WRITER = "judge.json"  # which critic a folder's judgements are of
COLUMNS = ("group", "member", "start", "end", "state", "value")


@dataclass(frozen=True)
class Stored:
    """The states of one stored step. `exact`: their prompts' tokens were rebuilt as they were."""

    states: list[State]
    exact: bool


def judge_states(arguments: Sequence[str]) -> str:
    """The command; returns what was written. Steps that were judged before are left as they are."""
    args = parsers.eval_states().parse_args(list(arguments))
    run = Run.open(args.run)
    require_trained(run)
    source = critic_folder(args.critic)
    name = args.name or shown_name(source)
    place = run.judged(name)
    keys = chosen(run, args.stage, args.step)
    own = claim(run.path / place, source)
    waiting = [key for key in keys if not run.table_path(place, *key).exists()]
    if waiting:
        cfg = evaluated_here(recorded(run.path, run.config()))
        actor = Setup.of(cfg).actor(run.path / "actor")
        judge_all(run, place, waiting, actor, load_critic(cfg, source, actor), own)
    return judged_line(run, place, keys, len(waiting))


def chosen(run: Run, stage: str, steps: Sequence[int] | None) -> list[tuple[str, int]]:
    """The stored steps that are meant; ValueError where the run lacks one of them."""
    both = set(run.tables("rollouts", stage)) & set(run.tables("estimates", stage))
    held = sorted(step for _, step in both)
    missing = [step for step in steps or () if step not in held]
    if missing or not held:
        raise ValueError(
            f"{run.path} stored no rollouts and values of stage {stage!r}"
            + (f" at step {missing[0]}" if missing else "")
            + f"; it holds the steps {', '.join(map(str, held)) or '(none)'}"
        )
    return [(stage, step) for step in (sorted(set(steps)) if steps else held)]


def claim(folder: Path, source: Path) -> dict[str, str]:
    """What identifies a critic; ValueError where the folder holds another's words."""
    own = {"critic": str(source.resolve()), "card": stable_hash(critic_card(source))}
    if (folder / WRITER).exists() and read_json(folder / WRITER) != own:
        raise ValueError(
            f"{folder} holds values of another critic, or of this one before it was trained again: "
            "give another --name, or delete that folder"
        )
    return own


def judge_all(
    run: Run,
    place: str,
    keys: Sequence[tuple[str, int]],
    actor: Runtime,
    critic: Critic,
    writer: dict[str, str],
) -> None:
    """Asks the critic step by step; each step's file is whole or absent."""
    assert critic.runtime is not None
    decode, critic_decode = actor.tokenizer.decode, critic.runtime.tokenizer.decode
    with Progress("judging", len(keys)) as bar:
        for done, (stage, step) in enumerate(keys):
            stored = states_of(run, stage, step, actor)
            estimates = ask(critic, stored, step)
            (run.path / place).mkdir(parents=True, exist_ok=True)
            write_json(run.path / place / WRITER, writer)
            run.write_estimates(
                stage,
                step,
                estimates,
                decode=lambda ids: decode(list(ids), skip_special_tokens=True),
                critic_decode=lambda ids: critic_decode(list(ids)),
                folder=place,
            )
            bar.update(done + 1, states=len(estimates))


def ask(critic: Critic, stored: Stored, step: int) -> list[Estimate]:
    """One step's estimates. The critic reads the success rate of the step's own responses."""
    rewards = [r.reward for r in rollouts_of(stored.states) if r.reward is not None]
    critic.set_success_rate(sum(rewards) / len(rewards) if rewards else None)
    if critic.reads_actor_tokens and not stored.exact:
        raise ValueError(
            "the prompts' tokens cannot be rebuilt as they were sampled (chat messages are stored "
            "as text, and runs of older versions hold no hash to check them by), and a value head "
            "reads nothing else; use a generative critic"
        )
    return critic.estimate(stored.states, step)


def states_of(run: Run, stage: str, step: int, actor: Runtime) -> Stored:
    """The states that the run's own critic judged at a step."""
    rows = run.table("estimates", stage, step, COLUMNS)
    written = {
        (row["group"], row["member"]): rollout_of(row, actor)
        for row in run.table("rollouts", stage, step)
    }
    judged = [row for row in rows if (row["group"], row["member"]) in written]
    states = [
        State(written[row["group"], row["member"]], row["start"], row["end"]) for row in judged
    ]
    hashes = [state_hash(state.prefix_ids) for state in states]
    exact = hashes == [row.get("state") for row in judged]
    return Stored(states, exact)


def rollout_of(row: dict[str, Any], actor: Runtime) -> Rollout:
    """A stored row as the response it was; its prompt's tokens are made again from the text."""
    problem = Problem(row["problem_id"], row["prompt"], row["answer"])
    return Rollout(
        problem=problem,
        group=row["group"],
        member=row["member"],
        prompt_ids=encode_prompt(actor.tokenizer, problem),
        response_ids=tuple(row["response_ids"]),
        logprobs=np.asarray(row["logprobs"], np.float32),
        text=row["response"],
        finish=row["finish"],
        actor_version=row["actor_version"],
        reward=row["reward"],
        reason=row["reason"] or "",
    )


def judged_line(run: Run, place: str, keys: Sequence[tuple[str, int]], new: int) -> str:
    """How many values there are now, and how far they are from the run's own."""
    apart, states, values = [], 0, 0
    for key in keys:
        own = {at(row): row["value"] for row in run.table("estimates", *key, COLUMNS)}
        for row in run.table(place, *key, COLUMNS):
            states += 1
            values += row["value"] is not None
            if row["value"] is not None and own.get(at(row)) is not None:
                apart.append(abs(row["value"] - own[at(row)]))
    mean = f"{sum(apart) / len(apart):.3f}" if apart else "not known"
    return (
        f"{run.path / place}: {values} values of {states} states at {len(keys)} steps ({new} "
        f"judged now); mean distance from the run's own values: {mean}. 'genac view {run.path}' "
        "shows both side by side."
    )


def at(row: dict[str, Any]) -> tuple[int, int, int]:
    return (row["group"], row["member"], row["start"])
