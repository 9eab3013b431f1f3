"""The account of a budget: an actor, so that it holds on every host, however many workers spend.

A call reserves the most that it may cost, and settles what it did cost. What is not settled in time counts
as spent: the call may have been made. So an account never says that less was spent than was.

A call for which there is money, but none that is not reserved, waits in the account's queue: by priority,
then by arrival. Each settlement names the calls in front that have room now, and their workers ask again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from functools import cached_property
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

from meshwright.core import topics
from meshwright.core.encoding import Struct, kept
from meshwright.core.messages import derived_id
from meshwright.core.money import PICO, ZERO, Amount, OnEmpty, exact
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef

ACCOUNT = "budget-account"
"""The type of the actors that are accounts."""
OPENED, WARNED, EXCEEDED = "budget.opened", "budget.warned", "budget.exceeded"
RAISED = "budget.raised"
FREED = "budget.freed"
"""Names calls that have room now, to the workers where they wait. No log has it."""
WARNED_AT = Decimal("0.8")
MAX_HELD = 1_000  # reservations of one account: its state stays small
_MAX_QUEUE = 100  # calls that an account knows of; the last ones ask again
_MAX_EXPIRED = 100  # reservations whose time is over, and whose cost may still become known
BEAT_SECONDS = 5.0  # after which a worker asks again for its calls in the queue, whatever has happened
_QUEUED_SECONDS = 3 * BEAT_SECONDS  # after which a call that is not asked for again has left the queue
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Scope = Literal["mesh", "tenant", "agent", "tag", "thread", "task"]
Window = Literal["hour", "day", "month", "total"]
Answer = Literal["held", "over", "wait", "busy", "refused", "crowded"]
_Rank = tuple[int, float, str]


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
    on_empty: OnEmpty = "fail"

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
    def owner_key(self) -> str:
        """The key without the tenant whose task or thread it is."""
        return self.key.rpartition(":")[2] if self.scope in ("task", "thread") else self.key

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


class LedgerEntry(Struct, omit_defaults=True):
    """One entry. `op` is the same when a call is repeated, also after a crash; `call` names the one try.

    To reserve, `amount` is the most that the call may cost, `least` what it will do with where that has no
    room, and `until` (unix seconds) when it has ended for sure. One that `may_wait` is queued by `priority`,
    then by `since` (unix seconds). To settle, `amount` is what it cost, nothing to release or to leave the
    queue; `estimated` where no server has counted it.
    """

    kind: Literal["reserve", "settle"] = kept(default="reserve")
    op: str
    call: str
    amount: Amount
    until: float = 0.0
    least: Amount | None = None
    may_wait: bool = False
    priority: int = 5
    since: float = 0.0
    estimated: bool = False

    def __post_init__(self) -> None:
        exact(self, "amount", self.amount)
        exact(self, "least", self.least)

    @property
    def need(self) -> Decimal:
        """What it will do with."""
        return self.amount if self.least is None else min(self.least, self.amount)

    @property
    def rank(self) -> _Rank:
        """Its place in the queue."""
        return -self.priority, self.since, self.op


class LedgerBatch(Struct):
    """Entries for one account, in order."""

    account: Account
    entries: tuple[LedgerEntry, ...]


class ReservationResult(Struct):
    """The answer to a reservation, of which `granted_usd` is reserved.

    `over`: reserved although a soft budget has no room for it. `wait`: it is in the queue, since the money
    for it is reserved by others; `busy`: the same for a call that may not wait. `crowded`: refused because
    too many are held. The sums are those found, without what was asked for.
    """

    answer: Answer
    limit_usd: Amount = ZERO
    spent_usd: Amount
    reserved_usd: Amount
    granted_usd: Amount = ZERO

    def __post_init__(self) -> None:
        for name in ("limit_usd", "spent_usd", "reserved_usd", "granted_usd"):
            exact(self, name, getattr(self, name))


class LedgerReply(Struct):
    """The results of a batch's reservations, in order, and the calls of the queue that have room now."""

    results: tuple[ReservationResult, ...]
    ready: tuple[str, ...] = ()


class Raise(Struct):
    """More money for an account: of its window, or for good where that has no end."""

    account: Account
    amount: Amount

    def __post_init__(self) -> None:
        exact(self, "amount", self.amount)


@dataclass(frozen=True, slots=True)
class _Reservation:
    call: str
    amount: Amount
    until: float


@dataclass(frozen=True, slots=True)
class _Queued:
    need: Amount
    priority: int
    since: float
    until: float


class Balance(BaseModel):
    """What an account keeps of the window that began at `since`: what is spent, what is held, who waits for
    room, and which events it has published.

    `estimated` is the part of what is spent that is estimated; `raised` is added to the limit.
    `expired` are the last reservations, by call, that counted as spent when their time was over: a run that
    is resumed later may find in its journal what they did cost.
    """

    since: datetime | None = None
    spent: Amount = ZERO
    estimated: Amount = ZERO
    raised: Amount = ZERO
    held: dict[str, _Reservation] = {}
    queue: dict[str, _Queued] = {}
    expired: dict[str, Amount] = {}
    notified: list[str] = Field(default_factory=list, validation_alias=AliasChoices("notified", "told"))

    def at(self, now: datetime, window: Window) -> Balance:
        """What an account would keep, were it asked now."""
        changing = {name: dict(getattr(self, name)) for name in ("held", "queue", "expired")}
        copy = self.model_copy(update=changing)
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
            self.since, self.spent, self.estimated, self.raised = start, ZERO, ZERO, ZERO
            self.expired.clear()
            self.notify_again()
        self._expire(now.timestamp())
        for op in [op for op, queued in self.queue.items() if queued.until <= now.timestamp()]:
            del self.queue[op]

    def notify_again(self) -> None:
        """Forget which events were published, but for the first."""
        self.notified = [event_type for event_type in self.notified if event_type == OPENED]

    def expire(self, op: str) -> None:
        """Count what is held under an op as spent: what its call did cost is unknown."""
        held = self.held.pop(op)
        self.spent += held.amount
        self.estimated += held.amount
        self.expired[held.call] = held.amount
        if len(self.expired) > _MAX_EXPIRED:
            del self.expired[next(iter(self.expired))]

    def knows(self, op: str, call: str) -> bool:
        """Whether what a call did cost can still be booked."""
        return call in self.expired or (op in self.held and self.held[op].call == call)

    def _expire(self, now: float) -> None:
        for op in [op for op, held in self.held.items() if held.until <= now]:
            self.expire(op)


class BudgetAccount(Actor[Balance]):
    """Books what calls may cost and did cost. A repeat of an entry changes nothing."""

    @turn
    def book(self, turn: Turn, batch: LedgerBatch) -> LedgerReply:
        """Make the entries; the reply has a result for each that reserves, in order."""
        account = batch.account
        self._begin(turn, account)
        results: list[ReservationResult] = []
        for entry in batch.entries:
            if entry.kind == "reserve":
                results.append(self._reserve(entry, account, turn.now.timestamp()))
            else:
                self._settle(entry)
        self._notify(turn, account, results)
        return LedgerReply(results=tuple(results), ready=tuple(self._ready()))

    @turn
    def add(self, turn: Turn, more: Raise) -> LedgerReply:
        """Raise the limit; the reply names the calls of the queue that have room now."""
        self._begin(turn, more.account)
        self.state.raised += more.amount
        self._limit += more.amount
        self.state.notify_again()
        self._publish(turn, more.account, RAISED, amount_usd=f"{more.amount:f}")
        return LedgerReply(results=(), ready=tuple(self._ready()))

    def _begin(self, turn: Turn, account: Account) -> None:
        self.state.renew(account.window, turn.now)
        self._reserved = self.state.reserved
        self._limit = account.limit_usd + self.state.raised

    def _reserve(self, entry: LedgerEntry, account: Account, now: float) -> ReservationResult:
        state = self.state
        held = state.held.get(entry.op)
        if held is not None and held.call == entry.call:
            return self._result("held", held.amount)
        if held is not None:  # the try before this one has no known end: it may have spent it all
            self._reserved -= held.amount
            state.expire(entry.op)
        state.queue.pop(entry.op, None)
        answer, granted = self._decide(entry, account)
        if len(state.held) >= MAX_HELD and answer in ("held", "over"):
            answer, granted = "wait" if entry.may_wait else "crowded", ZERO
        result = self._result(answer, granted)
        if answer in ("held", "over"):
            state.held[entry.op] = _Reservation(call=entry.call, amount=granted, until=entry.until)
            self._reserved += granted
        elif answer == "wait":
            state.queue[entry.op] = _Queued(entry.need, entry.priority, entry.since, now + _QUEUED_SECONDS)
            if len(state.queue) > _MAX_QUEUE:
                del state.queue[self._in_order()[-1][2]]
        return result

    def _decide(self, entry: LedgerEntry, account: Account) -> tuple[Answer, Decimal]:
        """The answer to a reservation, and how much of it is granted.

        Where the whole has no room but the least has, half of what is free stays for the next.
        """
        left = self._limit - self.state.spent
        if not account.hard:
            return "held" if entry.amount <= left - self._reserved else "over", entry.amount
        free = left - self._reserved - self._before(entry.rank)
        if not entry.amount or entry.amount <= free:
            return "held", entry.amount
        if entry.need <= free:
            return "held", min(entry.amount, max(entry.need, (free / 2).quantize(PICO, ROUND_DOWN)))
        if entry.need <= left:
            return "wait" if entry.may_wait else "busy", ZERO
        return "refused", ZERO

    def _before(self, rank: _Rank) -> Decimal:
        """What the calls before one in the queue need, as far as they can ever have it."""
        left = self._limit - self.state.spent
        return sum((need for other, need, _ in self._in_order() if other < rank and need <= left), ZERO)

    def _in_order(self) -> list[tuple[_Rank, Decimal, str]]:
        queue = self.state.queue
        return sorted(((-each.priority, each.since, op), each.need, op) for op, each in queue.items())

    def _ready(self) -> list[str]:
        """The calls of the queue that are to ask again: those in front that have room, and those that
        cannot have any.
        """
        if not self.state.queue:
            return []
        left = self._limit - self.state.spent
        free, ready, blocked = left - self._reserved, list[str](), len(self.state.held) >= MAX_HELD
        for _, need, op in self._in_order():
            if need > left:
                ready.append(op)
            elif need <= free and not blocked:
                ready.append(op)
                free -= need
            else:
                blocked = True
        return ready

    def _settle(self, entry: LedgerEntry) -> None:
        state = self.state
        state.queue.pop(entry.op, None)
        held = state.held.get(entry.op)
        if held is not None and held.call == entry.call:
            del state.held[entry.op]
            self._reserved -= held.amount
        elif (expired := state.expired.pop(entry.call, None)) is not None:
            state.spent -= expired
            state.estimated -= expired
        else:
            return
        state.spent += entry.amount
        state.estimated += entry.amount if entry.estimated else ZERO

    def _result(self, answer: Answer, granted: Decimal) -> ReservationResult:
        return ReservationResult(
            answer=answer,
            limit_usd=self._limit,
            spent_usd=self.state.spent,
            reserved_usd=self._reserved,
            granted_usd=granted,
        )

    def _notify(self, turn: Turn, account: Account, results: Sequence[ReservationResult]) -> None:
        """Publish once that the account is open, and once a window how far it is."""
        happened = {
            OPENED: True,
            WARNED: bool(account.limit_usd) and self.state.spent >= WARNED_AT * account.limit_usd,
            EXCEEDED: any(result.answer in ("refused", "over") for result in results),
        }
        for event_type in [name for name, has in happened.items() if has and name not in self.state.notified]:
            self.state.notified.append(event_type)
            self._publish(turn, account, event_type)

    def _publish(self, turn: Turn, account: Account, event_type: str, **fields: str) -> None:
        turn.publish(
            topics.SPEND,
            event_type,
            {
                **account.model_dump(),
                **fields,
                "limit_usd": f"{self._limit:f}",
                "spent_usd": f"{self.state.spent:f}",
                "reserved_usd": f"{self._reserved:f}",
                "renews_at": renews_at(account.window, turn.now),
            },
            **account.owner,
        )


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
