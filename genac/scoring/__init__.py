"""A saved critic as an object: from a folder, hub name or endpoint to values of partial responses.

All three kinds have the methods of `Scorer`: `genac score`, `genac serve` and `genac eval
solutions` know no others.

    Critic         a generative critic          generative.py
    ValueHead      a discriminative critic      value_head.py
    ZeroShot       a model behind an API        zero_shot.py
"""

from genac.scoring.generative import (
    Critic,
    Ids,
    Judgement,
    Prompt,
    TooLong,
    read_card,
    spread,
)
from genac.scoring.scorer import Scorer, critic_place, load_scorer
from genac.scoring.value_head import ValueHead
from genac.scoring.zero_shot import ZeroShot

__all__ = [
    "Critic",
    "Ids",
    "Judgement",
    "Prompt",
    "Scorer",
    "TooLong",
    "ValueHead",
    "ZeroShot",
    "critic_place",
    "load_scorer",
    "read_card",
    "spread",
]
