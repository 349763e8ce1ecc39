"""Seeds as pure functions of where they are used.

No generator lives across steps: every draw comes from a seed derived from (run seed, stage, step,
use), so a resumed run draws exactly what the uninterrupted one would have, and nothing has to be
saved.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from its parts, e.g. derive_seed(cfg.seed, "joint", step, "rollout")."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
