"""Projections: tables made from events, which can be rebuilt from the log at any time.

Where one process writes, events are folded some hundreds at a time, or when somebody asks, so that a task
whose life is short is written once. Where several processes write, whoever asks folds what the log has.
The last folded `seq` is stored with each projection: what a crash left unfolded is folded at the next start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from meshwright.events.table import COLUMN_LIST, event_of
from meshwright.messages import Event
from meshwright.sql.database import Database, Session

MAX_PENDING = 1000  # events that wait to be folded
_MAX_PENDING_BYTES = 4 * 1024 * 1024  # of payloads that wait with them
_FOLDED_AT_ONCE = 1000  # when catching up

_SELECT_EVENTS = " ".join(("SELECT", COLUMN_LIST, "FROM events WHERE seq > ? ORDER BY seq LIMIT ?"))
_LOCK_POSITION = (
    "UPDATE projection_positions SET position = position WHERE name = ? RETURNING version, position"
)
_ADD_POSITION = "INSERT INTO projection_positions VALUES (?, 0, 0) ON CONFLICT DO NOTHING"
_SET_POSITION = (
    "INSERT INTO projection_positions VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = excluded.position"
)


class Projection(Protocol):
    """Tables made from events of some types. `version` says what they contain: another one rebuilds them."""

    name: str
    version: int

    @property
    def event_types(self) -> Collection[str]:
        """The events that it is made from."""
        ...

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Write what these events change, in the order of `seq`. Never fails for what is in an event."""
        ...

    def clear(self, session: Session, oldest: int) -> None:
        """Delete what the events from this `seq` on have made; rows of pruned events stay."""
        ...


class Projections:
    """The projections of a log. What takes a session runs in the writer's thread."""

    def __init__(self, projections: Sequence[Projection], *, exclusive: bool) -> None:
        self._projections: list[Projection] = []
        self._types: set[str] = set()
        self.add(projections)
        self._exclusive = exclusive
        self._pending: list[Event] = []
        self._pending_bytes = 0
        self._newest = 0
        self._catching_up = True

    def add(self, projections: Iterable[Projection]) -> None:
        """Make these projections too. Call it before the start."""
        for projection in projections:
            self._projections.append(projection)
            self._types.update(projection.event_types)

    def apply(self, session: Session, events: Sequence[Event], size: int) -> None:
        """Take in events that were just written, whose payloads have `size` bytes of JSON."""
        if self._catching_up or not self._exclusive or not events:
            return
        self._newest = events[-1].seq or 0
        self._pending += [event for event in events if event.event_type in self._types]
        self._pending_bytes += size
        if len(self._pending) >= MAX_PENDING or self._pending_bytes >= _MAX_PENDING_BYTES:
            self.flush(session)

    def flush(self, session: Session) -> None:
        """Fold what is waiting: who reads after this commit sees everything that was durable before it."""
        self._pending_bytes = 0
        if not self._exclusive:
            while self.fold_next(session):
                pass
        elif self._pending:
            for projection in self._projections:
                _fold(session, projection, self._pending)
                session.execute(_SET_POSITION, (projection.name, projection.version, self._newest))
            self._pending = []

    async def start(self, database: Database) -> None:
        """Fold what came after the last fold; a projection of another version is made anew."""
        while await database.write(self.fold_next):
            pass

    async def rebuild(self, database: Database) -> None:
        """Make the tables anew, a slice at a time between other writes.

        A row whose first event has been pruned stays as it is.
        """
        await database.write(self._clear)
        await self.start(database)

    def _clear(self, session: Session) -> None:
        self._catching_up = True
        self._pending = []
        for projection in self._projections:
            _clear(session, projection)

    def fold_next(self, session: Session) -> bool:
        """Fold the next events of the log. False once every projection has caught up."""
        behind = [_fold_next(session, projection) for projection in self._projections]
        self._catching_up = any(behind)
        return self._catching_up


def _fold_next(session: Session, projection: Projection) -> bool:
    session.execute(_ADD_POSITION, (projection.name,))
    [(version, position)] = session.execute(_LOCK_POSITION, (projection.name,)).fetchall()
    if version != projection.version:
        position = _clear(session, projection)
    rows = session.execute(_SELECT_EVENTS, (position, _FOLDED_AT_ONCE)).fetchall()
    if rows:
        _fold(session, projection, [event_of(row) for row in rows if row[2] in projection.event_types])
        session.execute(_SET_POSITION, (projection.name, projection.version, rows[-1][0]))
    return len(rows) == _FOLDED_AT_ONCE


def _fold(session: Session, projection: Projection, events: Sequence[Event]) -> None:
    wanted = [event for event in events if event.event_type in projection.event_types]
    if wanted:
        projection.fold(session, wanted)


def _clear(session: Session, projection: Projection) -> int:
    [(oldest,)] = session.execute("SELECT coalesce(min(seq), 1) FROM events").fetchall()
    projection.clear(session, oldest)
    session.execute(_SET_POSITION, (projection.name, projection.version, oldest - 1))
    return oldest - 1
