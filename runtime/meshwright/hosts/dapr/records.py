"""Records: what is written beside an actor's document, each once under a number, as a key of its own.

    record/{type}/{id}/{stream}/{n}     {"v": 1, "by": commit, "value": ..., "events": [...]}

`events` were told with it; who reads it after the worker `by` has gone tells them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pydantic_core import from_json, to_json

from meshwright.encoding import encode
from meshwright.envelope import ActorRef, Record
from meshwright.errors import Conflict
from meshwright.host import RECORD_GAP
from meshwright.hosts.dapr.cells import Cell, Cells
from meshwright.hosts.dapr.documents import Entry, incarnation_of
from meshwright.hosts.dapr.emitter import Emitter
from meshwright.hosts.dapr.futures import ENDED, pass_on, settle
from meshwright.hosts.dapr.relay import Relay
from meshwright.hosts.dapr.state import State, Write
from meshwright.messages import Event


class StoredRecord(NamedTuple):
    """A record, the commit that wrote it, and the events that were to be told with it."""

    record: Record
    by: str
    events: list[Event]


class Records:
    """The records in the store. `commit_name` names each write."""

    def __init__(self, state: State, commit_name: Callable[[], str]) -> None:
        self._state = state
        self._commit_name = commit_name

    def put(self, record: Record, events: Sequence[Event] = ()) -> asyncio.Future[str | None]:
        """Write a record. What is awaited raises Conflict where there was one of that number: it stands."""
        value = encode_record(record, events, self._commit_name())
        return self._state.swap(Write(self._key(record.ref, record.stream, record.n), value))

    async def read(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[StoredRecord]:
        """The records of a range, in order; without `last` until so many numbers are empty."""
        found: list[StoredRecord] = []
        while last is None or first <= last:
            end = first + RECORD_GAP - 1 if last is None else min(last, first + RECORD_GAP - 1)
            page = await self._page(ref, stream, range(first, end + 1))
            found += page
            if last is None and not page:
                break
            first = end + 1
        return found

    async def _page(self, ref: ActorRef, stream: str, numbers: range) -> list[StoredRecord]:
        values = await asyncio.gather(*(self._state.read(self._key(ref, stream, n)) for n in numbers))
        return [
            decode_record(Record(ref, stream, n, None), stored.value)
            for n, stored in zip(numbers, values, strict=True)
            if stored is not None
        ]

    def _key(self, ref: ActorRef, stream: str, n: int) -> str:
        return self._state.key("record", ref.type, ref.id, stream, str(n))


class Appends:
    """Records that are written outside of turns, and the events that go with them."""

    def __init__(
        self,
        records: Records,
        cells: Cells,
        relay: Relay,
        emitter: Emitter,
        incarnation: Callable[[], str],
    ) -> None:
        self._records = records
        self._cells = cells
        self._relay = relay
        self._emitter = emitter
        self._incarnation = incarnation

    def append(self, record: Record, events: Sequence[Event]) -> asyncio.Future[None]:
        """Write a record and tell events with it; await the result to know it durable, and them taken."""
        loop = asyncio.get_running_loop()
        cell = self._cells.find(record.ref, loop.time())
        written = self._records.put(record, events)
        cell.writes.add(written)
        kept: asyncio.Future[None] = loop.create_future()
        entries = [Entry(event, self._incarnation()) for event in events]

        def is_written(written: asyncio.Future[str | None]) -> None:
            cell.writes.discard(written)
            error = None if written.cancelled() else written.exception()
            if written.cancelled() or (error is not None and not isinstance(error, Conflict)):
                settle(kept, None, error or ENDED)
            elif error is None and entries:
                self._tell(cell, entries, kept)
            else:  # where there was one of that number, that stands and has told its events
                settle(kept, None, None)

        written.add_done_callback(is_written)
        return kept

    async def read(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The records of a stream, in order. What another worker had to tell with them is told again."""
        cell = self._cells.active(ref)
        if cell is not None and cell.writes:
            await asyncio.wait(cell.writes)
        stored = await self._records.read(ref, stream, first, last)
        untold = [event for each in stored if not self._is_own(each.by) for event in each.events]
        if untold:
            await self._emitter.emit(untold)
        return [each.record for each in stored]

    def _tell(self, cell: Cell, entries: Sequence[Entry], kept: asyncio.Future[None]) -> None:
        self._relay.add(cell, entries)  # with the next document they outlive this worker
        emitted = self._emitter.emit_entries(entries, lambda entry: self._relay.kept(cell, entry))
        emitted.add_done_callback(lambda emitted: pass_on(emitted, kept))

    def _is_own(self, commit_name: str) -> bool:
        return incarnation_of(commit_name) == self._incarnation()


def encode_record(record: Record, events: Sequence[Event], name: str) -> bytes:
    """A record as it is stored."""
    told = b",".join(event.encode() for event in events)
    return b'{"v":1,"by":%b,"value":%b,"events":[%b]}' % (to_json(name), encode(record.value), told)


def decode_record(record: Record, data: bytes) -> StoredRecord:
    """Read `encode_record` back."""
    document = from_json(data)
    events = [Event.model_validate(event) for event in document["events"]]
    return StoredRecord(replace(record, value=document["value"]), document["by"], events)
