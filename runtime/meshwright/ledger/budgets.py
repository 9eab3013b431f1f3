"""Budgets: which of them a call is of, and its reservation with all of their accounts, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from meshwright.events.filter import EventFilter
from meshwright.events.log import EventLog
from meshwright.host import Host
from meshwright.ledger.account import OPENED, Account, Balance, Entry, Verdict, Window, renews_at
from meshwright.ledger.desk import Desk
from meshwright.ledger.scopes import (
    EVERY,
    account_of,
    brought_by,
    cheapened,
    check,
    exceeded,
    keys_of,
    only_key,
    refuse_unknown,
)
from meshwright.messages import Plain, new_id
from meshwright.models.port import ModelRequest, ModelUnavailable
from meshwright.money import ZERO, Amount, Budget
from meshwright.work.protocol import DEFAULT_TENANT

MARGIN_SECONDS = 60.0  # after a call's own limit: clocks differ, and the last word takes its time
MAX_LISTED = 1_000
MAX_KEPT = 1_000

Estimate = Callable[[ModelRequest], Decimal | None]
"""The most that a call may cost; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A call that may be made: the request, which may have a cheaper tag, and what is reserved for it.

    `amount` is None where nobody knows what it may cost, or no budget asks.
    """

    request: ModelRequest
    op: str
    call: str
    amount: Decimal | None
    accounts: tuple[Account, ...] = ()
    cheaper_tag: str | None = None


class BudgetView(Plain):
    """An account as clients see it. `renews_at` is None where it never does."""

    budget: str
    scope: str
    key: str
    window: Window
    hard: bool
    limit_usd: Amount
    spent_usd: Amount
    reserved_usd: Amount
    renews_at: datetime | None


class Budgets:
    """The budgets of a mesh. Raises ConfigError for two of one name, and for one that never applies."""

    def __init__(self, declared: Sequence[Budget], host: Host) -> None:
        check(declared)
        self._declared = tuple(declared)
        self._host = host
        self._desks: dict[str, Desk] = {}
        self._under_way: set[str] = set()
        self._accounts: dict[tuple[str, str], Account] = {}

    def applying(self, request: ModelRequest) -> tuple[Account, ...]:
        """The accounts that a call is charged to, in the order in which all ask them."""
        found = [
            self._account(budget, key)
            for budget in self._declared
            for key in keys_of(budget.scope, request)
            if budget.of in (EVERY, key)
        ]
        found += brought_by(request)
        if len(found) < 2:
            return tuple(found)
        accounts = {account.id: account for account in reversed(found)}  # a declared one is the stronger
        return tuple(accounts[name] for name in sorted(accounts))

    async def hold(self, request: ModelRequest, op: str, estimate: Estimate) -> Hold:
        """Reserve the most that a call may cost with every budget that it is of, before it is made.

        `op` is the same when a call is repeated after a crash. Where a soft budget has no room the call goes
        on with its cheaper tag. Raises BudgetExceeded or PriceUnknown, naming the hard budget that has none,
        and HostError where an account cannot be asked; nothing is reserved then.
        """
        op = new_id() if op in self._under_way else op
        hold = await self._reserve(Hold(request, op, "", None), estimate)
        cheaper = cheapened(request, hold.cheaper_tag)
        if cheaper is request:
            return hold
        self.settle(hold, ZERO)
        return await self._reserve(Hold(cheaper, op, hold.call, None), estimate)

    def settle(self, hold: Hold, spent: Decimal | None) -> None:
        """Say what a call cost, 0 where it cost nothing; None, where nobody knows, counts as the estimate."""
        if not hold.accounts:
            return
        cost = (hold.amount or ZERO) if spent is None else spent
        entry = Entry(kind="settle", op=hold.op, call=hold.call, amount=cost)
        for account in hold.accounts:
            self._desk(account).settle(entry)
        self._under_way.discard(hold.op)

    async def settled(self) -> None:
        """Return once all that was settled so far is booked."""
        for desk in list(self._desks.values()):
            await desk.settled()

    async def views(self, log: EventLog, tenant_id: str | None = "default") -> list[BudgetView]:
        """How the accounts stand: those of the budgets that name theirs, and the last that were opened.

        A tenant sees no account of another one; None sees all.
        """
        page = EventFilter(event_type=OPENED, order="desc", limit=MAX_LISTED)
        opened = [Account.model_validate(event.payload) for event in await log.query(page)]
        named = [
            account_of(budget, key) for budget in self._declared if (key := only_key(budget)) is not None
        ]
        current = {budget.name: budget for budget in self._declared}
        accounts = {each.id: each for each in named}
        for each in opened:
            budget = current.get(each.budget)
            if budget is not None and budget.of == EVERY and budget.scope == each.scope:
                accounts.setdefault(each.id, account_of(budget, each.key))
            elif each.brought:
                accounts.setdefault(each.id, each)
        mine = [each for each in accounts.values() if tenant_id is None or _is_seen_by(each, tenant_id)]
        return [await self._view(each) for each in mine]

    async def _reserve(self, hold: Hold, estimate: Estimate) -> Hold:
        accounts = self.applying(hold.request)
        if not accounts:
            return hold
        amount, call = estimate(hold.request), hold.call or new_id()
        if amount is None:
            refuse_unknown(hold.request, accounts)
        until = self._until(hold.request)
        entry = Entry(kind="reserve", op=hold.op, call=call, amount=amount or ZERO, until=until)
        self._under_way.add(hold.op)
        cheaper_tag: str | None = None
        asked: list[Account] = []
        try:
            for account in accounts:
                asked.append(account)
                verdict = await self._desk(account).reserve(entry)
                self._check(account, entry, verdict)
                if verdict.answer == "over":
                    cheaper_tag = cheaper_tag or account.cheaper_tag
        except BaseException:  # also cancelled: whatever may have been reserved is released
            self.settle(Hold(hold.request, hold.op, call, amount, tuple(asked)), ZERO)
            raise
        return Hold(hold.request, hold.op, call, amount, accounts, cheaper_tag)

    def _check(self, account: Account, entry: Entry, verdict: Verdict) -> None:
        if verdict.answer == "crowded":
            raise ModelUnavailable(
                f"budget {account.budget} ({account.key}) has too many calls under way",
                remedy="try again when some have ended",
            )
        if verdict.answer == "refused":
            raise exceeded(account, entry.amount, verdict, self._host.clock.now())

    def _until(self, request: ModelRequest) -> float:
        limit = timedelta(seconds=request.timeout_seconds + MARGIN_SECONDS)
        return (self._host.clock.now() + limit).timestamp()

    def _desk(self, account: Account) -> Desk:
        desk = self._desks.get(account.id)
        if desk is None:
            desk = self._desks[account.id] = Desk(self._host, account, self._close)
        return desk

    def _close(self, desk: Desk) -> None:
        self._desks.pop(desk.account.id, None)

    def _account(self, budget: Budget, key: str) -> Account:
        """The account of a budget for one of its scope; made once, while there are not too many."""
        account = self._accounts.get((budget.name, key))
        if account is None:
            if len(self._accounts) >= MAX_KEPT:
                self._accounts.clear()
            account = self._accounts[budget.name, key] = account_of(budget, key)
        return account

    async def _view(self, account: Account) -> BudgetView:
        now = self._host.clock.now()
        state = await self._host.read(account.ref)
        balance = state if isinstance(state, Balance) else Balance()
        spent, reserved = balance.at(now, account.window)
        return BudgetView(
            budget=account.budget,
            scope=account.scope,
            key=account.key,
            window=account.window,
            hard=account.hard,
            limit_usd=account.limit_usd,
            spent_usd=spent,
            reserved_usd=reserved,
            renews_at=renews_at(account.window, now),
        )


def _is_seen_by(account: Account, tenant_id: str) -> bool:
    if account.scope in ("task", "thread") and not account.brought:
        owner, separator, _ = account.key.rpartition(":")
        return (owner if separator else DEFAULT_TENANT) == tenant_id
    owner = account.key if account.scope == "tenant" else account.tenant_id if account.brought else tenant_id
    return owner == tenant_id
