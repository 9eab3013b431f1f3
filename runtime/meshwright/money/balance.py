"""The state of a budget's account: the sum of its window, what calls hold of it, and who waits for room."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Any, Literal, Self

from pydantic import BaseModel

from meshwright.core.encoding import Struct, kept
from meshwright.core.ids import derived_id
from meshwright.core.money import ZERO, Amount, fit
from meshwright.models.port import ModelRequest

OPENED = "budget.opened"
_MAX_EXPIRED = 1_000  # calls that were booked as estimates, and whose cost may still become known
_CLOSED_SECONDS = 600.0  # that they are known after their attempt: a worker that hung may still settle one
_CLAIMED_SECONDS = 600.0  # that a call stays reserved whose time is over, for the step that makes it again

_MAX_KINDS = 50  # of calls, whose usual cost is known
_KIND_CHARS = 10
_SHARE_OF_LAST = 10  # the last call counts as this part of the usual cost

_OF_CONTEXT = ("tenant_id", "task_id", "thread_id", "step", "attempt")
_of_context = attrgetter(*_OF_CONTEXT)
_OF_CALL = ("user", "tenant_id", "group", "tags", "thread_id", "step", "attempt")
_of_call = attrgetter(*_OF_CALL)

Window = Literal["hour", "day", "month", "total"]


class CallOrigin(Struct, omit_defaults=True):
    """The caller and the task of a call, for the row of one that was cut off and never made again."""

    user: str
    tenant_id: str = kept(default="default")
    group: str = ""
    tags: tuple[str, ...] = ()
    task_id: str | None = None
    thread_id: str | None = None
    step: int | None = None
    attempt: int | None = None

    @classmethod
    def from_request(cls, request: ModelRequest) -> Self:
        """The origin of a request."""
        fields = dict(zip(_OF_CONTEXT, _of_context(request.context), strict=True))
        return cls(user=request.user, group=request.model, tags=request.tags, **fields)

    @property
    def kind(self) -> str:
        """Its kind of calls, which cost about the same: those of an agent, of a group, with some tags."""
        return derived_id(self.user, self.group, *self.tags)[:_KIND_CHARS]

    def call_fields(self) -> dict[str, Any]:
        """Its fields of a `Call`."""
        return dict(zip(_OF_CALL, _of_call(self), strict=True))


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money held for one try of a call `until` (unix seconds) it has ended for sure."""

    call: str
    amount: Amount
    until: float
    estimate: Amount | None = None
    origin: CallOrigin | None = None
    is_claimed: bool = False
    """Whether the step has asked again: it will say what the call did cost."""

    @property
    def booked(self) -> Decimal:
        """The amount that it counts as where its cost never becomes known."""
        return self.amount if self.estimate is None else min(self.estimate, self.amount)


@dataclass(frozen=True, slots=True)
class _ExpiredTry:
    """A try that is booked as an estimate, known `until` (unix seconds; None: its attempt is open)."""

    op: str
    amount: Amount
    until: float | None = None


@dataclass(frozen=True, slots=True)
class QueuedCall:
    """A call that waits for room; it has left the queue at `until` (unix seconds)."""

    need: Amount
    priority: int
    since: float
    until: float


class Balance(BaseModel):
    """The state of an account in the window that began at `since`: money spent and held, calls that wait for
    room, and the events that it has published.

    `estimated` is the part of what is spent that is estimated; `raised` is added to the limit; `cheaper`: a
    person has said that calls without room go on with cheaper models. `held` are the
    tries of each op that are not settled, the last of them the one that may be under way.
    `expired` are the reservations, by call, that counted as spent when their time was over or their attempt
    ended: a run that is resumed later may find in its journal what they did cost, however many others were
    cut off meanwhile. `usual` is the mean cost of the last calls of a kind, of those whose row the account
    publishes.
    """

    since: datetime | None = None
    spent: Amount = ZERO
    estimated: Amount = ZERO
    raised: Amount = ZERO
    held: dict[str, list[Reservation]] = {}
    queue: dict[str, QueuedCall] = {}
    expired: dict[str, _ExpiredTry] = {}
    usual: dict[str, Amount] = {}
    notified: list[str] = []
    denied: str = ""
    cheaper: bool = False

    def at(self, now: datetime, window: Window) -> Balance:
        """The state that an account would have, were it asked now."""
        changing = {name: dict(getattr(self, name)) for name in ("held", "queue", "expired")}
        copy = self.model_copy(update=changing)
        copy.renew(window, now)
        return copy

    @property
    def reserved(self) -> Decimal:
        """The sum of what is held."""
        return sum((reservation.amount for _, reservation in self.tries()), ZERO)

    def tries(self) -> list[tuple[str, Reservation]]:
        """The tries that are not settled, each with its op."""
        return [(op, reservation) for op, tries in self.held.items() for reservation in tries]

    def renew(self, window: Window, now: datetime) -> list[Reservation]:
        """Begin a new window where its time has come. Reservations go over into it.

        Returns what was not settled in time: it counts as spent, in the window in which its time ran out.
        """
        start, expired = _window_start(window, now), list[Reservation]()
        if start is not None and (self.since is None or start > self.since):
            expired = self.expire(start.timestamp())  # before the sums: it was spent in the old window
            self.since, self.spent, self.estimated, self.raised = start, ZERO, ZERO, ZERO
            self.expired.clear()  # their costs belong to the window before
            self.denied, self.cheaper = "", False  # people decided about the old window
            self.notify_again()
        expired += self.expire(now.timestamp())
        for op in [op for op, queued in self.queue.items() if queued.until <= now.timestamp()]:
            del self.queue[op]
        return expired

    def notify_again(self) -> None:
        """Forget which events were published, but for the first."""
        self.notified = [event_type for event_type in self.notified if event_type == OPENED]

    def expire(self, now: float) -> list[Reservation]:
        """Count what was not settled in time as spent, and return it: what it did cost is unknown.

        If its step has asked again, the usual cost of such calls stays reserved for some time more.
        """
        booked: list[Reservation] = []
        for op, reservation in [pair for pair in self.tries() if pair[1].until <= now]:
            if reservation.is_claimed and (until := reservation.until + _CLAIMED_SECONDS) > now:
                self.release(op, reservation)
                waits = {"amount": reservation.booked, "until": until, "is_claimed": False}
                self.held.setdefault(op, []).insert(0, replace(reservation, **waits))  # the last is under way
            else:
                booked.append(self._book_estimate(op, reservation))
        if booked:
            self._forget_expired(now)
        return booked

    def close(self, attempt: str, now: float) -> list[Reservation]:
        """Count what the calls of an attempt hold that has ended as spent, and return it."""
        booked = [
            self._book_estimate(op, reservation) for op, reservation in self.tries() if op.startswith(attempt)
        ]
        for call, expired in self.expired.items():
            if expired.until is None and expired.op.startswith(attempt):
                self.expired[call] = replace(expired, until=now + _CLOSED_SECONDS)
        self._forget_expired(now)
        return booked

    def has_to_close(self, attempt: str) -> bool:
        """Whether a call of an attempt is reserved, or was and may be forgotten once the attempt is over."""
        return any(op.startswith(attempt) for op in self.held) or any(
            expired.until is None and expired.op.startswith(attempt) for expired in self.expired.values()
        )

    def open_calls(self, attempt: str) -> dict[str, Decimal]:
        """The calls of an attempt of which no run has said what they did cost, each with its estimate."""
        held = {
            reservation.call: reservation.booked for op, reservation in self.tries() if op.startswith(attempt)
        }
        over = {
            call: expired.amount for call, expired in self.expired.items() if expired.op.startswith(attempt)
        }
        return {**over, **held}

    def _book_estimate(self, op: str, reservation: Reservation) -> Reservation:
        self.release(op, reservation)
        self.spent += reservation.booked
        self.estimated += reservation.booked
        origin = reservation.origin
        has_run = origin is None or origin.task_id is not None
        until = None if has_run else reservation.until + _CLOSED_SECONDS  # no journal has it
        self.expired[reservation.call] = _ExpiredTry(op, reservation.booked, until)
        return reservation

    def _forget_expired(self, now: float) -> None:
        """Forget calls whose cost nobody corrects any more; beyond the bound those of closed attempts, then
        the oldest."""
        closed = {call: expired for call, expired in self.expired.items() if expired.until is not None}
        excess = len(self.expired) - _MAX_EXPIRED
        for number, call in enumerate([*closed, *(call for call in self.expired if call not in closed)]):
            until = self.expired[call].until
            if number < excess or (until is not None and until <= now):
                del self.expired[call]

    def find_try(self, op: str, call: str) -> Reservation | None:
        """The reservation of one try of an op."""
        return next((reservation for reservation in self.held.get(op, ()) if reservation.call == call), None)

    def release(self, op: str, reservation: Reservation) -> None:
        """Hold one try of an op no longer."""
        self.held[op] = [other for other in self.held[op] if other is not reservation]
        if not self.held[op]:
            del self.held[op]

    def claim(self, op: str, call: str, estimate: Decimal | None) -> None:
        """Note that a step asks again, of which earlier tries are held: it knows better what they cost."""
        self.held[op] = [
            reservation
            if reservation.call == call
            else replace(reservation, estimate=estimate, is_claimed=True)
            for reservation in self.held[op]
        ]

    def cut_before(self, op: str, call: str) -> tuple[str, ...]:
        """The tries of an op before a call whose end is not known: some are booked, some still held."""
        over = [earlier for earlier, expired in self.expired.items() if expired.op == op]
        calls = [reservation.call for reservation in self.held.get(op, ())]
        return (*over, *[earlier for earlier in calls if earlier != call])

    def learn(self, origin: CallOrigin, cost: Decimal) -> None:
        """Note what a call did cost that was answered."""
        before = self.usual.pop(origin.kind, cost)  # it goes to the end: the first is the least recent
        self.usual[origin.kind] = fit(before + (cost - before) / _SHARE_OF_LAST)
        if len(self.usual) > _MAX_KINDS:
            del self.usual[next(iter(self.usual))]

    def knows(self, op: str, call: str) -> bool:
        """Whether what a call did cost can still be booked."""
        return call in self.expired or self.find_try(op, call) is not None


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
    days = 32 if window == "month" else 1  # 32 end in the next month, whatever its length
    longest = timedelta(hours=1) if window == "hour" else timedelta(days=days)
    return None if start is None else _window_start(window, start + longest)
