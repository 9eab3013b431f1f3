"""SQLite: one file in the data folder, locked by one process.

WAL; `synchronous` is FULL for durability "full" (survives a power cut) and NORMAL for "normal" (survives
kill -9).
"""

from __future__ import annotations

import asyncio
import marshal
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache, partial
from itertools import chain
from operator import length_hint
from pathlib import Path
from typing import IO, Any, Literal

from meshwright.core.errors import StoreFailed
from meshwright.core.folders import remove_folder
from meshwright.core.ids import new_id
from meshwright.engine.sql.database import Cursor, Row, Session, Values, WriteJob, marks
from meshwright.engine.sql.folder import Marker, lock_folder, make_private, open_private, refusal
from meshwright.engine.sql.migrations import create_versions, creation_scripts
from meshwright.engine.sql.writer import ApartDatabase, WriterProcess

Durability = Literal["full", "normal", "off"]
FILE_NAME = "mesh.db"
_START_AGAIN = "start again: accepted tasks go on by themselves"
RESTORE = "restore it from a copy, or choose another folder with --data DIR"
REFUSED = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)
BUSY_TIMEOUT_SECONDS = 5.0
_CACHED_STATEMENTS = 1024  # those that name keys are one per number of keys
_CHECKPOINT_PAGES = 4000  # about 16 MB of WAL between checkpoints
MAX_INTEGER = 2**63 - 1
_ROWS_TOGETHER = 8  # each statement lets go of the interpreter's lock
_MARK_SECONDS = 1.0  # that the mark may be behind


def _as_it_is(value: Any) -> Any:
    return value


# The driver looks for an adapter of each None and bytes, and without one for two methods, which costs more
# than to bind the value. That of None is no call of Python.
sqlite3.register_adapter(type(None), {None: None}.get)
sqlite3.register_adapter(bytes, _as_it_is)


class SqliteSession(Session):
    """A connection to a SQLite file; `connection` is the driver's."""

    dialect = "sqlite"
    unbindable = (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError)

    errors = (sqlite3.Error, UnicodeDecodeError)
    """The errors of `execute` for a file that cannot be read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, statement: str, values: Values = ()) -> Cursor:
        """Run one statement."""
        return self.connection.execute(statement, values)

    def stream(self, statement: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a statement one by one."""
        yield from self.connection.execute(statement, values)

    def insert(self, into: str, rows: Sequence[Row], *, then: str = "") -> None:
        """Insert rows, eight to a statement and the rest one by one: two statements are prepared."""
        whole = len(rows) - len(rows) % _ROWS_TOGETHER
        together = [tuple(chain(*rows[at : at + _ROWS_TOGETHER])) for at in range(0, whole, _ROWS_TOGETHER)]
        for count, values in ((_ROWS_TOGETHER, together), (1, rows[whole:])):
            if values:
                places = ",".join([f"({marks(len(rows[0]))})"] * count)
                self._insert(f"INTO {into} VALUES {places} {then}", values)

    def _insert(self, places: str, rows: Sequence[Row]) -> None:
        statement = f"INSERT {places}"
        rest = iter(rows)
        while length_hint(rest):
            try:
                self.connection.executemany(statement, rest)
            except self.unbindable:  # the rows before the one that it took last are written
                refused = rows[len(rows) - length_hint(rest) - 1]
                self.connection.execute(statement, tuple(map(self.bindable, refused)))

    def script(self, text: str) -> None:
        """Run several statements, all or nothing."""
        self.connection.executescript(f"BEGIN IMMEDIATE;\n{text}\nCOMMIT;")

    def bindable(self, value: Any) -> Any:
        """The nearest value that SQLite accepts."""
        if value is None or isinstance(value, float | bytes):
            return value
        if isinstance(value, int):
            return max(-MAX_INTEGER - 1, min(value, MAX_INTEGER))
        return str(value).encode(errors="replace").decode()

    def by_index(self, table: str, index: str | None) -> str:
        """A table with the index that reads it."""
        return f"{table} NOT INDEXED" if index is None else f"{table} INDEXED BY {index}"

    def note_group(self, group_id: bytes, results: Sequence[Any]) -> None:
        """Note a group as the last that was written, with the results of its jobs."""
        values = (group_id, marshal.dumps(list(results)))
        self.execute("INSERT OR REPLACE INTO last_group VALUES (1, ?, ?)", values)

    def noted_results(self, group_id: bytes) -> list[Any] | None:
        """The results of the group if it is the last that was written; durable then. None: it is not."""
        row = self.execute("SELECT results FROM last_group WHERE id = ?", (group_id,)).fetchone()
        self.execute("DELETE FROM last_group")  # this commit syncs the one before it
        return None if row is None else marshal.loads(row[0])

    def is_fatal(self, error: Exception) -> bool:
        """Whether the file itself is in trouble."""
        return type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError)


class SqliteDatabase(ApartDatabase):
    """The file `mesh.db` of a folder; without a folder a private temporary one, removed when closed."""

    dialect = "sqlite"
    exclusive = True

    def __init__(
        self, folder: Path | None = None, *, durability: Durability = "full", accept_loss: bool = False
    ) -> None:
        self._temporary = folder is None
        # Made when it is opened: a mesh that cannot be built leaves nothing behind.
        folder = folder or Path(tempfile.gettempdir(), f"mesh-{new_id()}")
        self.path = folder / FILE_NAME
        super().__init__(str(self.path), folder)
        self._durability: Durability = "off" if self._temporary else durability
        self._accept_loss = accept_loss
        wal = self.path.with_name(f"{FILE_NAME}-wal")
        self._marker = Marker(self.folder, sync=wal if durability == "normal" else None)
        self._mark_timer: asyncio.TimerHandle | None = None
        self._lock: IO[str] | None = None
        self._ended: WriterProcess | None = None

    def connect_reader(self) -> SqliteSession:
        """One more read-only session, for a caller that must not wait for a thread; the caller closes it."""
        return SqliteSession(_connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True))

    def count_accepted(self, tasks: int) -> None:
        """Count tasks that were accepted, durably."""
        self._marker.tasks += tasks

    async def compact(self) -> None:
        """Rewrite the file without deleted rows. Commits wait meanwhile. Raises StoreFailed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(problem: str | None, error: StoreFailed | None) -> None:
            what = f"{self.path} cannot be compacted: {problem}"
            failure = error or (StoreFailed(what) if problem else None)
            if future.done():
                return  # its waiter was cancelled
            future.set_exception(failure) if failure else future.set_result(None)

        self.submit(_compact, (), done)
        await future

    def _connect_writer(self) -> SqliteSession:
        make_private(self.folder)
        self._lock = lock_folder(self.folder)
        self._look_for_loss()
        if not self.path.exists():  # SQLite gives its other files the mode of this one
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
        return connect_writer(self.path, self._durability)

    def _bring_up_to_date(self, session: Session) -> None:
        if session.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            super()._bring_up_to_date(session)
        else:
            self._create_tables(session)
        self._marker.start(session)

    def _create_tables(self, session: Session) -> None:
        """Fill a new file in one commit: each step by itself would wait for the disk."""
        scripts = [
            script
            for component, folder in self._migrations.items()
            for script in creation_scripts(component, folder, self.dialect)
        ]
        _new_tables("\n".join(scripts)).backup(session.connection)

    def _keep_copy(self, session: Session) -> Path:
        """Copy the file beside it, once for an upgrade. Raises what a disk that refuses does."""
        upgrade_names = "-".join(f"{name}-{after}" for name, _, after in self.upgrades)
        copy = self.path.with_name(f"{FILE_NAME}.before-{upgrade_names}")
        if not copy.exists():  # else of a start that broke off in the upgrade
            draft = copy.with_name(f".{copy.name}")
            draft.unlink(missing_ok=True)
            os.close(open_private(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL))
            with closing(_connect(draft)) as target:
                session.connection.backup(target)
            draft.rename(copy)
        return copy

    def _look_for_loss(self) -> None:
        """Compare with the mark before anything is opened for writing, which would change the file."""
        loss = self._marker.loss(self.connect_reader if self.path.exists() else None)
        if loss is not None and not self._accept_loss:
            raise refusal(self.path, loss)
        self.accepted_loss = loss

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._temporary:
            with suppress(OSError):
                remove_folder(self.folder)

    # Writing

    def _writer(self) -> Callable[[], Session]:
        return partial(connect_writer, self.path, self._durability)

    def _held(self) -> Sequence[int]:
        assert self._lock is not None
        return (self._lock.fileno(),)

    def _may_write_apart(self, jobs: Sequence[WriteJob]) -> bool:
        """False for a compaction: it commits in between, so that it could not be said how far it came."""
        return not any(job.function is _compact for job in jobs)

    def _writer_ended(self, process: WriterProcess, jobs: Sequence[WriteJob]) -> None:
        if jobs:
            self._ended = process
            self._write(jobs)
        elif self._thread is not None:
            self._thread.submit(process.kill)

    def _write_group(self, session: Session, jobs: Sequence[WriteJob]) -> Sequence[Any]:
        """Write a group in the thread; it may be the last one of a process that has ended."""
        process, self._ended = self._ended, None
        if process is not None:
            session.close()
            self._session = session = connect_writer(self.path, self._durability)
            results = session.noted_results(process.kill())
            if results is not None:
                return results
        return super()._write_group(session, jobs)

    def _written(self, jobs: Sequence[WriteJob], results: Sequence[Any], failure: StoreFailed | None) -> None:
        if failure is None and self._mark_timer is None and not self._temporary:
            assert self._loop is not None
            self._mark_timer = self._loop.call_later(_MARK_SECONDS, self._mark)
        super()._written(jobs, results, failure)

    def _mark(self) -> None:
        self._mark_timer = None
        if self._readers is not None and self.failure is None:
            self._readers.submit(self._write_mark)

    def _write_mark(self) -> None:
        with suppress(OSError, sqlite3.Error):  # the next commit tells of the disk; the mark may stay behind
            self._marker.write(self._reading())

    async def _end_writing(self) -> None:
        if self._mark_timer is not None:
            self._mark_timer.cancel()
            self._mark()
        await super()._end_writing()

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, UnicodeDecodeError):  # SQLite quotes what it found, and that is no text
            return StoreFailed(f"{self.path} is damaged: SQLite cannot read its schema", remedy=RESTORE)
        if isinstance(error, sqlite3.Error) and not _is_refused(error):
            return StoreFailed(f"{self.path} is damaged: {error}", remedy=RESTORE)
        if not isinstance(error, sqlite3.Error | OSError):
            return error
        remedy = f"Make room or the folder writable and {_START_AGAIN}"
        return StoreFailed(f"Cannot write to {self.path}: {error}", remedy=remedy)


def _compact(session: Session) -> str | None:
    """Rewrite the file; returns why that failed. The requests before it in the group are committed by
    then."""
    session.execute("COMMIT")
    try:
        session.execute("VACUUM")
        session.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:  # a full disk: the file is as it was
        return str(error)
    finally:
        session.execute("BEGIN IMMEDIATE")
    return None


def connect_writer(path: Path, durability: str) -> SqliteSession:
    """The session that writes a file, which is made if it does not exist."""
    session = SqliteSession(_connect(path))
    try:
        session.execute("PRAGMA journal_mode=WAL")
        session.execute(f"PRAGMA synchronous={durability}")
        session.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    except BaseException:  # whatever it was, passed on: only the connection must not stay open
        session.close()
        raise
    return session


def _connect(database: str | Path, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        database,
        uri=uri,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT_SECONDS,
        cached_statements=_CACHED_STATEMENTS,
    )


@cache  # a process that opens many new files, as tests do, runs the steps once
def _new_tables(script: str) -> sqlite3.Connection:
    """A database in memory with the tables that a script makes."""
    session = SqliteSession(_connect(":memory:"))
    create_versions(session)
    session.script(script)
    return session.connection


def _is_refused(error: sqlite3.Error) -> bool:
    """Whether the system refused SQLite the disk. Our statements are right, so all else is in the file."""
    # Python's own errors, as for text that is no UTF-8, have no code; extended codes keep it in the low byte.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in REFUSED
