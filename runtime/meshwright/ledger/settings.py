"""[ledger]: how much may be spent."""

from __future__ import annotations

from meshwright.core.money import Budget, Price
from meshwright.settings.forms import Table


class LedgerSettings(Table):
    """[ledger]: how much may be spent."""

    budgets: tuple[Budget, ...] = ()
    """How much may be spent: tables with name, scope, of, limit_usd, window, hard, on_empty, cheaper_tag."""
    default_price: Price | None = None
    """Dollars per million tokens of a model whose price is unknown, like { input = 3, output = 15 }. If
    unset, a hard budget refuses its calls."""
