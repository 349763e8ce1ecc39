"""One command for all stages: base -> warm-up -> critic SFT -> critic pretraining -> joint RL.

Stages before the joint one live in cfg.stages.folder under the hash of what they depend on: they
are skipped when finished, resumed when not, and shared between runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.config.models import LossConfig
from genac.config.run import RunConfig
from genac.critics import critic_class, is_taught
from genac.distributed.build import require_shared
from genac.distributed.tinker.account import LEDGER, bill
from genac.engines.vllm.sharing import shared_servers
from genac.evals.critic import brief, evaluate_critic, trivial_baselines
from genac.evals.ground_truth import Panel, revalue
from genac.evals.policy import PolicyScore, evaluate_policy
from genac.hardware import with_engines
from genac.hub.model_cards import write_cards
from genac.hub.origins import hub_models
from genac.ops.schedule import optimizer_steps
from genac.runs.files import alone, read_json, sweep, write_json
from genac.runs.progress import phase
from genac.runs.store import Run, environment
from genac.runtime import Runtime
from genac.stages import base_model, critic_rl, joint, sft, warmup
from genac.stages.artifacts import import_metrics
from genac.stages.callbacks import Callbacks, StopTraining
from genac.stages.contents import contents
from genac.stages.costs import stages_cost
from genac.stages.finish import (
    AFTER_JOINT,
    BEFORE,
    REPORT,
    before_hash,
    config_hash,
    declare_finished,
    describe,
    finished,
    has_results,
    open_run,
)
from genac.stages.local_models import critic_start
from genac.stages.loop import require_progress
from genac.stages.panels import fixed_panel
from genac.stages.restarts import with_restarts
from genac.stages.setup import Setup, prepared_config, require_fitting, save_critic
from genac.stages.traces import endpoint, synthesize
from genac.tasks import row_counts
from genac.ui.report.document import write_report


@dataclass
class Prepared:
    """Folders that joint training starts from."""

    actor: Path
    folders: list[Path]  # of the stages
    critic_start: Path | None = None  # before any critic training
    critic_sft: Path | None = None
    critic: Path | None = None  # what joint training starts from


def train(cfg: RunConfig, callbacks: Sequence[Any] = ()) -> Path:
    """Everything a recipe asks for; returns the run folder. Resumes what was interrupted, and makes
    again what a finished run lacks.

    Where another process works on the same folder, this one waits, and goes on where that ended.
    `callbacks` hear of joint training (genac.stages.callbacks), not of a run that was finished.
    """
    heard = Callbacks(callbacks)
    cfg = with_engines(cfg)  # what config.json keeps
    setup, early = Setup.of(cfg), Setup.of(prepared_config(cfg))
    folder, digests = Path(cfg.output_dir), contents(cfg)
    if finished(cfg, digests):
        return folder
    with alone(folder, inside=True):
        if finished(cfg, digests):  # by the process that this one waited for
            return folder
        sweep(folder)
        joint.check(cfg)
        run = open_run(cfg, digests)
        unfinished, name = not has_results(run), config_hash(cfg, digests)
        start = before_hash(cfg, digests)
        if unfinished:
            endpoint.check(cfg)
            require_progress(run, "joint")
            describe(run, digests, name)
        with run.reporting(cfg.report_to, cfg.tracking):
            if unfinished:
                with shared_servers():
                    require_shared(setup.hardware, (folder, Path(cfg.stages.folder)))
                    with_restarts(run, lambda: train_in(setup, early, run, name, start, heard))
            (run.path / BEFORE).unlink(missing_ok=True)  # the summary has it all
            write_cards(run.path)
            declare_finished(run)
            write_report(run.path)  # which says that the run has ended
            run.attach(REPORT)
    notify(heard, "on_end", run)
    return folder


def notify(callbacks: Callbacks, hook: str, *args: Any) -> None:
    """Calls a hook outside of training, where there is nothing to save first."""
    error = callbacks.call(hook, *args)
    if isinstance(error, StopTraining):
        callbacks.ended = str(error)  # what ends training after its last step changes nothing
    elif error is not None:
        raise error


def train_in(
    setup: Setup, early: Setup, run: Run, name: str, start: str, callbacks: Callbacks
) -> None:
    """The results of a run, whose config's hash is `name`, into its open folder. `start`: its
    `before_hash`."""
    cfg, mark = setup.cfg, LEDGER.mark()
    started = time.perf_counter()
    # 1 the stages before joint training, each skipped when its output exists
    ready = prepare(early)
    for folder in filter(Run.exists, ready.folders):
        import_metrics(run, folder)
    # 2 where we start
    with phase(f"loading the actor, {ready.actor}"):
        actor = setup.actor(ready.actor, decay_steps=decay_steps(cfg, cfg.actor.loss))
    panel, no_panel = fixed_panel(early, ready.actor, actor)
    before, report = measured_before(setup, early, run, start, ready, actor, panel)
    notify(callbacks, "on_evaluate", 0, before.logged())
    # 3 joint training
    with phase(f"loading the critic, {ready.critic}" if ready.critic else "preparing the critic"):
        decay = decay_steps(cfg, cfg.critic.loss)
        critic = setup.critic(ready.critic, actor, decay_steps=decay)
    reference = setup.actor(ready.actor) if cfg.actor.loss.beta else None
    loop = joint.train(setup, run, actor, critic, reference, name, callbacks)
    # 4 where we arrived
    after = held_out(setup, actor)
    steps = loop.stopped["step"] if loop.stopped else cfg.stages.joint.steps
    notify(callbacks, "on_evaluate", steps, after.logged())
    if panel is not None and critic.learns:
        with phase(f"the panel and the critic after training: {len(panel.states)} states"):
            later = revalue(panel, actor, early.world, cfg.evaluate.panel_continuations)
            report[AFTER_JOINT] = brief(evaluate_critic(critic, later)) | trivial_baselines(later)
    # 5 keep the models and write the account
    actor.save_model(run.path / "actor")
    if critic.runtime is not None:
        save_critic(critic, cfg, run.path / "critic")
    run.write_summary(
        {
            "name": cfg.name,
            "algorithm": cfg.algorithm,
            "hub_models": hub_models(cfg.model_dump()),
            "success_before": before.as_dict(),
            "success_after": after.as_dict(),
            "success_gain": after.gain_over(before),
            "pass_at_k": after.pass_at_k,
            "critic": report,
            "no_panel": no_panel,
            "data": row_counts(setup.world.task),
            "config_hash": name,
            "versions": environment(),
            **({"stopped": loop.stopped} if loop.stopped else {}),
            "wall_seconds": time.perf_counter() - started,
            **loop.cost.state(),
            "stages_cost": stages_cost(ready.folders, run.environment()["started"]),
            **bill(cfg.hardware, mark),
        }
    )


def decay_steps(cfg: RunConfig, loss: LossConfig) -> int | None:
    """Over how many optimiser steps a learning rate falls in joint training."""
    joint = cfg.stages.joint
    return optimizer_steps(loss, joint.steps) if joint.decay else None


def measured_before(
    setup: Setup,
    early: Setup,
    run: Run,
    start: str,
    ready: Prepared,
    actor: Runtime,
    panel: Panel | None,
) -> tuple[PolicyScore, dict[str, Any]]:
    """Success and the critics' errors before the first joint step. An interrupted run reads what it
    measured, under the `before_hash` that is `start`, from BEFORE."""
    file = run.path / BEFORE
    if file.exists() and (kept := read_json(file)).get("config_hash") == start:
        return PolicyScore.of(kept["success"]), kept["critic"]
    before = held_out(setup, actor)
    report = critic_report(early, ready, actor, panel, before.mean)
    write_json(file, {"config_hash": start, "success": before.as_dict(), "critic": report})
    return before, report


def held_out(setup: Setup, actor: Runtime) -> PolicyScore:
    """Success on the held-out problems of the run's evaluation."""
    size = setup.cfg.evaluate
    with phase(
        f"held-out success: {size.num_problems} problems, {size.num_samples} responses each"
    ):
        return evaluate_policy(actor, setup.world, size.num_problems, size.num_samples)


def prepare(setup: Setup) -> Prepared:
    """Base model, and the critic through its stages."""
    cfg = setup.cfg
    require_fitting(setup)
    warmup.check(cfg)
    synthesize.check(setup)
    sft.check(cfg, setup.world.task)
    ready = Prepared(*starting_actor(cfg))
    critic = critic_class(cfg.critic.kind)
    if not critic.learns:
        return ready
    ready.critic_start = ready.critic = critic_start(cfg, ready.actor)
    if is_taught(cfg):
        traces = synthesize.traces_file(cfg, ready.actor)
        ready.critic = ready.critic_sft = sft.sft_critic(
            cfg, traces, ready.critic_start, ready.actor
        )
        made = synthesize.candidates_of(traces.parent)
        ready.folders += [*made, traces.parent, ready.critic.parent]
    if cfg.stages.critic_rl.steps:
        ready.critic = critic_rl.pretrained_critic(cfg, ready.critic, ready.actor)
        ready.folders.append(ready.critic.parent)
    return ready


def starting_actor(cfg: RunConfig) -> tuple[Path, list[Path]]:
    """The actor before joint training: the named model or the base stage's, warmed up where that
    is configured. Also the folders of these stages.
    """
    named = cfg.actor.model_name_or_path
    actor = Path(named) if named else base_model.base_model(cfg)
    folders = [] if named else [actor.parent]
    if cfg.stages.warmup.steps:
        actor = warmup.warm_actor(cfg, actor)
        folders.append(actor.parent)
    return actor, folders


def prepare_until(cfg: RunConfig, verb: str) -> Path | str:
    """Runs the stages up to the one named by a command-line verb; returns what that stage made, or
    the plan of a dry run."""
    cfg = prepared_config(cfg)
    queries = cfg.stages.synthesize
    dry = verb == "synthesize" and queries.oracle == "endpoint" and queries.endpoint.dry_run
    if not dry:
        endpoint.check(cfg)
    setup = Setup.of(cfg)
    require_shared(setup.hardware, (Path(cfg.stages.folder),))
    if not critic_class(cfg.critic.kind).needs_traces and verb != "pretrain-critic":
        raise ValueError(
            f"genac {verb} teaches a critic by an oracle's traces, but critic.kind is "
            f"{cfg.critic.kind!r}; set it to generative"
        )
    if verb == "pretrain-critic":
        ready = prepare(setup)
        if ready.critic is None:
            raise ValueError(f"critic.kind is {cfg.critic.kind!r}: there is no critic to pretrain")
        return ready.critic
    require_fitting(setup)
    warmup.check(cfg)
    synthesize.check(setup)
    sft.check(cfg, setup.world.task)
    actor, _ = starting_actor(cfg)
    if dry:
        return endpoint.planned(cfg, actor)
    traces = synthesize.traces_file(cfg, actor)
    if verb == "synthesize":
        return traces
    return sft.sft_critic(cfg, traces, critic_start(cfg, actor), actor)


def critic_report(
    setup: Setup, ready: Prepared, actor: Runtime, panel: Panel | None, success: float
) -> dict[str, Any]:
    """The critic of each stage on the fixed panel, with the trivial baselines. One that learns from
    another's traces how a score is written mostly gives none before: it is left out.
    """
    if panel is None or ready.critic is None:
        return {}
    taught = ready.critic_sft is not None and setup.cfg.stages.synthesize.oracle != "monte_carlo"
    untrained = None if taught else ready.critic_start
    stages = {"untrained": untrained, "sft": ready.critic_sft, "rl": ready.critic}
    report: dict[str, Any] = trivial_baselines(panel)
    scores = {
        name: stage_score(setup, path, actor, panel, success)
        for name, path in stages.items()
        if path is not None
    }
    report |= {f"mse_{name}": score["mse"] for name, score in scores.items()}
    return report | scores["rl"] | {"stages": scores}


def stage_score(
    setup: Setup, path: Path, actor: Runtime, panel: Panel, success: float
) -> dict[str, Any]:
    """One critic on the panel, conditioned on the actor's success rate before training."""
    critic = setup.critic(path, actor)
    critic.set_success_rate(success)
    with phase(f"the critic {path} on the panel: {len(panel.states)} states"):
        return brief(evaluate_critic(critic, panel))
