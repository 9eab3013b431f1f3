"""The provider's own count and charges, which a mesh's ledger must match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class Charge:
    """One answer that was billed: for which work item, to which request (its hash), and whether all of it
    was sent."""

    item: str
    request: str
    user: str
    dollars: Decimal
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    delivered: bool = True


@dataclass
class Ledger:
    """All calls and charges, in order."""

    calls: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    charges: list[Charge] = field(default_factory=list)

    @property
    def dollars(self) -> Decimal:
        """The bill."""
        return sum((charge.dollars for charge in self.charges), Decimal(0))

    @property
    def delivered(self) -> Decimal:
        return sum((charge.dollars for charge in self.charges if charge.delivered), Decimal(0))

    def wasted(self, done: Collection[str]) -> Decimal:
        """Dollars for answers that were lost or asked for again, and for items that were not `done`."""
        last = {charge.request: number for number, charge in enumerate(self.charges)}
        return sum(
            (
                charge.dollars
                for number, charge in enumerate(self.charges)
                if charge.item not in done or not charge.delivered or last[charge.request] != number
            ),
            Decimal(0),
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, dollars as text."""
        of_user: dict[str, Decimal] = {}
        for charge in self.charges:
            of_user[charge.user] = of_user.get(charge.user, Decimal(0)) + charge.dollars
        return {
            "calls": self.calls,
            "answered": len(self.charges),
            "refused": dict(self.refused),
            "dollars": f"{self.dollars:f}",
            "dollars_delivered": f"{self.delivered:f}",
            "dollars_of": {user: f"{dollars:f}" for user, dollars in of_user.items()},
            "input_tokens": sum(charge.input_tokens for charge in self.charges),
            "cached_tokens": sum(charge.cached_tokens for charge in self.charges),
            "cache_write_tokens": sum(charge.written_tokens for charge in self.charges),
            "output_tokens": sum(charge.output_tokens for charge in self.charges),
        }
