"""What a model's own weights say of it: its backbone, its LM head, and how wide both are.

Names in a config are not reliable. Composite models keep their text model's numbers in a nested
config, and a head may scale, cap or project under names of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PROBE = 1000.0  # logits up to this size show any cap that could matter


def backbone(model: Any) -> Any:
    """The part of a causal LM that ends in the hidden states that its LM head reads."""
    base = model.base_model
    # Some architectures name a prefix that they do not have; `base_model` is then the model itself.
    return base if base is not model else getattr(model, "model", model)


def vocabulary(model: Any) -> int:
    """Tokens that the model knows: rows of its LM head, or of a model that is held elsewhere what
    its config says.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head.weight.shape[0] if head is not None else text_config(model).vocab_size


def text_config(model: Any) -> Any:
    """The config that describes the text model: the whole one, or the one nested in it."""
    return model.config.get_text_config(decoder=True)


def positions(config: Any) -> int:
    """Tokens that a model of the config can read at once; 10**9 where nothing limits them."""
    text = config.get_text_config(decoder=True)
    return size(text, "max_position_embeddings", "max_seq_len", default=10**9)


def size(config: Any, *names: str, default: int) -> int:
    """A number of a text config by the first name it has; the largest where layers differ, and the
    default where it has no single one.
    """
    for name in names:
        try:
            value = getattr(config, name, None)
        except RuntimeError:  # raised for what transformers keeps per layer
            continue
        if isinstance(value, list | tuple):
            value = max(value, default=None)
        if value:
            return value
    return default


@torch.no_grad()
def hidden_width(model: Any) -> int:
    """Width of the hidden states that a causal LM's backbone returns."""
    device = model.get_input_embeddings().weight.device
    if device.type == "meta":  # which no forward pass is sure to survive
        return model.get_output_embeddings().weight.shape[-1]
    was = model.training
    model.eval()
    ids = torch.zeros(1, 1, dtype=torch.long, device=device)
    width = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state.shape[-1]
    model.train(was)
    return width


@torch.no_grad()
def plain_head(model: Any) -> bool:
    """Whether a causal LM's logits are head(hidden) and nothing else.

    Two forward passes over four tokens, in evaluation mode. What the head reads is compared with
    what the backbone returns. In place of what the head writes, numbers over [-PROBE, PROBE] go on:
    a scale or a cap behind it changes these, however small the model's own logits are.
    """
    head, seen = model.get_output_embeddings(), dict[str, Tensor]()
    if head is None:
        return False

    def spread(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        seen["read"] = args[0]
        row = torch.linspace(-PROBE, PROBE, out.shape[-1], dtype=out.dtype, device=out.device)
        seen["written"] = row.expand_as(out)
        return seen["written"]

    some = torch.arange(4, device=model.get_input_embeddings().weight.device)
    ids = some[None] % vocabulary(model)
    hook = head.register_forward_hook(spread)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    if not seen:  # a head that is not called as a module
        return False
    read, written = seen["read"], seen["written"]
    hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    if read.shape != hidden.shape or written.shape != logits.shape:
        return False
    # Two passes may differ by their rounding; what passes through may change its number format.
    room = (1e-3 if hidden.dtype == torch.float32 else 0.05) * hidden.abs().max().nan_to_num()
    coarse = max(torch.finfo(written.dtype).eps, torch.finfo(logits.dtype).eps)
    return torch.allclose(
        read.float(), hidden.float(), rtol=0, atol=float(room), equal_nan=True
    ) and torch.allclose(written.float(), logits.float(), rtol=coarse, atol=0)


def logits_at(model: Any, ids_BT: Tensor, at_N: Tensor) -> Tensor:
    """A causal LM's own logits (N, V) at places of the flattened rows, whatever it does besides
    multiplying. Only these places pass the head.
    """
    head, chosen = model.get_output_embeddings(), list[bool]()

    def choose(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        chosen.append(True)
        return args[0].flatten(0, 1)[at_N][None], *args[1:]

    hook = None if head is None else head.register_forward_pre_hook(choose)
    try:
        logits = model(input_ids=ids_BT, use_cache=False).logits.flatten(0, 1)
    finally:
        if hook is not None:
            hook.remove()
    return logits if chosen else logits[at_N]  # not every head is called as a module
