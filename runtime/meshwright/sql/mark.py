"""The mark of a store: how far it had come, in a file of its own.

SQLite cannot tell that the end of its log is gone: a WAL that was cut or removed opens as an older database.
The mark follows the durable commits, by a second at most, and is never ahead of them: a database behind its
mark has lost something.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic_core import from_json, to_json

from meshwright.core.errors import StoreFailed
from meshwright.core.ids import new_id
from meshwright.sql.folder import read_private, write_private
from meshwright.sql.migrations import SqlConnection

FILE_NAME = "mesh.mark"
_UNKNOWN = (
    "%s is %s, and the log has %d events: if it was cut, nobody can tell. "
    "Compare mesh tasks with what you expect; mesh verify --audit checks the log against its signed heads"
)
_logger = logging.getLogger(__name__)
_COUNT_TASKS = "SELECT count(*) FROM heads WHERE type = 'Orchestrator'"


class _Mark(NamedTuple):
    """The store's id, the `seq` of its last event, and how many tasks it has accepted."""

    store: str
    seq: int
    tasks: int


class Loss(NamedTuple):
    """The loss of a store: its events after one `seq` up to another, and about so many tasks."""

    seq: int
    marked_seq: int
    tasks: int
    marked_tasks: int
    replaced: bool

    def __str__(self) -> str:
        tasks = f" and {self.marked_tasks - self.tasks:,} of {self.marked_tasks:,} accepted tasks"
        missing_tasks = tasks if self.tasks < self.marked_tasks else ""
        if self.marked_seq <= self.seq:
            return "another database is in its place"
        events = f"{self.marked_seq - self.seq:,} events (seq {self.seq + 1} to {self.marked_seq})"
        return f"{events}{missing_tasks} are gone"


class Marker:
    """Keeps the mark of a folder. `tasks` counts the accepted tasks."""

    def __init__(self, folder: Path, *, sync: Path | None) -> None:
        self.tasks = 0
        self._path = folder / FILE_NAME
        self._sync = sync
        self._mark: _Mark | None = None

    def loss(self, connect: Callable[[], SqlConnection] | None) -> Loss | None:
        """Returns the events and tasks that the database lacks (None: there is no database). Changes nothing
        in the folder.

        Without a mark that is not known; a log with events then gets a warning.
        """
        self._mark = _read(self._path)
        store, seq = _state_of(connect) if connect else ("", 0)
        if self._mark is None:
            if seq:
                _logger.warning(_UNKNOWN, self._path, "damaged" if self._path.exists() else "missing", seq)
            return None
        replaced = store not in ("", self._mark.store)
        if seq >= self._mark.seq and not replaced:
            return None  # without the tasks, whose count takes as long as there are many
        tasks = _tasks_of(connect) if connect and store else 0
        return Loss(seq, self._mark.seq, tasks, self._mark.tasks, replaced)

    def start(self, session: SqlConnection) -> None:
        """Take up the counts of an open database, and give it an id where it has none."""
        session.execute("INSERT OR IGNORE INTO meta VALUES ('store', ?)", (new_id(),))
        [(store,)] = session.execute("SELECT value FROM meta WHERE name = 'store'").fetchall()
        is_same = self._mark is not None and self._mark.store == store
        self.tasks = (
            self._mark.tasks if is_same and self._mark else session.execute(_COUNT_TASKS).fetchone()[0]
        )
        if self._mark is None:
            self._put(_Mark(store, _last_seq(session), self.tasks))
        else:
            self._mark = _Mark(store, self._mark.seq, self.tasks)

    def write(self, session: SqlConnection) -> None:
        """Mark what a session that reads can see."""
        assert self._mark is not None
        tasks = self.tasks  # first: a later one may not be durable yet
        mark = _Mark(self._mark.store, max(self._mark.seq, _last_seq(session)), tasks)
        if mark != self._mark:
            self._put(mark)

    def _put(self, mark: _Mark) -> None:
        self._make_durable()
        write_private(self._path, to_json(mark._asdict()).decode())
        self._mark = mark

    def _make_durable(self) -> None:
        """If commits are not synced, a power cut could leave the mark and take the events that it counts."""
        if self._sync is not None and self._sync.exists():
            wal = os.open(self._sync, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(wal)
            finally:
                os.close(wal)


def marked_seq(folder: Path) -> int:
    """How far the mark of a folder says that its log had come; 0 where it has none."""
    mark = _read(folder / FILE_NAME)
    return mark.seq if mark is not None else 0


def _read(path: Path) -> _Mark | None:
    """The mark of a folder; None where there is none, or a power cut has left half of one."""
    try:
        fields = from_json(read_private(path))
        return _Mark(str(fields["store"]), int(fields["seq"]), int(fields["tasks"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None


def _state_of(connect: Callable[[], SqlConnection]) -> tuple[str, int]:
    """The id of a database and its last `seq`; nothing where it is empty."""
    session = connect()
    try:
        if not session.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return "", 0
        store = session.execute("SELECT value FROM meta WHERE name = 'store'").fetchone()
        return store[0] if store else "", _last_seq(session)
    finally:
        session.close()


def _tasks_of(connect: Callable[[], SqlConnection]) -> int:
    session = connect()
    try:
        return session.execute(_COUNT_TASKS).fetchone()[0]
    finally:
        session.close()


def _last_seq(session: SqlConnection) -> int:
    return session.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]


def refusal(path: Path, loss: Loss) -> StoreFailed:
    """Why a store that has lost something is not opened, and how to go on."""
    cause = (
        "Another file was put in its place"
        if loss.replaced
        else f"{path.name}-wal was cut or removed, the disk lost writes, or an older copy is in its place"
    )
    return StoreFailed(
        f"{path} lacks what was committed: {loss}. {cause}",
        remedy="restore a newer copy, or go on without what is lost: mesh up --accept-loss",
    )
