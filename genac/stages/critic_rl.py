"""Stage 2: the critic learns from returns while the actor is frozen.

REINFORCE for the generative critic, regression on returns for a value head: the joint loop without
the actor's step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from genac.config.run import CreditConfig, RunConfig
from genac.config.stages import CriticStage
from genac.credit import credit
from genac.critics import critic_class
from genac.critics.base import rollouts_of
from genac.critics.running_prompt import prompt_of
from genac.evals.online import critic_metrics, rollout_metrics
from genac.ops.schedule import optimizer_steps
from genac.rollout import World, collect, problems_at
from genac.runs.store import Run
from genac.runtime import Runtime
from genac.stages.inputs import (
    ACTOR,
    ACTOR_DEFAULTS,
    HARDWARE,
    TASK,
    Artifact,
    StageInputs,
    on_actor,
    stage_config,
)
from genac.stages.loop import Loop
from genac.stages.setup import Setup, save_critic
from genac.states import every_token, split, subset
from genac.types import Group, Rollout, State

FIRST_PROBLEM = 10_000_000  # these problems are not those of joint training

STAGE = tuple(f"stages.critic_rl.{n}" for n in CriticStage.model_fields if n != "options")
CRITIC = tuple(
    f"critic.{name}"
    for name in (
        "kind",
        "model_name_or_path",
        "optimizer",
        "loss",
        "lora",
        "load",
        "engine",
        "share_base",
        "generative",
        "discriminative",
    )
)


@dataclass(frozen=True)
class CriticRLInputs(StageInputs):
    """Every state trains the critic here, so `critic.generative.value_samples` decides nothing.

    The task's options are those of the run under `stages.critic_rl.options`.
    """

    stage = "critic_rl"

    start: Artifact  # the critic to go on from, or a language model
    actor: Artifact
    prompt: str | None  # hash of a generative critic's template

    @classmethod
    def of(cls, cfg: RunConfig, start: Path, actor: Path) -> CriticRLInputs:
        """ValueError where a saved model is not as it was written."""
        own = ("rollout", "states", "credit.gamma", "credit.granularity")
        reads = (*TASK, *own, *STAGE, *CRITIC, *ACTOR, *HARDWARE)
        model = Artifact.model(actor)
        defaults = (*ACTOR_DEFAULTS, "critic.generative.value_samples")
        queries = critic_class(cfg.critic.kind).needs_traces
        changes = on_actor(cfg, model, cfg.stages.critic_rl.options)
        return cls(
            *stage_config(cfg, reads, changes, defaults),
            Artifact.model(start),
            model,
            prompt_of(cfg.critic.generative).hash if queries else None,
        )


def pretrained_critic(cfg: RunConfig, start: Path, actor: Path) -> Path:
    """Folder of the pretrained critic; trained unless it exists."""
    return CriticRLInputs.of(cfg, start, actor).folder(train) / "model"


def train(inputs: CriticRLInputs, run: Run) -> None:
    """The joint loop without the actor's step."""
    setup = inputs.setup()
    cfg, stage, world = setup.cfg, setup.cfg.stages.critic_rl, stage_world(setup)
    # The advantages that are stored: plain GAE, whatever the actor's will be made of later.
    neutral = CreditConfig(gamma=cfg.credit.gamma, granularity=cfg.credit.granularity)
    actor = setup.actor(inputs.actor.path)
    optimizer = setup.critic_optimizer(stage.learning_rate)
    decay = optimizer_steps(cfg.critic.loss, stage.steps) if stage.decay else None
    critic = setup.critic(inputs.start.path, actor, optimizer, decay)
    assert critic.runtime is not None
    loop = Loop(
        run, "critic_rl", stage, {"critic": critic.runtime}, critic, inputs.hash, actor.tokenizer
    )
    for step in loop:
        # 1 the frozen actor acts
        with loop.cost.clock("actor_sampling", actor):
            groups = stage_groups(setup, world, actor, step)
        # 2 judge
        rollouts = [r for group in groups for r in group]
        limit = None if critic.reads_whole_responses else stage.max_states
        states = subset(states_of(rollouts, cfg, actor), limit, f"{cfg.seed}/{step}")
        with loop.cost.clock("critic_sampling", critic.samples_with):
            estimates = critic.estimate(states, step)
        # 3 learn from the returns
        with loop.cost.clock("critic_training", critic.runtime):
            critic.observe(rollouts_of(states))
            measured = critic.learn(estimates, step)
        critic.runtime.publish(step + 1)
        advantages = credit(groups, estimates, neutral, cfg.rollout.temperature).advantages
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


def states_of(rollouts: list[Rollout], cfg: RunConfig, actor: Runtime) -> list[State]:
    """The states at which this run estimates values."""
    if cfg.credit.granularity == "tokens":
        return every_token(rollouts)
    return split(rollouts, cfg.states, actor.tokenizer)
