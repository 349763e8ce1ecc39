"""Rotary embeddings that depend on how long a row is, and the length up to which they do not."""

from __future__ import annotations

import warnings
from typing import Any


def within_fixed_rotation(config: Any, limit: int) -> int:
    """The limit, in tokens per row, or less where longer rows rotate all of their tokens otherwise.

    Beyond that a token's probability changes as others are written behind it: what was sampled has
    none that could be trained.
    """
    config = config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(kind for kind in parameters.values() if isinstance(kind, dict))]
    fixed = [length for kind in kinds if (length := fixed_length(config, kind)) is not None]
    least = min(fixed, default=limit)
    if least < limit:
        warnings.warn(
            f"architecture {config.model_type!r} rotates every token of a row otherwise once the "
            f"row is longer than {least} tokens (its rope_type is one of 'dynamic' and "
            f"'longrope'), so its context is taken to be {least} tokens, not {limit}",
            stacklevel=3,
        )
    return min(limit, least)


def fixed_length(config: Any, kind: dict[str, Any]) -> int | None:
    """Tokens per row that one kind of rotary embedding treats alike, None = any number."""
    name = kind.get("rope_type")
    if name == "longrope":
        return kind.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", config.max_position_embeddings
        )
    return config.max_position_embeddings if name == "dynamic" else None
