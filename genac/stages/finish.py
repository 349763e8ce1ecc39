"""Whether a run folder holds this run, and all of it. What is written last: the models,
summary.json, the cards, done.json, which lists the results with their digests, and the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genac import checkpoint
from genac.config.recipes import recorded
from genac.config.run import RunConfig
from genac.hardware import with_engines
from genac.runs.files import json_text, read_json, sync, write_json
from genac.runs.manifest import (
    CARD,
    DONE,
    LENGTHENED,
    MODELS,
    RESULTS,
    damaged,
    entry,
    entry_of,
    is_finished,
    is_weights,
    read_done,
    require,
    successors,
    write_done,
)
from genac.runs.store import Run, environment, stable_hash
from genac.stages.contents import contents, label, places, reward_files, with_contents
from genac.stages.inputs import NO_RESULT, replaced, without
from genac.stages.loop import require_config, require_progress

REPORT = "report.html"
BEFORE = "before.json"
AFTER_JOINT = "after_joint"  # of the critic's report
STEPS = "stages.joint.steps"
DECAY = "; with stages.joint.decay the learning rate of every step depends on the number of steps"
SUMMARY = ("name", "algorithm", "config_hash", "success_before", "success_after", "critic")
REMADE = (*(f"{role}/" for role in MODELS), "summary.json")  # from the newest checkpoint


# --- whether it is this run ----------------------------------------------------------------------


def config_hash(cfg: RunConfig, digests: Mapping[str, str] | None = None) -> str:
    """Hash of everything that can change results: the config without NO_RESULT, and the `digests`
    of the files that it names (None: of what they hold now)."""
    values = with_engines(cfg).model_dump()
    values["stages"]["synthesize"] = cfg.stages.synthesize.identity()
    values = with_contents(values, contents(cfg) if digests is None else digests)
    return stable_hash(without(values, NO_RESULT))


def before_hash(cfg: RunConfig, digests: Mapping[str, str]) -> str:
    """Hash of what can change the measurements before joint training: not its number of steps."""
    return config_hash(replaced(cfg, {STEPS: 0}), digests)


def require_same(run: Run, cfg: RunConfig, digests: Mapping[str, str]) -> None:
    """ValueError where the folder holds steps of another config, or of other data, reward files or
    models, with the names of what changed."""
    old = recorded(run.path / "config.json", run.config())
    before = recorded_digests(run, digests)
    if config_hash(old, before) == config_hash(cfg, digests):
        return
    if differs_in_steps(old, before, cfg, digests):
        require_steps(run, old, config_hash(old, before), cfg.stages.joint.steps)
        return
    if (run.path / DONE).exists() or (run.path / "summary.json").exists() or run.metrics():
        names = {**{key: key for key in (*before, *digests)}, **named_files(cfg)}
        edited = [
            f"{key}: what {names[key]} holds was changed"
            for key in sorted({*before, *digests})
            if before.get(key) != digests.get(key)
        ]
        moved = {key for key in before if before[key] == digests.get(key)}
        changed = ", ".join(differences(old.model_dump(), cfg.model_dump(), moved) + edited)
        raise ValueError(
            f"{cfg.output_dir} holds a run of another config, says its config.json ({changed}); "
            "resume it with the same config and the same files, or choose another output_dir"
            + (
                DECAY
                if cfg.stages.joint.decay and old.stages.joint.steps != cfg.stages.joint.steps
                else ""
            )
        )


def differs_in_steps(
    old: RunConfig, before: Mapping[str, str], cfg: RunConfig, digests: Mapping[str, str]
) -> bool:
    """Whether the number of joint steps is all that differs, and no step depends on it."""
    steps = cfg.stages.joint.steps
    if old.stages.joint.steps == steps or cfg.stages.joint.decay:
        return False
    return config_hash(replaced(old, {STEPS: steps}), before) == config_hash(cfg, digests)


def require_steps(run: Run, old: RunConfig, name: str, steps: int) -> None:
    """ValueError where a run of the config `old`, whose hash is `name`, cannot become one of that
    many joint steps."""
    saved = checkpoint.complete(run.checkpoints / "joint")
    if saved:
        require_config(run, saved[-1], checkpoint.saved_state(saved[-1])["config_hash"], name)
    if steps < (done := checkpoint.step_of(saved[-1]) if saved else 0):
        raise ValueError(
            f"{run.path} has done {done} joint steps, more than {STEPS} {steps}; set it to {done} "
            "or more, or choose another output_dir"
        )
    if (run.path / "summary.json").exists() and old.stages.joint.steps and not saved:
        raise ValueError(
            f"{run.path} ended after {old.stages.joint.steps} joint steps and holds no checkpoint "
            f"to go on from; set {STEPS} to that, or choose another output_dir"
        )


def require_resumable(run: Run, cfg: RunConfig) -> None:
    """ValueError where joint training cannot go on at its newest checkpoint: a file of it, or what
    it recorded of the run's folder, is missing or was changed."""
    require_progress(run, "joint")
    for newest in checkpoint.complete(run.checkpoints / "joint")[-1:]:
        checkpoint.require_models(newest, trained_models(cfg.critic.kind))


def lengthen(run: Run, cfg: RunConfig, digests: Mapping[str, str], old: str) -> None:
    """Gives a run the number of joint steps that `cfg` has. `old` is the hash of its config.

    Its results are made anew, but not what was measured before joint training. The event has the
    success that it ended with, and what both files held before and after, for checkpoints that
    recorded them (`manifest.successors`). A run that is killed meanwhile takes either number.
    """
    steps, name = cfg.stages.joint.steps, config_hash(cfg, digests)
    summary = read_summary(run) if (run.path / "summary.json").exists() else None
    (run.path / DONE).unlink(missing_ok=True)
    success = None
    if summary is not None:
        critic = {k: v for k, v in summary["critic"].items() if k != AFTER_JOINT}
        kept = {"success": summary["success_before"], "critic": critic}
        write_json(run.path / BEFORE, {"config_hash": before_hash(cfg, digests), **kept})
        success = {k: v for k, v in summary["success_after"].items() if k != "by_problem"}
    values, whole = run.config(), run.environment()
    joint = values["stages"]["joint"]
    numbers = {"steps_before": joint["steps"], "steps": steps}
    joint["steps"] = steps
    files = {"environment.json": whole | {"config_hash": name}, "config.json": values}
    before = {file: entry(run.path / file) for file in files} | {"config_hash": old}
    after: dict[str, Any] = {file: entry_of(json_text(value)) for file, value in files.items()}
    after["config_hash"] = name
    run.event(LENGTHENED, **numbers, success_after=success, before=before, after=after)
    for written in (run.path / "events.jsonl", run.path):
        sync(written)
    (run.path / "summary.json").unlink(missing_ok=True)
    for file, value in files.items():
        write_json(run.path / file, value)


def named_files(cfg: RunConfig) -> dict[str, str]:
    """Key -> path as the config has it, of what `contents` digests."""
    files = {f"task.reward/{k}": str(f) for k, f in reward_files(cfg.task.reward or "").items()}
    return {label(place): name for place, name in places(cfg.model_dump())} | files


def recorded_digests(run: Run, now: Mapping[str, str]) -> dict[str, str]:
    """What the files held when the run began; of a run that did not record it, what they hold
    now."""
    file = run.path / "environment.json"
    held = read_json(file).get("contents") if file.exists() else None
    if held is None:
        return dict(now)
    if not isinstance(held, dict):
        raise ValueError(f"{file} has no object under 'contents': restore or delete the file")
    return held


def differences(
    old: dict[str, Any], new: dict[str, Any], moved: set[str] | None = None, prefix: str = ""
) -> list[str]:
    """Dotted keys whose values differ, as 'key: old -> new'; but not of those in `moved`, files
    that lie elsewhere."""
    result = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            result += differences(a, b, moved, f"{prefix}{key}.")
        elif a != b and prefix + key not in {*NO_RESULT, *(moved or ())}:
            result.append(f"{prefix}{key}: {in_line(a)} -> {in_line(b)}")
    return result


def in_line(value: Any) -> str:
    """A value in a message; of a text of several lines, such as a prompt, its size."""
    text = str(value)
    return f"a text of {len(text)} characters" if "\n" in text else text


def open_run(cfg: RunConfig, digests: dict[str, str]) -> Run:
    """A new run folder, or the same run to go on with.

    A run of another config that stopped before anything was done, e.g. at a wrong path, gives way.
    """
    folder, named = Path(cfg.output_dir), config_hash(cfg, digests)
    whole = environment() | {"config_hash": named, "contents": digests}
    if not Run.exists(folder):
        if (ended := Run(folder).summary().get("config_hash")) not in (None, named):
            raise ValueError(
                f"{folder} has no config.json, and its summary.json is of another config ({ended}, "
                f"not {named}); choose another output_dir"
            )
        return Run.create(folder, cfg.model_dump(), whole)
    run = Run.open(folder)
    old = recorded(run.path / "config.json", run.config())
    before = recorded_digests(run, digests)
    earlier = config_hash(old, before)
    if differs_in_steps(old, before, cfg, digests):
        require_resumable(run, old)
        describe(run, before, earlier)
        lengthen(run, cfg, digests, earlier)
    elif earlier != named:
        (folder / "config.json").unlink()
        return Run.create(folder, cfg.model_dump(), whole)
    elif half := half_lengthened(run, named):
        lengthen(run, cfg, digests, half)
    return run


def half_lengthened(run: Run, name: str) -> str | None:
    """The hash in environment.json, where the run was killed before config.json, whose hash is
    `name`, got the other number of joint steps too; else None."""
    file = run.path / "environment.json"
    held = read_json(file).get("config_hash") if file.exists() else name
    return held if held != name and held in successors(run.path, "config_hash", name) else None


def describe(run: Run, digests: Mapping[str, str], name: str) -> None:
    """environment.json again, where a run that has no checkpoint yet lost it."""
    if not (run.path / "environment.json").exists():
        whole = environment() | {"config_hash": name, "contents": dict(digests)}
        write_json(run.path / "environment.json", whole)


# --- whether it is all of it ---------------------------------------------------------------------


def finished(cfg: RunConfig, digests: dict[str, str]) -> bool:
    """Whether the folder holds this run as a whole, False where something must still be made.
    ValueError where it holds another's steps, or a finished run's file is not as it was written.
    """
    if not Run.exists(cfg.output_dir):
        return False
    run = Run.open(cfg.output_dir)
    if (run.path / DONE).exists():
        require_results(run.path, ("config.json",))
    require_same(run, cfg, digests)
    if not (run.path / DONE).exists() or missing_results(run):
        return False
    if run.config()["stages"]["joint"]["steps"] != cfg.stages.joint.steps:
        return False
    cards = [run.path / role / CARD for role in MODELS if (run.path / role).is_dir()]
    return is_whole(run.path / REPORT) and all(card.exists() for card in cards)


def is_whole(page: Path) -> bool:
    """Whether the report is there to its end; a killed run may lack it, a full disk cuts it."""
    return page.is_file() and page.read_bytes().rstrip().endswith(b"</html>")


def missing_results(run: Run) -> list[str]:
    """What a finished run lacks and can make again from its newest checkpoint. ValueError where
    anything else is missing, or differs from what was written."""
    missing = []
    for name in damaged(run.path, read_done(run.path)):
        if name.startswith(REMADE) and not (run.path / name).exists():
            missing.append(name)
        else:
            require_results(run.path, (name,))
    return missing


def require_results(folder: Path, parts: tuple[str, ...]) -> None:
    """ValueError where a file of a finished run is not as it was written, with what to do."""
    for part in parts:
        remedy = (
            "delete it: 'genac train' makes it again from the newest checkpoint"
            if part.startswith(REMADE)
            else f"restore it, or delete {folder} to train again"
        )
        require(folder, (part,), remedy)


def has_results(run: Run) -> bool:
    """Whether nothing is left to be computed, only to be written down. To be called once, when the
    run is opened: what is missing is from then on unfinished."""
    if (run.path / DONE).exists() and missing_results(run):
        (run.path / "summary.json").unlink(missing_ok=True)
    (run.path / DONE).unlink(missing_ok=True)
    if not (run.path / "summary.json").exists():
        return False
    read_summary(run)
    return all(
        any(is_weights(file.name) for file in (run.path / role).glob("*"))
        for role in trained_models(run.config()["critic"]["kind"])
    )


def trained_models(critic: str) -> tuple[str, ...]:
    """Which models a run with this kind of critic trains."""
    return MODELS[: 1 + (critic in ("generative", "discriminative"))]


def read_summary(run: Run) -> dict[str, Any]:
    """summary.json of a run; ValueError where it is another version's, or there is none."""
    summary = run.summary()
    if missing := [key for key in SUMMARY if key not in summary]:
        raise ValueError(
            f"{run.path / 'summary.json'} lacks {', '.join(missing)} (it is of another version of "
            "genac, or damaged); delete it: 'genac train' makes it again from the newest checkpoint"
        )
    return summary


def require_trained(run: Run) -> None:
    """ValueError where the run has not come to its end, or a saved model is not as it was
    written."""
    if not is_finished(run.path) or not (run.path / "actor").is_dir():
        raise ValueError(
            f"{run.path} holds no trained actor yet (no {DONE}); let 'genac train' finish first"
        )
    if (run.path / DONE).exists():
        require_results(run.path, ("config.json", *(f"{role}/" for role in MODELS)))


def declare_finished(run: Run) -> None:
    """The last file of a run."""
    names = [name for name in RESULTS if (run.path / name).exists()]
    write_done(run.path, {"name": run.config()["name"]}, names)
