"""What a run costs by role: tokens, FLOPs and seconds.

FLOPs are counted as 2 N per token read or written and 6 N per token trained, N the parameters of
the model (Kaplan et al. 2001.08361, without the attention term).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from genac.models.loading import parameter_count
from genac.rollout import Group
from genac.runtime import Runtime
from genac.types import Estimate

ROLES = ("actor_sampling", "critic_sampling", "actor_training", "critic_training", "evaluation")


class Cost:
    """Running totals; json-able through `state`, so that a resumed run goes on counting."""

    def __init__(self, state: dict[str, dict[str, float]] | None = None) -> None:
        state = state or {}
        self.seconds = defaultdict(float, state.get("seconds", {}))
        self.tokens = defaultdict(float, state.get("tokens", {}))
        self.flops = defaultdict(float, state.get("flops", {}))

    @contextmanager
    def clock(self, role: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[role] += time.perf_counter() - begin

    def add(self, role: str, model: Any, tokens: int, flops_per_parameter: int) -> None:
        self.tokens[role] += tokens
        self.flops[role] += flops_per_parameter * parameter_count(model) * tokens

    def step(
        self,
        actor: Runtime,
        critic: Runtime | None,
        groups: Sequence[Group],
        estimates: Sequence[Estimate],
        epochs: int,
        critic_trained: float,
    ) -> None:
        """Tokens and FLOPs of one joint step; a group's prompt is read once per response.

        critic_trained: tokens the critic's learner read, as its `learn` reported them.
        """
        tokens = sum(len(r.prompt_ids) + len(r.response_ids) for g in groups for r in g)
        self.add("actor_sampling", actor.model, tokens, 2)
        self.add("actor_training", actor.model, epochs * tokens, 6)
        if critic is not None:
            self.add("critic_sampling", critic.model, critic_tokens(estimates), 2)
            self.add("critic_training", critic.model, int(critic_trained), 6)
        elif estimates:
            unique = {e.state.key: e for e in estimates}.values()
            self.add("critic_sampling", actor.model, sum(e.tokens for e in unique), 2)

    def totals(self) -> dict[str, float]:
        """Running totals, so that success can be plotted against what it cost."""
        return {
            "cost/seconds": sum(v for k, v in self.seconds.items() if k != "evaluation"),
            "cost/tokens": sum(self.tokens.values()),
            "cost/flops": sum(self.flops.values()),
        }

    def state(self) -> dict[str, dict[str, float]]:
        return {
            "seconds": dict(self.seconds),
            "tokens": dict(self.tokens),
            "flops": dict(self.flops),
        }


def critic_tokens(estimates: Sequence[Estimate]) -> int:
    """Tokens a learned critic reads and writes: its thoughts, or each response once for a value
    head.
    """
    thoughts = {id(t): t for e in estimates for t in e.thoughts}.values()
    if thoughts:
        return sum(len(t.prompt_ids) + len(t.completion_ids) for t in thoughts)
    rollouts = {id(e.state.rollout): e.state.rollout for e in estimates}.values()
    return sum(len(r.prompt_ids) + len(r.response_ids) for r in rollouts)
