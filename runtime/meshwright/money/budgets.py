"""Budgets: which of them a call is charged to, and its reservation with all of their accounts, or none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from msgspec.structs import replace as replace_fields

from meshwright.core import topics
from meshwright.core.encoding import View
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.money import ZERO, Amount, Budget, OnEmpty, exact
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.models.errors import BudgetExceeded, PriceUnknown
from meshwright.models.port import CallContext, ModelRequest, Settlement
from meshwright.money.account import Account, Denial, LedgerReply, Raise
from meshwright.money.allowances import Allowances
from meshwright.money.balance import Balance, Window, renews_at
from meshwright.money.charging import (
    EVERY,
    AccountClient,
    account_tenant,
    announce,
    budget_account,
    charged_accounts,
    check_budgets,
    is_seen_by,
    only_key,
)
from meshwright.money.estimates import Estimates
from meshwright.money.event_types import BudgetFreed
from meshwright.money.holds import (
    CHEAPER,
    EXPENSIVE_TAGS,
    Hold,
    attempt_prefix,
    cheaper_request,
    next_entry,
    open_calls,
    refusal_error,
    reservation,
    reservation_op,
)

_logger = logging.getLogger("meshwright.budgets")

_WAITING_SHARE = 0.5  # of a call's time that it may wait for money
_TASK_SECONDS = 20.0  # and at most, of a task
SET_PRICE = "Set [ledger.default_price] in mesh.toml, or the price in litellm_config.yaml"
"""The remedy where a hard budget meets a model without a price."""
_SHOWN = ("budget", "scope", "key", "window", "hard")

_UpperBound = Callable[[ModelRequest], Decimal | None]
"""The most that a call may cost; None where it is unknown."""


class BudgetView(View, kw_only=True):
    """An account as clients see it. `renews_at` is None where it never does.

    `estimated_usd` is the part of what is spent that is estimated. `tenant_id` is the tenant whose calls it
    counts, None for those of all. `cheaper`: calls without room go on with cheaper models before they do what
    `on_empty` says.

    `last_days_usd` is what the calls of the last seven days of UTC cost, today's last, and `per_day_usd` the
    mean since the first of them that cost something. At that rate the limit is reached at `reached_at`, to
    the hour; None where that is not before it renews, nor within ten years. Budgets of a thread or a task
    lack all three.
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
    cheaper: bool = False
    tenant_id: str | None = None
    last_days_usd: tuple[Amount, ...] = ()
    per_day_usd: Amount | None = None
    reached_at: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("limit_usd", "spent_usd", "estimated_usd", "reserved_usd", "per_day_usd"):
            exact(self, name, getattr(self, name))


class Budgets:
    """The budgets of a mesh: those declared, and the allowances that are set while it runs.

    Raises ConfigError for two of one name, and for one that never applies.
    """

    def __init__(
        self, declared: Sequence[Budget], runtime: Runtime, allowances: Allowances | None = None
    ) -> None:
        check_budgets(declared)
        self.declared = tuple(declared)
        """Those of the settings and of agents, in their order."""
        self._allowances = allowances
        self._runtime = runtime
        self._clients: dict[str, AccountClient] = {}
        self._under_way: set[str] = set()
        self._deferred: dict[str, tuple[tuple[Account, ...], Settlement]] = {}  # by call
        runtime.listen(topics.SPEND, self._wake, (BudgetFreed.event_type,))

    async def hold(
        self, request: ModelRequest, upper_bound: _UpperBound, limiter: Estimates | None = None
    ) -> Hold:
        """Reserve the most that a call may cost with every budget that it is charged to, before it is made.

        Without room for that, it is the amount that such a call will do with according to the `limiter`, and
        the request is limited to it. While calls under way hold the money, it waits for them: by priority,
        then by arrival, for half of the request's `timeout_seconds`, of a task for 20 s; the call has the
        rest. Earlier tries of the same step that a crash cut off stay reserved beside it, see `Hold.cut`.
        If a soft budget has no room, or a hard one that says so, the call goes on with its cheaper tag.
        Raises BudgetExceeded or PriceUnknown, naming the hard budget that has none, and HostError where an
        account cannot be asked; nothing is reserved then.
        """
        budgets = await self._current()
        if not budgets and not request.context.has_budgets:
            return Hold(request, "")
        if limiter is not None:
            await limiter.prepare()
        op = reservation_op(request)
        op = f"{op}/{new_id()}" if op in self._under_way else op  # a step that makes two calls at a time
        call = new_id()
        try:
            hold = await self._reserve(Hold(request, op, call), budgets, upper_bound, limiter)
        except BudgetExceeded as error:
            cheaper = cheaper_request(request, error.cheaper_tag)
            if cheaper is request:
                is_dear = not EXPENSIVE_TAGS.isdisjoint(request.tags)
                error.can_be_cheaper = is_dear and error.cheaper_tag is None
                if error.can_be_cheaper and error.on_empty in ("ask", "wait"):
                    error.remedy += ", or --cheaper in place of USD"
                raise
        else:
            cheaper = cheaper_request(request, hold.cheaper_tag)
            if cheaper is request:
                return hold
            self.release(hold)  # the expensive one; the cheaper one reserves for itself
        return await self._reserve(Hold(cheaper, op, call), budgets, upper_bound, limiter)

    async def _current(self) -> tuple[Budget, ...]:
        allowed = () if self._allowances is None else await self._allowances.current()
        return (*self.declared, *allowed) if allowed else self.declared

    def settle(
        self, hold: Hold, spent: Decimal | None, *, estimated: bool = False, call: str = ""
    ) -> Settlement | None:
        """Say what a call cost, 0 where it cost nothing; None, where it is unknown, counts as reserved.

        `call` names one of the hold's `cut` ones. Returns what is booked soon, for `recover`; None where
        nothing is reserved. On a store that processes share, `book` books what a journal records: without
        its record a call stays reserved, for the run that makes it again.
        """
        if not hold.accounts:
            return None
        cost = (hold.amount or ZERO) if spent is None else spent
        estimated = estimated or (spent is None and bool(cost))
        settled = Settlement(
            op=hold.op, call=call or hold.call, amount=cost, estimated=estimated, tags=hold.request.tags
        )
        self._under_way.discard(hold.op)
        self._deferred[settled.call] = hold.accounts, settled
        if hold.request.context.record is None or not self._runtime.is_shared:  # nobody could resume it
            self.book([settled.call])
        return settled

    def release(self, hold: Hold) -> None:
        """Release what is reserved for a call that was not made, at once: no journal will have it.

        If an account has counted it as spent meanwhile, it stays so: that is in its row and in the outcome.
        """
        self._under_way.discard(hold.op)
        for account in hold.accounts:
            self._client(account).release(hold.op, hold.call)

    def book(self, calls: Iterable[str]) -> None:
        """Book what these calls cost, those of them that are not booked yet."""
        for call in calls:
            if call in self._deferred:
                accounts, settled = self._deferred.pop(call)
                for account in accounts:
                    self._client(account).settle(settled)

    def leave_reserved(self, calls: Iterable[str]) -> None:
        """Forget the settlements of calls that no journal has."""
        for call in calls:
            self._deferred.pop(call, None)

    async def recover(self, user: str, context: CallContext, settlements: Iterable[Settlement]) -> None:
        """Book those settlements of a task's earlier calls that a worker could not book before it ended.

        An account that counted them as spent when their time was over, in the same window, corrects that.
        Raises HostError where one cannot be asked.
        """
        budgets = await self._current()
        by_account: dict[Account, list[Settlement]] = {}
        for settled in settlements:
            request = ModelRequest(messages=(), tags=settled.tags, user=user, context=context)
            for account in charged_accounts(request, budgets):
                by_account.setdefault(account, []).append(settled)
        for account, of_account in by_account.items():
            state = await self._runtime.read(account.ref)
            for settled in of_account:
                # One that was booked in time is unknown by now.
                if isinstance(state, Balance) and state.knows(settled.op, settled.call):
                    self._client(account).settle(settled)

    async def close(self, user: str, context: CallContext, tags: tuple[str, ...]) -> dict[str, Decimal]:
        """Book what calls of an attempt, with any of these tags, still hold: no process lives to end them.

        Each counts as what such calls cost as a rule. One that ends after all is booked as what it did cost.
        Durable when this returns. Returns the calls that count as estimated with their amounts. Raises
        HostError.
        """
        attempt = attempt_prefix(user, context)
        balances = await self._balances(user, context, tags)
        to_close = [account for account, state in balances if state.has_to_close(attempt)]
        for account in to_close:
            await self._client(account).close(attempt)
        if to_close:  # what a run that was stopped has settled meanwhile is no estimate any more
            balances = await self._balances(user, context, tags)
        return open_calls(attempt, balances)

    async def open_calls(self, user: str, context: CallContext, tags: tuple[str, ...]) -> dict[str, Decimal]:
        """The calls that `close` returns, some of which their accounts still hold. Raises HostError."""
        return open_calls(attempt_prefix(user, context), await self._balances(user, context, tags))

    async def cover_all(self, user: str, context: CallContext) -> bool:
        """Whether an account reserves for every call of an attempt, whatever its tags, before it is made."""
        own = replace_fields(context, is_own_endpoint=True)  # which the fewest accounts count
        request = ModelRequest(messages=(), user=user, context=own)
        return bool(charged_accounts(request, await self._current()))

    async def _balances(
        self, user: str, context: CallContext, tags: tuple[str, ...]
    ) -> list[tuple[Account, Balance]]:
        """The accounts that calls with any of these tags may be charged to, with their states."""
        budgets = await self._current()
        cheaper = [budget.cheaper_tag or CHEAPER for budget in (*budgets, *context.budgets)]
        # Budgets may have changed the tags of its calls.
        request = ModelRequest(messages=(), tags=(*tags, *cheaper, CHEAPER), user=user, context=context)
        states = [
            (account, await self._runtime.read(account.ref)) for account in charged_accounts(request, budgets)
        ]
        return [(account, state) for account, state in states if isinstance(state, Balance)]

    async def booked(self, calls: Collection[str]) -> None:
        """Return once what these calls cost is booked. Raises HostError where an account is away."""
        for client in list(self._clients.values()):
            await client.booked(calls)

    async def settled(self) -> None:
        """Return once all that was settled so far is booked."""
        for client in list(self._clients.values()):
            await client.settled()

    async def views(
        self, opened: Iterable[Account], tenant_id: str | None = DEFAULT_TENANT
    ) -> list[BudgetView]:
        """The accounts of the budgets that name theirs, and those `opened` whose budget still exists.

        A tenant sees its own, the default one also those that count the calls of all; None sees all.
        """
        return [await self._view(account) for account in await self.accounts(opened, tenant_id)]

    async def accounts(self, opened: Iterable[Account], tenant_id: str | None) -> list[Account]:
        """The accounts that `views` shows."""
        budgets = await self._current()
        current = {budget.name: budget for budget in budgets}
        accounts = {
            account.id: account
            for budget in budgets
            if (key := only_key(budget)) is not None
            for account in [budget_account(budget, key)]
        }
        for account in opened:
            budget = current.get(account.budget)
            if budget is not None and budget.of == EVERY and budget.scope == account.scope:
                accounts.setdefault(account.id, budget_account(budget, account.key))
            elif account.inline:
                accounts.setdefault(account.id, account)
        return [own for own in accounts.values() if tenant_id is None or is_seen_by(own, tenant_id)]

    async def reserved(
        self, opened: Iterable[Account], tenant_id: str | None
    ) -> dict[str, dict[str, Decimal]]:
        """The money held for calls under way: by scope, then by key. A call may be in several."""
        reserved: dict[str, dict[str, Decimal]] = {}
        for account in await self.accounts(opened, tenant_id):
            amount = (await self._view(account)).reserved_usd
            if amount:
                of_scope = reserved.setdefault(account.scope, {})
                of_scope[account.owner_key] = max(amount, of_scope.get(account.owner_key, ZERO))
        return reserved

    async def add(self, account: Account, amount: Decimal, *, cheaper: bool = False) -> BudgetView:
        """Raise an account's limit, of its window or for good where that has no end. Durable on return.

        With `cheaper` calls that have no room go on with cheaper models for that time.
        """
        more = Raise(account=account, amount=amount, cheaper=cheaper)
        reply = LedgerReply.model_validate(await self._runtime.call(account.ref, "add", more))
        announce(self._runtime, account, reply.ready)
        return await self._view(account)

    async def deny(self, account: Account, reason: str, denied_by: str) -> None:
        """Deny an account more money: calls without room fail until it is raised or renews.

        Durable when this returns.
        """
        await self._runtime.call(
            account.ref, "deny", Denial(account=account, reason=reason, denied_by=denied_by)
        )

    async def _reserve(
        self, hold: Hold, budgets: Iterable[Budget], upper_bound: _UpperBound, limiter: Estimates | None
    ) -> Hold:
        accounts = charged_accounts(hold.request, budgets)
        if not accounts:
            return hold
        request = hold.request
        amount = upper_bound(request)
        hard = next((account for account in accounts if account.hard), None)
        if amount is None and hard is not None:
            problem = f"The price of model {request.model!r} is unknown, and budget {hard.budget} is hard"
            raise PriceUnknown(problem, remedy=SET_PRICE, budget=hard.budget)
        least = None if limiter is None else partial(limiter.least, request)
        clock, seconds = self._runtime.clock, request.timeout_seconds
        now, began = clock.now(), clock.monotonic()
        entry = reservation(hold, amount or ZERO, None if limiter is None else limiter.likely(request), now)
        self._under_way.add(hold.op)
        cheaper_tag: str | None = None
        visited: list[Account] = []
        granted, patience = entry.amount, seconds * _WAITING_SHARE
        if request.context.task_id is not None:  # a run can wait without its slot
            patience = min(patience, _TASK_SECONDS)
        give_up_at = now + timedelta(seconds=patience)
        cut: dict[str, None] = {}
        try:
            for account in accounts:
                visited.append(account)  # before it answers: what it reserved is released after any error
                result = await self._client(account).reserve(entry, give_up_at, least)
                if result.answer in ("crowded", "refused", "busy"):
                    raise refusal_error(account, entry, result, self._runtime.clock.now())
                if result.answer == "over":
                    cheaper_tag = cheaper_tag or account.cheaper_tag
                granted = min(granted, result.granted_usd)
                cut |= dict.fromkeys(result.cut)
                entry = next_entry(entry, result, request, limiter)
        except BaseException:  # also cancelled: whatever may have been reserved is released
            self.release(replace(hold, accounts=tuple(visited)))
            raise
        waited = clock.monotonic() - began
        if waited > 0:
            request = request.model_copy(update={"timeout_seconds": seconds - waited})
        limited = limiter is not None and granted < entry.amount
        if limiter is not None and limited:
            request, amount = limiter.limited(request, granted), granted
        fields = {"request": request, "amount": amount, "accounts": accounts, "is_limited": limited}
        return replace(hold, cheaper_tag=cheaper_tag, cut=tuple(cut), until=entry.until, **fields)

    def _wake(self, event: Event) -> None:
        freed = BudgetFreed.from_payload(event.payload)
        if (client := self._clients.get(freed.account)) is not None:
            client.wake(freed.calls)

    def _client(self, account: Account) -> AccountClient:
        if account.id not in self._clients:
            self._clients[account.id] = AccountClient(self._runtime, account, self._forget)
        client = self._clients[account.id]
        client.account = account  # whose limit may be another one by now
        return client

    def _forget(self, client: AccountClient) -> None:
        self._clients.pop(client.account.id, None)

    async def _view(self, account: Account) -> BudgetView:
        now = self._runtime.clock.now()
        state = await self._runtime.read(account.ref)
        # Nothing renews an account that nobody asks.
        balance = (state if isinstance(state, Balance) else Balance()).at(now, account.window)
        return BudgetView(
            **{name: getattr(account, name) for name in _SHOWN},
            limit_usd=account.limit_usd + balance.raised,
            spent_usd=balance.spent,
            estimated_usd=balance.estimated,
            reserved_usd=balance.reserved,
            renews_at=renews_at(account.window, now),
            on_empty=account.on_empty,
            cheaper=balance.cheaper,
            tenant_id=account_tenant(account),
        )
