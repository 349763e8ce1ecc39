"""Training without noise: dropout, router jitter and layer drop stay off, whatever a config says.

The importance ratio of a policy loss compares the learner's log-probabilities with those of the
engine that sampled. Noise in one of them alone would be read as a change of the policy. Supervised
stages train in the same way, so a seed gives one loss. Layers learn in evaluation mode, in which
their gradients are those of training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

NOISE = ("dropout", "layerdrop")  # read by models that checkpoint their layers themselves


def checkpoint_layers(model: Any) -> None:
    """The model computes its layers' activations again in the backward pass, in training mode or
    after `quiet`. ValueError for architectures that cannot.
    """
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ValueError(
            f"optimizer.gradient_checkpointing is set, but {error} Set it to false for this model, "
            "and lower optimizer.tokens_per_microbatch to save memory"
        ) from error
    for module in switches(model):
        module._gradient_checkpointing_func = partial(recomputed, module)


def quiet(model: nn.Module) -> None:
    """Evaluation mode, in which layers that `checkpoint_layers` prepared are still computed again.

    transformers computes a layer again only in training mode, so that flag, which children do not
    inherit here, is set on the layer and taken from it while it computes. ValueError for layers
    that compute no gradients in evaluation mode.
    """
    model.eval()
    if any(type(module).__name__ == "ReformerLayer" for module in model.modules()):
        raise ValueError(
            "Reformer cannot be trained: its layers compute gradients in training mode only, with "
            "random hashes, so no ratio of probabilities is right; use another architecture"
        )
    for module in switches(model):
        module.training = True
        if not isinstance(module, GradientCheckpointingLayer):  # the flag stays on while it runs
            noise = [name for name in NOISE if isinstance(getattr(module, name, None), float)]
            for name in noise:
                setattr(module, name, 0.0)


def switches(model: nn.Module) -> list[Any]:
    """The modules whose training mode decides whether something is computed again: the layers, or
    in older architectures the modules that call them.
    """
    flagged = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    layers = [m for m in flagged if isinstance(m, GradientCheckpointingLayer)]
    return layers or flagged


def recomputed(module: Any, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer's outputs, whose activations are computed again in the backward pass."""
    return checkpoint(partial(evaluated, module, layer), *args, use_reentrant=False, **kwargs)


def evaluated(module: Any, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer's outputs in evaluation mode."""
    before, module.training = module.training, False
    try:
        return layer(*args, **kwargs)
    finally:
        module.training = before
