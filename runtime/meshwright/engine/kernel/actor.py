"""Actors and their turns: state, effects, and nothing else.

A turn is a unit of work. An actor gets a message, reads and changes its own state, and asks for effects
through its `Turn`: send this, publish that, wake me then. The runtime commits state and effects together, and
nothing leaves the process before that commit is durable. A turn is a plain function: it does not await, it
reads no clock but `turn.now`, and run again on the same state and message it asks for the same again.
Hence a turn that raises changes nothing, and is not retried: it would raise again.

    class Counter(Actor[Count]):
        @turn
        def add(self, turn: Turn, message: Add) -> Total:
            self.state.total += message.amount
            turn.publish("counts", "count.changed", {"total": self.state.total})
            return Total(total=self.state.total)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

from pydantic import BaseModel

from meshwright.core.encoding import Json, Struct, as_json
from meshwright.core.events import Event, parse_trace_id
from meshwright.core.payloads import Payload
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record

_ITEM_BYTES = 1_000  # at most, of a message, event or record beside what it holds: ids and names


class TurnReservation(Protocol):
    """A place of this worker for work that a turn begins. It is signalled once the turn is committed."""

    def give_back(self) -> None:
        """Free the place: the turn is not committed."""
        ...


Reserve = Callable[[ActorRef, Any], TurnReservation | None]
"""Reserves a place for work of an actor; None if no place is free."""


class Turn:
    """One turn under way: what the actor may know (`now`, who sent what) and the effects it asks for."""

    __slots__ = (
        "_name",
        "_reserve",
        "after_commit",
        "early",
        "events",
        "message",
        "now",
        "records",
        "ref",
        "reservations",
        "sends",
        "sent",
        "size",
        "trace_id",
        "traceparent",
        "wake",
    )

    def __init__(
        self,
        ref: ActorRef,
        record: ActorRecord,
        message: Message,
        now: datetime,
        traceparent: str | None,
        reserve: Reserve | None = None,
    ) -> None:
        self.ref = ref
        self._name = f"{ref.type}/{ref.id}"
        self.message = message
        self.now = now
        self.traceparent = traceparent
        self.trace_id = parse_trace_id(traceparent)
        self.sends: list[Message] = []
        self.events: list[Event] = []
        self.records: list[Record] = []
        self._reserve = reserve
        self.reservations: list[TurnReservation] = []
        self.early: list[Any] = []
        self.after_commit: list[Any] = []
        self.wake = record.wake_at
        self.size = 0
        self.sent = record.sent
        """How many messages and events the actor has sent, this turn's included."""

    def _next_id(self) -> str:
        self.sent += 1
        return f"{self._name}/{self.sent}"

    def _as_json(self, value: Any) -> Json:
        """The content of an effect as JSON; `size` bounds what all effects have together, in bytes."""
        data = as_json(self.ref, value)
        self.size += len(data) + _ITEM_BYTES
        return data

    def send(self, to: ActorRef, method: str, body: Any = None, *, expires_at: float | None = None) -> None:
        """Send a message to another actor: at least once, in the order of sending, deduped by its id.

        The body is made JSON now, as are a payload and a record's value: InvalidInput where it cannot be.
        """
        data = None if body is None else self._as_json(body)
        self.sends.append(
            Message(self._next_id(), to, method, data, self._name, self.traceparent, expires_at)
        )

    def publish(
        self,
        topic: str | Payload,
        event_type: str = "",
        payload: Any = None,
        *,
        task_id: str | None = None,
        agent_id: str | None = None,
        tenant_id: str = "default",
        idempotency_key: str | None = None,
    ) -> None:
        """Publish an event: to the subscribers of its topic, at least once, and into the event log.

        Give it a payload, or a topic, a type and a payload.
        """
        if isinstance(topic, Payload):
            topic, event_type, payload = topic.event_topic, topic.event_type, topic
        data = as_json(self.ref, {} if payload is None else payload)
        self.size += len(data) + _ITEM_BYTES + (len(idempotency_key) if idempotency_key else 0)
        self.sent += 1
        self.events.append(
            Event(
                id=f"{self._name}/{self.sent}",
                event_type=event_type,
                topic=topic,
                time=self.now,
                tenant_id=tenant_id,
                task_id=task_id,
                agent_id=agent_id,
                trace_id=self.trace_id,
                traceparent=self.traceparent,
                aggregate_id=self._name,
                idempotency_key=idempotency_key,
                payload=data,
            )
        )

    def wake_at(self, when: datetime | None) -> None:
        """Set the actor's one alarm: its `wake` turn runs then, after a restart too. None clears it."""
        self.wake = when

    def append(self, stream: str, n: int, value: Any) -> None:
        """Write an immutable record of this actor, in the same commit."""
        self.records.append(Record(self.ref, stream, n, self._as_json(value)))

    def signal_early(self, signal: Any) -> None:
        """Tell this worker something that may run ahead of the commit, and may be lost in a crash."""
        self.early.append(signal)

    def signal_after_commit(self, signal: Any) -> None:
        """Tell this worker something that may only happen once the commit is durable; lost in a crash."""
        self.after_commit.append(signal)

    def reserve(self, request: Any) -> Any:
        """Reserve a place of this worker for work that this turn begins; None if it has no free one.

        The `TurnReservation` is signalled after the commit, and given back if the turn is not committed.
        """
        reservation = None if self._reserve is None else self._reserve(self.ref, request)
        if reservation is not None:
            self.reservations.append(reservation)
            self.after_commit.append(reservation)
        return reservation


StateT = TypeVar("StateT", bound=BaseModel | Struct)


class Actor(Generic[StateT]):
    """An actor: a state, and the turns that may change it. Subclass with the model of its state.

    The state's fields need defaults: an actor that never had a turn has the default state. It is decoded
    when the actor is activated, encoded after each turn, and belongs to no one else.
    """

    state: StateT
    """The state, as the last turn left it. Change it in turns alone."""
    state_type: ClassVar[type[BaseModel | Struct]]
    """The model of the state: the argument of `Actor[...]`."""

    def __init__(self, ref: ActorRef) -> None:
        self.ref = ref

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, (BaseModel, Struct)):
                    cls.state_type = argument

    @property
    def has_pending_work(self) -> bool:
        """Whether the actor has something outstanding, so that it gets a `recover` turn after a crash."""
        return False

    def wake(self, turn: Turn) -> None:
        """The alarm set by `turn.wake_at` has come. It is cleared already."""

    def recover(self, turn: Turn) -> None:
        """The worker has restarted: ask again for what only this process knew."""

    def redrive(self, turn: Turn) -> None:
        """Messages of this actor may have been lost on the bus: ask again for answers that have not come."""


TurnT = TypeVar("TurnT", bound=Callable[..., Any])


def turn(method: TurnT) -> TurnT:
    """Mark a method as a turn: `(self, turn[, message]) -> reply`, typed, so that messages are checked."""
    method.__meshwright_turn__ = True  # type: ignore[attr-defined]
    return method
