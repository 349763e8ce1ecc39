"""A critic taught by several actors: joined traces, then the returns of each actor in turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genac.config.algorithms import merge
from genac.config.run import RunConfig
from genac.runs.store import Run
from genac.stages.critic_rl import CriticRLInputs, stage_groups, stage_world
from genac.stages.inputs import Artifact, StageInputs, stage_config
from genac.stages.setup import save_critic
from genac.stages.sft import sft_critic
from genac.stages.traces.files import read_traces, write_traces
from genac.stages.traces.synthesize import traces_file
from genac.states import split, subset

Config = dict[str, Any]
WITHOUT_ICC = {"critic": {"generative": {"icc": {"enabled": False}}}}


def taught(
    configs: list[Config], rates: list[float], thoughts: str = "", conditioned: bool = True
) -> dict[str, str]:
    """A job: stages 1 and 2 with the actors that the configs name. -> the folders by stage.

    The first config also says how the critic is trained; `rates` are the actors' success rates.
    `thoughts` is a regular expression: what of the oracle's reasoning is kept ("" = all of it).
    Unless `conditioned`, the critic learns without ICC from the traces that the configs say.
    """
    makers = [RunConfig(**config) for config in configs]
    actors = [Path(str(cfg.actor.model_name_or_path)) for cfg in makers]
    parts = [traces_file(cfg, actor) for cfg, actor in zip(makers, actors, strict=True)]
    traces = joined(makers[0], parts, thoughts)
    cfgs = makers if conditioned else [RunConfig(**merge(c, WITHOUT_ICC)) for c in configs]
    own, start = cfgs[0], Path(str(cfgs[0].critic.model_name_or_path))
    sft = sft_critic(own, traces, start, actors[0])
    stages = [CriticRLInputs.of(c, sft, actor) for c, actor in zip(cfgs, actors, strict=True)]
    inputs = MixedRLInputs(stages[0].cfg, stages[0].digests, tuple(stages), tuple(rates))
    return {"sft": str(sft), "rl": str(inputs.folder(train_mixed) / "model")}


def joined(cfg: RunConfig, parts: Sequence[Path], thoughts: str) -> Path:
    """The file with all traces of some files."""
    artifacts = tuple(Artifact(file, file.parent.name) for file in parts)
    inputs = JoinedTraces(*stage_config(cfg, ()), artifacts, thoughts)
    return inputs.folder(join) / "traces.jsonl"


@dataclass(frozen=True)
class JoinedTraces(StageInputs):
    stage = "traces_joined"

    parts: tuple[Artifact, ...]
    thoughts: str


def join(inputs: JoinedTraces, run: Run) -> None:
    traces = [trace for part in inputs.parts for trace in read_traces(part.path)]
    if inputs.thoughts:
        keep = re.compile(inputs.thoughts)
        traces = [replace(t, reasoning="".join(keep.findall(t.reasoning))) for t in traces]
    write_traces(run.path / "traces.jsonl", traces)


@dataclass(frozen=True)
class MixedRLInputs(StageInputs):
    """Critic RL with several actors: steps and problems are those of the stage with one."""

    stage = "critic_rl_mixed"

    stages: tuple[CriticRLInputs, ...]  # the same stage with each actor
    rates: tuple[float, ...]  # success of each actor


def train_mixed(inputs: MixedRLInputs, run: Run) -> None:
    setups = [stage.setup() for stage in inputs.stages]
    worlds = [stage_world(setup) for setup in setups]
    actors = [s.actor(i.actor.path) for s, i in zip(setups, inputs.stages, strict=True)]
    cfg, stage = setups[0].cfg, setups[0].cfg.stages.critic_rl
    optimizer = setups[0].critic_optimizer(stage.learning_rate)
    decay = stage.steps if stage.decay else None
    critic: Any = setups[0].critic(inputs.stages[0].start.path, actors[0], optimizer, decay)
    run.truncate_after("critic_rl", -1)  # an interrupted one starts again
    for step in range(stage.steps):
        turn = step % len(actors)
        groups = stage_groups(setups[turn], worlds[turn], actors[turn], step)
        states = split([r for g in groups for r in g], cfg.states, actors[turn].tokenizer)
        critic.set_success_rate(inputs.rates[turn])
        limit = None if critic.reads_whole_responses else stage.max_states
        chosen = subset(states, limit, f"{cfg.seed}/{step}")
        estimates = critic.estimate(chosen, step)
        run.log("critic_rl", step, critic.learn(estimates, step))
        critic.runtime.publish(step + 1)
    save_critic(critic, cfg, run.path / "model")
