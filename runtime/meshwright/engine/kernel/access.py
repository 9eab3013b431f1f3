"""The access of a runtime to its store: committed states, records of streams, and what other workers show."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from meshwright.core.encoding import Struct
from meshwright.core.errors import HostError, StoreFailed, StoreUnavailable
from meshwright.core.events import Event
from meshwright.core.patience import patiently
from meshwright.engine.kernel.cells import Cells
from meshwright.engine.kernel.envelope import ActorRecord, ActorRef, Record
from meshwright.engine.kernel.exclusive_executor import ExclusiveExecutor
from meshwright.engine.kernel.shared_executor import SharedExecutor
from meshwright.engine.kernel.store import SharedStore, Store
from meshwright.engine.kernel.turns import seal_events, seal_record


class StoreAccess:
    """The part of a `Runtime` that runs no turns."""

    max_record_bytes: int
    deletes_actors: bool
    _store: Store
    _cells: Cells
    _executor: ExclusiveExecutor | SharedExecutor
    _refusal: HostError | None
    _is_open: bool

    async def publish_raw(self, topic: str, body: bytes) -> None:
        """Publish a message for other programs on a topic of the broker. Raises StoreUnavailable."""
        await self._store.publish_raw(topic, body)

    def broadcast(self, event: Event) -> None:
        """Show an event to the listeners of every process, at most once; it is not kept."""
        self._store.broadcast(event)

    def show(self, events: Sequence[Event]) -> None:
        """Show events that `EventLog.write` has logged to the listeners of every process, at most once."""
        self._store.show(events)

    @property
    def process(self) -> str:
        """The name of this process among those that share the store, whatever its incarnation; "" if none."""
        return self._store.process

    async def has_ended(self, process: str) -> bool:
        """Whether another process is gone, as far as the store can tell; True for this one, and for ""."""
        if process in ("", self.process):
            return True
        return await patiently(self._store.has_ended, process)

    async def read(self, ref: ActorRef, shape: type[Struct] | None = None) -> Any:
        """The actor's committed state, or None if it never had a turn. Do not change it.

        Of a state that is a struct, a `shape` with fewer fields costs less to read; with one the type need
        not be known here. Raises NotFound for a type that is not.
        """
        return await self._read(self._executor.load, ref, shape)

    async def recent(self, ref: ActorRef, shape: type[Struct] | None = None) -> Any:
        """The same, or the state as of the last event of the actor that listeners here have heard of."""
        return await self._read(self._executor.recent, ref, shape)

    async def _read(
        self,
        load: Callable[[ActorRef], Awaitable[ActorRecord | None]],
        ref: ActorRef,
        shape: type[Struct] | None,
    ) -> Any:
        self._check_open()
        decode = self._cells.kind(ref).decode_state if shape is None else shape.model_validate_json
        try:
            record = await load(ref)
        except StoreUnavailable:  # rarely: another coroutine around each read costs more than this
            record = await patiently(load, ref)
        return None if record is None or not record.revision else decode(record.state)

    def append(
        self, record: Record, events: Sequence[Event] = (), *, outlives_lease: bool = False
    ) -> Awaitable[None]:
        """Write a record outside a turn, and events with it; await the result to know them durable.

        It is queued at once, ordered before the commit of any turn of its actor that runs later. If that
        number is written already, the first value stands, and the events are dropped with the second. It is
        refused once this process has lost the lease under which it was queued, unless it `outlives_lease`.
        """
        self._check_open()
        record = seal_record(record, self.max_record_bytes)
        events = seal_events(events, self.max_record_bytes)
        if isinstance(self._executor, SharedExecutor):
            return self._executor.append(record, events, outlives_lease=outlives_lease)
        return self._executor.append(record, events)

    async def records(
        self, ref: ActorRef, stream: str, *, first: int = 1, last: int | None = None
    ) -> list[Record]:
        """The records of a stream numbered `first` to `last`, both included, in order; plain data.

        Without `last`, to the end of the stream: fewer than `RECORD_GAP` numbers in a row may be missing
        before it, so that a store can find it by point reads.
        """
        self._check_open()
        await self._executor.settled(ref)
        return await patiently(self._store.records, ref, stream, first, last)

    async def delete_records(self, streams: Mapping[ActorRef, Sequence[str]]) -> None:
        """Delete whole streams of actors that are no longer read or written."""
        self._check_open()
        for ref in streams:
            await self._executor.settled(ref)
        await self._store.delete_records(streams)

    async def delete_actors(self, refs: Iterable[ActorRef]) -> set[ActorRef]:
        """Delete the records of finished actors, not their streams; returns the actors deleted.

        An actor with pending work, an alarm or a waiting message stays, as does an actor that changes
        meanwhile; all stay where the store does not `deletes_actors`. A message that comes later finds a new
        actor, which numbers what it sends from 1.
        """
        self._check_open()
        refs = [*refs] if self.deletes_actors else []
        records = await asyncio.gather(*map(self._executor.load, refs))
        revisions = {
            ref: record.revision
            for ref, record in zip(refs, records, strict=True)
            if record is not None
            and not record.has_pending_work
            and record.wake_at is None
            and self._cells.drop(ref, record.revision)  # a turn meanwhile loads it, and changes the revision
        }
        return await self._store.delete_actors(revisions) if revisions else set()

    def publish_loads(self, loads: Mapping[str, int]) -> None:
        """Let other workers know how many tasks of each type of actor this one has."""
        if isinstance(self._store, SharedStore):
            self._store.publish_loads(loads)

    def loads(self) -> Mapping[str, Mapping[str, int]]:
        """The loads of the other workers that publish theirs, by incarnation."""
        return self._store.loads() if isinstance(self._store, SharedStore) else {}

    def _check_open(self) -> None:
        if self._refusal is not None and (isinstance(self._refusal, StoreFailed) or not self._is_open):
            raise self._refusal
