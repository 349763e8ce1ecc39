"""Panels on disk: built once per actor, task settings and K, and shared by every later caller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.config.run import RunConfig
from genac.evals.ground_truth import NoPanel, Panel, build_panel, load_panel, save_panel
from genac.runs.progress import phase
from genac.runs.store import Run
from genac.runtime import Runtime
from genac.stages.inputs import (
    ACTOR,
    ACTOR_DEFAULTS,
    HARDWARE,
    SAMPLING,
    TASK,
    Artifact,
    StageInputs,
    on_actor,
    stage_config,
)
from genac.stages.loop import warn
from genac.stages.setup import Setup, make_world

FORMAT = 3  # of panel.jsonl


def fixed_panel(setup: Setup, actor_path: Path, actor: Runtime) -> tuple[Panel | None, str]:
    """The panel of an actor under the run's task, and '' or why there is none.

    None where none is requested, or where too few problems are both solved and failed.
    """
    cfg = setup.cfg.evaluate
    if not cfg.panel_problems:
        return None, ""
    try:
        return stored_panel(setup, actor_path, actor, {}), ""
    except NoPanel as reason:
        warn(f"no critic panel: {reason}")
        return None, str(reason)


@dataclass(frozen=True)
class PanelInputs(StageInputs):
    """The task's options are those of the run under those of a shift."""

    stage = "panel"

    actor: Artifact
    format: int  # of the file

    @classmethod
    def of(cls, cfg: RunConfig, actor: Path, options: dict[str, Any]) -> PanelInputs:
        """ValueError where a saved model is not as it was written."""
        own = ("states", "evaluate.panel_problems", "evaluate.panel_continuations")
        model, reads = Artifact.model(actor), (*TASK, *SAMPLING, *own, *ACTOR, *HARDWARE)
        changes = on_actor(cfg, model, options)
        return cls(*stage_config(cfg, reads, changes, ACTOR_DEFAULTS), model, FORMAT)


def stored_panel(setup: Setup, actor_path: Path, actor: Runtime, options: dict[str, Any]) -> Panel:
    """The panel under a shift of the task (`options`), from disk where it was built before; raises
    NoPanel. `actor` is the model in `actor_path`, which is only sampled from."""
    inputs = PanelInputs.of(setup.cfg, actor_path, options)
    folder = inputs.folder(lambda inputs, run: build(inputs, run, actor))
    world = make_world(setup.cfg, **options) if options else setup.world
    return load_panel(folder / "panel.jsonl", world, actor)


def build(inputs: PanelInputs, run: Run, actor: Runtime) -> None:
    cfg, world = inputs.cfg, inputs.setup().world
    count, continuations = cfg.evaluate.panel_problems, cfg.evaluate.panel_continuations
    with phase(f"critic panel: {count} problems, {continuations} continuations per state"):
        panel = build_panel(actor, world, cfg.states, count, continuations)
    save_panel(panel, run.path / "panel.jsonl", actor)
