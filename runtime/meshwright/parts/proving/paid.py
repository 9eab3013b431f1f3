"""Real calls of a model within a run, as far as its money goes."""

from __future__ import annotations

import secrets
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Self

from msgspec.structs import replace

from meshwright.core.errors import ConfigError
from meshwright.core.settings import Settings, load_settings
from meshwright.models.errors import ModelError
from meshwright.models.port import Adapter, ChatMessage, ModelRequest, PriceList
from meshwright.models.prices import price_list
from meshwright.models.select import choose_model
from meshwright.models.settings import ModelsSettings
from meshwright.money.estimates import Estimates
from meshwright.money.settings import LedgerSettings
from meshwright.parts.proving.records import Records

_MAX_TOKENS = 16
_SECONDS = 30.0
_SAMPLE = ModelRequest(messages=(ChatMessage(role="user", content="Say ok"),), user="mesh-prove")


class PaidReport(NamedTuple):
    """The real calls of a run."""

    name: str
    """The model, or the group of models."""
    answered: int
    """Calls that it answered."""
    failures: dict[str, int]
    """How many calls failed, by the reason."""
    usd: Decimal
    """The most that all calls may have cost."""
    budget_usd: Decimal
    """The most that they may cost."""


class PaidCalls:
    """Calls a real model for at most 16 tokens, as long as all calls of the run stay within its budget.

    Each worker of a run has one. A call is recorded with the most that it may cost before it is made, so
    that kills and calls side by side exceed nothing.
    """

    def __init__(
        self, model: Adapter, prices: PriceList, name: str, budget_usd: Decimal, records: Records
    ) -> None:
        self._model, self._estimates, self._name = model, Estimates(prices), name
        self._budget_usd, self._records = budget_usd, records

    @classmethod
    def from_project(cls, project: Path, name: str, budget_usd: Decimal, records: Records) -> Self:
        """Take the model that the settings of a project choose.

        Raises ConfigError where they choose none, and for a model without a price.
        """
        settings = load_settings(project)
        model = choose_model(settings, project / settings[ModelsSettings].config)
        if model.kind == "offline":
            raise ConfigError(
                "There is no model to call",
                remedy="Set LITELLM_BASE_URL or a provider's key, as mesh models test needs them",
            )
        calls = cls(model, _prices(model, settings), name, budget_usd, records)
        if calls._estimates.upper_bound(calls._call(_SAMPLE)) is None:
            raise ConfigError(
                f"The price of {name} is not known, so that no budget holds",
                remedy="Set default_price under [ledger]",
                field="model",
            )
        return calls

    async def answer(self, request: ModelRequest) -> str | None:
        """Return the model's answer to a request; None where the money is spent, or it gave none."""
        call, ticket = self._call(request), secrets.token_hex(8)
        bound = self._estimates.upper_bound(call)
        assert bound is not None
        self._records.paid.write([ticket, str(bound)])
        total = Decimal(0)
        for earlier, amount in self._records.paid.read():
            if total + Decimal(amount) <= self._budget_usd:
                total += Decimal(amount)
                if earlier == ticket:
                    break
            elif earlier == ticket:
                return None
        try:
            reply = await self._model.complete(call)
        except ModelError as error:
            self._records.paid_replies.write([error.message])
            return None
        self._records.paid_replies.write([None])
        return reply.content

    def _call(self, request: ModelRequest) -> ModelRequest:
        return replace(
            request,
            **{"model": self._name, "tags": (), "tools": (), "max_tokens": _MAX_TOKENS},
            **{"timeout_seconds": _SECONDS, "cache": False},
        )


def read_paid(name: str, budget_usd: Decimal, records: Records) -> PaidReport:
    """Read the real calls of a run from its records."""
    total, failures = Decimal(0), dict[str, int]()
    for _, amount in records.paid.read():
        total += Decimal(amount) if total + Decimal(amount) <= budget_usd else 0
    replies = [failure for [failure] in records.paid_replies.read()]
    for failure in filter(None, replies):
        failures[failure] = failures.get(failure, 0) + 1
    return PaidReport(name, replies.count(None), failures, total, budget_usd)


def _prices(model: Adapter, settings: Settings) -> PriceList:
    return price_list(model, settings[LedgerSettings].default_price)
