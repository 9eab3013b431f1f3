"""Projections: tables made from events, which can be rebuilt from the log at any time.

Events are folded behind the log when some hundreds wait, in parts between commits, or when somebody asks, so
that a task whose life is short is written once. The last folded `seq` is stored with each projection.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from meshwright.core.clock import Backoff
from meshwright.core.encoding import Json, View
from meshwright.core.events import Event
from meshwright.core.ids import derived_id
from meshwright.core.redaction import redact
from meshwright.core.topics import MESH
from meshwright.engine.events.event_types import ProjectionFailed
from meshwright.engine.events.rows import forget_rows, read_row, unfolded
from meshwright.engine.events.table import newest
from meshwright.engine.sql.database import Row, Session, guarded

FAILED = "projection.failed"
"""The event of a projection that has raised."""
FOLDED_AT_ONCE = 1000  # events
FOLDED_BETWEEN_COMMITS = 250  # where others wait for the writer meanwhile
_PAUSES = 0.25, 300.0  # seconds before a projection that raised is tried again: the first and the longest
_MAX_ERROR_CHARS = 300

_SELECT_POSITIONS = "SELECT name, version, position FROM projection_positions"
_LOCK_POSITIONS = {"sqlite": _SELECT_POSITIONS, "postgres": f"{_SELECT_POSITIONS} ORDER BY name FOR UPDATE"}
_BE_FIRST = """
    SELECT 1 FROM projection_positions WHERE name = (SELECT min(name) FROM projection_positions)
    FOR UPDATE SKIP LOCKED
"""
_INTO_POSITIONS = "projection_positions (name, version, position)"
_REPLACE_POSITIONS = (
    "ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = excluded.position"
)


class Projection(Protocol):
    """Tables made from events of some types.

    It can be pickled and keeps nothing but its tables: a store whose writer is a process calls it there.
    """

    name: str
    """Its name, unique in the database."""
    version: int
    """Says what the tables contain: another version rebuilds them."""

    @property
    def event_types(self) -> Collection[str]:
        """The events that it is made from."""
        ...

    def fold(self, session: Session, events: Sequence[Event]) -> None:
        """Write what these events change, in the order of `seq`.

        If it raises, nothing of the call is written, and it is called with each event by itself. It then
        stands at the event that it cannot fold and is tried again later, while other projections go on.
        """
        ...

    def clear(self, session: Session, oldest: int) -> None:
        """Delete what the events from this `seq` on have made; rows of pruned events stay."""
        ...


class StalledProjection(View):
    """A projection that raised: it has every event before this `seq`, and is tried again at `retry_at`."""

    name: str
    seq: int
    error: str
    retry_at: datetime | None = None


class FoldResult(NamedTuple):
    """Whether there is more to fold, the projections that raised, and whether another process folds."""

    is_full: bool
    failed: Sequence[StalledProjection] = ()
    is_busy: bool = False


class StalledProjections:
    """The projections of a log that have raised, each left alone for a time that grows with every try."""

    def __init__(self) -> None:
        self._by_name: dict[str, tuple[StalledProjection, Backoff, float]] = {}

    def shown(self) -> list[StalledProjection]:
        """Those that have raised and were not folded since."""
        return [item for item, _, _ in self._by_name.values()]

    @property
    def is_due(self) -> bool:
        """Whether one is to be tried again."""
        return any(retry_at <= time.monotonic() for _, _, retry_at in self._by_name.values())

    def ready(self, projections: Sequence[Projection]) -> Sequence[Projection]:
        """Those that are to be folded now."""
        now = time.monotonic()
        paused = {name for name, (_, _, retry_at) in self._by_name.items() if retry_at > now}
        return [item for item in projections if item.name not in paused] if paused else projections

    def note(self, projections: Sequence[Projection], folded: FoldResult, now: datetime) -> list[Event]:
        """Take the result of a fold. Returns the events that say so; the log drops those that it has."""
        failed = {item.name: item for item in folded.failed}
        for name in [
            item.name for item in projections if item.name in self._by_name and item.name not in failed
        ]:
            del self._by_name[name]  # folded again, or its table was made anew
        for name, item in failed.items():
            pauses = self._by_name[name][1] if name in self._by_name else Backoff(*_PAUSES)
            pause = pauses.next()
            stalled = item.model_copy(update={"retry_at": now + timedelta(seconds=pause)})
            self._by_name[name] = stalled, pauses, time.monotonic() + pause
        return [_failed(item, now) for item in folded.failed]


def _failed(item: StalledProjection, now: datetime) -> Event:
    """The event of a failure, the same for each try: it is said once."""
    payload = ProjectionFailed(name=item.name, seq=item.seq, error=item.error)
    return Event(
        id=f"projection/{derived_id(item.name, str(item.seq), item.error)}",
        event_type=FAILED,
        topic=MESH,
        time=now,
        aggregate_id="projection",
        payload=payload,
    )


def fold_next(session: Session, projections: Sequence[Projection], limit: int = FOLDED_AT_ONCE) -> FoldResult:
    """Fold the next events of the log. `is_full` is False once every projection has caught up, or raised."""
    last = newest(session)
    before = _positions(session, _SELECT_POSITIONS)
    behind = [item for item in projections if before.get(item.name) != (item.version, last)]
    if not behind:
        return FoldResult(False)
    new = [(item.name, 0, 0) for item in behind if item.name not in before]
    session.insert(_INTO_POSITIONS, new, then="ON CONFLICT DO NOTHING")
    if session.dialect == "postgres" and not session.execute(_BE_FIRST).fetchall():  # one process at a time
        return FoldResult(True, is_busy=True)
    positions, failed = _lock(session, behind, last)
    if not positions:
        return FoldResult(False, failed)
    types = {name for projection, _ in positions for name in projection.event_types}
    rows = unfolded(session, min(position for _, position in positions), last, types, limit)
    if is_full := len(rows) == limit:
        last = rows[-1][0]  # the next call reads the rest
    events = [read_row(row, Json) for row in rows]  # a payload is parsed where a projection reads it
    event_types = {event.event_type for event in events}
    ends: list[Row] = []
    for projection, position in positions:
        own, reached = event_types.intersection(projection.event_types), max(last, position)
        unseen = [event for event in events if event.event_type in own and (event.seq or 0) > position]
        if unseen and (problem := _fold(session, projection, unseen)) is not None:
            failed.append(problem)
            reached = problem.seq - 1  # it stands before the event that it cannot fold
        ends.append((projection.name, projection.version, reached))
    session.insert(_INTO_POSITIONS, ends, then=_REPLACE_POSITIONS)
    return FoldResult(is_full, failed)


def _lock(
    session: Session, behind: Sequence[Projection], last: int
) -> tuple[list[tuple[Projection, int]], list[StalledProjection]]:
    """Those that are still behind, with their positions, and those whose tables could not be emptied."""
    locked = _positions(session, _LOCK_POSITIONS[session.dialect])  # another process may have folded them
    positions: list[tuple[Projection, int]] = []
    failed: list[StalledProjection] = []
    for projection in behind:
        version, position = locked[projection.name]
        error = None
        if version != projection.version:
            position, error = guarded(session, _clear, (projection,), {})
        if error is not None:
            failed.append(_stalled(projection, 0, error))
        elif position < last:
            positions.append((projection, position))
    return positions, failed


def _positions(session: Session, select: str) -> dict[str, tuple[int, int]]:
    return {name: (version, position) for name, version, position in session.execute(select).fetchall()}


def _fold(session: Session, projection: Projection, events: Sequence[Event]) -> StalledProjection | None:
    """Fold events: all, or those before the first at which the projection raises."""
    if guarded(session, projection.fold, (events,), {})[1] is None:
        return None
    for event in events:  # one by one, so that those before the wrong one count
        _, error = guarded(session, projection.fold, ([event],), {})
        if error is not None:
            return _stalled(projection, event.seq or 0, error)
    return None


def _stalled(projection: Projection, seq: int, error: Exception) -> StalledProjection:
    first_line = (str(error).splitlines() or [""])[0]  # those below it quote the payload
    reason = redact(f"{type(error).__name__}: {first_line}")[:_MAX_ERROR_CHARS]
    return StalledProjection(name=projection.name, seq=seq, error=reason)


def clear(session: Session, projections: Iterable[Projection]) -> None:
    """Empty the tables, to be made again. A row whose first event has been pruned stays as it is."""
    forget_rows(session)
    for projection in projections:
        _clear(session, projection)


def _clear(session: Session, projection: Projection) -> int:
    [(oldest,)] = session.execute("SELECT coalesce(min(seq), 1) FROM events").fetchall()
    projection.clear(session, oldest)
    session.insert(
        _INTO_POSITIONS, [(projection.name, projection.version, oldest - 1)], then=_REPLACE_POSITIONS
    )
    return oldest - 1
