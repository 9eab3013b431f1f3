"""The account of a budget: an actor, so that it holds on every store, however many workers spend.

A call reserves the most that it may cost, and settles what it did cost. A call that its process did not
live to settle stays reserved: until the step that made it is run again and has an answer, or until its time
is over. Then it counts as spent, with what such calls cost as a rule, and as a row of the ledger.

A call for which there is money, but none that is not reserved, waits in the account's queue: by priority,
then by arrival. Each settlement names the calls in front that have room now, and their workers ask again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from functools import cached_property
from typing import Any, Literal

from meshwright.core import topics
from meshwright.core.encoding import Struct, kept
from meshwright.core.ids import derived_id
from meshwright.core.model_events import ModelCalled
from meshwright.core.money import PICO, ZERO, Amount, OnEmpty, exact
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.models.port import Call
from meshwright.money.balance import OPENED, Balance, CallOrigin, QueuedCall, Reservation, Window, renews_at
from meshwright.money.event_types import BudgetChanged, BudgetOpened

ACCOUNT = "budget-account"
"""The type of the actors that are accounts."""
WARNED, EXCEEDED = "budget.warned", "budget.exceeded"
_RAISED = "budget.raised"
_DENIED = "budget.denied"
_WARNED_AT = Decimal("0.8")  # of the limit
MAX_HELD = 1_000  # reservations of one account: its state stays small
_MAX_QUEUE = 100  # calls that an account knows of; the last ones ask again
BEAT_SECONDS = 5.0  # after which a worker asks again for its calls in the queue, whatever has happened
_QUEUED_SECONDS = 3 * BEAT_SECONDS  # after which a call that is not asked for again has left the queue
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_Scope = Literal["mesh", "tenant", "agent", "tag", "thread", "task"]
_Answer = Literal["held", "over", "wait", "busy", "refused", "crowded"]
_Rank = tuple[int, float, str]


class Account(Struct, omit_defaults=True, dict=True):
    """One budget of one of its scope: `key` names the agent, tenant, tag, thread or task.

    An `inline` budget is declared by no setting: calls of `tenant_id` bring it, as those of a task do that
    has one.
    """

    budget: str
    scope: _Scope
    key: str
    limit_usd: Amount
    window: Window = kept(default="total")
    hard: bool = kept(default=True)
    cheaper_tag: str | None = kept(default=None)
    inline: bool = kept(default=False)
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


class LedgerEntry(Struct, omit_defaults=True, kw_only=True):
    """One entry. `op` is the same when a call is repeated, also after a crash; `call` names the one try.

    To reserve, `amount` is the most that the call may cost, `least` what it will do with where that has no
    room, and `until` (unix seconds) when it has ended for sure. Not settled by then, it is booked at its
    `estimate` (None: at the amount), and has a row in the ledger where the entry has its `origin`. One that
    `may_wait` is queued by `priority`, then by `since` (unix seconds). To settle, `amount` is what it cost,
    nothing to release or to leave the queue; `estimated` where no server has counted it. A call that
    `is_unmade` gets no row: one that was booked at its estimate meanwhile stays so. To close, `op` is
    how those of an attempt begin that has ended: what they hold is booked at its estimate.
    """

    kind: Literal["reserve", "settle", "close"] = kept(default="reserve")
    op: str
    call: str = ""
    amount: Amount = ZERO
    until: float = 0.0
    least: Amount | None = None
    may_wait: bool = False
    priority: int = 5
    since: float = 0.0
    estimated: bool = False
    is_unmade: bool = False
    estimate: Amount | None = None
    origin: CallOrigin | None = None

    def __post_init__(self) -> None:
        for name in ("amount", "least", "estimate"):
            exact(self, name, getattr(self, name))

    @property
    def need(self) -> Decimal:
        """The least that it needs."""
        return self.amount if self.least is None else min(self.least, self.amount)

    @property
    def rank(self) -> _Rank:
        """Its place in the queue."""
        return -self.priority, self.since, self.op


class LedgerBatch(Struct):
    """Entries for one account, in order."""

    account: Account
    entries: tuple[LedgerEntry, ...]


class ReservationResult(Struct, kw_only=True):
    """The answer to a reservation, of which `granted_usd` is reserved. `cut` are earlier tries of its step
    whose end is not known, since their processes ended before. `usual_usd` is the usual cost of such calls,
    where the account knows it. `denied` says who denied more money, and why; `cheaper`: calls without room go
    on with cheaper models first, whatever the budget says to do.

    `over`: reserved although a soft budget has no room for it. `wait`: it is in the queue, since the money
    for it is reserved by others; `busy`: the same for a call that may not wait. `crowded`: refused because
    too many are held. The sums are those found, without what was asked for.
    """

    answer: _Answer
    limit_usd: Amount = ZERO
    spent_usd: Amount
    reserved_usd: Amount
    granted_usd: Amount = ZERO
    cut: tuple[str, ...] = ()
    usual_usd: Amount | None = None
    denied: str = ""
    cheaper: bool = False

    def __post_init__(self) -> None:
        for name in ("limit_usd", "spent_usd", "reserved_usd", "granted_usd", "usual_usd"):
            exact(self, name, getattr(self, name))


class LedgerReply(Struct):
    """The results of a batch's reservations, in order, and the calls of the queue that have room now."""

    results: tuple[ReservationResult, ...]
    ready: tuple[str, ...] = ()


class Raise(Struct):
    """More money for an account, or leave to go on with `cheaper` models, or both.

    It is for its window, or for good where that has no end.
    """

    account: Account
    amount: Amount = ZERO
    cheaper: bool = False

    def __post_init__(self) -> None:
        exact(self, "amount", self.amount)


class Denial(Struct):
    """No more money for an account, until it is raised or renews: calls without room fail."""

    account: Account
    reason: str
    denied_by: str


class BudgetAccount(Actor[Balance]):
    """Books what calls may cost and did cost. A repeat of an entry changes nothing."""

    @property
    def has_pending_work(self) -> bool:
        """Whether a call may have to be booked that its process does not live to settle."""
        return bool(self.state.held)

    def recover(self, turn: Turn) -> None:
        """Have the account woken when the time of what is held is over: its calls may have been cut off."""
        times = [reservation.until for _, reservation in self.state.tries()]
        turn.wake_at(datetime.fromtimestamp(min(times), UTC) if times else None)  # `wake` sets the next

    def wake(self, turn: Turn) -> None:
        """The time of a call that was held is over."""
        self._record(turn, self.state.expire(turn.now.timestamp()))
        self.recover(turn)

    @turn
    def book(self, turn: Turn, batch: LedgerBatch) -> LedgerReply:
        """Make the entries; the reply has a result for each that reserves, in order."""
        account = batch.account
        self._begin(turn, account)  # first: a new window may begin with this batch
        results: list[ReservationResult] = []
        for entry in batch.entries:
            if entry.kind == "reserve":
                results.append(self._reserve(entry, account, turn.now.timestamp()))
            elif entry.kind == "settle":
                self._settle(entry)
            else:
                closed = self.state.close(entry.op, turn.now.timestamp())  # no process can settle them now
                self._record(turn, closed)
                self._reserved -= sum((reservation.amount for reservation in closed), ZERO)
        if not self.state.held:
            turn.wake_at(None)  # no call is left that may have been cut off
        self._notify(turn, account, results)
        return LedgerReply(results=tuple(results), ready=tuple(self._ready()))

    @turn
    def add(self, turn: Turn, more: Raise) -> LedgerReply:
        """Raise the limit, or let calls be cheaper; the reply names those of the queue that have room now."""
        self._begin(turn, more.account)
        self.state.raised, self.state.denied = self.state.raised + more.amount, ""  # no longer denied
        cheaper = self.state.cheaper = self.state.cheaper or more.cheaper
        self._limit += more.amount
        self.state.notify_again()  # a part of a higher limit is news again
        self._publish(
            turn, more.account, _RAISED, BudgetChanged, amount_usd=f"{more.amount:f}", cheaper=cheaper
        )
        return LedgerReply(results=(), ready=tuple(self._ready()))

    @turn
    def deny(self, turn: Turn, denial: Denial) -> None:
        """Refuse calls that have no room, also those that would wait for it."""
        self._begin(turn, denial.account)
        self.state.denied = f"{denial.denied_by}: {denial.reason}"
        by = denial.denied_by
        self._publish(turn, denial.account, _DENIED, BudgetChanged, reason=denial.reason, denied_by=by)

    def _begin(self, turn: Turn, account: Account) -> None:
        self._record(turn, self.state.renew(account.window, turn.now))
        self._reserved = self.state.reserved
        self._limit = account.limit_usd + self.state.raised  # callers bring it, as their settings have it

    def _reserve(self, entry: LedgerEntry, account: Account, now: float) -> ReservationResult:
        state = self.state
        cut = state.cut_before(entry.op, entry.call) if entry.op in state.held or state.expired else ()
        usual = None if entry.origin is None else state.usual.get(entry.origin.kind)
        estimate = entry.estimate if usual is None else usual
        if entry.op in state.held:
            state.claim(entry.op, entry.call, estimate)
        if (existing := state.find_try(entry.op, entry.call)) is not None:  # again: its answer was lost
            return self._result("held", existing.amount, cut, usual)
        state.queue.pop(entry.op, None)  # its place follows from its rank, not from when it asks
        answer, granted = self._decide(entry, account)
        if len(state.held) >= MAX_HELD and answer in ("held", "over"):
            answer, granted = "wait" if entry.may_wait else "crowded", ZERO
        if state.denied and answer in ("wait", "busy"):
            answer = "refused"
        result = self._result(answer, granted, cut, usual)
        if answer in ("held", "over"):
            state.held.setdefault(entry.op, []).append(
                Reservation(entry.call, granted, entry.until, estimate, entry.origin)
            )
            self._reserved += granted
        elif answer == "wait":
            state.queue[entry.op] = QueuedCall(entry.need, entry.priority, entry.since, now + _QUEUED_SECONDS)
            if len(state.queue) > _MAX_QUEUE:
                del state.queue[self._in_order()[-1][2]]
        return result

    def _decide(self, entry: LedgerEntry, account: Account) -> tuple[_Answer, Decimal]:
        """The answer to a reservation, and how much of it is granted.

        If there is room for the least but not for the whole, half of what is free stays for the next.
        """
        unspent = self._limit - self.state.spent
        if not account.hard:
            return "held" if entry.amount <= unspent - self._reserved else "over", entry.amount
        free = unspent - self._reserved - self._before(entry.rank)  # nobody overtakes the queue
        if not entry.amount or entry.amount <= free:
            return "held", entry.amount
        if entry.need <= free:
            return "held", min(entry.amount, max(entry.need, (free / 2).quantize(PICO, ROUND_DOWN)))
        if entry.need <= unspent:
            return "wait" if entry.may_wait else "busy", ZERO
        return "refused", ZERO

    def _before(self, rank: _Rank) -> Decimal:
        """The needs of the calls before one in the queue, as far as they can ever be met."""
        unspent = self._limit - self.state.spent
        return sum((need for other, need, _ in self._in_order() if other < rank and need <= unspent), ZERO)

    def _in_order(self) -> list[tuple[_Rank, Decimal, str]]:
        queue = self.state.queue
        return sorted(((-call.priority, call.since, op), call.need, op) for op, call in queue.items())

    def _ready(self) -> list[str]:
        """The calls of the queue that are to ask again: those in front with room, and those that get none."""
        if not self.state.queue:
            return []
        unspent = self._limit - self.state.spent
        free, ready, blocked = unspent - self._reserved, list[str](), len(self.state.held) >= MAX_HELD
        for _, need, op in self._in_order():
            if need > unspent:  # it can never have room: asking again, it is refused
                ready.append(op)
            elif need <= free and not blocked:
                ready.append(op)
                free -= need
            else:
                blocked = True  # those behind wait too, or a large call would never have room
        return ready

    def _settle(self, entry: LedgerEntry) -> None:
        state = self.state
        state.queue.pop(entry.op, None)
        if (reservation := state.find_try(entry.op, entry.call)) is not None:
            state.release(entry.op, reservation)
            self._reserved -= reservation.amount
            if reservation.origin is not None and entry.amount and not entry.estimated:
                state.learn(reservation.origin, entry.amount)
        elif not entry.is_unmade and (expired := state.expired.pop(entry.call, None)) is not None:
            state.spent -= expired.amount  # the estimate that was booked when its time was over
            state.estimated -= expired.amount
        else:
            return  # settled before, or in a window that is over
        amount = max(entry.amount, ZERO)  # whatever an older journal has: no call earns money
        state.spent += amount
        state.estimated += amount if entry.estimated else ZERO

    def _record(self, turn: Turn, expired: Sequence[Reservation]) -> None:
        """Publish the rows of calls whose time is over; one of the accounts of a call does that."""
        for reservation in expired:
            if (origin := reservation.origin) is None:
                continue
            cost: dict[str, Any] = {"cost_usd": reservation.booked, "cost_source": "estimated"}
            cut = Call(call_id=reservation.call, outcome="cut", **cost, **origin.call_fields())
            ids = {"task_id": origin.task_id, "agent_id": origin.user, "tenant_id": origin.tenant_id}
            topic = topics.MESH if origin.task_id is None else topics.TASK_PROGRESS
            turn.publish(topic, ModelCalled.event_type, cut.payload(), **ids)

    def _result(
        self, answer: _Answer, granted: Decimal, cut: tuple[str, ...], usual: Decimal | None
    ) -> ReservationResult:
        return ReservationResult(
            answer=answer,
            limit_usd=self._limit,
            spent_usd=self.state.spent,
            reserved_usd=self._reserved,
            granted_usd=granted,
            cut=cut,
            usual_usd=usual,
            denied=self.state.denied,
            cheaper=self.state.cheaper,
        )

    def _notify(self, turn: Turn, account: Account, results: Sequence[ReservationResult]) -> None:
        """Publish once that the account is open, and once a window how far it is."""
        happened = {
            OPENED: True,
            WARNED: bool(account.limit_usd) and self.state.spent >= _WARNED_AT * account.limit_usd,
            EXCEEDED: any(result.answer in ("refused", "over") for result in results),
        }
        for event_type in [name for name, has in happened.items() if has and name not in self.state.notified]:
            self.state.notified.append(event_type)
            self._publish(turn, account, event_type, BudgetOpened)

    def _publish(
        self,
        turn: Turn,
        account: Account,
        event_type: str,
        kind: type[BudgetOpened | BudgetChanged],
        **fields: Any,
    ) -> None:
        fields |= account.model_dump() | {"limit_usd": f"{self._limit:f}"}
        payload = kind(
            **fields,
            spent_usd=f"{self.state.spent:f}",
            reserved_usd=f"{self._reserved:f}",
            renews_at=renews_at(account.window, turn.now),
        )
        turn.publish(topics.SPEND, event_type, payload, **account.owner)
