"""Projections: tables that are kept from the events, and could be made anew from them.

Events are folded in some hundreds at a time, or when somebody asks, so that a task whose life is short is
written once. The last folded `seq` is kept with the tables: what a crash left unfolded is folded at the
next start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from meshwright.events.filter import seconds
from meshwright.events.story import CHANGES, COLUMNS, TaskRow, outcome_of
from meshwright.events.table import COLUMN_LIST, Row, event_of, write_rows
from meshwright.ledger import rows as ledger
from meshwright.ledger.calls import CALLED
from meshwright.messages import Event
from meshwright.orchestration.faults import counts
from meshwright.storage.database import Database
from meshwright.storage.rows import MAX_ROWS

VERSION = 2  # of what these tables say; where the file has another, they are made anew
MAX_PENDING = 1000  # events that wait to be folded in
MAX_PENDING_BYTES = 4 * 1024 * 1024  # of payloads that wait with them
MAX_OUTCOMES = 20  # kept of each agent and capability
FOLDED_AT_ONCE = 1000  # when catching up
FOLDED = frozenset({*CHANGES, "attempt.ended", CALLED})

TASK_COLUMNS = ", ".join(COLUMNS)
INTO_TASKS = f"tasks ({TASK_COLUMNS})"
KEEP_TASK = "ON CONFLICT (task_id, tenant_id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in COLUMNS if name not in ("seq", "task_id", "tenant_id")
)
INTO_CALLS = f"calls ({', '.join(ledger.COLUMNS)})"
INTO_OUTCOMES = "agent_outcomes (agent_id, capability, last_seq, recent)"
KEEP_OUTCOMES = (
    "ON CONFLICT (agent_id, capability) DO UPDATE SET last_seq = excluded.last_seq, recent = excluded.recent"
)
SELECT_OUTCOMES = "SELECT recent FROM agent_outcomes WHERE agent_id = ? AND capability = ?"
SELECT_EVENTS = " ".join(("SELECT", COLUMN_LIST, "FROM events WHERE seq > ? ORDER BY seq LIMIT ?"))
SET_POSITION = "UPDATE projections SET version = ?, position = ?"
_task_row = attrgetter(*COLUMNS)


class Projections:
    """The tables `tasks`, `agent_outcomes` and `calls`.

    What takes a connection runs in the writer's thread.
    """

    def __init__(self) -> None:
        self._pending: list[Event] = []
        self._pending_bytes = 0
        self._newest = 0
        self._catching_up = True

    def apply(self, connection: sqlite3.Connection, events: Sequence[Event], size: int) -> None:
        """Take in events that have just been written, whose payloads have `size` bytes of JSON.

        Those that come while it catches up are found then.
        """
        if self._catching_up or not events:
            return
        self._newest = events[-1].seq or 0
        self._pending += [event for event in events if event.event_type in FOLDED]
        self._pending_bytes += size
        if len(self._pending) >= MAX_PENDING or self._pending_bytes >= MAX_PENDING_BYTES:
            self.flush(connection)

    def flush(self, connection: sqlite3.Connection) -> None:
        """Fold in what is waiting; whoever reads after this commit sees all that was durable before it."""
        self._pending_bytes = 0
        if self._pending:
            _fold(connection, self._pending)
            self._pending = []
            connection.execute(SET_POSITION, (VERSION, self._newest))

    async def start(self, database: Database) -> None:
        """Fold in what came after the last fold, or everything if an older version folded."""
        if await database.read(_version) != VERSION:
            await self.rebuild(database)
        else:
            await self._catch_up(database)

    async def rebuild(self, database: Database) -> None:
        """Make the tables anew, a slice at a time between other writes.

        A task whose first event has been pruned keeps what its row says, and so does a call.
        """
        await database.write(self._clear)
        await self._catch_up(database)

    async def _catch_up(self, database: Database) -> None:
        while await database.write(self._fold_next):
            pass

    def _clear(self, connection: sqlite3.Connection) -> None:
        self._catching_up = True
        self._pending = []
        (oldest,) = connection.execute("SELECT coalesce(min(seq), 1) FROM events").fetchone()
        connection.execute("DELETE FROM tasks WHERE seq >= ?", (oldest,))
        connection.execute("DELETE FROM agent_outcomes WHERE last_seq >= ?", (oldest,))
        connection.execute("DELETE FROM calls WHERE seq >= ?", (oldest,))
        connection.execute(SET_POSITION, (VERSION, oldest - 1))

    def _fold_next(self, connection: sqlite3.Connection) -> bool:
        (position,) = connection.execute("SELECT position FROM projections").fetchone()
        rows: list[Row] = connection.execute(SELECT_EVENTS, (position, FOLDED_AT_ONCE)).fetchall()
        if rows:
            _fold(connection, [event for event in map(event_of, rows) if event.event_type in FOLDED])
            connection.execute(SET_POSITION, (VERSION, rows[-1][0]))
        self._catching_up = len(rows) == FOLDED_AT_ONCE
        return self._catching_up


def _fold(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    _fold_tasks(connection, [event for event in events if event.event_type in CHANGES and event.task_id])
    _fold_outcomes(connection, [event for event in events if event.event_type == "attempt.ended"])
    _fold_calls(connection, [event for event in events if event.event_type == CALLED])


def _fold_tasks(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """Go through the stories of tasks, known by id and tenant; each row is written once."""
    stories: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        stories.setdefault((event.task_id or "", event.tenant_id), []).append(event)
    rows = _stored_tasks(connection, {task_id for task_id, _ in stories})
    for key, story in stories.items():
        if key not in rows:
            rows[key] = TaskRow.of(story[0], key[0])
        rows[key].take(story)
    write_rows(connection, INTO_TASKS, [_task_row(rows[key]) for key in stories], KEEP_TASK)


def _stored_tasks(connection: sqlite3.Connection, task_ids: Iterable[str]) -> dict[tuple[str, str], TaskRow]:
    found: dict[tuple[str, str], TaskRow] = {}
    wanted = list(task_ids)
    for start in range(0, len(wanted), MAX_ROWS):
        chunk = wanted[start : start + MAX_ROWS]
        marks = ",".join("?" * len(chunk))
        query = " ".join(("SELECT", TASK_COLUMNS, "FROM tasks WHERE task_id IN (", marks, ")"))
        for row in connection.execute(query, chunk):
            task = TaskRow(**dict(zip(COLUMNS, row, strict=True)))
            found[task.task_id, task.tenant_id] = task
    return found


def _fold_outcomes(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """Count the ends of attempts that say something about their agents."""
    recent: dict[tuple[str, str], tuple[int, str]] = {}
    for event in events:
        outcome = outcome_of(event)
        if outcome is None or not counts(outcome) or not outcome.capability:
            continue
        key = outcome.agent_id, outcome.capability
        before = recent[key][1] if key in recent else _stored_outcomes(connection, key)
        recent[key] = event.seq or 0, (before + ("1" if outcome.success else "0"))[-MAX_OUTCOMES:]
    write_rows(connection, INTO_OUTCOMES, [(*key, *value) for key, value in recent.items()], KEEP_OUTCOMES)


def _stored_outcomes(connection: sqlite3.Connection, key: tuple[str, str]) -> str:
    row: tuple[Any, ...] | None = connection.execute(SELECT_OUTCOMES, key).fetchone()
    return row[0] if row else ""


def _fold_calls(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    write_rows(connection, INTO_CALLS, [ledger.row_of(event, seconds(event.time)) for event in events])


def recent_outcomes(connection: sqlite3.Connection, last: int) -> list[tuple[str, str, bool]]:
    """How the last attempts of each agent and capability ended, oldest first."""
    rows = connection.execute("SELECT agent_id, capability, recent FROM agent_outcomes").fetchall()
    return [(agent_id, name, mark == "1") for agent_id, name, recent in rows for mark in recent[-last:]]


def delete_ended_tasks(connection: sqlite3.Connection, before: int) -> None:
    """Forget the ended tasks whose every event came before a `seq`."""
    connection.execute(
        "DELETE FROM tasks WHERE seq < ? AND last_seq < ? AND completed_at IS NOT NULL", (before, before)
    )


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT version FROM projections").fetchone()[0]
