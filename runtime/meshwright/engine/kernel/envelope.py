"""Data of actors on the wire and in stores: addresses, messages, records and actor records."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from pydantic_core import from_json

from meshwright.core.encoding import encode


class ActorRef(NamedTuple):
    """The address of one actor: its type and its id within the type."""

    type: str
    """The type of the actor."""
    id: str
    """Its id within the type."""

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> ActorRef:
        """Read `type/id` back."""
        kind, _, name = text.partition("/")
        return cls(kind, name)


class Message(msgspec.Struct):
    """One message to one actor. `body` is what the method takes: a model, plain data, or JSON bytes.

    The receiver drops a second message of the same id until `expires_at` (unix seconds), and every message
    that arrives after it.
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
        document: dict[str, Any] = {"v": 1, "id": self.id, "to": str(self.to), "method": self.method}
        optional = {
            "sender": self.sender or None,
            "traceparent": self.traceparent,
            "expires_at": self.expires_at,
        }
        document.update({name: value for name, value in optional.items() if value is not None})
        if self.body is None:
            return encode(document)
        body = self.body if type(self.body) is not bytes else from_json(self.body)
        return b'%b,"body":%b}' % (encode(document)[:-1], encode(body))

    @property
    def size(self) -> int:
        """About how many bytes it has as JSON, its body being JSON already."""
        body = len(self.body) if isinstance(self.body, bytes) else 0
        return body + len(self.id) + len(self.to.id) + len(self.sender)

    @property
    def title(self) -> str:
        """Its name in a refusal."""
        return f"the message {self.method!r} to {self.to}"

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


class Record(msgspec.Struct):
    """An immutable, numbered value that belongs to an actor and is too much for its state.

    Known by actor, stream and `n`; the first write of a number stands. Steps and history are records.
    """

    ref: ActorRef
    stream: str
    n: int
    value: Any

    @property
    def size(self) -> int:
        """About how many bytes it has as JSON, its value being JSON already."""
        return len(self.stream) + (len(self.value) if isinstance(self.value, bytes) else 0)

    @property
    def title(self) -> str:
        """Its name in a refusal."""
        return f"the record {self.stream}/{self.n}"


class ActorRecord(msgspec.Struct):
    """The stored record of an actor, replaced as a whole by every turn (compare-and-swap on `revision`).

    `sent` counts what the actor ever sent; `processed_ids` holds the ids of messages that may arrive again,
    with the unix time until which they are remembered; an actor that `has_pending_work` must be woken after
    a crash.
    """

    revision: int = 0
    last_turn: str = ""
    sent: int = 0
    wake_at: datetime | None = None
    has_pending_work: bool = False
    processed_ids: dict[str, float] = {}
    state: bytes = b""

    def encode(self) -> bytes:
        """The record as one JSON document, for stores that keep it as one value."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> ActorRecord:
        """Read `encode` back."""
        return msgspec.json.decode(data, type=cls)
