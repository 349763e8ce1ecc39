"""Critics: states in, estimates out, and how each kind learns. To add one: one class over
`base.py` and one line in `CRITICS`.

Where states come from is in `genac/states.py`, what values are used for in `genac/credit.py`.
"""

from __future__ import annotations

from genac.config.run import RunConfig
from genac.critics.actor_likelihood import ActorLikelihoodCritic
from genac.critics.base import Critic, NoCritic
from genac.critics.discriminative import DiscriminativeCritic
from genac.critics.generative import GenerativeCritic
from genac.critics.monte_carlo import MonteCarloCritic

CRITICS: dict[str, type[Critic]] = {
    "none": NoCritic,
    "generative": GenerativeCritic,
    "discriminative": DiscriminativeCritic,
    "monte_carlo": MonteCarloCritic,
    "actor_likelihood": ActorLikelihoodCritic,
}


def critic_class(kind: str) -> type[Critic]:
    """The class of a kind. Raises ValueError for a kind that is not in the table."""
    if kind not in CRITICS:
        raise ValueError(f"critic.kind is {kind!r}; use one of {sorted(CRITICS)}")
    return CRITICS[kind]


def is_taught(cfg: RunConfig) -> bool:
    """Whether the run has stage 1, in which a critic learns from traces."""
    return critic_class(cfg.critic.kind).needs_traces and cfg.stages.sft.epochs > 0
