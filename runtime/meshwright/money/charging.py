"""Charges calls to accounts: finds those of a call, and books with each, where calls wait for room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from msgspec.structs import replace

from meshwright.core import topics
from meshwright.core.errors import (
    ConfigError,
    HostError,
    InvalidInput,
    MailboxFull,
    NotFound,
    StoreUnavailable,
)
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.messages import TaskBudget
from meshwright.core.money import TASK_BUDGET, Budget
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.protocol import DEFAULT_TENANT, tenant_scoped
from meshwright.models.port import ModelRequest, Settlement
from meshwright.money.account import (
    BEAT_SECONDS,
    Account,
    LedgerBatch,
    LedgerEntry,
    LedgerReply,
    ReservationResult,
)
from meshwright.money.event_types import BudgetFreed

_logger = logging.getLogger("meshwright.budgets")

EVERY = "*"
_MAX_ENTRIES = 500  # of one turn
_MAX_QUEUED = 20  # calls that one worker keeps in an account's queue; its others wait behind them
PAUSES_SECONDS = (0.1, 0.4, 1.6)  # before an account that cannot be reached is asked again
_UNBOOKED_SECONDS = 5.0  # and after them, before it is told again what calls did cost


def charged_accounts(request: ModelRequest, budgets: Iterable[Budget]) -> tuple[Account, ...]:
    """The accounts that a call is charged to, in the order in which all ask them.

    A call that an endpoint of the tenant's own answers is charged to accounts that the tenant sees alone:
    its usage is the tenant's word.
    """
    matches = [
        budget_account(budget, key)
        for budget in budgets
        if budget.tenant_id in (None, request.context.tenant_id)
        for key in _scope_keys(budget.scope, request)
        if budget.of in (EVERY, key)
    ]
    matches += _inline_accounts(request)
    if request.context.is_own_endpoint:
        matches = [account for account in matches if is_seen_by(account, request.context.tenant_id)]
    if len(matches) < 2:
        return tuple(matches)
    accounts = {account.id: account for account in reversed(matches)}  # a declared one is the stronger
    return tuple(accounts[name] for name in sorted(accounts))  # one order: no two wait for each other


def check_budgets(declared: Sequence[Budget]) -> None:
    """Raise ConfigError for budgets that cannot be what was meant."""
    names = [budget.name for budget in declared]
    for budget in declared:
        problem = ""
        if names.count(budget.name) > 1:
            problem = "is declared twice"
        elif budget.scope == "mesh" and budget.of not in (EVERY, "mesh"):
            problem = f"is of the whole mesh, and names {budget.of!r}"
        elif budget.hard and budget.on_empty != "cheaper" and budget.cheaper_tag is not None:
            problem = 'is hard, and has a cheaper_tag, which needs on_empty = "cheaper" or hard = false'
        elif not budget.hard and budget.on_empty != "fail":
            problem = f"is soft, and has on_empty = {budget.on_empty!r}, which only a hard one does"
        elif budget.window == "total" and budget.on_empty == "wait":
            problem = 'waits until it renews, and never does; say on_empty = "ask", or another window'
        if problem:
            raise ConfigError(
                f"Budget {budget.name!r} {problem}", remedy="Correct it in mesh.toml", field="budgets"
            )


def _scope_keys(scope: str, request: ModelRequest) -> Iterable[str]:
    """The keys of a call in a scope: none, one, or all its tags. Tenants share no thread and no task."""
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


def only_key(budget: Budget) -> str | None:
    """The key of a budget that has a single one."""
    return "mesh" if budget.scope == "mesh" else None if budget.of == EVERY else budget.of


@lru_cache(maxsize=1_000)
def budget_account(
    budget: Budget, key: str, *, inline: bool = False, tenant_id: str | None = None
) -> Account:
    """The account of one of those whose budget it is."""
    terms = budget.model_dump(include={"scope", "limit_usd", "window", "hard", "cheaper_tag", "on_empty"})
    return Account(
        budget=budget.name, key=key, inline=inline, tenant_id=tenant_id or budget.tenant_id, **terms
    )


def _inline_accounts(request: ModelRequest) -> Iterator[Account]:
    """The accounts of the budgets that a call brings: its task's own, and those of its caller's key.

    A budget that names whose it is applies to every call that brings it, whichever agent makes the call.
    """
    context = request.context
    tenant_id = context.tenant_id
    for budget in context.budgets:
        for key in _scope_keys(budget.scope, request) if budget.of == EVERY else (budget.of,):
            yield budget_account(budget, key, inline=True, tenant_id=tenant_id)
    own = context.budget_usd
    if own is not None and context.task_id is not None:
        yield task_account(
            tenant_id, TaskBudget(task_id=context.task_id, limit_usd=own, on_empty=context.on_empty)
        )
    for above in context.budgets_above:
        yield task_account(tenant_id, above)


def task_account(tenant_id: str, budget: TaskBudget) -> Account:
    """The account of the budget that a task brings."""
    return Account(
        budget=TASK_BUDGET,
        scope="task",
        key=tenant_scoped(tenant_id, budget.task_id),
        limit_usd=budget.limit_usd,
        inline=True,
        tenant_id=tenant_id,
        on_empty=budget.on_empty,
    )


def only_account(accounts: Iterable[Account], budget: str | None, key: str | None) -> Account:
    """The account of a budget, that of one `key` where it has several.

    Raises NotFound, and InvalidInput where several are meant.
    """
    of_budget = [account for account in accounts if account.budget == budget]
    matches = [account for account in of_budget if key is None or key in (account.key, account.owner_key)]
    if not matches:
        problem = f"There is no budget {budget!r}{'' if key is None else f' of {key}'}"
        raise NotFound(problem, remedy="mesh budgets lists those there are", field="budget")
    if len(matches) > 1:
        keys = ", ".join(account.key for account in matches[:5])
        problem = f"Budget {budget!r} has {len(matches)} accounts: {keys}"
        raise InvalidInput(problem, remedy="Say whose is meant: --of, in JSON key", field="key")
    return matches[0]


def words_for(account: Account) -> str:
    """How `mesh budgets raise` names an account."""
    if account.budget == TASK_BUDGET:
        return account.owner_key
    return account.budget if account.scope == "mesh" else f"{account.budget} --of {account.owner_key}"


def account_tenant(account: Account) -> str | None:
    """The tenant whose calls an account counts; None: those of all."""
    if account.scope in ("task", "thread") and not account.inline:
        owner, separator, _ = account.key.rpartition(":")
        return owner if separator else DEFAULT_TENANT
    return account.key if account.scope == "tenant" else account.tenant_id


def is_seen_by(account: Account, tenant_id: str) -> bool:
    """Whether a tenant sees an account: its own, and the default one those of all too."""
    return (account_tenant(account) or DEFAULT_TENANT) == tenant_id


# Booking: entries share turns


@dataclass(slots=True)
class _Pending:
    """An entry to be booked, and who waits for its `result`, or for a settlement to be `booked`."""

    entry: LedgerEntry
    result: asyncio.Future[ReservationResult] | None = None
    give_up_at: datetime | None = None
    least: Callable[[], Decimal | None] | None = None
    was_asked: bool = False
    booked: asyncio.Future[None] | None = None


class AccountClient:
    """Books with one account, in the order of asking; `on_idle` is called when nothing is left to book."""

    def __init__(self, runtime: Runtime, account: Account, on_idle: Callable[[AccountClient], None]) -> None:
        self.account = account
        self._runtime = runtime
        self._on_idle = on_idle
        self._pending: list[_Pending] = []
        self._booking: list[_Pending] = []
        self._queue: dict[str, _Pending] = {}
        self._unbooked: list[_Pending] = []
        self._work: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self._next_beat: datetime | None = None

    async def reserve(
        self,
        entry: LedgerEntry,
        give_up_at: datetime | None = None,
        least: Callable[[], Decimal | None] | None = None,
    ) -> ReservationResult:
        """Reserve, and return the result, which is durable. Raises HostError where it is not known.

        With `give_up_at` the entry may wait until then for money that others hold. `least` says what it will
        do with, as far as that is known by now.
        """
        entry = replace(entry, may_wait=give_up_at is not None)
        result: asyncio.Future[ReservationResult] = asyncio.get_running_loop().create_future()
        pending = _Pending(entry, result, give_up_at, least)
        front = self._front()
        # It could not be next, so the account is spared a turn.
        if entry.may_wait and len(front) == _MAX_QUEUED and front[-1].entry.rank < entry.rank:
            self._enqueue(pending)
        else:
            self._put(pending)
        try:
            return await result
        finally:
            if self._queue.get(entry.op) is pending:  # also when cancelled: the account forgets it by itself
                self._leave(entry.op)

    def settle(self, settled: Settlement) -> None:
        """Settle soon, and again and again where the account cannot be reached; no caller has to wait."""
        fields = {"op": settled.op, "call": settled.call, "amount": settled.amount}
        self._put(_Pending(LedgerEntry(kind="settle", estimated=settled.estimated, **fields)))

    def release(self, op: str, call: str) -> None:
        """Release soon what is reserved for a call that was not made, as `settle` settles."""
        self._put(_Pending(LedgerEntry(kind="settle", op=op, call=call, is_unmade=True)))

    def wake(self, ops: Iterable[str]) -> list[str]:
        """Ask again for those calls that wait here, and return the others."""
        elsewhere = []
        for op in ops:
            if op in self._queue:
                self._put(self._queue[op])
            else:
                elsewhere.append(op)
        return elsewhere

    async def close(self, attempt: str) -> None:
        """Book what the calls of an attempt hold, after all that is to be booked before it.

        Raises HostError where the account cannot be reached.
        """
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Pending(LedgerEntry(kind="close", op=attempt), booked=closed))
        await asyncio.shield(closed)  # cancelled, it could not be set by `_book_all`

    async def booked(self, calls: Collection[str]) -> None:
        """Return once the settlements of these calls are booked.

        Raises HostError where the account cannot be reached.
        """
        self._book_unbooked()
        waits: list[asyncio.Future[None]] = []
        for pending in (*self._booking, *self._pending):
            if pending.entry.kind == "settle" and pending.entry.call in calls:
                pending.booked = pending.booked or asyncio.get_running_loop().create_future()
                waits.append(pending.booked)
        if waits:
            await asyncio.gather(*map(asyncio.shield, waits))

    async def settled(self) -> None:
        """Return once everything is booked."""
        if self._work is not None:
            await asyncio.shield(self._work)

    # The calls of this worker that wait: those in front are in the account's queue as well

    def _front(self) -> list[_Pending]:
        return sorted(self._queue.values(), key=lambda pending: pending.entry.rank)[:_MAX_QUEUED]

    def _ask_front(self) -> None:
        """Ask for those that have come to the front; the account may have forgotten the others."""
        front = {pending.entry.op: pending for pending in self._front()}
        for op, pending in self._queue.items():
            pending.was_asked = pending.was_asked and op in front
        for pending in front.values():
            if not pending.was_asked:
                self._put(pending)

    def _enqueue(self, pending: _Pending) -> None:
        assert pending.give_up_at is not None
        self._queue[pending.entry.op] = pending
        if self._next_beat is None or pending.give_up_at < self._next_beat:
            self._stop_beat()
            self._beat = asyncio.create_task(self._keep_queue(), name=f"queue {self.account.id}")

    def _leave(self, op: str) -> None:
        del self._queue[op]
        if not self._queue:
            self._stop_beat()
            self._rest()

    def _stop_beat(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self._next_beat = None

    async def _keep_queue(self) -> None:
        """Ask again before the account forgets them; for the last time where their own time is over."""
        clock = self._runtime.clock
        while True:
            ends = [pending.give_up_at for pending in self._queue.values() if pending.give_up_at is not None]
            self._next_beat = min([clock.now() + timedelta(seconds=BEAT_SECONDS), *ends])
            await clock.sleep_until(self._next_beat)
            now = clock.now()
            for pending in self._queue.values():
                if pending.give_up_at is not None and pending.give_up_at <= now:
                    pending.entry = replace(pending.entry, may_wait=False)
                    pending.give_up_at = None
                    self._put(pending)
            for pending in self._front():
                self._put(pending)

    def _put(self, pending: _Pending) -> None:
        if pending.result is not None and pending in self._pending:  # in the next batch already
            return
        pending.was_asked = True
        if pending.least is not None:
            pending.entry = replace(pending.entry, least=pending.least())  # more is known by now
        self._pending.append(pending)
        if self._work is None:
            self._work = asyncio.create_task(self._book_all(), name=f"budget {self.account.id}")

    async def _book_all(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:_MAX_ENTRIES], self._pending[_MAX_ENTRIES:]
            self._booking = batch
            reservations = [pending for pending in batch if pending.entry.kind == "reserve"]
            try:
                reply = await self._book(tuple([pending.entry for pending in batch]))
            except Exception as error:  # noqa: BLE001 the caller that waits for a result gets it, whatever it is
                self._fail(batch, error)
                continue
            finally:
                self._booking = []
            for pending in batch:
                if pending.booked is not None:
                    pending.booked.set_result(None)
            for pending, result in zip(reservations, reply.results, strict=True):
                self._deliver(pending, result)
            announce(self._runtime, self.account, self.wake(reply.ready))
            self._ask_front()  # places may have become free
        self._work = None
        self._rest()

    def _rest(self) -> None:
        if self._work is None and not (self._queue or self._unbooked):
            self._on_idle(self)

    def _fail(self, batch: Sequence[_Pending], error: Exception) -> None:
        for pending in batch:
            for waiting in (pending.result, pending.booked):
                if waiting is not None and not waiting.done():
                    waiting.set_exception(error)
        settlements = [pending for pending in batch if pending.entry.kind == "settle"]
        if not settlements:
            return
        level = logging.WARNING if isinstance(error, HostError) else logging.ERROR
        if isinstance(error, HostError):
            self._unbooked += [_Pending(pending.entry) for pending in settlements]
            # The money is spent, so it has to be booked at some time.
            asyncio.get_running_loop().call_later(_UNBOOKED_SECONDS, self._book_unbooked)
        _logger.log(level, "%d calls stay reserved in %s: %s", len(settlements), self.account.id, error)

    def _book_unbooked(self) -> None:
        again = self._unbooked[:]
        self._unbooked.clear()
        for pending in again:
            self._put(pending)

    def _deliver(self, pending: _Pending, result: ReservationResult) -> None:
        if pending.result is None or pending.result.done():
            return
        if result.answer != "wait":
            pending.result.set_result(result)
        elif pending.entry.op not in self._queue and pending.give_up_at is not None:
            self._enqueue(pending)

    async def _book(self, entries: tuple[LedgerEntry, ...]) -> LedgerReply:
        """Make the turn, again where it may not have been made: a repeat changes nothing."""
        batch = LedgerBatch(account=self.account, entries=entries)
        pauses = iter(PAUSES_SECONDS)
        while True:
            try:
                return LedgerReply.model_validate(await self._runtime.call(self.account.ref, "book", batch))
            except (StoreUnavailable, MailboxFull):
                if (pause := next(pauses, None)) is None:
                    raise
                await asyncio.sleep(pause)


def announce(runtime: Runtime, account: Account, ops: Sequence[str]) -> None:
    """Tell the other workers that these calls have room now."""
    if ops:
        aggregate = f"mesh/{runtime.incarnation}"
        runtime.broadcast(
            Event(
                id=f"{aggregate}/{new_id()}",
                event_type=BudgetFreed.event_type,
                topic=topics.SPEND,
                time=runtime.clock.now(),
                aggregate_id=aggregate,
                payload=BudgetFreed(account=account.id, calls=tuple(ops)),
            )
        )
