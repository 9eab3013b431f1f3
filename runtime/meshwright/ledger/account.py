"""The account of a budget: an actor, so that it holds on every host, however many workers spend.

A call reserves the most that it may cost, and settles what it did cost. What is not settled in time counts
as spent: the call may have been made. So an account never says that less was spent than was.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

from meshwright.core import topics
from meshwright.core.encoding import Struct, kept
from meshwright.core.errors import HostError, MailboxFull, StoreUnavailable
from meshwright.core.messages import derived_id
from meshwright.core.money import ZERO, Amount, exact
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime

logger = logging.getLogger("meshwright.budgets")

ACCOUNT = "budget-account"
"""The type of the actors that are accounts."""
OPENED, WARNED, EXCEEDED = "budget.opened", "budget.warned", "budget.exceeded"
WARNED_AT = Decimal("0.8")
_MAX_ENTRIES = 500  # of one turn
PAUSES_SECONDS = (0.1, 0.4, 1.6)  # before an account that cannot be reached is asked again
MAX_HELD = 1_000  # reservations of one account: its state stays small
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Scope = Literal["mesh", "tenant", "agent", "tag", "thread", "task"]
Window = Literal["hour", "day", "month", "total"]
Answer = Literal["held", "over", "refused", "crowded"]


class Account(Struct, omit_defaults=True, dict=True):
    """One budget of one of its scope: `key` names the agent, tenant, tag, thread or task.

    An `inline` budget is declared by no setting: calls of `tenant_id` bring it, as those of a task do that
    has one. Stored data calls it `brought`.
    """

    budget: str
    scope: Scope
    key: str
    limit_usd: Amount
    window: Window = kept(default="total")
    hard: bool = kept(default=True)
    cheaper_tag: str | None = kept(default=None)
    inline: bool = kept(default=False, name="brought")
    tenant_id: str | None = None

    def __post_init__(self) -> None:
        exact(self, "limit_usd", self.limit_usd)

    @cached_property
    def id(self) -> str:
        """The id of its actor: a key that may not stand in one is hashed."""
        key = self.key if _PLAIN_KEY.fullmatch(self.key) else derived_id(self.key)
        return f"{self.budget}:{key}"

    @property
    def ref(self) -> ActorRef:
        """Its actor."""
        return ActorRef(ACCOUNT, self.id)

    @property
    def owner(self) -> dict[str, str]:
        """The fields of an event that name the tenant, agent or task that it is of."""
        key, tenant_id = self.key, self.tenant_id
        if self.scope in ("task", "thread"):
            prefix, separator, key = key.rpartition(":")
            tenant_id = prefix if separator else tenant_id
        field = {"tenant": "tenant_id", "agent": "agent_id", "task": "task_id"}.get(self.scope)
        fields = {"tenant_id": tenant_id, field: key}
        return {name: value for name, value in fields.items() if name and value is not None}


class LedgerEntry(Struct):
    """One entry. `op` is the same when a call is repeated, also after a crash; `call` names the one try.

    To reserve, `amount` is the most that the call may cost and `until` (unix seconds) when it has ended for
    sure; to settle, what it cost; nothing to release.
    """

    kind: Literal["reserve", "settle"]
    op: str
    call: str
    amount: Amount
    until: float = 0.0

    def __post_init__(self) -> None:
        exact(self, "amount", self.amount)


class LedgerBatch(Struct):
    """Entries for one account, in order."""

    account: Account
    entries: tuple[LedgerEntry, ...]


class ReservationResult(Struct):
    """What came of a reservation: `over` is held although a soft budget has no room for it.

    `crowded` is refused because too many are held. The sums are those found, without what was asked for.
    """

    answer: Answer
    spent_usd: Amount
    reserved_usd: Amount

    def __post_init__(self) -> None:
        exact(self, "spent_usd", self.spent_usd)
        exact(self, "reserved_usd", self.reserved_usd)


@dataclass(frozen=True, slots=True)
class _Reservation:
    call: str
    amount: Amount
    until: float


class Balance(BaseModel):
    """What an account keeps of the window that began at `since`: what is spent, what is held, and which
    events it has published.
    """

    since: datetime | None = None
    spent: Amount = ZERO
    held: dict[str, _Reservation] = {}
    notified: list[str] = Field(default_factory=list, validation_alias=AliasChoices("notified", "told"))

    def at(self, now: datetime, window: Window) -> Balance:
        """What an account would keep, were it asked now."""
        copy = self.model_copy(update={"held": dict(self.held)})
        copy.renew(window, now)
        return copy

    @property
    def reserved(self) -> Decimal:
        """The sum of what is held."""
        return sum((reservation.amount for reservation in self.held.values()), ZERO)

    def renew(self, window: Window, now: datetime) -> None:
        """Begin a new window where its time has come. What is held goes over into it.

        What was not settled in time counts as spent, in the window in which its time ran out.
        """
        start = _window_start(window, now)
        if start is not None and (self.since is None or start > self.since):
            self._expire(start.timestamp())
            self.since, self.spent = start, ZERO
            self.notified = [event_type for event_type in self.notified if event_type == OPENED]
        self._expire(now.timestamp())

    def _expire(self, now: float) -> None:
        for op in [op for op, held in self.held.items() if held.until <= now]:
            self.spent += self.held.pop(op).amount


class BudgetAccount(Actor[Balance]):
    """Books what calls may cost and did cost. A repeat of an entry changes nothing."""

    @turn
    def book(self, turn: Turn, batch: LedgerBatch) -> list[ReservationResult]:
        """Make the entries; returns a result for each that reserves, in order."""
        self.state.renew(batch.account.window, turn.now)
        self._reserved = self.state.reserved
        results: list[ReservationResult] = []
        for entry in batch.entries:
            if entry.kind == "reserve":
                results.append(self._reserve(entry, batch.account))
            else:
                self._settle(entry)
        self._notify(turn, batch.account, results)
        return results

    def _reserve(self, entry: LedgerEntry, account: Account) -> ReservationResult:
        held = self.state.held.get(entry.op)
        if held is not None and held.call == entry.call:
            return self._result("held")
        if held is not None:  # the try before this one has no known end: it may have spent it all
            self._settle(LedgerEntry(kind="settle", op=entry.op, call=held.call, amount=held.amount))
        fits = self.state.spent + self._reserved + entry.amount <= account.limit_usd
        result = self._result("held" if fits or not entry.amount else "refused" if account.hard else "over")
        if len(self.state.held) >= MAX_HELD:
            return self._result("crowded")
        if result.answer != "refused":
            self.state.held[entry.op] = _Reservation(call=entry.call, amount=entry.amount, until=entry.until)
            self._reserved += entry.amount
        return result

    def _settle(self, entry: LedgerEntry) -> None:
        held = self.state.held.get(entry.op)
        if held is not None and held.call == entry.call:
            del self.state.held[entry.op]
            self._reserved -= held.amount
            self.state.spent += entry.amount

    def _result(self, answer: Answer) -> ReservationResult:
        return ReservationResult(answer=answer, spent_usd=self.state.spent, reserved_usd=self._reserved)

    def _notify(self, turn: Turn, account: Account, results: Sequence[ReservationResult]) -> None:
        """Publish once that the account is open, and once a window how far it is."""
        happened = {
            OPENED: True,
            WARNED: bool(account.limit_usd) and self.state.spent >= WARNED_AT * account.limit_usd,
            EXCEEDED: any(result.answer in ("refused", "over") for result in results),
        }
        for event_type in [name for name, has in happened.items() if has and name not in self.state.notified]:
            self.state.notified.append(event_type)
            turn.publish(
                topics.SPEND,
                event_type,
                {
                    **account.model_dump(),
                    "spent_usd": f"{self.state.spent:f}",
                    "reserved_usd": f"{self._reserved:f}",
                    "renews_at": renews_at(account.window, turn.now),
                },
                **account.owner,
            )


_Waiting = tuple[LedgerEntry, asyncio.Future[ReservationResult] | None]


class AccountClient:
    """Books with one account, in the order of asking; `on_idle` is called when nothing is left to book."""

    def __init__(self, host: Runtime, account: Account, on_idle: Callable[[AccountClient], None]) -> None:
        self.account = account
        self._host = host
        self._on_idle = on_idle
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None

    async def reserve(self, entry: LedgerEntry) -> ReservationResult:
        """Reserve, and return the result, which is durable. Raises HostError where it is not known."""
        result: asyncio.Future[ReservationResult] = asyncio.get_running_loop().create_future()
        self._put((entry, result))
        return await result

    def settle(self, entry: LedgerEntry) -> None:
        """Settle soon; nobody has to wait. What cannot be booked counts as spent when its time is over."""
        self._put((entry, None))

    async def settled(self) -> None:
        """Return once everything is booked."""
        if self._work is not None:
            await asyncio.shield(self._work)

    def _put(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._work is None:
            self._work = asyncio.create_task(self._book_all(), name=f"budget {self.account.id}")

    async def _book_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX_ENTRIES], self._waiting[_MAX_ENTRIES:]
            waiters = [waiter for _, waiter in batch if waiter is not None]
            try:
                results = await self._book(tuple(entry for entry, _ in batch))
            except Exception as error:  # noqa: BLE001 whoever waits for a result gets it, whatever it is
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(error)
                if lost := len(batch) - len(waiters):
                    level = logging.WARNING if isinstance(error, HostError) else logging.ERROR
                    logger.log(level, "%d calls stay reserved in %s: %s", lost, self.account.id, error)
            else:
                for waiter, result in zip(waiters, results, strict=True):
                    if not waiter.done():
                        waiter.set_result(result)
        self._work = None
        self._on_idle(self)

    async def _book(self, entries: tuple[LedgerEntry, ...]) -> list[ReservationResult]:
        """Make the turn, again where it may not have been made: a repeat changes nothing."""
        batch = LedgerBatch(account=self.account, entries=entries)
        pauses = iter(PAUSES_SECONDS)
        while True:
            try:
                results = await self._host.call(self.account.ref, "book", batch)
                return list(map(ReservationResult.model_validate, results))
            except (StoreUnavailable, MailboxFull):
                if (pause := next(pauses, None)) is None:
                    raise
                await asyncio.sleep(pause)


def _window_start(window: Window, now: datetime) -> datetime | None:
    """When the window of a time began, in UTC; None for one without end."""
    if window == "total":
        return None
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    day = hour if window == "hour" else hour.replace(hour=0)
    return day.replace(day=1) if window == "month" else day


def renews_at(window: Window, now: datetime) -> datetime | None:
    """When the next window begins; None for one without end."""
    start = _window_start(window, now)
    longest = timedelta(hours=1) if window == "hour" else timedelta(days=32 if window == "month" else 1)
    return None if start is None else _window_start(window, start + longest)
