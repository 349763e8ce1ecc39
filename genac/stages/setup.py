"""From a config to the objects of a run: hardware, world, actor, critic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genac.config import RunConfig
from genac.critics.base import Critic, NoCritic
from genac.critics.discriminative import DiscriminativeCritic
from genac.critics.generative import GenerativeCritic
from genac.critics.monte_carlo import MonteCarloCritic
from genac.models.value_head import HEAD_FILE
from genac.rollout import World
from genac.runtime import Hardware, Runtime, language_model, value_model
from genac.tasks import make_task
from genac.tasks.rewards import Verifier


@dataclass(frozen=True)
class Setup:
    """What stages are built from. `world` samples from the task under the run's rollout settings."""

    cfg: RunConfig
    hardware: Hardware
    world: World

    @classmethod
    def of(cls, cfg: RunConfig) -> Setup:
        hardware = Hardware.resolve(cfg.hardware)
        return cls(cfg, hardware, make_world(cfg))

    def actor(self, path: str | Path) -> Runtime:
        cfg = self.cfg
        return language_model(
            "actor",
            str(path),
            self.hardware,
            cfg.actor.optimizer,
            cfg.loss,
            max_rows=cfg.rollout.max_rows,
        )

    def critic(self, path: str | Path | None, actor: Runtime) -> Critic:
        """The configured critic; `path` is the folder a trained critic starts from."""
        cfg, kind = self.cfg.critic, self.cfg.critic.kind
        if kind == "none":
            return NoCritic()
        if kind == "monte_carlo":
            return MonteCarloCritic(actor, self.world, cfg.num_continuations)
        assert path is not None
        if kind == "generative":
            rows = self.cfg.rollout.max_rows
            runtime = language_model(
                "critic", str(path), self.hardware, cfg.optimizer, max_rows=rows
            )
            return GenerativeCritic(runtime, actor, cfg.generative, self.cfg.seed)
        trained = (Path(path) / HEAD_FILE).exists()
        head = cfg.discriminative
        runtime = value_model(
            str(path), self.hardware, cfg.optimizer, head.head, head.bins, trained=trained
        )
        return DiscriminativeCritic(runtime, head, self.cfg.credit.gamma, self.cfg.seed)


def make_world(cfg: RunConfig, **overrides: Any) -> World:
    """Task (with overridden generator settings), verifier and sampling settings."""
    task = make_task(cfg.task, cfg.seed, **overrides)
    return World(task, Verifier(task, cfg.task.verify_seconds), cfg.rollout, cfg.seed)
