"""The learning rate by step."""

from __future__ import annotations

from genac.config.models import LossConfig, OptimizerConfig


def optimizer_steps(loss: LossConfig, steps: int) -> int:
    """How many optimiser steps that many steps of a stage take."""
    return steps * loss.num_iterations * loss.num_minibatches


def learning_rate(cfg: OptimizerConfig, steps: int, decay_steps: int | None) -> float:
    """After `steps` optimiser steps: linear warm-up, then linear decay to a tenth, where these are
    configured.
    """
    if steps < cfg.warmup_steps:
        return cfg.learning_rate * ((steps + 1) / cfg.warmup_steps)
    if decay_steps:
        return cfg.learning_rate * max(0.1, 1 - 0.9 * steps / decay_steps)
    return cfg.learning_rate
