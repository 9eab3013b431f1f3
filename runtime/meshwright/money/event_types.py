"""The events of budgets, allowances and keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from meshwright.core import topics
from meshwright.core.display import Document, dollars, short, short_id
from meshwright.core.payloads import Fact, Payload


def _limit(limit_usd: Any, window: str) -> str:
    return f"{dollars(limit_usd)} {'in all' if window == 'total' else f'a {window}'}"


class _BudgetPayload(Payload, topic=topics.SPEND):
    budget: Fact[str]
    scope: Fact[str]
    key: Fact[str]
    limit_usd: Fact[str]
    window: Fact[str]
    hard: Fact[bool]
    cheaper_tag: Fact[str | None]
    inline: bool
    tenant_id: str | None = None
    on_empty: Fact[str] = "fail"

    @property
    def _owner(self) -> str:
        of = f" of {self.scope} {self.key}" if self.key else ""
        return f"{self.budget}{of}"


class BudgetOpened(
    _BudgetPayload,
    type="budget.opened budget.warned budget.exceeded",
    listed="budget, scope, key, limit_usd, spent_usd, reserved_usd, window, renews_at, hard, on_empty, "
    "cheaper_tag, inline, tenant_id",
):
    """It begins, is at 80 %, is empty."""

    spent_usd: Fact[str]
    reserved_usd: Fact[str]
    renews_at: Fact[datetime | None]

    def event_line(self, event: Document) -> Sequence[object]:
        spent = f"{dollars(self.spent_usd)} of {_limit(self.limit_usd, self.window)} spent"
        return f"{self._owner}: {spent}, {dollars(self.reserved_usd)} reserved", self.on_empty


class BudgetChanged(
    _BudgetPayload,
    type="budget.raised budget.denied",
    listed="the budget, with amount_usd and cheaper, or reason and denied_by",
):
    amount_usd: Fact[str] = ""
    cheaper: Fact[bool | None] = None
    reason: str | None = None
    denied_by: Fact[str | None] = None
    spent_usd: Fact[str]
    reserved_usd: Fact[str]
    renews_at: Fact[datetime | None]

    def event_line(self, event: Document) -> Sequence[object]:
        change = f"by {dollars(self.amount_usd)} to {dollars(self.limit_usd)}" if self.amount_usd else ""
        by = f"by {self.denied_by}" if self.denied_by else ""
        return self._owner, change, self.cheaper and "cheaper models first", by, short(self.reason or "")


class BudgetFreed(Payload, type="budget.freed", topic=topics.SPEND):
    """Names calls that have room now, to the workers where they wait. No log has it."""

    account: str
    calls: tuple[str, ...]


class AllowanceSet(Payload, type="allowance.set allowance.removed", topic=topics.SPEND):
    name: Fact[str]
    scope: Fact[str]
    of: Fact[str]
    limit_usd: Fact[Any]
    window: Fact[str]
    tenant_id: str | None = None
    on_empty: Fact[str] = ""
    hard: bool

    def event_line(self, event: Document) -> Sequence[object]:
        return f"{self.scope} {self.of}".strip(), _limit(self.limit_usd, self.window), self.on_empty


class KeyCreated(Payload, type="key.created key.rotated key.revoked", unlisted="key"):
    key_id: Fact[str]
    agent_id: str
    tenant_id: str
    roles: Fact[list[str]]
    budget: Fact[Any] = None
    created_at: Fact[Any]
    expires_at: Fact[Any] = None
    revoked_at: Fact[Any] = None
    replaced_by: str | None = None
    opening: int
    key: Fact[str] = ""

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            f"key {short_id(self.key_id)}",
            f"of {self.agent_id}" if self.agent_id else "",
            ", ".join(self.roles),
        )


class KeysOpened(Payload, type="keys.opened"):
    keys: Fact[int]
    """how many"""


class KeyUsed(Payload, type="key.used"):
    """At most every ten minutes."""

    key_id: Fact[str]
    agent_id: str


class KeyRefused(Payload, type="key.refused"):
    """At most once a minute."""

    key_id: Fact[str]
    agent_id: str
    reason: str


EVENTS = (BudgetOpened, BudgetChanged, AllowanceSet)
KEY_EVENTS = (KeyCreated, KeysOpened, KeyUsed, KeyRefused)
