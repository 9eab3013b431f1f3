"""The document of an actor: its head, and its outbox, as one value of the state store.

    {"v": 1, "by": [commit, ...], "head": {...}, "outbox": [{"by": ..., "message" | "event": {...}}, ...]}

`by` names the last commits, newest first: who lost sight of its own can find it again. The outbox holds
what was committed and may not have been taken, each entry with the incarnation that committed it and sends
it; what was taken is left out by the next commit, so an entry may be there, and be sent, more than once.

A value of more than 32 KiB within it is a key of its own, named by its content and written before the
document that names it: `{"$value": sha256}`, where the document lists that hash among its `values`. So a
large payload is not written again by every turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from meshwright.envelope import ActorRecord, Message
from meshwright.errors import StoreTooNew
from meshwright.messages import Event

VERSION = 1
LARGE_BYTES = 32 * 1024
REFERENCE = "$value"
VALUES = "values"
REMEMBERED_COMMITS = 4


@dataclass(slots=True, eq=False)
class Entry:
    """One message or event on its way. It is written more than once, and made JSON once."""

    item: Message | Event
    by: str = ""
    """The incarnation that committed it, and sends it as long as it lives."""
    _data: bytes = b""
    is_begun: bool = False
    is_kept: bool = False
    """An event: the log has it."""
    is_delivered: bool = False
    """Who takes messages there has it, or the broker for them."""
    is_shown: bool = False
    """An event: the listeners of this process have seen it."""

    @property
    def id(self) -> str:
        """The id by which who takes it knows a repeat."""
        return self.item.id

    @property
    def data(self) -> bytes:
        """The message or event as JSON."""
        if not self._data:
            item = self.item
            self._data = item.encode()
        return self._data

    def encode(self) -> bytes:
        """The entry of a document."""
        kind = b"message" if isinstance(self.item, Message) else b"event"
        return b'{"by":%b,"%b":%b}' % (to_json(self.by), kind, self.data)

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Entry:
        """Read `encode` back."""
        if "message" in data:
            return cls(Message.decode(to_json(data["message"])), data["by"])
        return cls(Event.model_validate(data["event"]), data["by"])


@dataclass(slots=True)
class Document:
    """What is stored of an actor."""

    head: ActorRecord = field(default_factory=ActorRecord)
    outbox: list[Entry] = field(default_factory=list)
    by: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The document as JSON. Parts that are JSON already are not parsed again."""
        head = self.head
        envelope = {
            "revision": head.revision,
            "last_turn": head.last_turn,
            "sent": head.sent,
            "wake_at": head.wake_at,
            "obliged": head.has_pending_work,
            "seen": head.processed_ids,
        }
        return b'{"v":1,"by":%b,"head":%b,"state":%b,"outbox":[%b]}' % (
            to_json(self.by),
            to_json(envelope),
            head.state or b"null",
            b",".join([entry.encode() for entry in self.outbox]),
        )

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Document:
        """Read a document whose references are resolved; unknown fields are passed over.

        Raises StoreTooNew.
        """
        if data["v"] > VERSION:
            raise StoreTooNew(
                f"an actor's document is of version {data['v']}, and known is {VERSION}",
                remedy="run the newer version of Meshwright that wrote it",
            )
        head = ActorRecord.decode(to_json({**data["head"], "state": data["state"]}))
        return cls(head, [Entry.decode(entry) for entry in data["outbox"]], tuple(data["by"]))


def incarnation_of(commit_name: str) -> str:
    """The run of a worker that made a commit."""
    return commit_name.partition("/")[0]


def take_out(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """A document without its large values, and these by their hashes."""
    if len(data) <= LARGE_BYTES:
        return data, {}
    taken: dict[str, bytes] = {}
    rest = _without(from_json(data), taken)
    return (to_json({**rest, VALUES: sorted(taken)}), taken) if taken else (data, taken)


def _without(value: Any, taken: dict[str, bytes]) -> Any:
    """Replace what is large within a value by references, the innermost first."""
    if isinstance(value, dict):
        return {name: _referred(_without(item, taken), taken) for name, item in value.items()}
    if isinstance(value, list):
        return [_referred(_without(item, taken), taken) for item in value]
    return value


def _referred(value: Any, taken: dict[str, bytes]) -> Any:
    if not isinstance(value, (str, dict, list)):
        return value
    data = to_json(value)
    if len(data) <= LARGE_BYTES:
        return value
    name = hashlib.sha256(data).hexdigest()
    taken[name] = data
    return {REFERENCE: name}


def put_back(value: Any, values: Mapping[str, bytes]) -> Any:
    """A document with its references replaced by what they name, which may hold references itself.

    Only what is among `values` is one: a payload may look like a reference, and stays what it is.
    """
    if isinstance(value, dict):
        name = value.get(REFERENCE) if len(value) == 1 else None
        if isinstance(name, str) and name in values:
            return put_back(from_json(values[name]), values)
        return {name: put_back(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [put_back(item, values) for item in value]
    return value
