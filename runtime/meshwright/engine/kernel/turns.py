"""How a turn runs: a pure function of an actor, its record and a message."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar, get_type_hints

import msgspec
from msgspec.structs import replace
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from meshwright.core.encoding import MAX_RECORD_BYTES, Json, Struct, as_json, too_large, write_struct
from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.engine.kernel.actor import Actor, Reserve, Turn, TurnReservation
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record

_COMMON_TURNS = ("wake", "recover", "redrive")  # turns that every actor has
_SEEN_SECONDS = 3600.0  # how long a message's id is remembered when it names no end itself
_MAX_SEEN = 10_000  # ids remembered by one actor; the oldest go first


class Method(NamedTuple):
    """One turn of an actor kind: how it is called, and the shape of the message it takes."""

    call: Callable[..., Any]
    decode: Callable[[Any], Any] | None
    model: type | None


@dataclass(frozen=True, slots=True)
class ActorKind:
    """A type of actor as a runtime knows it. `ActorKind.of(PagerActor, url=...)` makes one."""

    type: str
    """The name of the type, as refs of its actors have it."""
    make: Callable[[ActorRef], Actor[Any]]
    """Makes the actor of a ref."""
    state_type: type[BaseModel | Struct]
    """The model of its state."""
    methods: Mapping[str, Method]
    """Its turns by their names."""

    @property
    def recovers(self) -> bool:
        """Whether its actors do anything in a `recover` turn."""
        return self.methods["recover"].call is not Actor.recover

    @property
    def is_stateless(self) -> bool:
        """Whether its actors keep nothing between turns but what they have sent."""
        kind = self.state_type
        return not (kind.__struct_fields__ if issubclass(kind, Struct) else kind.model_fields)

    @property
    def redrives(self) -> bool:
        """Whether its actors do anything in a `redrive` turn."""
        return self.methods["redrive"].call is not Actor.redrive

    @classmethod
    def from_class(
        cls, actor: type[Actor[Any]], /, *, type: str | None = None, **dependencies: Any
    ) -> ActorKind:
        """Describe an actor class; `dependencies` are handed to each actor's constructor."""
        methods = {
            name: _describe(function)
            for name, function in inspect.getmembers(actor, inspect.isfunction)
            if name in _COMMON_TURNS or hasattr(function, "__meshwright_turn__")
        }
        make = partial(actor, **dependencies)
        return cls(type or actor.__name__, make, actor.state_type, methods)

    def activate(self, ref: ActorRef, record: ActorRecord) -> Actor[Any]:
        """Make the actor with the state of its record."""
        actor = self.make(ref)
        actor.state = self.decode_state(record.state)
        return actor

    def decode_state(self, data: bytes) -> Any:
        """Read a state; no data gives the default state."""
        return self.state_type.model_validate_json(data) if data else self.state_type()

    def decode_body(self, message: Message) -> Any:
        """Give a message's body the shape that its method takes. Raises InvalidInput where it has not."""
        method = self.methods.get(message.method)
        if method is None:
            raise InvalidInput(f"{message.to} has no turn named {message.method!r}", field="method")
        if method.decode is None or (method.model and isinstance(message.body, method.model)):
            return message.body
        try:
            return method.decode(message.body)
        except ValidationError as error:
            raise _invalid_body(message, error) from error
        except ValueError as error:
            where = str(error).partition(" - at `$.")[2].rstrip("`")
            what = f"message {message.id} to {message.to}.{message.method} does not fit: {error}"
            raise InvalidInput(what, field=where) from error


def _invalid_body(message: Message, error: ValidationError) -> InvalidInput:
    """Say which field of a message's body was wrong, without repeating its content."""
    first = error.errors(include_input=False, include_url=False)[0]
    field_name = ".".join(str(part) for part in first["loc"])
    return InvalidInput(
        f"message {message.id} to {message.to}.{message.method} does not fit: "
        f"{field_name or 'body'}: {first['msg']}",
        field=field_name,
    )


@lru_cache(maxsize=1_000)  # a process that builds many meshes, as tests do, reads each signature once
def _describe(function: Callable[..., Any]) -> Method:
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if not parameters:
        return Method(function, None, None)
    annotation = get_type_hints(function).get(parameters[0].name, Any)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return Method(function, partial(_read_struct, annotation), annotation)
    decode = partial(_read_checked, TypeAdapter(annotation))
    return Method(function, decode, annotation if isinstance(annotation, type) else None)


def _read_struct(kind: type[Struct], body: Any) -> Any:
    return kind.model_validate_json(body) if isinstance(body, bytes) else kind.model_validate(body)


def _read_checked(kind: TypeAdapter[Any], body: Any) -> Any:
    if isinstance(body, bytes):
        return kind.validate_json(body)
    return kind.validate_python(body.model_dump() if isinstance(body, (BaseModel, Struct)) else body)


class Commit(msgspec.Struct):
    """The result of a turn: the next record, and the effects to commit with it.

    `duplicate`: the message had been taken before; nothing changes and `reply` is None.
    `changed` is false when the turn only read: there is nothing to commit.
    """

    ref: ActorRef
    message: Message
    record: ActorRecord
    reply: Any = None
    sends: list[Message] = []
    events: list[Event] = []
    records: list[Record] = []
    early: list[Any] = []
    after_commit: list[Any] = []
    reservations: list[TurnReservation] = []
    duplicate: bool = False
    changed: bool = True

    def give_back(self) -> None:
        """Free the places that the turn reserved: it is not committed."""
        for reservation in self.reservations:
            reservation.give_back()


def take_turn(
    kind: ActorKind,
    actor: Actor[Any],
    record: ActorRecord,
    message: Message,
    now: datetime,
    *,
    remember: bool,
    traceparent: str | None = None,
    max_bytes: int = MAX_RECORD_BYTES,
    reserve: Reserve | None = None,
) -> Commit:
    """Run one turn of an active actor on a message, and return its commit.

    `remember` keeps the message's id in the record, for messages that may be delivered again. Whatever the
    turn raises is passed on: the caller must then activate the actor again, from `record`, since its state
    may be half changed. Raises TooLarge where its state, or one of its effects, has over `max_bytes`.
    """
    if message.id in record.processed_ids:
        return Commit(actor.ref, message, record, duplicate=True, changed=False)
    if message.expires_at is not None and message.expires_at < now.timestamp():
        raise InvalidInput(
            f"message {message.id} to {message.to}.{message.method} arrived after it had expired",
            remedy="send it again under a new id",
        )
    body = kind.decode_body(message)
    method = kind.methods[message.method]
    turn = Turn(actor.ref, record, message, now, traceparent or message.traceparent, reserve)
    # Cleared before the turn, which may set the next one.
    if message.method == "wake":
        turn.wake = None
    try:
        reply = method.call(actor, turn) if method.decode is None else method.call(actor, turn, body)
        state = _encode_state(actor)
        _check_sizes(turn, state, max_bytes)
    except BaseException:
        for reservation in turn.reservations:
            reservation.give_back()
        raise
    after = ActorRecord(
        revision=record.revision + 1,
        last_turn=message.id,
        sent=turn.sent,
        wake_at=turn.wake,
        has_pending_work=actor.has_pending_work,
        processed_ids=_remembered(record, message, now.timestamp()) if remember else record.processed_ids,
        state=state,
    )
    changed = (
        remember
        or state != record.state
        or turn.sent != record.sent
        or turn.wake != record.wake_at
        or after.has_pending_work != record.has_pending_work
        or bool(turn.records)
    )
    effects = turn.sends, turn.events, turn.records, turn.early, turn.after_commit, turn.reservations
    return Commit(actor.ref, message, after, reply, *effects, changed=changed)


def _encode_state(actor: Actor[Any]) -> bytes:
    state = actor.state
    try:
        if isinstance(state, Struct):
            # A copy, since it is kept: an encoder's bytes hold up to half as many more.
            return memoryview(write_struct(state)).tobytes()
        return state.__pydantic_serializer__.to_json(state)
    except (PydanticSerializationError, ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the state of {actor.ref} cannot be stored as JSON: {error}") from error


def _check_sizes(turn: Turn, state: bytes, max_bytes: int) -> None:
    if turn.size + len(state) <= max_bytes:  # of all together, so of each: most turns end here
        return
    if len(state) > max_bytes:
        raise too_large(f"the state of {turn.ref}", len(state), max_bytes)
    for item in (*turn.sends, *turn.events, *turn.records):
        if item.size > max_bytes:
            raise too_large(f"{item.title} of {turn.ref}", item.size, max_bytes)


def seal_message(message: Message, max_bytes: int) -> Message:
    """A message from outside a turn, its body made JSON now. Raises InvalidInput, TooLarge."""
    body = None if message.body is None else as_json(message.id, message.body)
    return _checked(replace(message, body=body), max_bytes)


def seal_record(record: Record, max_bytes: int) -> Record:
    """A record from outside a turn, its value made JSON now. Raises InvalidInput, TooLarge."""
    if type(record.value) is not Json:
        record = replace(record, value=as_json(record.ref, record.value))
    return _checked(record, max_bytes)


def seal_events(events: Iterable[Event], max_bytes: int, *, mend: bool = False) -> list[Event]:
    """Events from outside a turn, their payloads made JSON now, mended where `mend` allows it.

    Raises InvalidInput, TooLarge.
    """
    return [_checked(event.sealed(mend=mend), max_bytes) for event in events]


SealedT = TypeVar("SealedT", Message, Record, Event)


def _checked(item: SealedT, max_bytes: int) -> SealedT:
    if item.size > max_bytes:
        raise too_large(item.title, item.size, max_bytes)
    return item


def _remembered(record: ActorRecord, message: Message, now: float) -> dict[str, float]:
    processed_ids = {key: until for key, until in record.processed_ids.items() if until >= now}
    processed_ids[message.id] = message.expires_at or now + _SEEN_SECONDS
    for key in list(processed_ids)[: max(0, len(processed_ids) - _MAX_SEEN)]:
        del processed_ids[key]  # in the order of arrival: the oldest
    return processed_ids
