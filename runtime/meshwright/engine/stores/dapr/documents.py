"""Stored documents of actors (record and outbox), and records of streams.

    actor/{type}/{id}                {"v": 2, "by": [commit, ...], "head": ..., "state": ..., "outbox": [...]}
    record/{type}/{id}/{stream}/{n}  {"v": 1, "by": commit, "turn": true, "value": ..., "events": [...]}
    value/{sha256}                   a value of more than 32 KiB within a document

`by` names the last commits, newest first, by which a worker that lost sight of its own finds it again. The
outbox holds what was committed and may not have arrived, each entry with the incarnation that committed it
and sends it; what has arrived is left out of the next commit, so an entry may be there, and be sent, more
than once. `events` of a record were to be published with it: who reads it after the worker `by` has gone
publishes them again. A record of a `turn` is written before the document, so where the document is refused
it is left behind: a turn that takes its number writes over it.

A large value is written before the document that refers to it, `{"$value": sha256}`, and whose `values` list
its hash. So a large payload is not written again by every turn.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Raw, Struct
from msgspec.json import Decoder
from msgspec.structs import replace
from pydantic_core import from_json, to_json

from meshwright.core.encoding import encode
from meshwright.core.errors import Conflict, StoreTooNew, StoreTooOld, StoreUnavailable
from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Message, Record
from meshwright.engine.kernel.guarantees import RECORD_GAP
from meshwright.engine.stores.dapr.sidecar import StoredValue, Write
from meshwright.engine.stores.dapr.state import State

_VERSION = 2  # of documents
_LARGE_BYTES = 32 * 1024
_REFERENCE = "$value"
VALUES = "values"
_MAX_KNOWN_VALUES = 1000


@dataclass(slots=True, eq=False)
class OutboxEntry:
    """One message or event on its way. It is written more than once, and encoded once.

    `by` is the incarnation that committed it, and sends it as long as it lives. An event `is_logged` once the
    log has it, and `is_shown` once the listeners of this process have seen it; an entry `is_delivered` once
    its actor has it, or the broker for subscribers there. A message `waits` where it is
    not known which process runs its type.
    """

    item: Message | Event
    by: str = ""
    is_started: bool = False
    is_logged: bool = False
    is_delivered: bool = False
    is_shown: bool = False
    waits: bool = False
    owner: Any = None
    """The StoredActor whose outbox it is in."""
    _data: bytes = b""

    @property
    def data(self) -> bytes:
        """The message or event as JSON."""
        if not self._data:
            self._data = self.item.encode()
        return self._data


@dataclass(slots=True)
class Document:
    """The stored document of an actor."""

    record: ActorRecord = field(default_factory=ActorRecord)
    outbox: list[OutboxEntry] = field(default_factory=list)
    by: tuple[str, ...] = ()

    @property
    def is_owed(self) -> bool:
        """Whether the actor has to be woken if its worker goes."""
        record = self.record
        return record.has_pending_work or record.wake_at is not None or bool(self.outbox)

    def encode(self) -> bytes:
        """The document as JSON. Parts that are JSON already are not parsed again."""
        return b'{"v":%d,"by":%b,"head":%b,"state":%b,"outbox":[%b]}' % (
            _VERSION,
            to_json(self.by),
            replace(self.record, state=b"").encode(),
            self.record.state or b"null",
            b",".join([_encode_entry(entry) for entry in self.outbox]),
        )

    @classmethod
    def decode(cls, data: bytes) -> Document:
        """Read a document whose references are resolved; unknown fields are ignored. Raises StoreTooNew."""
        return _decode(data).document


class _StoredDocument(Struct):
    """A document as it is written; state and outbox are read where they are wanted."""

    by: tuple[str, ...]
    head: ActorRecord
    state: Raw
    outbox: list[Raw]
    v: int
    values: list[str] = []

    @property
    def record(self) -> ActorRecord:
        state = bytes(self.state)
        return replace(self.head, state=state if state != b"null" else b"")

    @property
    def document(self) -> Document:
        return Document(self.record, list(map(_decode_entry, self.outbox)), self.by)


class _StoredEntry(Struct):
    by: str
    message: Raw = Raw()
    event: Raw = Raw()


def _decode(data: bytes) -> _StoredDocument:
    stored = _decoder.decode(data)
    if stored.v > _VERSION:
        raise StoreTooNew(
            f"an actor's document is of version {stored.v}, and known is {_VERSION}",
            remedy="run the newer version of Meshwright that wrote it",
        )
    if stored.v < _VERSION:
        raise StoreTooOld(
            f"an actor's document is of version {stored.v}, from before 0.1",
            remedy="empty the state store, or set another dapr.namespace",
        )
    return stored


class _StoredRecord(NamedTuple):
    """A record, the commit that wrote it, and the events that were to be published with it."""

    record: Record
    by: str
    events: list[Event]


class Documents:
    """Reads and swaps documents, their large values apart, and writes records."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known_values: dict[str, None] = {}

    async def read(self, ref: ActorRef) -> tuple[Document, str | None]:
        """An actor's document and its etag; a new one, without, where it never had a turn."""
        stored, etag = await self._stored(ref)
        return stored.document if stored is not None else Document(), etag

    async def record(self, ref: ActorRef) -> ActorRecord | None:
        """An actor's record alone, None where it never had a turn."""
        stored, _ = await self._stored(ref)
        return stored.record if stored is not None else None

    async def _stored(self, ref: ActorRef) -> tuple[_StoredDocument | None, str | None]:
        document = await self._state.read(self._key(ref))
        if document is None:
            return None, None
        stored = _decode(document.value)
        if stored.values:
            values = await self._values(ref, stored.values)
            stored = _decode(to_json(put_back(from_json(document.value), values)))
        return stored, document.etag

    async def etag(self, ref: ActorRef) -> str | None:
        """The etag of the stored document."""
        stored = await self._state.read(self._key(ref))
        return stored.etag if stored else None

    async def swap(self, ref: ActorRef, document: Document, etag: str | None) -> str | None:
        """Write a document over the version of that etag; returns the new one where it is known.

        If the swap was refused but the document names our commit, the commit was made, and another came on
        top of it. Raises Conflict, StoreUnavailable.
        """
        data, values = _take_out(document.encode())
        for name, value in values.items():
            if name in self._known_values:
                continue
            with suppress(Conflict):  # it is there: its name is its content
                await self._state.swap(Write(self._state.key("value", name), value))
            self._known_values[name] = None
            if len(self._known_values) > _MAX_KNOWN_VALUES:
                del self._known_values[next(iter(self._known_values))]
        try:
            return await self._state.swap(Write(self._key(ref), data, etag))
        except Conflict:
            stored, _ = await self.read(ref)
            if document.by[0] not in stored.by:
                raise
            return None

    def put(
        self,
        record: Record,
        events: Sequence[Event],
        commit: str,
        *,
        of_turn: bool = False,
        etag: str | None = None,
    ) -> asyncio.Future[str | None]:
        """Write a record, with `etag` over that version of it.

        The awaitable raises Conflict if one of that number exists: it stands, unless it is `left_by` a turn
        that lost its commit.
        """
        value = b'{"v":1,"by":%b,%b"value":%b,"events":[%b]}' % (
            to_json(commit),
            b'"turn":true,' if of_turn else b"",
            encode(record.value),
            b",".join([event.encode() for event in events]),
        )
        return self._state.swap(Write(self._document_key(record), value, etag))

    async def left_by(self, record: Record, commits: Sequence[str]) -> str | None:
        """The etag of what stands in a record's place, where a turn has left it that lost its commit.

        None where it stands for good: it has the same value, or was written outside a turn, or by one of the
        actor's last `commits`. Turns take their numbers from the actor's state, so no earlier one has it.
        """
        stored = await self._state.read(self._document_key(record))
        if stored is None:
            return None
        fields = from_json(stored.value)
        stands = not fields.get("turn") or fields["by"] in commits
        return None if stands or fields["value"] == from_json(encode(record.value)) else stored.etag

    async def records(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[_StoredRecord]:
        """The records of a range, in order; without `last` until so many numbers are empty."""
        records: list[_StoredRecord] = []
        while last is None or first <= last:
            end = first + RECORD_GAP - 1 if last is None else min(last, first + RECORD_GAP - 1)
            keys = {n: self._record_key(ref, stream, n) for n in range(first, end + 1)}
            values = await asyncio.gather(*map(self._state.read, keys.values()))
            page = [
                _decode_record(Record(ref, stream, n, None), stored)
                for n, stored in zip(keys, values, strict=True)
                if stored is not None
            ]
            records += page
            if last is None and not page:
                break
            first = end + 1
        return records

    async def delete_records(self, ref: ActorRef, stream: str) -> None:
        """Delete a stream."""
        records = await self.records(ref, stream, 1, None)
        for stored in reversed(records):  # where that breaks off, the rest is found again
            await self._state.delete(self._record_key(ref, stream, stored.record.n))

    def _key(self, ref: ActorRef) -> str:
        return self._state.key("actor", ref.type, ref.id)

    def _document_key(self, record: Record) -> str:
        return self._record_key(record.ref, record.stream, record.n)

    def _record_key(self, ref: ActorRef, stream: str, n: int) -> str:
        return self._state.key("record", ref.type, ref.id, stream, str(n))

    async def _values(self, ref: ActorRef, names: list[str]) -> dict[str, bytes]:
        entries = await asyncio.gather(*(self._state.read(self._state.key("value", name)) for name in names))
        values = {name: stored.value for name, stored in zip(names, entries, strict=True) if stored}
        if len(values) < len(names):
            raise StoreUnavailable(
                f"{ref} refers to {len(names) - len(values)} values that the store has lost",
                remedy="restore the store from its backup: it must not evict or expire keys",
            )
        return values


def parse_incarnation(commit: str) -> str:
    """The run of a worker that made a commit."""
    return commit.partition("/")[0]


def _encode_entry(entry: OutboxEntry) -> bytes:
    kind = b"message" if isinstance(entry.item, Message) else b"event"
    return b'{"by":%b,"%b":%b}' % (to_json(entry.by), kind, entry.data)


def _decode_entry(data: Raw) -> OutboxEntry:
    entry = _entry_decoder.decode(data)
    if message := bytes(entry.message):
        return OutboxEntry(Message.decode(message), entry.by)
    return OutboxEntry(Event.model_validate_json(bytes(entry.event)), entry.by)


def _decode_record(record: Record, stored: StoredValue) -> _StoredRecord:
    document = from_json(stored.value)
    events = [Event.model_validate(event) for event in document["events"]]
    return _StoredRecord(replace(record, value=document["value"]), document["by"], events)


def _take_out(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """A document without its large values, the innermost first, and these by their hashes."""
    if len(data) <= _LARGE_BYTES:
        return data, {}
    large_values: dict[str, bytes] = {}

    def refer(value: Any) -> Any:
        value = _map(refer, value)
        if not isinstance(value, (str, dict, list)) or len(large := to_json(value)) <= _LARGE_BYTES:
            return value
        name = hashlib.sha256(large).hexdigest()
        large_values[name] = large
        return {_REFERENCE: name}

    rest = _map(refer, from_json(data))
    return (
        (to_json({**rest, VALUES: sorted(large_values)}), large_values)
        if large_values
        else (data, large_values)
    )


def put_back(value: Any, values: Mapping[str, bytes]) -> Any:
    """A document with its references replaced by what they name, which may hold references itself.

    Only names among `values` are references: a payload may look like one, and stays as it is.
    """
    name = value.get(_REFERENCE) if isinstance(value, dict) and len(value) == 1 else None
    if isinstance(name, str) and name in values:
        return put_back(from_json(values[name]), values)
    return _map(lambda inner: put_back(inner, values), value)


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """A value with its direct items changed."""
    if isinstance(value, dict):
        return {name: change(item) for name, item in value.items()}
    if isinstance(value, list):
        return [change(item) for item in value]
    return value


_decoder, _entry_decoder = Decoder(_StoredDocument), Decoder(_StoredEntry)
