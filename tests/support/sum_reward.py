"""A reward function as a user's module holds it; it imports nothing, so workers start at once."""

from __future__ import annotations

from typing import Any


def right_sum(completions: list[str], sum: list[str], **columns: Any) -> list[float]:
    """0.5 where a response begins as the sum does; TRL's signature."""
    return [0.5 * (text[:1] == right[:1]) for text, right in zip(completions, sum, strict=True)]
