"""SQLite: one file in the data folder, locked by one process.

WAL; `synchronous` is FULL for durability "full" (survives a power cut) and NORMAL for "normal" (survives
kill -9).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from meshwright.errors import StoreFailed, StoreLocked
from meshwright.messages import new_id
from meshwright.sql.database import Cursor, Database, Row, Session
from meshwright.sql.folder import make_private, open_private
from meshwright.sql.mark import Marker, refusal

Durability = Literal["full", "normal", "off"]
FILE_NAME = "mesh.db"
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
_CACHED_STATEMENTS = 1024  # multi-row statements are one per number of rows
_CHECKPOINT_PAGES = 4000  # about 16 MB of WAL between checkpoints
MAX_INTEGER = 2**63 - 1


class SqliteSession(Session):
    """A connection to a SQLite file; `connection` is the driver's."""

    dialect = "sqlite"
    unbindable = (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError)

    errors = (sqlite3.Error, UnicodeDecodeError)
    """What `execute` raises where the file cannot be read."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> Cursor:
        """Run one statement."""
        return self.connection.execute(statement, values)

    def stream(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Generator[Row, None, None]:
        """The rows of a statement one by one."""
        yield from self.connection.execute(statement, values)

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

    def is_fatal(self, error: Exception) -> bool:
        """Whether the file itself is in trouble."""
        return type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class SqliteDatabase(Database):
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
        self._lock: IO[str] | None = None

    def connect_reader(self) -> SqliteSession:
        """One more read-only session, for a caller that must not wait for a thread; the caller closes it."""
        return SqliteSession(
            sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_TIMEOUT_SECONDS,
                cached_statements=_CACHED_STATEMENTS,
            )
        )

    def count_accepted(self, tasks: int) -> None:
        """Count tasks that the transaction accepts."""
        self._marker.tasks += tasks

    def _connect_writer(self) -> SqliteSession:
        make_private(self.folder)
        self._lock = self._take_lock()
        self._look_for_loss()
        if not self.path.exists():  # SQLite gives its other files the mode of this one
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
        connection = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_SECONDS,
            cached_statements=_CACHED_STATEMENTS,
        )
        session = SqliteSession(connection)
        try:
            session.execute("PRAGMA journal_mode=WAL")
            session.execute(f"PRAGMA synchronous={self._durability}")
            session.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        except BaseException:  # whatever it was, passed on: only the connection must not stay open
            session.close()
            raise
        return session

    def _bring_up_to_date(self, session: Session) -> None:
        super()._bring_up_to_date(session)
        self._marker.start(session)

    def _look_for_loss(self) -> None:
        """Compare with the mark before anything is opened for writing, which would change what is left."""
        loss = self._marker.loss(self.connect_reader if self.path.exists() else None)
        if loss is not None and not self._accept_loss:
            raise refusal(self.path, loss)
        self.accepted_loss = loss

    def _take_lock(self) -> IO[str]:
        lock = os.fdopen(open_private(self.folder / "mesh.lock", os.O_RDWR | os.O_CREAT), "r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise StoreLocked(
                f"{self.folder} is in use by process {owner}",
                remedy="use that mesh, stop it, or choose another folder with --data DIR",
            ) from None
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _seconds_to_wait(self) -> float | None:
        return self._marker.seconds_left

    def _committed(self) -> None:
        self._marker.committed()

    def _after_group(self, session: Session, *, closing: bool) -> None:
        if not self._temporary and self.failure is None:
            self._marker.write_when_due(session, now=closing)

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, UnicodeDecodeError):  # SQLite quotes what it found, and that is no text
            return StoreFailed(f"{self.path} is damaged: SQLite cannot read its schema", remedy=RESTORE)
        if isinstance(error, sqlite3.Error) and not _is_refused(error):
            return StoreFailed(f"{self.path} is damaged: {error}", remedy=RESTORE)
        if not isinstance(error, sqlite3.Error | OSError):
            return error
        remedy = "make room or the folder writable and start again: accepted tasks go on by themselves"
        return StoreFailed(f"cannot write to {self.path}: {error}", remedy=remedy)


def _is_refused(error: sqlite3.Error) -> bool:
    """Whether the system refused SQLite the disk. Our statements are right, so all else is in the file."""
    # Python's own errors, as for text that is no UTF-8, have no code; extended codes keep it in the low byte.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in REFUSED
