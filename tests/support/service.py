"""The micro recipe's critic as a service, and real responses of its actor to send it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro import MICRO
from safetensors.torch import load_file
from torch import Tensor

from genac.client.messages import Learn, Learnt, Response, Responses
from genac.client.protocol import CriticService
from genac.config.algorithms import merge
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.rollout import collect, problems_at
from genac.service import LearningCritic
from genac.stages.pipeline import prepare
from genac.stages.setup import Setup, prepared_config
from genac.types import Group


@dataclass(frozen=True)
class Start:
    """A trained micro critic, and what its actor answered in some steps."""

    cfg: RunConfig
    critic: Path
    actor: Path
    steps: tuple[tuple[Response, ...], ...]

    def load(self, **settings: Any) -> LearningCritic:
        """The critic under the run's settings, or others."""
        own = {"credit": self.cfg.credit, "states": self.cfg.states, "hardware": self.cfg.hardware}
        return LearningCritic.from_pretrained(self.critic, **(own | settings))


def micro_start(stages: Path, steps: int = 4) -> Start:
    cfg = resolve(merge(MICRO, {"stages": {"folder": str(stages)}}))
    setup = Setup.of(prepared_config(cfg))
    ready = prepare(setup)
    assert ready.critic is not None
    actor, world = setup.actor(ready.actor), setup.world
    groups = [collect(actor, world, problems_at(world, "train", 4 * i, 4), i) for i in range(steps)]
    return Start(cfg, ready.critic, ready.actor, tuple(map(responses_of, groups)))


def responses_of(groups: Sequence[Group]) -> tuple[Response, ...]:
    return tuple(
        Response(problem=r.problem.text, tokens=r.response_ids, group=f"{r.group}", reward=r.reward)
        for group in groups
        for r in group
    )


def one_step(critic: CriticService, responses: Sequence[Response], step: int) -> Learnt:
    """A trainer's step: advantages, then learning."""
    name = f"ask-{step}"
    critic.advantages(Responses(responses=tuple(responses), id=name, step=step))
    return critic.learn(Learn(request_id=f"learn-{step}", estimates=name))


def weights(critic: LearningCritic, folder: Path) -> dict[str, Tensor]:
    critic.save_model(folder)
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(bool((one[k] == other[k]).all()) for k in one)
