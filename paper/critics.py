"""Critics as jobs: brought up through their stages, and judged on panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.commands.eval_critics import load_critic
from genac.config.run import RunConfig
from genac.critics.actor_likelihood import ActorLikelihoodCritic
from genac.critics.base import Critic, unique_states
from genac.critics.discriminative import by_rollout, value_sample
from genac.critics.generative import GenerativeCritic
from genac.critics.monte_carlo import MonteCarloCritic
from genac.evals.critic import evaluate_critic, trivial_baselines
from genac.evals.ground_truth import Panel
from genac.evals.policy import evaluate_policy
from genac.rollout import response_text
from genac.runs.store import Run
from genac.runtime import Runtime
from genac.seeding import derive_seed
from genac.stages.critic_rl import CriticRLInputs, stage_groups, stage_world
from genac.stages.inputs import StageInputs
from genac.stages.panels import stored_panel
from genac.stages.pipeline import prepare
from genac.stages.setup import Setup, make_world, save_critic
from genac.states import split
from genac.types import Estimate, State

Config = dict[str, Any]


# --- jobs ----------------------------------------------------------------------------------------


def bring_up(config: Config) -> dict[str, str | None]:
    """Every stage before joint training. -> the folders of actor and critic by stage."""
    ready = prepare(Setup.of(RunConfig(**config)))
    return {
        "actor": str(ready.actor),
        "untrained": text_of(ready.critic_start),
        "sft": text_of(ready.critic_sft),
        "rl": text_of(ready.critic),
    }


def panel_made(config: Config, actor: str, options: dict[str, Any]) -> dict[str, float]:
    """Builds the panel of an actor under a shift. -> the actor's success there, and the trivial
    baselines.
    """
    cfg = RunConfig(**config)
    setup = Setup.of(cfg)
    runtime = setup.actor(actor)
    panel = stored_panel(setup, Path(actor), runtime, options)
    rate = evaluate_policy(
        runtime, make_world(cfg, **options), cfg.evaluate.num_problems, cfg.evaluate.num_samples
    )
    problems = len({s.rollout.problem.id for s in panel.states})
    counts = {"states": len(panel.states), "problems": problems}
    return {"rate": rate.mean, **counts, "noise": panel.noise, **trivial_baselines(panel)}


def judged(
    config: Config,
    actor: str,
    critic: str,
    options: dict[str, Any],
    rate: float | None,
    num_samples: int | None = None,
) -> dict[str, Any]:
    """One critic on one panel. `critic` is a folder, or a critic without a model of its own:
    oracle, actor_likelihood, monte_carlo, hindsight or rate. `rate` is the success rate it is told
    (None: nothing); `num_samples` are rationales per state (None: as many as in training)."""
    cfg = RunConfig(**config)
    setup = Setup.of(cfg)
    runtime = setup.actor(actor)
    panel = stored_panel(setup, Path(actor), runtime, options)
    one = predictor(setup, runtime, critic, options, rate, panel)
    if num_samples is not None:
        assert isinstance(one, GenerativeCritic)
        one.cfg = one.cfg.model_copy(update={"num_samples": num_samples})
    return evaluate_critic(one, panel)


def value_regression(config: Config, actor: str, targets: str, learning_rate: float) -> str:
    """A value head trained on labels without noise, with the stage's rollouts and steps.

    targets: "actor_likelihood" (the actor's own probability of finishing rightly) or "oracle" (the
    score that the SFT traces end with). What it cannot learn then is not the noise of returns.
    """
    if targets not in ("actor_likelihood", "oracle"):
        raise ValueError(f"targets is {targets!r}; use actor_likelihood or oracle")
    stage = CriticRLInputs.of(RunConfig(**config), Path(actor), Path(actor))
    inputs = RegressionInputs(stage.cfg, stage.digests, stage, targets, learning_rate)
    return str(inputs.folder(regress) / "model")


@dataclass(frozen=True)
class RegressionInputs(StageInputs):
    stage = "regression"

    critic_rl: CriticRLInputs  # whose rollouts and steps these are
    targets: str
    learning_rate: float


def regress(inputs: RegressionInputs, run: Run) -> None:
    setup = inputs.setup()
    cfg, stage = setup.cfg, setup.cfg.stages.critic_rl
    actor, world = setup.actor(inputs.critic_rl.actor.path), stage_world(setup)
    optimizer = setup.critic_optimizer(inputs.learning_rate)
    decay = stage.steps if stage.decay else None
    critic = setup.critic(inputs.critic_rl.start.path, actor, optimizer, decay)
    assert critic.runtime is not None
    teacher: Critic = OracleCritic(actor, world, None)
    if inputs.targets == "actor_likelihood":
        teacher = ActorLikelihoodCritic(actor, world)
    run.truncate_after("regression", -1)  # an interrupted one starts again
    for step in range(stage.steps):
        rollouts = [r for group in stage_groups(setup, world, actor, step) for r in group]
        states = split(rollouts, cfg.states, actor.tokenizer)
        estimates = teacher.estimate(states, -1)
        known = [(e.state, e.value) for e in estimates if e.value is not None]
        samples = [
            value_sample(rollout, [known[i][0].start for i in at], [known[i][1] for i in at])
            for rollout, at in by_rollout([state for state, _ in known])
        ]
        seed = derive_seed(cfg.seed, "regression", step)
        run.log("regression", step, critic.runtime.learner.learn(samples, seed))
    save_critic(critic, cfg, run.path / "model")


# --- predictors without a model -------------------------------------------------------------------


class OracleCritic(Critic):
    """The task's programmatic oracle asked directly: it knows the mathematics, not this actor.

    It stands where a zero-shot API model would stand.
    """

    def __init__(self, actor: Runtime, world: Any, rate: float | None) -> None:
        self.actor, self.world, self.rate = actor, world, rate

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        unique, index = unique_states(states)
        scores = []
        for state in unique:
            partial = response_text(self.actor.tokenizer, state.rollout.response_ids[: state.start])
            trace = self.world.task.oracle(state.rollout.problem, partial, self.rate)
            scores.append(trace.score / 10)
        return [Estimate(s, scores[i]) for s, i in zip(states, index, strict=True)]


class ConstantCritic(Critic):
    """One value for every state: what knowing only the actor's strength is worth."""

    def __init__(self, value: float) -> None:
        self.value = value

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        return [Estimate(s, self.value) for s in states]


class HindsightCritic(Critic):
    """The success rate of the state's own problem, known only afterwards: GRPO's baseline."""

    def __init__(self, panel: Panel) -> None:
        self.rates = {
            s.rollout.problem.id: r for s, r in zip(panel.states, panel.problem_rate, strict=True)
        }

    def estimate(self, states: Sequence[State], step: int) -> list[Estimate]:
        return [Estimate(s, self.rates[s.rollout.problem.id]) for s in states]


def predictor(
    setup: Setup,
    actor: Runtime,
    name: str,
    options: dict[str, Any],
    rate: float | None,
    panel: Panel,
) -> Critic:
    world = make_world(setup.cfg, **options)
    if name == "oracle":
        return OracleCritic(actor, world, rate)
    if name == "actor_likelihood":
        return ActorLikelihoodCritic(actor, world)
    if name == "monte_carlo":  # draws of its own, not the panel's
        return MonteCarloCritic(actor, world, setup.cfg.critic.num_continuations)
    if name == "hindsight":
        return HindsightCritic(panel)
    if name == "rate":
        assert rate is not None
        return ConstantCritic(rate)
    if not (Path(name) / "critic.json").exists():  # no critic yet: a language model, asked as one
        critic = setup.critic(name, actor)
    else:
        critic = load_critic(setup.cfg, Path(name), actor)
    critic.set_success_rate(rate)
    return critic


# --- helpers --------------------------------------------------------------------------------------


def text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """What of a judged job goes into a result file."""
    keys = (
        *("states", "parse_rate", "mse", "mse_interval", "mse_corrected", "mae", "bias"),
        *("pearson", "spearman", "auc_within_problem", "auc_within_problem_interval"),
        *("auc_ceiling", "top1_by_pool", "mse_by_fraction", "mse_noise", "calibration"),
        *("expected_calibration_error", "tokens_per_value", "flops_per_value"),
        "seconds_per_value",
    )
    return {key: result[key] for key in keys if key in result}


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
