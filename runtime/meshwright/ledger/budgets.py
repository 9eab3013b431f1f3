"""Budgets: which of them a call is charged to, and its reservation with all of their accounts, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import Protocol

from meshwright.core import topics
from meshwright.core.errors import ConfigError, ModelError
from meshwright.core.messages import Event, Plain, derived_id, new_id
from meshwright.core.money import ZERO, Amount, Budget, OnEmpty
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.account import (
    FREED,
    Account,
    Balance,
    LedgerEntry,
    ReservationResult,
    Window,
    renews_at,
)
from meshwright.ledger.account_client import AccountClient
from meshwright.models.port import BudgetExceeded, ModelRequest, ModelUnavailable, PriceUnknown
from meshwright.work.protocol import DEFAULT_TENANT, tenant_scoped

_WAITING_SHARE = 0.5  # of a call's time that it may wait for money
_MARGIN_SECONDS = 60.0  # after a call's own limit: clocks differ, and the last word takes its time
_EXPENSIVE_TAGS = frozenset({"expensive", "medium"})
"""The tags that a soft budget's cheaper tag takes the place of."""
TASK_BUDGET = "budget_usd"
"""The name of the budget that a task brings itself."""
_EVERY = "*"
_NEVER_RENEWS = "It never renews: raise its limit_usd"
_SHOWN = ("budget", "scope", "key", "window", "hard", "limit_usd")

_UpperBound = Callable[[ModelRequest], Decimal | None]
"""The most that a call may cost; None where nobody knows."""


class Limiter(Protocol):
    """Makes do with less than the most that a call may cost."""

    def least(self, request: ModelRequest) -> Decimal | None:
        """What such a call will do with; None where nobody knows."""
        ...

    def limited(self, request: ModelRequest, amount: Decimal) -> ModelRequest:
        """The request, such that it cannot cost more than this amount."""
        ...


@dataclass(frozen=True, slots=True)
class Hold:
    """A call that may be made: the request, which may have a cheaper tag, and what is reserved for it.

    `amount` is None where nobody knows what it may cost, or no budget asks. `is_limited`: it is less than the
    call may cost, and the request may write less.
    """

    request: ModelRequest
    op: str
    call: str = ""
    amount: Decimal | None = None
    accounts: tuple[Account, ...] = ()
    cheaper_tag: str | None = None
    is_limited: bool = False


class BudgetView(Plain):
    """An account as clients see it. `renews_at` is None where it never does.

    `estimated_usd` is the part of what is spent that nobody has counted.
    """

    budget: str
    scope: str
    key: str
    window: Window
    hard: bool
    limit_usd: Amount
    spent_usd: Amount
    estimated_usd: Amount = ZERO
    reserved_usd: Amount
    renews_at: datetime | None
    on_empty: OnEmpty = "fail"


class Budgets:
    """The budgets of a mesh. Raises ConfigError for two of one name, and for one that never applies."""

    def __init__(self, declared: Sequence[Budget], host: Runtime) -> None:
        _check(declared)
        self._declared = tuple(declared)
        self._host = host
        self._clients: dict[str, AccountClient] = {}
        self._under_way: set[str] = set()
        host.listen(topics.SPEND, self._wake, (FREED,))

    def applying(self, request: ModelRequest) -> tuple[Account, ...]:
        """The accounts that a call is charged to, in the order in which all ask them."""
        found = [
            _account_of(budget, key)
            for budget in self._declared
            for key in _keys_of(budget.scope, request)
            if budget.of in (_EVERY, key)
        ]
        found += _inline_accounts(request)
        if len(found) < 2:
            return tuple(found)
        accounts = {account.id: account for account in reversed(found)}  # a declared one is the stronger
        return tuple(accounts[name] for name in sorted(accounts))

    async def hold(
        self, request: ModelRequest, upper_bound: _UpperBound, limiter: Limiter | None = None
    ) -> Hold:
        """Reserve the most that a call may cost with every budget that it is charged to, before it is made.

        Where that has no room, it is what the `limiter` says that such a call will do with, and the request
        is limited to it. Where calls under way hold the money, it waits for them: by priority, then by
        arrival, for half of the request's `timeout_seconds`; the call has the rest.
        A call that is repeated after a crash takes its earlier reservation. Where a soft budget has no room
        the call goes on with its cheaper tag. Raises BudgetExceeded or PriceUnknown, naming the hard budget
        that has none, and HostError where an account cannot be asked; nothing is reserved then.
        """
        if not self._declared and not request.context.has_budgets:
            return Hold(request, "")
        op = _op_of(request)
        op = new_id() if op in self._under_way else op
        hold = await self._reserve(Hold(request, op), upper_bound, limiter)
        cheaper = _downgraded(request, hold.cheaper_tag)
        if cheaper is request:
            return hold
        self.settle(hold, ZERO)
        return await self._reserve(Hold(cheaper, op, hold.call), upper_bound, limiter)

    def settle(self, hold: Hold, spent: Decimal | None, *, estimated: bool = False) -> None:
        """Say what a call cost, 0 where it cost nothing; None, where nobody knows, counts as reserved."""
        if not hold.accounts:
            return
        cost = (hold.amount or ZERO) if spent is None else spent
        estimated = estimated or (spent is None and bool(cost))
        entry = LedgerEntry(kind="settle", op=hold.op, call=hold.call, amount=cost, estimated=estimated)
        for account in hold.accounts:
            self._client(account).settle(entry)
        self._under_way.discard(hold.op)

    async def settled(self) -> None:
        """Return once all that was settled so far is booked."""
        for client in list(self._clients.values()):
            await client.settled()

    async def views(
        self, opened: Iterable[Account], tenant_id: str | None = DEFAULT_TENANT
    ) -> list[BudgetView]:
        """The accounts of the budgets that name theirs, and those `opened` whose budget still exists.

        A tenant sees no account of another one; None sees all.
        """
        current = {budget.name: budget for budget in self._declared}
        accounts = {
            account.id: account
            for budget in self._declared
            if (key := _only_key(budget)) is not None
            for account in [_account_of(budget, key)]
        }
        for account in opened:
            budget = current.get(account.budget)
            if budget is not None and budget.of == _EVERY and budget.scope == account.scope:
                accounts.setdefault(account.id, _account_of(budget, account.key))
            elif account.inline:
                accounts.setdefault(account.id, account)
        mine = [each for each in accounts.values() if tenant_id is None or _is_seen_by(each, tenant_id)]
        return [await self._view(account) for account in mine]

    async def _reserve(self, hold: Hold, upper_bound: _UpperBound, limiter: Limiter | None) -> Hold:
        accounts = self.applying(hold.request)
        if not accounts:
            return hold
        request, call = hold.request, hold.call or new_id()
        amount = upper_bound(request)
        hard = next((account for account in accounts if account.hard), None)
        if amount is None and hard is not None:
            raise PriceUnknown(
                f"The price of model {request.model!r} is unknown, and budget {hard.budget} is hard",
                remedy="Set default_price in mesh.toml, or the deployment's price in litellm_config.yaml",
                budget=hard.budget,
            )
        least = None if limiter is None else partial(limiter.least, request)
        now, seconds = self._host.clock.now(), request.timeout_seconds
        entry = LedgerEntry(
            kind="reserve",
            op=hold.op,
            call=call,
            amount=amount or ZERO,
            priority=request.context.priority,
            since=(request.context.since or now).timestamp(),
            until=(now + timedelta(seconds=seconds + _MARGIN_SECONDS)).timestamp(),
        )
        self._under_way.add(hold.op)
        cheaper_tag: str | None = None
        asked: list[Account] = []
        granted, give_up_at = entry.amount, now + timedelta(seconds=seconds * _WAITING_SHARE)
        try:
            for account in accounts:
                asked.append(account)
                result = await self._client(account).reserve(entry, give_up_at, least)
                if result.answer in ("crowded", "refused", "busy"):
                    raise _exceeded(account, entry, result, self._host.clock.now())
                if result.answer == "over":
                    cheaper_tag = cheaper_tag or account.cheaper_tag
                granted = min(granted, result.granted_usd)
        except BaseException:  # also cancelled: whatever may have been reserved is released
            self.settle(replace(hold, call=call, accounts=tuple(asked)), ZERO)
            raise
        waited = (self._host.clock.now() - now).total_seconds()
        if waited > 0:
            request = request.model_copy(update={"timeout_seconds": seconds - waited})
        limited = limiter is not None and granted < entry.amount
        if limiter is not None and limited:
            request, amount = limiter.limited(request, granted), granted
        found = {"request": request, "amount": amount, "accounts": accounts, "is_limited": limited}
        return replace(hold, call=call, cheaper_tag=cheaper_tag, **found)

    def _wake(self, event: Event) -> None:
        client = self._clients.get(event.payload["account"])
        if client is not None:
            client.wake(event.payload["calls"])

    def _client(self, account: Account) -> AccountClient:
        if account.id not in self._clients:
            self._clients[account.id] = AccountClient(self._host, account, self._forget)
        return self._clients[account.id]

    def _forget(self, client: AccountClient) -> None:
        self._clients.pop(client.account.id, None)

    async def _view(self, account: Account) -> BudgetView:
        now = self._host.clock.now()
        state = await self._host.read(account.ref)
        balance = (state if isinstance(state, Balance) else Balance()).at(now, account.window)
        return BudgetView(
            **{name: getattr(account, name) for name in _SHOWN},
            spent_usd=balance.spent,
            estimated_usd=balance.estimated,
            reserved_usd=balance.reserved,
            renews_at=renews_at(account.window, now),
        )


def _check(declared: Sequence[Budget]) -> None:
    """Raise ConfigError for budgets that cannot be what was meant."""
    names = [budget.name for budget in declared]
    for budget in declared:
        problem = ""
        if names.count(budget.name) > 1:
            problem = "is declared twice"
        elif budget.scope == "mesh" and budget.of not in (_EVERY, "mesh"):
            problem = f"is of the whole mesh, and names {budget.of!r}"
        elif budget.hard and budget.cheaper_tag is not None:
            problem = "is hard, and has a cheaper_tag, which only a soft one goes on with"
        if problem:
            raise ConfigError(
                f"Budget {budget.name!r} {problem}", remedy="Correct it in mesh.toml", field="budgets"
            )


def _op_of(request: ModelRequest) -> str:
    """What a call is reserved under: of a task's step always the same, else new."""
    context = request.context
    if context.task_id is None:
        return new_id()
    where = context.task_id, context.generation, context.attempt, context.step
    return derived_id("call", request.user, context.tenant_id, *map(str, where))


def _keys_of(scope: str, request: ModelRequest) -> Iterable[str]:
    """Whom of a scope a call is by: nobody, one, or all its tags. Tenants share no thread and no task."""
    context = request.context
    tenant_id, thread_id, task_id = context.tenant_id, context.thread_id, context.task_id
    keys = {
        "mesh": ("mesh",),
        "tenant": (tenant_id,),
        "agent": (request.user,),
        "tag": dict.fromkeys(request.tags),
        "thread": (thread_id and tenant_scoped(tenant_id, thread_id),),
        "task": (task_id and tenant_scoped(tenant_id, task_id),),
    }
    return [key for key in keys[scope] if key]


def _only_key(budget: Budget) -> str | None:
    """Whose a budget is, where it is of one."""
    return "mesh" if budget.scope == "mesh" else None if budget.of == _EVERY else budget.of


@lru_cache(maxsize=1_000)
def _account_of(budget: Budget, key: str, *, inline: bool = False, tenant_id: str | None = None) -> Account:
    terms = budget.model_dump(include={"scope", "limit_usd", "window", "hard", "cheaper_tag"})
    return Account(budget=budget.name, key=key, inline=inline, tenant_id=tenant_id, **terms)


def _inline_accounts(request: ModelRequest) -> Iterator[Account]:
    """The accounts of the budgets that a call brings: its task's own, and those of its caller's key.

    A budget that names whose it is applies to every call that brings it, whichever agent makes the call.
    """
    context = request.context
    tenant_id = context.tenant_id
    for budget in context.budgets:
        for key in _keys_of(budget.scope, request) if budget.of == _EVERY else (budget.of,):
            yield _account_of(budget, key, inline=True, tenant_id=tenant_id)
    limits = [(above.task_id, above.limit_usd) for above in context.budgets_above]
    if context.budget_usd is not None and context.task_id is not None:
        limits.append((context.task_id, context.budget_usd))
    for task_id, limit_usd in limits:
        key = tenant_scoped(tenant_id, task_id)
        yield Account(
            budget=TASK_BUDGET, scope="task", key=key, limit_usd=limit_usd, inline=True, tenant_id=tenant_id
        )


def _downgraded(request: ModelRequest, cheaper_tag: str | None) -> ModelRequest:
    """The request with a cheaper tag in the place of expensive ones; the same one where nothing changes."""
    if cheaper_tag is None or _EXPENSIVE_TAGS.isdisjoint(request.tags):
        return request
    tags = tuple(dict.fromkeys(cheaper_tag if tag in _EXPENSIVE_TAGS else tag for tag in request.tags))
    return request.model_copy(update={"tags": tags})


def _exceeded(account: Account, entry: LedgerEntry, result: ReservationResult, now: datetime) -> ModelError:
    """The error of a budget that has no room: which, how far it is, and when it renews."""
    if result.answer == "crowded":
        return ModelUnavailable(
            f"Budget {account.budget} ({account.key}) has too many calls under way",
            remedy="Try again when some have ended",
        )
    renews = renews_at(account.window, now)
    owner = "the mesh" if account.scope == "mesh" else f"{account.scope} {account.key}"
    spent = (
        f"{_usd(result.spent_usd)} of {_usd(result.limit_usd)} spent, {_usd(result.reserved_usd)} reserved"
    )
    if result.answer == "busy":
        message = (
            f"Budget {account.budget} of {owner} has all that is left reserved by calls under way: {spent}"
        )
        remedy = "Try again when some have ended"
    else:
        message = f"Budget {account.budget} of {owner} exceeded: {spent}"
        remedy = f"It renews at {renews:%Y-%m-%d %H:%M} UTC" if renews else _NEVER_RENEWS
    error = BudgetExceeded(
        f"{message}; this call may cost up to {_usd(entry.amount)}",
        budget=account.budget,
        account=account.id,
        on_empty=account.on_empty,
        is_busy=result.answer == "busy",
        remedy=remedy,
    )
    error.retry_after_seconds = None if renews is None else (renews - now).total_seconds()
    return error


def _usd(amount: Decimal) -> str:
    """Dollars with two digits after the point, or as many as it takes."""
    exponent = amount.normalize().as_tuple().exponent
    return f"${amount:.{max(2, -int(exponent))}f}"


def _is_seen_by(account: Account, tenant_id: str) -> bool:
    if account.scope in ("task", "thread") and not account.inline:
        owner, separator, _ = account.key.rpartition(":")
        return (owner if separator else DEFAULT_TENANT) == tenant_id
    owner = account.key if account.scope == "tenant" else account.tenant_id if account.inline else tenant_id
    return owner == tenant_id
