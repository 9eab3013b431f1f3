"""[ledger]: how much may be spent."""

from __future__ import annotations

from meshwright.core.money import Budget, Price
from meshwright.core.settings.forms import Table


class LedgerSettings(Table):
    """[ledger]: how much may be spent."""

    budgets: tuple[Budget, ...] = ()
    """Amounts that may be spent."""
    default_price: Price | None = None
    """Dollars per million tokens of a model without a price: { input = 3, output = 15 }. Unset: a hard budget
    refuses it."""
