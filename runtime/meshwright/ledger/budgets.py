"""Budgets: which of them a call is charged to, and its reservation with all of their accounts, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from meshwright.errors import ConfigError
from meshwright.kernel.runtime import Runtime
from meshwright.ledger.account import (
    Account,
    AccountClient,
    Balance,
    LedgerEntry,
    ReservationResult,
    Window,
    renews_at,
)
from meshwright.messages import Plain, derived_id, new_id
from meshwright.models.port import BudgetExceeded, ModelRequest, ModelUnavailable, PriceUnknown
from meshwright.money import ZERO, Amount, Budget
from meshwright.work.protocol import DEFAULT_TENANT, tenant_scoped

_MARGIN_SECONDS = 60.0  # after a call's own limit: clocks differ, and the last word takes its time
_MAX_CACHED = 1_000
_EXPENSIVE_TAGS = frozenset({"expensive", "medium"})
"""The tags that a soft budget's cheaper tag takes the place of."""
TASK_BUDGET = "budget_usd"
"""The name of the budget that a task brings itself."""
_EVERY = "*"

_UpperBound = Callable[[ModelRequest], Decimal | None]
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

    def __init__(self, declared: Sequence[Budget], host: Runtime) -> None:
        _check(declared)
        self._declared = tuple(declared)
        self._host = host
        self._clients: dict[str, AccountClient] = {}
        self._under_way: set[str] = set()
        self._accounts: dict[tuple[str, str], Account] = {}

    def applying(self, request: ModelRequest) -> tuple[Account, ...]:
        """The accounts that a call is charged to, in the order in which all ask them."""
        found = [
            self._account(budget, key)
            for budget in self._declared
            for key in _keys_of(budget.scope, request)
            if budget.of in (_EVERY, key)
        ]
        found += _inline_accounts(request)
        if len(found) < 2:
            return tuple(found)
        accounts = {account.id: account for account in reversed(found)}  # a declared one is the stronger
        return tuple(accounts[name] for name in sorted(accounts))

    async def hold(self, request: ModelRequest, upper_bound: _UpperBound) -> Hold:
        """Reserve the most that a call may cost with every budget that it is charged to, before it is made.

        A call that is repeated after a crash takes its earlier reservation. Where a soft budget has no room
        the call goes on with its cheaper tag. Raises BudgetExceeded or PriceUnknown, naming the hard budget
        that has none, and HostError where an account cannot be asked; nothing is reserved then.
        """
        op = _op_of(request)
        op = new_id() if op in self._under_way else op
        hold = await self._reserve(Hold(request, op, "", None), upper_bound)
        cheaper = _downgraded(request, hold.cheaper_tag)
        if cheaper is request:
            return hold
        self.settle(hold, ZERO)
        return await self._reserve(Hold(cheaper, op, hold.call, None), upper_bound)

    def settle(self, hold: Hold, spent: Decimal | None) -> None:
        """Say what a call cost, 0 where it cost nothing; None, where nobody knows, counts as reserved."""
        if not hold.accounts:
            return
        cost = (hold.amount or ZERO) if spent is None else spent
        entry = LedgerEntry(kind="settle", op=hold.op, call=hold.call, amount=cost)
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
        named = [
            _account_of(budget, key) for budget in self._declared if (key := _only_key(budget)) is not None
        ]
        current = {budget.name: budget for budget in self._declared}
        accounts = {account.id: account for account in named}
        for account in opened:
            budget = current.get(account.budget)
            if budget is not None and budget.of == _EVERY and budget.scope == account.scope:
                accounts.setdefault(account.id, _account_of(budget, account.key))
            elif account.inline:
                accounts.setdefault(account.id, account)
        mine = [each for each in accounts.values() if tenant_id is None or _is_seen_by(each, tenant_id)]
        return [await self._view(account) for account in mine]

    async def _reserve(self, hold: Hold, upper_bound: _UpperBound) -> Hold:
        accounts = self.applying(hold.request)
        if not accounts:
            return hold
        amount, call = upper_bound(hold.request), hold.call or new_id()
        if amount is None:
            _refuse_unknown_price(hold.request, accounts)
        limit = timedelta(seconds=hold.request.timeout_seconds + _MARGIN_SECONDS)
        until = (self._host.clock.now() + limit).timestamp()
        entry = LedgerEntry(kind="reserve", op=hold.op, call=call, amount=amount or ZERO, until=until)
        self._under_way.add(hold.op)
        cheaper_tag: str | None = None
        asked: list[Account] = []
        try:
            for account in accounts:
                asked.append(account)
                result = await self._client(account).reserve(entry)
                self._check(account, entry, result)
                if result.answer == "over":
                    cheaper_tag = cheaper_tag or account.cheaper_tag
        except BaseException:  # also cancelled: whatever may have been reserved is released
            self.settle(Hold(hold.request, hold.op, call, amount, tuple(asked)), ZERO)
            raise
        return Hold(hold.request, hold.op, call, amount, accounts, cheaper_tag)

    def _check(self, account: Account, entry: LedgerEntry, result: ReservationResult) -> None:
        if result.answer == "crowded":
            raise ModelUnavailable(
                f"Budget {account.budget} ({account.key}) has too many calls under way",
                remedy="Try again when some have ended",
            )
        if result.answer == "refused":
            raise _exceeded(account, entry.amount, result, self._host.clock.now())

    def _client(self, account: Account) -> AccountClient:
        client = self._clients.get(account.id)
        if client is None:
            client = self._clients[account.id] = AccountClient(self._host, account, self._close)
        return client

    def _close(self, client: AccountClient) -> None:
        self._clients.pop(client.account.id, None)

    def _account(self, budget: Budget, key: str) -> Account:
        """The account of a budget for one of its scope; made once, while there are not too many."""
        account = self._accounts.get((budget.name, key))
        if account is None:
            if len(self._accounts) >= _MAX_CACHED:
                self._accounts.clear()
            account = self._accounts[budget.name, key] = _account_of(budget, key)
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


def _account_of(budget: Budget, key: str, *, inline: bool = False, tenant_id: str | None = None) -> Account:
    return Account(
        budget=budget.name,
        scope=budget.scope,
        key=key,
        limit_usd=budget.limit_usd,
        window=budget.window,
        hard=budget.hard,
        cheaper_tag=budget.cheaper_tag,
        inline=inline,
        tenant_id=tenant_id,
    )


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


def _exceeded(account: Account, amount: Decimal, result: ReservationResult, now: datetime) -> BudgetExceeded:
    """The error of a hard budget that has no room: which, how far it is, and when it renews."""
    renews = renews_at(account.window, now)
    again = (
        "It never renews: raise its limit_usd"
        if renews is None
        else f"It renews at {renews:%Y-%m-%d %H:%M} UTC"
    )
    owner = "the mesh" if account.scope == "mesh" else f"{account.scope} {account.key}"
    error = BudgetExceeded(
        f"Budget {account.budget} of {owner} exceeded: {_usd(result.spent_usd)} of {_usd(account.limit_usd)} "
        f"spent, {_usd(result.reserved_usd)} reserved; this call may cost up to {_usd(amount)}",
        budget=account.budget,
        remedy=again,
    )
    error.retry_after_seconds = None if renews is None else (renews - now).total_seconds()
    return error


def _usd(amount: Decimal) -> str:
    """Dollars with two digits after the point, or as many as it takes."""
    exponent = amount.normalize().as_tuple().exponent
    return f"${amount:.{max(2, -int(exponent))}f}"


def _refuse_unknown_price(request: ModelRequest, accounts: Iterable[Account]) -> None:
    """Raise PriceUnknown where one of the accounts is of a hard budget."""
    for account in accounts:
        if account.hard:
            raise PriceUnknown(
                f"The price of model {request.model!r} is unknown, and budget {account.budget} is hard",
                remedy="Set default_price in mesh.toml, or the deployment's price in litellm_config.yaml",
                budget=account.budget,
            )


def _is_seen_by(account: Account, tenant_id: str) -> bool:
    if account.scope in ("task", "thread") and not account.inline:
        owner, separator, _ = account.key.rpartition(":")
        return (owner if separator else DEFAULT_TENANT) == tenant_id
    owner = account.key if account.scope == "tenant" else account.tenant_id if account.inline else tenant_id
    return owner == tenant_id
