"""genac generate ACTOR [PROBLEM ...]: solutions of an actor, chosen by votes or a critic's values.

ACTOR is a finished run (its task, sampling settings and critic are then at hand) or the folder of a
language model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.commands import parsers
from genac.commands.eval_critics import critic_folder, load_critic
from genac.config.models import OptimizerConfig
from genac.config.recipes import recorded, typed_text
from genac.config.run import HardwareConfig, RolloutConfig, RunConfig, StatesConfig
from genac.critics.generative import GenerativeCritic
from genac.critics.saved import critic_card
from genac.hardware import Hardware
from genac.rollout import problems_at
from genac.runs.store import Run
from genac.runtime import ModelSpec, Runtime, build
from genac.search.beam import beam_search
from genac.search.candidates import Candidate, Searcher, answers, draw, judged, values
from genac.search.rules import RULES, Answers, best
from genac.stages.finish import require_trained
from genac.stages.local_models import local_model
from genac.stages.setup import make_world
from genac.tasks.answers import answer_key, whole_text
from genac.tasks.base import Task
from genac.types import Problem

NEED_CRITIC = ("best-of-n", "weighted", "beam")


@dataclass(frozen=True)
class Source:
    """The actor's folder and, where it belongs to a run, the run's config and task."""

    folder: Path
    cfg: RunConfig
    task: Task | None

    def answers(self, group: Sequence[Candidate]) -> Answers:
        """As the task's verifier reads them; without a task, what stands last in the text."""
        if self.task is not None:
            return answers(self.task, group)
        return [answer_key(whole_text(c.rollout.problem, c.rollout.text)) for c in group]


def generate(arguments: Sequence[str]) -> str:
    """The command; returns the chosen solutions as text, or as one JSON object per line."""
    args = parsers.generate().parse_args(list(arguments))
    source = open_source(args)
    problems = problems_of(args, source)
    actor = build(
        ModelSpec("actor", str(source.folder), OptimizerConfig(), load=source.cfg.actor.load),
        Hardware.resolve(HardwareConfig()),
    )
    search = Searcher(
        actor, critic_of(args, source, actor), source.cfg.rollout, source.cfg.states, args.seed
    )
    if args.search == "beam":
        groups = beam_search(search, problems, args.n, args.width, args.value_at)
    else:
        groups = draw(search, problems, args.n if args.search != "sample" else 1)
        if args.search in NEED_CRITIC:
            groups = judged(search, groups, args.value_at)
    rule = best if args.search == "beam" else RULES[args.search]
    chosen = [group[rule(source.answers(group), values(group))] for group in groups]
    show = as_json if args.json else as_text
    return "\n".join(show(p, c) for p, c in zip(problems, chosen, strict=True))


def open_source(args: argparse.Namespace) -> Source:
    """Actor, settings and task; explicit options win over the run's."""
    sampling = {"max_completion_length": args.max_tokens, "temperature": args.temperature}
    changed = {k: v for k, v in sampling.items() if v is not None}
    if Run.exists(args.actor) and (Path(args.actor) / "actor").is_dir():
        require_trained(Run.open(args.actor))
        cfg = recorded(args.actor, Run.open(args.actor).config())
        folder, task = Path(args.actor) / "actor", make_world(cfg).task
    else:
        cfg = RunConfig(rollout=RolloutConfig(max_completion_length=512), states=StatesConfig())
        folder, task = Path(args.actor), None
    folder = Path(local_model(folder, cfg.stages.folder, cfg.actor.load.dtype))
    rollout = RolloutConfig(**(cfg.rollout.model_dump() | changed))
    return Source(folder, cfg.model_copy(update={"rollout": rollout}), task)


def problems_of(args: argparse.Namespace, source: Source) -> list[Problem]:
    if args.problems and not args.heldout:
        texts = [typed_text(text) for text in args.problems]
        return [Problem(f"given-{i}", text, "") for i, text in enumerate(texts)]
    if args.heldout > 0 and not args.problems:
        if source.task is None:
            raise ValueError(f"--heldout needs a run with a task, and {args.actor} is a model")
        world = make_world(source.cfg)
        size = world.task.size("heldout")
        count = args.heldout if size is None else min(args.heldout, size)
        return problems_at(world, "heldout", 0, count)
    raise ValueError("give problems as text, or --heldout N with a run; one of the two")


def critic_of(args: argparse.Namespace, source: Source, actor: Runtime) -> GenerativeCritic | None:
    """The critic of the search, where the search needs one."""
    if args.search not in NEED_CRITIC:
        return None
    name = args.critic or (args.actor if source.task is not None else None)
    if name is None:
        raise ValueError(f"--search {args.search} needs a critic's values; name it by --critic")
    return generative(source.cfg, critic_folder(name), actor, args.rationales)


def generative(
    cfg: RunConfig, folder: Path, actor: Runtime, rationales: int | None = None
) -> GenerativeCritic:
    """A saved generative critic, with the actor's success rate as it was when it was saved. Its
    values are means over `rationales` per state (None = as many as in training).
    """
    if rationales is not None and rationales < 1:
        raise ValueError(f"--rationales is {rationales}; ask for at least one per state")
    critic = load_critic(cfg, folder, actor)
    if not isinstance(critic, GenerativeCritic):
        raise ValueError(
            f"the critic in {folder} is not generative; a search needs a generative one"
        )
    card = critic_card(folder)
    critic.restore({k: card[k] for k in ("success_rate", "prompt_hash")})
    if rationales is not None:
        critic.cfg = critic.cfg.model_copy(update={"num_samples": rationales})
    return critic


def as_text(problem: Problem, chosen: Candidate) -> str:
    value = "" if chosen.value is None else f"   (value {chosen.value:.3f})"
    return f"--- {problem.text}{value}\n{chosen.rollout.text}"


def as_json(problem: Problem, chosen: Candidate) -> str:
    fields: dict[str, Any] = {
        "id": problem.id,
        "prompt": problem.prompt,
        "response": chosen.rollout.text,
        "value": chosen.value,
        "finish": chosen.rollout.finish,
    }
    return json.dumps(fields)
