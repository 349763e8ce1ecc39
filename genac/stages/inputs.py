"""What a stage can read: one frozen object, whose hash names the stage's folder.

    inputs = CriticRLInputs.of(cfg, start, actor)
    folder = inputs.folder(train)             # stages/critic_rl-HASH; train(inputs, run) on a miss

A stage's build receives its inputs and its run folder, nothing else. `inputs.cfg` is the run's
config cut down to the keys that the stage reads: any other is no attribute of it. The hash counts
every key that is left and every other field of the inputs. So a stage cannot read what its hash
does not count: forgotten keys raise AttributeError, they never reuse a stale folder.

The exceptions are the keys of NO_RESULT, which every stage may read and no hash counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from genac.config.engines import VllmConfig
from genac.config.models import MEMORY
from genac.config.run import RunConfig, TaskConfig
from genac.config.stages import TRANSPORT_KEYS, Section
from genac.config.tinker import TinkerPrices
from genac.config.tracking import TrackingConfig
from genac.hardware import Hardware, with_engines
from genac.rollout import World
from genac.runs.store import Run, stable_hash
from genac.stages.artifacts import build_once
from genac.stages.contents import contents, model_key, with_contents
from genac.stages.setup import Setup, make_world

S = TypeVar("S", bound=Section)
Values = dict[str, Any]

OPTIMIZERS = ("actor", "critic", "stages.base", "stages.warmup", "stages.sft")
# What changes no result: names and places, memory and speed, and a forced prompt, which must be
# possible on resume.
NO_RESULT = (
    "output_dir",
    "name",
    "report_to",
    *(f"tracking.{name}" for name in TrackingConfig.model_fields),
    "rollout.max_rows",
    "hardware.processes",
    "hardware.placement",
    "hardware.cluster",
    "hardware.threads",
    "hardware.tinker.url",
    "hardware.tinker.timeout",
    *(f"hardware.tinker.prices.{name}" for name in TinkerPrices.model_fields),
    "stages.folder",
    "stages.sft.save_every",
    "critic.generative.force_prompt",
    *(f"hardware.vllm.{name}" for name in VllmConfig.model_fields),
    *(f"stages.synthesize.endpoint.{name}" for name in TRANSPORT_KEYS),
    *(f"{place}.optimizer.{name}" for place in OPTIMIZERS for name in sorted(MEMORY)),
)

# --- keys that several stages read ----------------------------------------------------------------

HARDWARE = tuple(
    f"hardware.{name}" for name in ("device", "precision", "engine", "backend", "tinker")
)
TASK = ("seed", *(f"task.{name}" for name in TaskConfig.model_fields if name != "shift"))
SAMPLING = ("rollout.max_completion_length", "rollout.temperature", "rollout.top_p")
ACTOR_PATH = "actor.model_name_or_path"  # the hash counts the actor's digest in its place
ACTOR = (ACTOR_PATH, "actor.load", "actor.lora", "actor.engine")
# A model that is only sampled from is the same whatever its optimiser and its loss are.
ACTOR_DEFAULTS = ("actor.optimizer", "actor.loss")
# How a generative critic is prompted.
CRITIC_QUERY = tuple(
    f"critic.generative.{name}"
    for name in (
        "form",
        "prompt",
        "icc",
        "num_samples",
        "max_new_tokens",
        "temperature",
        "readout",
        "exact_score_gradient",
        "too_long",
    )
)


@dataclass(frozen=True)
class Artifact:
    """A model or a file that a stage starts from: where it lies, and what hashes call it."""

    path: Path  # or a name on the hub
    digest: str

    @classmethod
    def model(cls, path: str | Path) -> Self:
        """ValueError where a file of a finished stage or run is not as it was written."""
        return cls(Path(path), model_key(path))


@dataclass(frozen=True)
class StageInputs:
    """All that a stage reads. Each stage has a subclass, with further fields for what it takes
    from earlier stages: artifacts count by their digest, inputs of a stage by its folder's name.
    """

    stage: ClassVar[str]

    cfg: RunConfig  # narrowed to the keys that the stage reads
    digests: Mapping[str, str]  # of the data and reward files that `cfg` names

    @cached_property
    def key(self) -> Values:
        """What the hash counts; the stage's folder holds it as config.json."""
        values = with_contents(self.cfg.model_dump(), self.digests)
        values = without(values, (*NO_RESULT, ACTOR_PATH))
        own = {f.name: counted(getattr(self, f.name)) for f in fields(self)}
        return values | {"inputs": {k: v for k, v in own.items() if k not in ("cfg", "digests")}}

    @property
    def hash(self) -> str:
        return stable_hash(self.key)

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.hash}"

    def folder(self, build: Callable[[Self, Run], None]) -> Path:
        """The stage's folder; `build` fills it unless it is finished."""
        return build_once(
            self.cfg.stages.folder, self.stage, self.key, lambda run: build(self, run)
        )

    def setup(self, with_world: bool = True) -> Setup:
        """What the stage's models are built from. Without a world where it never acts."""
        no_world: Any = None
        world: World = make_world(self.cfg) if with_world else no_world
        return Setup(self.cfg, Hardware.resolve(self.cfg.hardware), world)


def counted(value: Any) -> Any:
    """A field of inputs as the hash counts it."""
    if isinstance(value, Artifact):
        return value.digest
    if isinstance(value, tuple):
        return [counted(item) for item in value]
    return value.name if isinstance(value, StageInputs) else value


# --- parts of a config ----------------------------------------------------------------------------


def stage_config(
    cfg: RunConfig,
    reads: Sequence[str],
    changes: Mapping[str, Any] | None = None,
    defaults: Sequence[str] = (),
) -> tuple[RunConfig, dict[str, str]]:
    """The config as a stage sees it, and the digests of the files that it names.

    reads: dotted keys of values or of whole sections. changes: values that the stage gets instead
    of the config's. defaults: further keys that it gets at their default, because what they say is
    handed on but decides nothing.
    """
    plain = RunConfig.model_construct()  # the fields' own defaults, without algorithm and preset
    changes = {key: value_at(plain, key) for key in defaults} | dict(changes or {})
    narrow = narrowed(replaced(with_engines(cfg), changes), (*reads, *defaults, *NO_RESULT))
    return narrow, contents(without(narrow.model_dump(), (ACTOR_PATH,)))


def on_actor(cfg: RunConfig, actor: Artifact, options: Mapping[str, Any] | None = None) -> Values:
    """Changes of a config for a stage that acts: its actor, and options of the task that win."""
    merged = {**cfg.task.options, **(options or {})}
    return {ACTOR_PATH: str(actor.path), "task.options": merged}


def narrowed(section: S, keep: Sequence[str], prefix: str = "") -> S:
    """A copy that has the keys of `keep` alone; reading another raises AttributeError."""
    copy = section.model_copy()
    for name in type(section).model_fields:
        key, value = prefix + name, getattr(section, name)
        if key in keep:
            continue
        if isinstance(value, Section) and any(k.startswith(f"{key}.") for k in keep):
            vars(copy)[name] = narrowed(value, keep, f"{key}.")
        else:
            del vars(copy)[name]
    return copy


def replaced(section: S, changes: Mapping[str, Any]) -> S:
    """The section with other values at dotted keys, which are not validated."""
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        inner = replaced(getattr(section, name), {rest: value}) if rest else value
        section = section.model_copy(update={name: inner})
    return section


def value_at(section: Section, key: str) -> Any:
    """The value at a dotted key."""
    value: Any = section
    for name in key.split("."):
        value = getattr(value, name)
    return value


def without(values: Mapping[str, Any], keys: Sequence[str], prefix: str = "") -> Values:
    """The values without some dotted keys, and without the sections that this leaves empty."""
    result: Values = {}
    for name, value in values.items():
        key = prefix + name
        if key in keys:
            continue
        if isinstance(value, dict) and any(k.startswith(f"{key}.") for k in keys):
            value = without(value, keys, f"{key}.")
            if not value:
                continue
        result[name] = value
    return result
