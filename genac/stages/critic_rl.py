"""Stage 2: the critic learns from returns while the actor is frozen.

REINFORCE for the generative critic, regression on returns for a value head: the joint loop without
the actor's step.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from genac.config import RunConfig
from genac.credit import credit
from genac.critics.base import rollouts_of
from genac.evals.online import critic_metrics, rollout_metrics
from genac.rollout import Group, World, collect, problems_at
from genac.runs.store import Run, stable_hash
from genac.runtime import Runtime
from genac.sections import MEMORY
from genac.stages.contents import model_key, task_key
from genac.stages.loop import Loop
from genac.stages.outputs import ensure
from genac.stages.setup import Setup, save_critic
from genac.states import every_token, split
from genac.types import Rollout, State

FIRST_PROBLEM = 10_000_000  # these problems are not those of joint training


def key(cfg: RunConfig, start: Path, actor: Path) -> dict[str, Any]:
    return {
        "start": model_key(start),
        "actor": model_key(actor),
        "load": cfg.actor.load.model_dump(),
        "seed": cfg.seed,
        "critic": cfg.critic.model_dump(
            exclude={
                "model_name_or_path": True,
                "generative": {"force_prompt", "value_samples"},
                "optimizer": MEMORY,
            }
        ),
        "gamma": cfg.credit.gamma,
        "task": task_key(cfg.task),
        "states": cfg.states.model_dump(),
        "granularity": cfg.credit.granularity,
        "rollout": cfg.rollout.model_dump(exclude={"max_rows"}),
        "critic_rl": cfg.stages.critic_rl.model_dump(),
    }


def pretrained_critic(setup: Setup, start: Path, actor_path: Path, actor: Runtime) -> Path:
    """Folder of the pretrained critic; trained unless it exists."""
    wanted = key(setup.cfg, start, actor_path)
    folder = ensure(
        setup.cfg.stages.folder,
        "critic_rl",
        wanted,
        lambda run: train(setup, run, start, actor, stable_hash(wanted)),
    )
    return folder / "model"


def train(setup: Setup, run: Run, start: Path, actor: Runtime, config_hash: str) -> None:
    """The joint loop without the actor's step."""
    cfg, stage = setup.cfg, setup.cfg.stages.critic_rl
    world = stage_world(setup)
    critic = setup.critic(start, actor, stage.learning_rate, stage.steps if stage.decay else None)
    assert critic.runtime is not None
    loop = Loop(
        run, "critic_rl", stage, {"critic": critic.runtime}, critic, config_hash, actor.tokenizer
    )
    for step in loop:
        # 1 the frozen actor acts
        groups = stage_groups(setup, world, actor, step)
        # 2 judge
        rollouts = [r for group in groups for r in group]
        states = subset(states_of(rollouts, cfg, actor), stage.max_states, f"{cfg.seed}/{step}")
        estimates = critic.estimate(states, step)
        # 3 learn from the returns
        critic.observe(rollouts_of(states))
        measured = critic.learn(estimates, step)
        critic.runtime.publish(step + 1)
        advantages = credit(groups, estimates, cfg.credit, cfg.rollout.temperature).advantages
        metrics = rollout_metrics(groups) | critic_metrics(estimates) | measured
        loop.after(step, metrics, groups, estimates, advantages)
    save_critic(critic, cfg, run.path / "model")


def stage_world(setup: Setup) -> World:
    """The run's world with this stage's group size."""
    size = setup.cfg.stages.critic_rl.num_generations
    if size is None:
        return setup.world
    rollout = setup.world.rollout.model_copy(update={"num_generations": size})
    return replace(setup.world, rollout=rollout)


def stage_groups(setup: Setup, world: World, actor: Runtime, step: int) -> list[Group]:
    """The responses that a step of this stage learns from; each step has problems of its own."""
    count = setup.cfg.stages.critic_rl.num_prompts or setup.cfg.rollout.num_prompts
    problems = problems_at(world, "train", FIRST_PROBLEM + step * count, count)
    return collect(actor, world, problems, "critic_rl", step)


def subset(states: list[State], limit: int | None, seed: str) -> list[State]:
    """All states of at most `limit` token-identical classes, drawn at random: more problems per
    judged state, and pooled returns stay whole."""
    keys = list(dict.fromkeys(state.key for state in states))
    if limit is None or len(keys) <= limit:
        return states
    chosen = set(random.Random(f"{seed}/subset").sample(keys, limit))
    return [state for state in states if state.key in chosen]


def states_of(rollouts: list[Rollout], cfg: RunConfig, actor: Runtime) -> list[State]:
    """The states at which this run asks for values."""
    if cfg.critic.kind == "none":
        return []
    if cfg.credit.granularity == "tokens":
        return every_token(rollouts)
    return split(rollouts, cfg.states, actor.tokenizer)
