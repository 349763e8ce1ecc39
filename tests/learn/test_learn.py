"""Every algorithm learns the toy task, and every trained critic learns what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy

from genac.config.algorithms import ALGORITHMS
from genac.critics.base import rollouts_of
from genac.critics.monte_carlo import monte_carlo_values
from genac.evals.policy import evaluate_policy
from genac.models import tiny
from genac.rollout import collect, problems_at
from genac.runs.store import Run
from genac.stages import joint
from genac.states import split
from genac.types import Estimate


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return toy.base_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def two_token_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a tokenizer that writes 10 as 1 and 0."""
    torch.set_num_threads(1)
    words = [word for word in tiny.CRITIC_WORDS if word != "10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "CRITIC_WORDS", words)
        return toy.base_model(tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize(
    ("algorithm", "preset"),
    [(a, "improved") for a in sorted(ALGORITHMS)] + [("genac", "paper")],
)
def test_algorithm_learns(algorithm: str, preset: str, base: Path, tmp_path: Path) -> None:
    cfg = toy.config(algorithm=algorithm, preset=preset)
    setup = toy.setup(cfg)
    actor = setup.actor(base)
    before = evaluate_policy(actor, setup.world, 3, 64).mean
    run = Run.create(tmp_path / "run", cfg.model_dump(), {})
    joint.train(setup, run, actor, setup.critic(base, actor), None, "toy")
    after = evaluate_policy(actor, setup.world, 3, 64).mean
    rewards = [line["reward"] for line in run.metrics("joint")]
    print(f"{algorithm} {preset}: {before:.2f} -> {after:.2f}; {np.round(rewards, 2)}")
    assert before < 0.3
    assert np.mean(rewards[:3]) < 0.4
    assert np.mean(rewards[-5:]) > 0.8
    assert after > 0.8


# The bar: the error in the end over the error at first, and over that of the best constant.
CRITICS = {
    "genac paper": ({"preset": "paper"}, 0.6, None),
    "genac improved": ({"preset": "improved"}, 0.3, None),
    "ppo": ({"algorithm": "ppo"}, 0.2, 0.5),
    "ppo sparse": (
        {
            "algorithm": "ppo",
            "critic": {"discriminative": {"targets": "sparse", "sparse_states": 1}},
        },
        0.2,
        0.5,
    ),
    "ppo hl_gauss": (
        {"algorithm": "ppo", "critic": {"discriminative": {"head": "hl_gauss"}}},
        0.4,
        None,
    ),
}


@pytest.mark.parametrize("name", CRITICS)
def test_critic_learns_a_frozen_actor(name: str, base: Path) -> None:
    """Its error against Monte-Carlo values of the actor falls: at least it is calibrated."""
    learns(*CRITICS[name], base)


@pytest.mark.filterwarnings("error:the critic's tokenizer")
def test_critic_whose_10_is_two_tokens_learns_a_frozen_actor(two_token_base: Path) -> None:
    learns(*CRITICS["genac improved"], two_token_base)


def learns(
    overrides: dict[str, Any], of_first: float, of_constant: float | None, base: Path
) -> None:
    cfg = toy.config(**overrides)
    setup = toy.setup(cfg)
    actor = setup.actor(base)
    critic = setup.critic(base, actor)
    assert critic.runtime is not None

    def judge(step: int) -> list[Estimate]:
        problems = problems_at(setup.world, "train", 12 * step, 12)
        rollouts = [r for group in collect(actor, setup.world, problems, step) for r in group]
        return critic.estimate(split(rollouts, cfg.states, actor.tokenizer), step)

    def error() -> tuple[float, float]:
        estimates = [e for e in judge(1000) if e.value is not None]
        states = [e.state for e in estimates]
        result = monte_carlo_values(actor, setup.world, states, 128, "truth")
        truth = np.array([v.value for v in result])
        values = np.array([e.value for e in estimates])
        return float(((values - truth) ** 2).mean()), float(truth.var())

    first, constant = error()
    for step in range(60):
        estimates = judge(step)
        critic.observe(rollouts_of([e.state for e in estimates]))
        critic.learn(estimates, step)
        critic.runtime.publish(step + 1)
    last, _ = error()
    print(f"{first:.4f} -> {last:.4f}, constant {constant:.4f}")
    assert last < of_first * first
    assert of_constant is None or last < of_constant * constant
