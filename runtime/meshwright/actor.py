"""Actors and their turns: state, effects, and nothing else.

A turn is a unit of work. An actor gets a message, reads and changes its own state, and asks for effects
through its `Turn`: send this, publish that, wake me then. The host commits state and effects together, and
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

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.encoding import encode
from meshwright.errors import InvalidInput
from meshwright.messages import Event, trace_id_of

SEEN_SECONDS = 3600.0  # how long a message's id is remembered when it names no end itself
MAX_SEEN = 10_000  # ids remembered by one actor; the oldest go first


class ActorRef(NamedTuple):
    """The address of one actor: its type and its id within the type."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> ActorRef:
        """Read `type/id` back."""
        kind, _, name = text.partition("/")
        return cls(kind, name)


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one actor. `body` is what the method takes: a model, plain data, or JSON bytes.

    The receiver drops a second message of the same id until `expires_at` (unix seconds), and one that
    arrives later than that.
    """

    id: str
    to: ActorRef
    method: str
    body: Any = None
    sender: str = ""
    traceparent: str | None = None
    expires_at: float | None = None

    def encode(self) -> bytes:
        """The message as JSON, as it is stored and sent."""
        body = from_json(self.body) if isinstance(self.body, bytes) else self.body
        document: dict[str, Any] = {"v": 1, "id": self.id, "to": str(self.to), "method": self.method}
        optional = {
            "body": body,
            "sender": self.sender or None,
            "traceparent": self.traceparent,
            "expires_at": self.expires_at,
        }
        document.update({name: value for name, value in optional.items() if value is not None})
        return encode(document)

    @classmethod
    def decode(cls, data: bytes | str) -> Message:
        """Read `encode` back; the body becomes plain data."""
        document = from_json(data)
        return cls(
            id=document["id"],
            to=ActorRef.parse(document["to"]),
            method=document["method"],
            body=document.get("body"),
            sender=document.get("sender", ""),
            traceparent=document.get("traceparent"),
            expires_at=document.get("expires_at"),
        )


@dataclass(frozen=True, slots=True)
class Record:
    """An immutable, numbered value that belongs to an actor and is too much for its head.

    Known by actor, stream and `n`; the first write of a number stands. Steps and history are records.
    """

    ref: ActorRef
    stream: str
    n: int
    value: Any


@dataclass(slots=True)
class Head:
    """What a host keeps of an actor, replaced as a whole by every turn (compare-and-swap on `revision`).

    `sent` counts what the actor ever sent; `seen` holds the ids of messages that may come again, with the
    unix time until which they are remembered; `obliged` says that the actor must be woken after a crash.
    """

    revision: int = 0
    last_turn: str = ""
    sent: int = 0
    wake_at: datetime | None = None
    obliged: bool = False
    seen: dict[str, float] = field(default_factory=dict)
    state: bytes = b""

    def encode(self) -> bytes:
        """The head as one JSON document, for hosts that store it as one value."""
        document = {
            "v": 1,
            "revision": self.revision,
            "last_turn": self.last_turn,
            "sent": self.sent,
            "wake_at": self.wake_at,
            "obliged": self.obliged,
            "seen": self.seen,
            "state": from_json(self.state) if self.state else None,
        }
        return to_json(document)

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Read `encode` back."""
        document = from_json(data)
        wake_at = document["wake_at"]
        return cls(
            revision=document["revision"],
            last_turn=document["last_turn"],
            sent=document["sent"],
            wake_at=datetime.fromisoformat(wake_at) if wake_at else None,
            obliged=document["obliged"],
            seen=document["seen"],
            state=to_json(document["state"]) if document["state"] is not None else b"",
        )


class Turn:
    """One turn under way: what the actor may know (`now`, who sent what) and the effects it asks for."""

    __slots__ = (
        "_sent",
        "after",
        "events",
        "hints",
        "message",
        "now",
        "records",
        "ref",
        "sends",
        "traceparent",
        "wake",
    )

    def __init__(
        self, ref: ActorRef, head: Head, message: Message, now: datetime, traceparent: str | None
    ) -> None:
        self.ref = ref
        self.message = message
        self.now = now
        self.traceparent = traceparent
        self.sends: list[Message] = []
        self.events: list[Event] = []
        self.records: list[Record] = []
        self.hints: list[Any] = []
        self.after: list[Any] = []
        self.wake = head.wake_at
        self._sent = head.sent

    @property
    def sent(self) -> int:
        """How many messages and events the actor has sent, this turn's included."""
        return self._sent

    def bodies(self) -> list[Any]:
        """All that the turn sends, publishes and writes."""
        bodies = [message.body for message in self.sends]
        bodies += [event.payload for event in self.events]
        return bodies + [record.value for record in self.records]

    def _next_id(self) -> str:
        self._sent += 1
        return f"{self.ref.type}/{self.ref.id}/{self._sent}"

    def send(self, to: ActorRef, method: str, body: Any = None, *, expires_at: float | None = None) -> None:
        """Send a message to another actor: at least once, in the order of sending, deduped by its id."""
        self.sends.append(
            Message(self._next_id(), to, method, body, str(self.ref), self.traceparent, expires_at)
        )

    def publish(
        self,
        topic: str,
        event_type: str,
        payload: Any = None,
        *,
        task_id: str | None = None,
        agent_id: str | None = None,
        tenant_id: str = "default",
        idempotency_key: str | None = None,
    ) -> None:
        """Publish an event: to the subscribers of its topic, at least once, and into the event log."""
        self.events.append(
            Event(
                id=self._next_id(),
                event_type=event_type,
                topic=topic,
                time=self.now,
                tenant_id=tenant_id,
                task_id=task_id,
                agent_id=agent_id,
                trace_id=trace_id_of(self.traceparent),
                traceparent=self.traceparent,
                aggregate_id=str(self.ref),
                idempotency_key=idempotency_key,
                payload={} if payload is None else payload,
            )
        )

    def wake_at(self, when: datetime | None) -> None:
        """Set the actor's one alarm: its `wake` turn runs then, after a restart too. None clears it."""
        self.wake = when

    def append(self, stream: str, n: int, value: Any) -> None:
        """Write an immutable record of this actor, in the same commit."""
        self.records.append(Record(self.ref, stream, n, value))

    def hint(self, signal: Any) -> None:
        """Tell this worker something that may run ahead of the commit, and may be lost in a crash."""
        self.hints.append(signal)

    def start(self, signal: Any) -> None:
        """Tell this worker something that may only happen once the commit is durable; lost in a crash."""
        self.after.append(signal)


StateT = TypeVar("StateT", bound=BaseModel)


class Actor(Generic[StateT]):
    """An actor: a state, and the turns that may change it. Subclass with the model of its state.

    The state's fields need defaults: an actor that never had a turn has the default state. It is decoded
    when the actor is activated, encoded after each turn, and belongs to no one else.
    """

    state: StateT
    state_type: ClassVar[type[BaseModel]]

    def __init__(self, ref: ActorRef) -> None:
        self.ref = ref

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, BaseModel):
                    cls.state_type = argument

    @property
    def obliged(self) -> bool:
        """Whether the actor has something outstanding, so that it gets a `recover` turn after a crash."""
        return False

    def wake(self, turn: Turn) -> None:
        """The alarm set by `turn.wake_at` has come. It is cleared already."""

    def recover(self, turn: Turn) -> None:
        """The worker has restarted: ask again for what only this process knew."""


TurnT = TypeVar("TurnT", bound=Callable[..., Any])


def turn(method: TurnT) -> TurnT:
    """Mark a method as a turn: `(self, turn[, message]) -> reply`, typed, so that messages are checked."""
    method.__meshwright_turn__ = True  # type: ignore[attr-defined]
    return method


class Method(NamedTuple):
    """One turn of an actor kind: how it is called, and the shape of the message it takes."""

    call: Callable[..., Any]
    takes: TypeAdapter[Any] | None
    model: type | None


@dataclass(frozen=True, slots=True)
class ActorKind:
    """A type of actor as a host knows it: its name, how one is made, and its turns."""

    type: str
    make: Callable[[ActorRef], Actor[Any]]
    state_type: type[BaseModel]
    methods: Mapping[str, Method]

    @classmethod
    def of(cls, actor: type[Actor[Any]], /, *, type: str | None = None, **dependencies: Any) -> ActorKind:
        """Describe an actor class; `dependencies` are handed to each actor's constructor."""
        methods = {
            name: _describe(function)
            for name, function in inspect.getmembers(actor, inspect.isfunction)
            if name in ("wake", "recover") or hasattr(function, "__meshwright_turn__")
        }
        make = partial(actor, **dependencies)
        return cls(type or actor.__name__, make, actor.state_type, methods)

    def activate(self, ref: ActorRef, head: Head) -> Actor[Any]:
        """Make the actor with the state of its head."""
        actor = self.make(ref)
        actor.state = self.decode_state(head.state)
        return actor

    def decode_state(self, data: bytes) -> BaseModel:
        """Read a state; no data gives the default state."""
        return self.state_type.model_validate_json(data) if data else self.state_type()

    def decode_body(self, message: Message) -> Any:
        """Give a message's body the shape that its method takes. Raises InvalidInput where it has not."""
        method = self.methods.get(message.method)
        if method is None:
            raise InvalidInput(f"{message.to} has no turn named {message.method!r}", field="method")
        if method.takes is None or (method.model and isinstance(message.body, method.model)):
            return message.body
        body = message.body
        try:
            if isinstance(body, bytes):
                return method.takes.validate_json(body)
            if isinstance(body, BaseModel):
                body = body.model_dump()
            return method.takes.validate_python(body)
        except ValidationError as error:
            raise invalid_body(message, error) from error


def invalid_body(message: Message, error: ValidationError) -> InvalidInput:
    """Say which field of a message's body was wrong, without repeating its content."""
    first = error.errors(include_input=False, include_url=False)[0]
    field_name = ".".join(str(part) for part in first["loc"])
    return InvalidInput(
        f"message {message.id} to {message.to}.{message.method} does not fit: "
        f"{field_name or 'body'}: {first['msg']}",
        field=field_name,
    )


def _describe(function: Callable[..., Any]) -> Method:
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if not parameters:
        return Method(function, None, None)
    annotation = get_type_hints(function).get(parameters[0].name, Any)
    return Method(function, TypeAdapter(annotation), annotation if isinstance(annotation, type) else None)


@dataclass(slots=True)
class Commit:
    """What a turn came to: the next head, and the effects to commit with it.

    `duplicate`: the message had been taken before; nothing changes and `reply` is None.
    `changed` is false when the turn only read: there is nothing to commit.
    """

    ref: ActorRef
    message: Message
    head: Head
    reply: Any = None
    sends: list[Message] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    hints: list[Any] = field(default_factory=list)
    after: list[Any] = field(default_factory=list)
    duplicate: bool = False
    changed: bool = True


def take_turn(
    kind: ActorKind,
    actor: Actor[Any],
    head: Head,
    message: Message,
    now: datetime,
    *,
    remember: bool,
    traceparent: str | None = None,
) -> Commit:
    """Run one turn of an active actor on a message, and return what is to be committed.

    `remember` keeps the message's id in the head, for messages that may be delivered again. Whatever the
    turn raises is passed on: the caller must then activate the actor anew, from `head`, since its state
    may be half changed.
    """
    unix_now = now.timestamp()
    if message.id in head.seen:
        return Commit(actor.ref, message, head, duplicate=True, changed=False)
    if message.expires_at is not None and message.expires_at < unix_now:
        raise InvalidInput(
            f"message {message.id} to {message.to}.{message.method} arrived after it had expired",
            remedy="send it again under a new id",
        )
    body = kind.decode_body(message)
    method = kind.methods[message.method]
    turn = Turn(actor.ref, head, message, now, traceparent or message.traceparent)
    if message.method == "wake":
        turn.wake = None
    reply = method.call(actor, turn) if method.takes is None else method.call(actor, turn, body)
    state = encode_state(actor)
    require_json(turn.ref, *turn.bodies())
    after = Head(
        revision=head.revision + 1,
        last_turn=message.id,
        sent=turn.sent,
        wake_at=turn.wake,
        obliged=actor.obliged,
        seen=_remembered(head.seen, message, unix_now) if remember else head.seen,
        state=state,
    )
    changed = (
        remember
        or state != head.state
        or turn.sent != head.sent
        or turn.wake != head.wake_at
        or after.obliged != head.obliged
        or bool(turn.records)
    )
    return Commit(
        actor.ref,
        message,
        after,
        reply,
        turn.sends,
        turn.events,
        turn.records,
        turn.hints,
        turn.after,
        changed=changed,
    )


def encode_state(actor: Actor[Any]) -> bytes:
    """The actor's state as JSON. Raises InvalidInput where it holds something that JSON cannot."""
    try:
        return actor.state.__pydantic_serializer__.to_json(actor.state)
    except PydanticSerializationError as error:
        raise InvalidInput(f"the state of {actor.ref} cannot be stored as JSON: {error}") from error


def require_json(source: object, *values: Any) -> None:
    """Raise InvalidInput where one of the values, sent by `source`, is something that JSON cannot hold."""
    for value in values:
        try:
            to_json(value)
        except (PydanticSerializationError, ValueError) as error:
            raise InvalidInput(f"{source} sends what cannot be written as JSON: {error}") from error


def _remembered(seen: dict[str, float], message: Message, now: float) -> dict[str, float]:
    kept = {key: until for key, until in seen.items() if until >= now}
    kept[message.id] = message.expires_at or now + SEEN_SECONDS
    for key in list(kept)[: max(0, len(kept) - MAX_SEEN)]:
        del kept[key]
    return kept
