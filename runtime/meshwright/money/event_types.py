"""The events of budgets, allowances and keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from meshwright.core import topics
from meshwright.core.payloads import Fact, Payload


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
