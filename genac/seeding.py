"""Seeds as pure functions of where they are used.

No generator lives across steps: every draw comes from a seed derived from (run seed, stage, step,
use), so a resumed run draws exactly what the uninterrupted one would have, and nothing has to be
saved.
"""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from its parts, e.g. derive_seed(cfg.seed, "joint", step, "rollout")."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=4)  # a step reads one epoch of two splits, or two where it crosses a border
def shuffled(seed: int, split: str, epoch: int, size: int) -> tuple[int, ...]:
    """The order of an epoch over `size` problems, the same in every process."""
    order = list(range(size))
    random.Random(f"{seed}/{split}/{epoch}").shuffle(order)
    return tuple(order)
