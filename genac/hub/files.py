"""Model cards on disk: a card is replaced only while it is word for word the one genac wrote."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from genac.runs.store import atomic_write

METRICS_HEAD = "on held-out problems"  # heads the table of a card that has metrics


def place_card(place: Path, text: str) -> list[str]:
    """Writes the card, unless the one that stands there is not genac's, was edited, or has metrics
    that this one lacks; then a line that says why it is kept.
    """
    old = place.read_text(encoding="utf-8", errors="replace") if place.exists() else None
    if old is not None and not unedited(old):
        return [f"{place} was edited or is not of genac, so it is kept; delete it for a new one"]
    if old is not None and f"| {METRICS_HEAD} |" in old and f"| {METRICS_HEAD} |" not in text:
        return [f"{place} has metrics and a new card would have none, so it is kept"]
    atomic_write(place, marked(text))
    return []


def marked(text: str) -> str:
    """The text and, in a comment at its end, its hash."""
    return f"{text}\n<!-- genac card {digest(text)} -->\n"


def unedited(card: str) -> bool:
    """Whether a card is word for word what `marked` made."""
    result = re.fullmatch(r"(.*)\n<!-- genac card ([0-9a-f]{16}) -->\n", card, flags=re.S)
    return result is not None and digest(result[1]) == result[2]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
