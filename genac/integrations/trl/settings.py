"""TRL's arguments: what a critic allows beyond TRL, and what it cannot go with.

Advantages are per token here, shape (B, T). TRL's loss takes them, but a few of its options speak
of *the* advantage of a response. They would run and mean something else, so they are refused.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

# Option -> values that are refused -> why. What each does is read in TRL's `_compute_loss`.
REFUSED: dict[str, dict[str, str]] = {
    "loss_type": {
        "vespo": "it weighs a whole response by the sign of its one advantage; use dapo, grpo, "
        "dr_grpo, bnpo, cispo, sapo or luspo",
    },
    "importance_sampling_level": {
        "sequence": "one ratio per response gives each of its tokens the mean of their advantages, "
        "so credit for single steps is lost; use token",
    },
    "multi_objective_aggregation": {
        "normalize_then_sum": "the critic predicts one reward, the weighted sum of the functions; "
        "use sum_then_normalize",
    },
}


@dataclass
class GenACConfig(GRPOConfig):
    """GRPOConfig that also allows `num_generations=1`: a critic needs no group as its baseline."""

    def __post_init__(self) -> None:
        if self.num_generations != 1:
            return super().__post_init__()
        # TRL refuses 1 outright. Any other number that divides the batch passes its checks.
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        processes = int(os.environ.get("WORLD_SIZE", "1"))  # TRL's own count is not known yet
        whole = self.generation_batch_size or self.per_device_train_batch_size * steps * processes
        if whole < 2:
            raise ValueError(
                "num_generations is 1 and a generation batch has 1 response; set "
                "per_device_train_batch_size or gradient_accumulation_steps to 2 or more"
            )
        self.num_generations_eval = self.num_generations_eval or 1
        self.num_generations = whole
        super().__post_init__()
        self.num_generations = 1


def require_supported(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """ValueError naming an argument of GRPOTrainer that does not go with a critic; a warning for
    one that does nothing. Called before a model is loaded.
    """
    bound = inspect.signature(GRPOTrainer.__init__).bind(None, *args, **kwargs).arguments
    for name in ("tools", "environment_factory"):
        if bound.get(name):
            raise ValueError(
                f"{name} is set, but GenACTrainer supports responses of one turn: the "
                "critic cannot distinguish the actor's tokens from those of tools; use GRPOTrainer "
                "for tools"
            )
    config = bound.get("args")
    if config is None:
        return
    for name, reasons in REFUSED.items():
        value = getattr(config, name)
        if value in reasons:
            raise ValueError(f"{name} {value!r} does not go with a critic: {reasons[value]}")
    if config.off_policy_mask_threshold is not None:
        raise ValueError(
            f"off_policy_mask_threshold {config.off_policy_mask_threshold} does not go with a "
            "critic: it drops responses by the sign of their one advantage; leave it at None"
        )
    if config.scale_rewards != "none":
        warnings.warn(
            f"scale_rewards {config.scale_rewards!r} has no effect: advantages are the critic's "
            "(its credit settings scale them); set scale_rewards='none' to say so",
            stacklevel=3,
        )
