"""A task of two tokens that anything able to assign credit learns in seconds.

    a>   ->   0\n0        the prompt names a digit (a is 0, b is 1, c is 2); both lines must give it

A base model that guesses most digits solves about one problem in four. The second digit is worth
something only if the first is right, so the state between them is worth asking about. The base has
also been taught to judge, by an oracle that is far too hopeful about this actor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genac.config.algorithms import merge
from genac.config.models import OptimizerConfig
from genac.config.recipes import resolve
from genac.config.run import RunConfig
from genac.hardware import Hardware
from genac.models.tiny import save_tiny
from genac.rollout import World
from genac.runtime import ModelSpec, build
from genac.stages.setup import Setup
from genac.tasks.base import OracleTrace
from genac.tasks.verifier import Verifier
from genac.types import Problem, Sample

LETTERS, DIGITS = "abc", "012"
KNOWS = 0.25  # how often the base actor's demonstrations know the digit; else they guess


@dataclass(frozen=True)
class TwoTokens:
    """Pure in the index; both splits hold the same three problems."""

    name: str = "two-tokens"
    trusted: bool = True

    def problem(self, split: str, index: int) -> Problem:
        place = index % len(LETTERS)
        return Problem(f"{split}-{index}", f"{LETTERS[place]}>", DIGITS[place], self.name)

    def size(self, split: str) -> int | None:
        return None

    def verify(self, problem: Problem, text: str) -> float | None:
        return float(text == f"{problem.answer}\n{problem.answer}")

    def demonstration(self, problem: Problem, rng: random.Random, fault_rate: float) -> str:
        digits = [d if rng.random() < KNOWS else rng.choice(DIGITS) for d in 2 * problem.answer]
        return "\n".join(digits)

    def oracle(self, problem: Problem, partial: str, success_rate: float | None) -> OracleTrace:
        """It sees which digit is right, and is far too hopeful about this actor."""
        hope = 5 if not partial else 7 if partial[0] == problem.answer else 3
        return OracleTrace("", hope + random.Random(problem.id).randint(-3, 3))

    def alphabet(self) -> list[str]:
        return [*LETTERS, ">", "\n"]


TOY: dict[str, Any] = {
    "rollout": {"num_prompts": 12, "num_generations": 8, "max_completion_length": 4},
    "actor": {"optimizer": {"learning_rate": 2e-3, "weight_decay": 0, "warmup_steps": 5}},
    "critic": {
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0, "warmup_steps": 5},
        "generative": {"prompt": "compact", "max_new_tokens": 4, "icc": {"enabled": False}},
        "num_continuations": 4,
    },
    "stages": {
        "joint": {"steps": 40, "save_every": 1000, "eval_every": 0, "log_rollouts_every": 0}
    },
    "hardware": {"device": "cpu", "threads": 1},
}


def config(**overrides: Any) -> RunConfig:
    return resolve(merge(TOY, overrides))


def setup(cfg: RunConfig) -> Setup:
    """Built by hand: the task is none that a recipe could name."""
    task = TwoTokens()
    world = World(task, Verifier(task), cfg.rollout, cfg.seed)
    return Setup(cfg, Hardware.resolve(cfg.hardware), world)


def base_model(folder: Path, steps: int = 120) -> Path:
    """Writes mostly guesses, and the oracle's scores when prompted to judge."""
    start, task = folder / "init", TwoTokens()
    shape = {"hidden_size": 32, "layers": 2, "heads": 2, "seed": 0}
    save_tiny(start, task.alphabet(), max_length=16, **shape)
    hardware = Hardware.resolve(config().hardware)
    optimizer = OptimizerConfig(learning_rate=1e-2)
    model = build(ModelSpec("base", str(start), optimizer, decay_steps=steps), hardware)
    rng = random.Random(0)
    for step in range(steps):
        batch = [example(model.tokenizer, task, rng) for _ in range(32)]
        model.learner.learn(batch, seed=step)
    model.save_model(folder / "base")
    return folder / "base"


def example(tokenizer: Any, task: TwoTokens, rng: random.Random) -> Sample:
    problem = task.problem("train", rng.randrange(1000))
    response = task.demonstration(problem, rng, 1.0)
    partial = response[: rng.choice((0, 2))]
    score = task.oracle(problem, partial, None).score
    texts: list[Callable[[], tuple[str, str]]] = [
        lambda: (problem.text, f"{response}<eos>"),
        lambda: (f"{problem.text}{partial}<judge>", f"<answer>{score}</answer>"),
    ]
    prompt, body = (tokenizer.encode(text) for text in rng.choice(texts)())
    weights = np.array([0.0] * len(prompt) + [1.0] * len(body), np.float32)
    return Sample(ids=(*prompt, *body), weights=weights, loss="sft")
