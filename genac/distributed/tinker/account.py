"""Tokens that a Tinker service computes, by kind, and what they cost.

mark = LEDGER.mark()
...                        # models are built and used
LEDGER.since(mark, prices)  # {"actor": {"sampled": 1024, ...}, "critic": {...}, "cost": 0.3}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from genac.config.run import HardwareConfig
from genac.config.tinker import TinkerPrices

MILLION = 1_000_000


@dataclass
class Account:
    """Tokens of one model. `cached` are those of `prefilled` that the service read from its cache,
    as far as it says so.
    """

    prefilled: int = 0  # read by samplers
    cached: int = 0
    sampled: int = 0
    trained: int = 0  # forwards and backwards
    forwarded: int = 0  # forwards only, by trainers

    def add(self, saved: Mapping[str, int]) -> None:
        """Goes on counting from what `asdict` of an earlier process's account held."""
        for name, tokens in saved.items():
            setattr(self, name, getattr(self, name) + tokens)

    def cost(self, prices: TinkerPrices) -> float | None:
        """None where a price that is needed is missing."""
        cached = prices.prefill if prices.cached is None else prices.cached
        forward = prices.train if prices.forward is None else prices.forward
        parts = (
            (self.prefilled - self.cached, prices.prefill),
            (self.cached, cached),
            (self.sampled, prices.sample),
            (self.trained, prices.train),
            (self.forwarded, forward),
        )
        due = [(tokens, price) for tokens, price in parts if tokens]
        if any(price is None for _, price in due):
            return None
        return sum(tokens * price for tokens, price in due if price is not None) / MILLION


class Ledger:
    """All accounts of this process, by role, in the order in which they were opened."""

    def __init__(self) -> None:
        self._accounts: list[tuple[str, Account]] = []

    def open(self, role: str) -> Account:
        account = Account()
        self._accounts.append((role, account))
        return account

    def mark(self) -> int:
        """To be handed to `since`."""
        return len(self._accounts)

    def since(self, mark: int, prices: TinkerPrices) -> dict[str, Any]:
        """Tokens by role of the accounts opened since, and their cost; None without prices."""
        totals: dict[str, Account] = defaultdict(Account)
        for role, account in self._accounts[mark:]:
            totals[role].add(asdict(account))
        whole = Account()
        for account in totals.values():
            whole.add(asdict(account))
        return {role: asdict(a) for role, a in totals.items()} | {"cost": whole.cost(prices)}


LEDGER = Ledger()


def bill(hardware: HardwareConfig, mark: int) -> dict[str, Any]:
    """For a run's summary: what its models were charged since `mark`; nothing of local ones."""
    if hardware.backend != "tinker":
        return {}
    return {"tinker": LEDGER.since(mark, hardware.tinker.prices)}
