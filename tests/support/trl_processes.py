"""One of several processes that train together: its requests, and what its loss was made of.

python -m torch.distributed.run --standalone --nproc-per-node 2 trl_processes.py ACTOR OUTPUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from trl_runs import Ramp, config, ramp, trainer

from genac.client import Learn, Learnt


class Refusing(Ramp):
    """Learns once, and no more."""

    def learn(self, learn: Learn) -> Learnt:
        if self.step:
            raise ValueError("no more")
        return super().learn(learn)


def main(actor: str, output: Path, refuse: bool, single: bool) -> None:
    torch.set_num_threads(1)
    critic = Refusing() if refuse else Ramp()
    # Two responses per process and four per problem: a group spans both processes.
    sizes = {"per_device_train_batch_size": 2, "num_generations": 4}
    if single:
        sizes = {"per_device_train_batch_size": 1, "num_generations": 1}
    saving = {"save_strategy": "steps", "save_steps": 2}
    run = trainer(actor, critic, config(output, **sizes, **saving))
    problem = None
    try:
        run.train()
    except (ValueError, RuntimeError) as error:
        problem = str(error)
    rows = [
        (ids[: int(mask.sum())].tolist(), advantages[: int(mask.sum())].tolist())
        for step in run.losses
        for ids, mask, advantages in zip(
            step["completion_ids"], step["completion_mask"], step["advantages"], strict=True
        )
    ]
    requests = [
        (r.group, r.tokens, ramp(r.reward, len(r.tokens)))
        for request in critic.requests
        for r in request.responses
    ]
    logged = [line["critic/mse"] for line in run.state.log_history if "critic/mse" in line]
    result = {"rows": rows, "requests": requests, "logged": logged, "problem": problem}
    (output / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "refuse" in sys.argv, "single" in sys.argv)
