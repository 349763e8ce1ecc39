"""A saved critic as an object: from a folder to values of partial responses.

critic = Critic.from_pretrained("runs/arithmetic/critic")
critic.score("6 a+3 b*7 c-8>", "a+3=9\\n").value
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genac.config import CriticConfig, HardwareConfig
from genac.critics.generative import GenerativeCritic
from genac.critics.prompts import Context
from genac.runtime import Hardware, language_model
from genac.types import Problem, Thought


@dataclass(frozen=True)
class Judgement:
    """Value in [0, 1] (None = the critic gave no score), its reasoning, and the spread of its
    score.
    """

    value: float | None
    rationale: str
    spread: float | None  # standard deviation of the score distribution, in value units


class Critic:
    """A generative critic for inference."""

    def __init__(self, critic: GenerativeCritic) -> None:
        self._critic = critic

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Critic:
        """Loads a critic that a run saved; ValueError where the folder holds none."""
        card = Path(folder) / "critic.json"
        if not card.exists():
            raise ValueError(
                f"{folder} holds no critic.json; give the 'critic' folder of a genac run"
            )
        saved = json.loads(card.read_text())
        if saved["kind"] != "generative":
            raise ValueError(
                f"the critic in {folder} is {saved['kind']}; only a generative one can be asked "
                "for reasons"
            )
        cfg = CriticConfig(**saved["config"])
        runtime = language_model(
            "critic",
            str(folder),
            Hardware.resolve(HardwareConfig()),
            cfg.optimizer,
            load=cfg.load.model_copy(update={"dtype": "fp32"}),
        )
        size = saved.get("actor_size")
        icc = cfg.generative.icc.model_copy(update={"actor_size": size})
        critic = GenerativeCritic(
            runtime, runtime, cfg.generative.model_copy(update={"icc": icc}), seed=0
        )
        critic.restore({k: saved[k] for k in ("success_rate", "prompt_hash")})
        return cls(critic)

    def score(self, problem: str, partial: str, success_rate: float | None = None) -> Judgement:
        """Value of a partial response. `success_rate` tells the critic of the author's strength;
        without it the rate at the end of training is used.
        """
        return self.score_many([(problem, partial)], success_rate)[0]

    def score_many(
        self, pairs: Sequence[tuple[str, str]], success_rate: float | None = None
    ) -> list[Judgement]:
        """One judgement per (problem, partial response)."""
        context = self._critic.context()
        if context is not None and success_rate is not None:
            context = Context(context.size, success_rate)
        prompts = [
            self._critic.prompts.render_text(Problem("", problem, ""), partial, context)
            for problem, partial in pairs
        ]
        return [self._judge(thoughts) for thoughts in self._critic.think(prompts, seed=0)]

    def _judge(self, thoughts: Sequence[Thought]) -> Judgement:
        if not thoughts:
            return Judgement(None, "", None)
        first = thoughts[0]
        return Judgement(self._critic.value(thoughts), first.text, first.spread)
