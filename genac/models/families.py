"""The families of transformers' models that genac computes itself, and what differs between them.

A family is a config's `model_type`. Others take transformers' own forward, for sampling and in
training, and padded rows.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What is computed here for a family; whether a model of it fits is decided there."""

    decodes: bool = False  # sampling: engines/decoder.py
    # Packed rows under tree attention (packed/attention.py): layers hand unknown keyword arguments
    # to the attention interface, and positions enter through position_ids alone (tested against
    # separate sequences).
    packs: bool = False
    fuses: bool = False  # one operation per layer in training: packed/layers.py
    norm_offset: float = 0.0  # norms are stored as differences from it
    scaled_embedding: bool = False  # embeddings are multiplied by the root of their size


UNKNOWN = Family()
USUAL = Family(decodes=True, packs=True, fuses=True)
FAMILIES = {
    "llama": USUAL,
    "qwen2": USUAL,
    "qwen3": USUAL,
    "mistral": USUAL,
    "gemma": Family(decodes=True, packs=True, fuses=True, norm_offset=1.0, scaled_embedding=True),
}


def family_of(model_type: str) -> Family:
    """The family's entry; one that supports nothing where there is none."""
    return FAMILIES.get(model_type, UNKNOWN)
