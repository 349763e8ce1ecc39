"""Bookkeeping of PPO over tokens: from a value per token to training samples, without any model.

    python bench/credit.py [--quick] [--json FILE]

1024 responses of 1024 tokens: states, credit assignment, the value head's targets and the step's
metrics. What the models compute is left out.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median

import numpy as np
from common import parse, parser, write_json

from genac.config.models import DiscriminativeConfig
from genac.config.run import CreditConfig
from genac.credit import credit
from genac.critics.discriminative import DiscriminativeCritic
from genac.evals.online import critic_metrics
from genac.states import every_token
from genac.types import Estimate, Problem, Rollout, Sample

GROUP = 8


class Silent:
    """A learner that learns nothing."""

    def learn(self, samples: list[Sample], seed: int) -> dict[str, float]:
        return {}


def rollouts(count: int, tokens: int) -> list[Rollout]:
    rng = np.random.default_rng(0)
    return [
        Rollout(
            Problem(f"p{i // GROUP}", "2>", "1"),
            i // GROUP,
            i % GROUP,
            (3, 4),
            tuple(range(5, 5 + tokens)),
            np.full(tokens, -1, np.float32),
            "",
            "stop",
            0,
            reward=float(rng.random() < 0.5),
        )
        for i in range(count)
    ]


def main() -> None:
    args = parse(parser(__doc__.splitlines()[0]))
    count = 128 if args.quick else 1024
    made = rollouts(count, 1024)
    groups = [made[i : i + GROUP] for i in range(0, count, GROUP)]
    values = np.random.default_rng(1).random((count, 1024)).astype(np.float32)
    runtime = type("Runtime", (), {"learner": Silent()})()
    critic = DiscriminativeCritic(runtime, DiscriminativeConfig(lam=0.9), 1.0, 0)
    cfg = CreditConfig(granularity="tokens", lam=0.9, gate="group")
    spent: dict[str, list[float]] = {"states": [], "credit": [], "targets": [], "metrics": []}
    for _ in range(args.repeats):
        clock = time.process_time()
        states = every_token(made)
        estimates = [
            Estimate(s, float(v[0]), token_values=v) for s, v in zip(states, values, strict=True)
        ]
        spent["states"].append(time.process_time() - clock)
        for phase, work in (
            ("credit", partial(credit, groups, estimates, cfg, 1.0)),
            ("targets", partial(critic.learn, estimates, 0)),
            ("metrics", partial(critic_metrics, estimates)),
        ):
            clock = time.process_time()
            work()
            spent[phase].append(time.process_time() - clock)
    result = {phase: median(seconds) for phase, seconds in spent.items()}
    total = sum(result.values())
    print(f"{count} x 1024 tokens: {total:.2f} s of processor time", result)
    write_json(args, result | {"total": total}, spent)


if __name__ == "__main__":
    main()
