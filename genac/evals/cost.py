"""What a run costs by role: seconds, tokens that a model really read or wrote, and FLOPs.

Tokens are counted where they are computed, in engine and learner, so what is read once for many
(a shared prompt, a response under its states) counts once. FLOPs are 2 N per token sampled or
read and 6 N per token trained, N the parameters of the model (Kaplan et al. 2001.08361, without
the attention term).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from genac.models.loading import parameter_count
from genac.runs.activity import doing
from genac.runtime import Runtime

ROLES = {  # and what people call them
    "actor_sampling": "sampling responses",
    "critic_sampling": "judging states",
    "actor_training": "training the actor",
    "critic_training": "training the critic",
    "evaluation": "held-out success",
}


class Cost:
    """Running totals; json-able through `state`, so that a resumed run goes on counting."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)

    def restore(self, state: dict[str, dict[str, float]]) -> None:
        """Adds the totals that `state` returned before the run was interrupted."""
        for name in ("seconds", "tokens", "flops"):
            for role, value in state[name].items():
                getattr(self, name)[role] += value

    @contextmanager
    def clock(self, role: str, runtime: Runtime | None) -> Iterator[None]:
        """Charges to `role` the time spent inside and what `runtime` computes there."""
        begin, before = time.perf_counter(), runtime.processed_tokens if runtime else 0
        try:
            with doing(ROLES.get(role, role)):
                yield
        finally:
            self.seconds[role] += time.perf_counter() - begin
            if runtime is not None:
                tokens = runtime.processed_tokens - before
                self.tokens[role] += tokens
                per_parameter = 6 if role.endswith("training") else 2
                self.flops[role] += per_parameter * parameter_count(runtime.model) * tokens

    def totals(self) -> dict[str, float]:
        """Running totals without evaluation, so that success can be plotted against its cost."""

        def total(of: dict[str, float]) -> float:
            return sum(value for role, value in of.items() if role != "evaluation")

        return {
            "cost/seconds": total(self.seconds),
            "cost/tokens": total(self.tokens),
            "cost/flops": total(self.flops),
        }

    def state(self) -> dict[str, dict[str, float]]:
        return {
            "seconds": dict(self.seconds),
            "tokens": dict(self.tokens),
            "flops": dict(self.flops),
        }
