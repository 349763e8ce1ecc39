"""Your own problems and reward, in the shape that users of TRL know. Under a minute on a laptop.

    python examples/own_reward.py

A model of 0.1 M parameters is made here and taught for a moment; then it learns from the reward to
name the largest of three digits. With a model of yours: genac.Trainer(model="NAME", ...).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import genac

ROWS = [
    {"prompt": f"largest of {a} {b} {c}:", "answer": str(max(a, b, c)), "digits": [a, b, c]}
    for a, b, c in product(range(10), repeat=3)
]
ARGS = {
    "recipe": "own-data",
    "output_dir": "runs/own-reward",
    "stages.base.steps": 40,  # half taught, so that there is something to learn
    "stages.joint.steps": 100,
    "rollout.num_prompts": 32,
}


def score(completions: list[str], digits: list[list[int]], **columns: Any) -> list[float]:
    """1 for the largest digit, 0.2 for another one of the three, 0 for anything else."""
    return [
        1.0 if text == str(max(own)) else 0.2 * (text in map(str, own))
        for text, own in zip(completions, digits, strict=True)
    ]


def show(step: int, metrics: dict[str, Any]) -> None:
    if step % 10 == 0:
        print(f"step {step}: reward {metrics['reward']:.2f}")


def main(**changes: Any) -> genac.Run:
    trainer = genac.Trainer(
        reward_funcs=score, train_dataset=ROWS, args={**ARGS, **changes}, callbacks=[show]
    )
    print("before:", trainer.evaluate())
    run = trainer.train()
    print("after:", trainer.evaluate(), "\nlook at it: genac view", run.path)
    return run


if __name__ == "__main__":
    main()
