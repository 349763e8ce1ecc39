"""genac eval RUN: a run's saved models evaluated again, also under each named shift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from genac.commands.eval_critics import cell
from genac.config.recipes import recorded
from genac.config.run import RunConfig
from genac.critics import critic_class
from genac.engines.vllm.sharing import shared_servers
from genac.evals.critic import brief
from genac.evals.ground_truth import NoPanel
from genac.evals.policy import evaluate_policy
from genac.evals.room import require_room, splits_of
from genac.runs.store import Run, atomic_write
from genac.stages.finish import require_trained
from genac.stages.panels import stored_panel
from genac.stages.setup import Setup, evaluated_here, make_world


def evaluate_run(folder: str | Path) -> str:
    """Writes evaluation.json into the run folder and returns its text."""
    run = Run.open(folder)
    require_trained(run)
    cfg = evaluated_here(recorded(run.path, run.config()))
    shifts = {"in distribution": {}, **cfg.task.shift}
    with shared_servers():
        result = {name: evaluate_under(cfg, run.path, options) for name, options in shifts.items()}
    text = json.dumps(result, indent=1)
    atomic_write(run.path / "evaluation.json", text)
    return text


def evaluate_under(cfg: RunConfig, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Success of the saved actor, and the saved critic on a fresh panel of that actor."""
    base = Setup.of(cfg)
    setup = Setup(cfg, base.hardware, make_world(cfg, **options))
    actor = setup.actor(folder / "actor")
    problems, new_tokens = splits_of(setup.world.task), cfg.rollout.max_completion_length
    require_room(problems, actor.tokenizer, actor.max_length, new_tokens, "actor")
    success = evaluate_policy(
        actor, setup.world, cfg.evaluate.num_problems, cfg.evaluate.num_samples
    )
    shown = {key: value for key, value in success.as_dict().items() if key != "by_problem"}
    result: dict[str, Any] = {"success": shown}
    if not critic_class(cfg.critic.kind).learns or not cfg.evaluate.panel_problems:
        return result
    critic = setup.critic(folder / "critic", actor)
    try:
        panel = stored_panel(base, folder / "actor", actor, options)
    except NoPanel as error:
        return result | {"critic": {"skipped": str(error)}}
    return result | {"critic": brief(cell(critic, panel, success.mean))}
