"""The learning rate by step."""

from __future__ import annotations

from genac.config.models import OptimizerConfig


def learning_rate(cfg: OptimizerConfig, steps: int, decay_steps: int | None) -> float:
    """After `steps` optimiser steps: linear warm-up, then linear decay to a tenth, where these are
    configured.
    """
    if steps < cfg.warmup_steps:
        return cfg.learning_rate * ((steps + 1) / cfg.warmup_steps)
    if decay_steps:
        return cfg.learning_rate * max(0.1, 1 - 0.9 * steps / decay_steps)
    return cfg.learning_rate
