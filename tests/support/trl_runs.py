"""Small runs of GenACTrainer: a tiny actor, and a critic that is a formula instead of a model.

Imported after `pytest.importorskip("trl")` only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor

from genac.client import Advantages, Learn, Learnt, Responses, Version
from genac.client.messages import ResponseAdvantages
from genac.integrations.trl import GenACConfig, GenACTrainer
from genac.models.loading import load_tokenizer

PROMPTS = [f"{a}+{b}=" for a in "abcdefgh" for b in "xyz"]


class Ramp:
    """Keeps the protocol of a learning critic. The advantage of token t is (reward - 1/2) (t + 1);
    learning counts.
    """

    def __init__(self) -> None:
        self.step = 0
        self.requests: list[Responses] = []
        self.lessons: list[Learn] = []

    def advantages(self, responses: Responses) -> Advantages:
        self.requests.append(responses)
        return Advantages(
            responses=tuple(
                ResponseAdvantages(
                    boundaries=(0,),
                    values=(0.5,),
                    spreads=(None,),
                    advantages=(0.0,),
                    token_advantages=None if r.reward is None else ramp(r.reward, len(r.tokens)),
                )
                for r in responses.responses
            ),
            version=self.step,
            metrics={"critic/mse": 0.25},
        )

    def learn(self, learn: Learn) -> Learnt:
        self.lessons.append(learn)
        self.step += 1
        done = {"request_id": learn.request_id, "status": "done", "version": self.step}
        return Learnt(**done, step=self.step, metrics={"critic/reward": 0.75})

    def describe_version(self) -> Version:
        return Version(version=self.step, step=self.step)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ramp.json").write_text(json.dumps(self.step))

    def load(self, folder: Path) -> None:
        self.step = json.loads((folder / "ramp.json").read_text())

    def save_model(self, folder: Path) -> None:
        self.save(folder)


def ramp(reward: float, length: int) -> tuple[float, ...]:
    return tuple((reward - 0.5) * (t + 1) for t in range(length))


class Recording(GenACTrainer):
    """Keeps what the loss was computed from."""

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        self.__dict__.setdefault("losses", []).append(
            {k: v.clone() for k, v in inputs.items() if isinstance(v, Tensor)}
        )
        return super()._compute_loss(model, inputs)


def letters(completions: Sequence[Any], **_: Any) -> list[float]:
    """The share of letters among the characters."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(ch.isalpha() for ch in text) / max(1, len(text)) for text in texts]


def config(output: Path, **changes: Any) -> GenACConfig:
    """Two steps of four responses, two per prompt."""
    settings: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 6,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "scale_rewards": "none",
        "shuffle_dataset": False,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return GenACConfig(**settings | changes)


def trainer(
    actor: Path | str, critic: Any, args: GenACConfig, reward: Any = letters, **options: Any
) -> Recording:
    """A trainer on the prompts above."""
    options = {"train_dataset": Dataset.from_dict({"prompt": PROMPTS})} | options
    return Recording(
        str(actor),
        reward,
        args,
        critic=critic,
        processing_class=load_tokenizer(str(actor)),
        **options,
    )
