"""Projections: tables made from events, which can be rebuilt from the log at any time.

Events are folded behind the log when some hundreds wait, in parts between commits, or when somebody asks, so
that a task whose life is short is written once. The last folded `seq` is stored with each projection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from meshwright.core.encoding import Json
from meshwright.core.messages import Event
from meshwright.events.table import COLUMN_LIST, event_of, newest
from meshwright.sql.database import Session, marks

FOLDED_AT_ONCE = 1000  # events
FOLDED_BETWEEN_COMMITS = 100  # where others wait for the writer meanwhile

_SELECT_EVENTS = (
    "SELECT {} FROM events WHERE seq > ? AND seq <= ? AND event_type IN ({}) ORDER BY seq LIMIT ?"
)
_SELECT_POSITIONS = "SELECT name, version, position FROM projection_positions"
_LOCK_POSITION = (
    "UPDATE projection_positions SET position = position WHERE name = ? RETURNING version, position"
)
_ADD_POSITION = "INSERT INTO projection_positions VALUES (?, 0, 0) ON CONFLICT DO NOTHING"
_SET_POSITION = (
    "INSERT INTO projection_positions VALUES (?, ?, ?) "
    "ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = excluded.position"
)


class Projection(Protocol):
    """Tables made from events of some types. `version` says what they contain: another one rebuilds them.

    Where the store's writer is a process of its own, it is called there: it can be pickled, and keeps nothing
    but its tables.
    """

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


def fold_next(session: Session, projections: Sequence[Projection], limit: int = FOLDED_AT_ONCE) -> bool:
    """Fold the next events of the log. False once every projection has caught up."""
    last = newest(session)
    folded = {name: rest for name, *rest in session.execute(_SELECT_POSITIONS).fetchall()}
    behind = [item for item in projections if folded.get(item.name) != [item.version, last]]
    if not behind:
        return False
    positions = [_locked_position(session, projection) for projection in behind]
    types = sorted({name for projection in behind for name in projection.event_types})
    query = _SELECT_EVENTS.format(COLUMN_LIST, marks(len(types)))
    rows = session.execute(query, (min(positions), last, *types, limit)).fetchall()
    if is_full := len(rows) == limit:
        last = rows[-1][0]
    events = [event_of(row, Json) for row in rows]
    for projection, position in zip(behind, positions, strict=True):
        own, done = projection.event_types, position
        if new := [event for event in events if event.event_type in own and (event.seq or 0) > done]:
            projection.fold(session, new)
        session.execute(_SET_POSITION, (projection.name, projection.version, max(last, position)))
    return is_full


def clear(session: Session, projections: Iterable[Projection]) -> None:
    """Empty the tables, to be made again. A row whose first event has been pruned stays as it is."""
    for projection in projections:
        _clear(session, projection)


def _locked_position(session: Session, projection: Projection) -> int:
    session.execute(_ADD_POSITION, (projection.name,))
    [(version, position)] = session.execute(_LOCK_POSITION, (projection.name,)).fetchall()
    return position if version == projection.version else _clear(session, projection)


def _clear(session: Session, projection: Projection) -> int:
    [(oldest,)] = session.execute("SELECT coalesce(min(seq), 1) FROM events").fetchall()
    projection.clear(session, oldest)
    session.execute(_SET_POSITION, (projection.name, projection.version, oldest - 1))
    return oldest - 1
