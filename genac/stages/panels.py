"""Panels on disk: built once per actor, task settings and K, and shared by whoever asks again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genac.evals.ground_truth import NoPanel, Panel, build_panel, load_panel, save_panel
from genac.runs.store import Run
from genac.runtime import Runtime
from genac.stages.contents import model_key, task_key
from genac.stages.loop import warn
from genac.stages.outputs import ensure
from genac.stages.setup import Setup, make_world


def fixed_panel(setup: Setup, actor_path: Path, actor: Runtime) -> Panel | None:
    """The panel of an actor under the run's task.

    None where none is asked for, or where no problem is both solved and failed (with a warning).
    """
    cfg = setup.cfg.evaluate
    if not cfg.panel_problems:
        return None
    try:
        return stored_panel(setup, actor_path, actor, {})
    except NoPanel as reason:
        warn(f"no critic panel: {reason}")
        return None


def stored_panel(setup: Setup, actor_path: Path, actor: Runtime, options: dict[str, Any]) -> Panel:
    """The panel under a shift of the task (`options`), from disk where it was built before; raises
    NoPanel."""
    cfg = setup.cfg
    world = make_world(cfg, **options) if options else setup.world

    def build(run: Run) -> None:
        count, continuations = cfg.evaluate.panel_problems, cfg.evaluate.panel_continuations
        panel = build_panel(actor, world, cfg.states, count, continuations)
        save_panel(panel, run.path / "panel.jsonl", actor)

    folder = ensure(cfg.stages.folder, "panel", panel_key(setup, actor_path, options), build)
    return load_panel(folder / "panel.jsonl", world, actor)


def panel_key(setup: Setup, actor: Path, options: dict[str, Any]) -> dict[str, Any]:
    cfg = setup.cfg
    return {
        "actor": model_key(actor),
        "load": cfg.actor.load.model_dump(),
        "seed": cfg.seed,
        "task": task_key(cfg.task, **options),
        "states": cfg.states.model_dump(),
        "sampling": cfg.rollout.model_dump(
            include={"max_completion_length", "temperature", "top_p"}
        ),
        "panel": cfg.evaluate.model_dump(include={"panel_problems", "panel_continuations"}),
        "format": 3,
    }
