"""Stage 3: joint training of actor and critic: the whole loop of every algorithm.

Algorithms differ in two objects only, both named by the config: the critic (`critic.kind`, a class
in `genac.critics.CRITICS`) and the credit strategy (`credit.estimator`, a function in
`genac.credit.ESTIMATORS`). To add one, add it there; this file does not change.

A value that a critic did not give is an `Estimate` with value None. It is passed on as None, stands
in for nothing here, and is filled or passed over in `genac.credit.fill_missing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from genac.config.run import RunConfig
from genac.credit import credit
from genac.critics.base import Critic
from genac.evals.online import critic_metrics, rollout_metrics
from genac.evals.policy import evaluate_policy
from genac.rollout import collect, problems_at
from genac.runs.store import Run
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.stages.callbacks import Callbacks
from genac.stages.critic_rl import states_of
from genac.stages.loop import Loop
from genac.stages.setup import Setup
from genac.states import marked
from genac.types import Group, Sample, State


def check(cfg: RunConfig) -> None:
    """Refuses, before anything is computed, a policy gradient of responses from a nucleus.

    Its importance ratios would compare the whole distribution with a cut one, and a step that
    moves a token out of the nucleus could never be taken back.
    """
    if cfg.rollout.top_p < 1 and cfg.stages.joint.steps:
        raise ValueError(
            f"rollout.top_p is {cfg.rollout.top_p}: responses that train the actor must be drawn "
            "from its whole distribution, or importance ratios are wrong for every token; set "
            "rollout.top_p to 1 (rollout.temperature below 1 sharpens without cutting off); "
            "'genac eval benchmarks' takes another --top-p"
        )


def train(
    setup: Setup,
    run: Run,
    actor: Runtime,
    critic: Critic,
    reference: Runtime | None,
    config_hash: str,
    callbacks: Callbacks | None = None,
) -> Loop:
    """Runs (or resumes) the joint stage in `run`; the loop it returns holds the cost summary."""
    cfg, world = setup.cfg, setup.world
    check(cfg)
    models = {"actor": actor} | ({"critic": critic.runtime} if critic.runtime else {})
    loop = Loop(run, "joint", cfg.stages.joint, models, critic, config_hash, callbacks=callbacks)
    cost, count = loop.cost, cfg.rollout.num_prompts
    for step in loop:
        # 1 act
        with cost.clock("actor_sampling", actor):
            groups = collect(
                actor, world, problems_at(world, "train", step * count, count), "joint", step
            )
        # 2 judge: before the tokens that a value will baseline; None where no score was given
        with cost.clock("critic_sampling", critic.samples_with):
            estimates = critic.estimate(states_to_value(groups, critic, cfg, actor, step), step)
        # 3 assign credit: rewards and values to one advantage per token, missing values included
        masks = cfg.actor.loss.mask_truncated_completions
        assigned = credit(groups, estimates, cfg.credit, cfg.rollout.temperature, masks)
        # 4 learn
        with cost.clock("actor_training", actor):
            samples = with_reference(assigned.samples, reference)
            metrics = actor.learner.learn(samples, derive_seed(cfg.seed, "joint", step))
        with cost.clock("critic_training", critic.runtime):
            critic.observe([r for group in groups for r in group])
            metrics |= critic.learn(estimates, step)  # nothing where the critic has no model
        # 5 new weights reach the engines
        changed = publish(actor, critic, step + 1, groups[0][0].prompt_ids)
        # 6 log, evaluate, save when due
        metrics |= rollout_metrics(groups) | critic_metrics(estimates) | assigned.metrics
        metrics |= {"publish_changed": changed} | held_out(setup, actor, loop, step)
        loop.after(step, metrics, groups, estimates, assigned.advantages)
    return loop


def states_to_value(
    groups: Sequence[Group], critic: Critic, cfg: RunConfig, actor: Runtime, step: int
) -> list[State]:
    """The states whose values are estimated; those that train the critic are marked."""
    if not critic.asks_states:
        return []
    states = states_of([r for group in groups for r in group], cfg, actor)
    if critic.max_states_applies:
        states = marked(states, cfg.stages.joint.max_states, f"{cfg.seed}/joint/{step}")
    return states


def with_reference(samples: Sequence[Sample], reference: Runtime | None) -> list[Sample]:
    """Adds the frozen reference's log-probabilities, for the KL term."""
    if reference is None or not samples:
        return list(samples)
    result = reference.learner.logprobs(samples)
    return [replace(s, ref_logprobs=r) for s, r in zip(samples, result, strict=True)]


def publish(actor: Runtime, critic: Critic, version: int, probe: tuple[int, ...]) -> float | None:
    """Hands the new weights to the engines; returns how much the actor's predictions moved, None
    where its server does not report it.
    """
    before = actor.probe(probe)
    actor.publish(version)
    if critic.runtime is not None:
        critic.runtime.publish(version)
    moved = float(abs(actor.probe(probe) - before).max())
    return None if math.isnan(moved) else moved


def held_out(setup: Setup, actor: Runtime, loop: Loop, step: int) -> dict[str, float]:
    """Held-out success when an evaluation is due."""
    cfg: RunConfig = setup.cfg
    every = cfg.stages.joint.eval_every
    if not every or (step + 1) % every:
        return {}
    with loop.cost.clock("evaluation", actor):
        score = evaluate_policy(actor, setup.world, cfg.evaluate.during, cfg.evaluate.num_samples)
    return score.logged()
