"""What outlives a crash of the in-memory host: bytes by key, changed by one commit at a time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from meshwright.bus import Bus
from meshwright.envelope import ActorRecord, ActorRef
from meshwright.errors import Conflict
from meshwright.host import RECORD_GAP

Stream = tuple[ActorRef, str]


@dataclass(slots=True)
class Changes:
    """What one commit writes, all or nothing. `head` replaces the actor's if that is at `revision` still."""

    ref: ActorRef | None = None
    revision: int = 0
    head: bytes | None = None
    taken: int | None = None
    mail: list[bytes] = field(default_factory=list)
    events: dict[str, bytes] = field(default_factory=dict)
    records: list[tuple[Stream, int, bytes]] = field(default_factory=list)


class Store:
    """Heads, messages sent and not yet taken, records, and events. Hosts that share one see one another.

    `running` holds the bus of each host that runs on it, by its incarnation.
    """

    def __init__(self) -> None:
        self.running: dict[str, Bus] = {}
        self._heads: dict[ActorRef, bytes] = {}
        self._mail: dict[int, bytes] = {}
        self._records: dict[Stream, dict[int, bytes]] = {}
        self._events: dict[str, bytes] = {}
        self._unlogged: list[str] = []
        self._last_number = 0

    def copy(self) -> Store:
        """What is committed at this moment, on which nobody runs."""
        twin = Store()
        twin.__dict__.update(copy.deepcopy({**self.__dict__, "running": {}}))
        return twin

    def commit(self, changes: Changes) -> list[int]:
        """Write, and return the numbers of the messages. Raises Conflict if the head has moved on."""
        if changes.ref is not None and changes.head is not None:
            self._swap(changes.ref, changes.revision, changes.head)
        if changes.taken is not None:
            self._mail.pop(changes.taken, None)
        for stream, n, value in changes.records:
            self._records.setdefault(stream, {}).setdefault(n, value)
        self._events.update(changes.events)
        self._unlogged += changes.events
        return [self._put(message) for message in changes.mail]

    def _put(self, message: bytes) -> int:
        self._last_number += 1
        self._mail[self._last_number] = message
        return self._last_number

    def _swap(self, ref: ActorRef, revision: int, head: bytes) -> None:
        stored = self.head(ref).revision
        if stored != revision:
            raise Conflict(f"{ref} is at revision {stored}, not {revision}")
        self._heads[ref] = head

    def head(self, ref: ActorRef) -> ActorRecord:
        """The actor's head; a new one if it never had a turn."""
        data = self._heads.get(ref)
        return ActorRecord.decode(data) if data is not None else ActorRecord()

    def heads(self) -> Iterable[tuple[ActorRef, ActorRecord]]:
        """Every actor's head."""
        return [(ref, ActorRecord.decode(data)) for ref, data in self._heads.items()]

    def mail(self) -> list[tuple[int, bytes]]:
        """The messages not yet taken, in the order of sending."""
        return list(self._mail.items())

    def record(self, stream: Stream, n: int) -> bytes | None:
        """The record of that number, if it is written."""
        return self._records.get(stream, {}).get(n)

    def records(self, stream: Stream, first: int, last: int | None) -> Iterator[tuple[int, bytes]]:
        """The records of a stream from one number to another; without `last`, up to a gap too long."""
        empty = 0
        for n in itertools.count(first) if last is None else range(first, last + 1):
            value = self.record(stream, n)
            empty = empty + 1 if value is None else 0
            if value is not None:
                yield n, value
            elif last is None and empty == RECORD_GAP:
                return

    def knows_event(self, event_id: str) -> bool:
        """Whether an event of that id was ever committed."""
        return event_id in self._events

    def unlogged(self) -> list[bytes]:
        """The events that the log may not have yet, in order."""
        return [self._events[event_id] for event_id in self._unlogged]

    def mark_logged(self, event_ids: Iterable[str]) -> None:
        """The log has these events."""
        done = set(event_ids)
        self._unlogged = [event_id for event_id in self._unlogged if event_id not in done]
