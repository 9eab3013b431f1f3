"""One SQLite file with one writer thread: what waits to be written shares a transaction, hence an fsync.

Jobs commit in the order of submission. WAL; `synchronous` is FULL for durability "full" (survives a power
cut) and NORMAL for "normal" (survives kill -9). Readers see committed data only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeVar

from meshwright.errors import StoreFailed, StoreLocked, StoreTooNew
from meshwright.storage.folder import make_private, open_private
from meshwright.storage.mark import Loss, Marker, refusal

Durability = Literal["full", "normal", "off"]
ResultT = TypeVar("ResultT")
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
MAX_JOBS = 512  # jobs of one transaction
CACHED_STATEMENTS = 1024  # multi-row statements are one per number of rows
CHECKPOINT_PAGES = 4000  # about 16 MB of WAL between checkpoints


class Job(Protocol):
    """Something to write. `apply` runs in the writer thread, within a transaction shared with others."""

    def apply(self, connection: sqlite3.Connection) -> None:
        """Execute the statements. Must not fail for reasons of data: it would fail its neighbours."""
        ...

    def done(self, error: StoreFailed | None) -> None:
        """Called on the event loop once the transaction is durable, or with why it is not."""
        ...


class Database:
    """The file `mesh.db` of a folder; without a folder a private temporary one, gone when closed."""

    def __init__(
        self, folder: Path | None = None, *, durability: Durability = "full", accept_loss: bool = False
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="mesh-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else Path(folder or ".")
        self.path = self.folder / FILE_NAME
        self._durability: Durability = "off" if folder is None else durability
        self.accepted_loss: Loss | None = None
        self._accept_loss = accept_loss
        wal = self.path.with_name(f"{FILE_NAME}-wal")
        self._marker = Marker(self.folder, sync=wal if durability == "normal" else None)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-reader")
        self._reader: sqlite3.Connection | None = None
        self._writer: threading.Thread | None = None
        self._lock: IO[str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: StoreFailed | None = None

    async def open(self) -> None:
        """Lock the folder, bring the schema up to date, and start the writer.

        Raises StoreLocked when another process holds it, StoreTooNew, or StoreFailed: also for one that lacks
        what was committed to it, unless that loss is accepted.
        """
        self._loop = asyncio.get_running_loop()
        try:
            connection = await asyncio.to_thread(self._prepare)
        except BaseException:  # cancelled too: nobody would unlock it later
            self._unlock()
            raise
        self._writer = threading.Thread(
            target=self._write_all, args=(connection,), name="mesh-writer", daemon=True
        )
        self._writer.start()

    async def close(self) -> None:
        """Write what is waiting, and close: everything is in the one file then. Idempotent."""
        await asyncio.to_thread(self._readers.shutdown)
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._writer is not None:  # the last to close takes the WAL into the file, and only a writer can
            self._jobs.put(None)
            await asyncio.to_thread(self._writer.join)
            self._writer = None
        self._unlock()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def submit(self, job: Job) -> None:
        """Queue a job for the writer; `job.done` tells the end of it."""
        self._jobs.put(job)

    async def write(self, function: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run a function in a write transaction and return its result once that is durable.

        What the function raises is raised here, and undoes only what it did itself. A failing commit
        raises StoreFailed.
        """
        job = _Call(function, asyncio.get_running_loop().create_future())
        self.submit(job)
        return await job.future

    def count_accepted(self, tasks: int) -> None:
        """Count tasks that the transaction accepts. For the writer's thread."""
        self._marker.tasks += tasks

    async def read(self, function: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Run a function on a read-only connection, in the reader's thread; it sees committed data."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function)

    def _read(self, function: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        if self._reader is None:
            self._reader = self.connect_reader()
        return function(self._reader)

    def connect_reader(self) -> sqlite3.Connection:
        """Open one more read-only connection, for a caller that must not wait for a thread; it closes it."""
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_SECONDS,
            cached_statements=CACHED_STATEMENTS,
        )

    def _prepare(self) -> sqlite3.Connection:
        try:
            make_private(self.folder)
            self._lock = self._take_lock()
            self._look_for_loss()
            return self._connect_writer()
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise self._failed(error) from error

    def _look_for_loss(self) -> None:
        """Compare with the mark before anything is opened for writing, which would change what is left."""
        loss = self._marker.loss(self.connect_reader if self.path.exists() else None)
        if loss is not None and not self._accept_loss:
            raise refusal(self.path, loss)
        self.accepted_loss = loss

    def _connect_writer(self) -> sqlite3.Connection:
        if not self.path.exists():  # SQLite gives its other files the mode of this one
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
        connection = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_SECONDS,
            cached_statements=CACHED_STATEMENTS,
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._durability}")
            connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            migrate(connection, self.path)
            self._marker.start(connection)
        except BaseException:  # whatever it was, passed on: only the connection must not stay open
            connection.close()
            raise
        return connection

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

    def _write_all(self, connection: sqlite3.Connection) -> None:
        running = True
        while running:
            jobs, running = self._waiting_jobs()
            if jobs:
                error = self.failure or self._write_group(connection, jobs)
                self._tell(jobs, error)
            if self._temporary is None and self.failure is None:
                self._marker.write_when_due(connection, now=not running)
        connection.close()

    def _waiting_jobs(self) -> tuple[list[Job], bool]:
        try:
            first = self._jobs.get(timeout=self._marker.seconds_left)
        except queue.Empty:
            return [], True
        if first is None:
            return [], False
        jobs = [first]
        while len(jobs) < MAX_JOBS:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
        return jobs, True

    def _write_group(self, connection: sqlite3.Connection, jobs: list[Job]) -> StoreFailed | None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.apply(connection)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 whatever it was, none of the group is durable and all must hear of it
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.failure = self._failed(error)
            return self.failure
        self._marker.committed()
        return None

    def _tell(self, jobs: list[Job], error: StoreFailed | None) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_tell_each, jobs, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _failed(self, error: BaseException) -> StoreFailed:
        if isinstance(error, StoreFailed):
            return error
        if isinstance(error, UnicodeDecodeError):  # SQLite quotes what it found, and that is no text
            return StoreFailed(f"{self.path} is damaged: SQLite cannot read its schema", remedy=RESTORE)
        if isinstance(error, sqlite3.Error) and not _is_refused(error):
            return StoreFailed(f"{self.path} is damaged: {error}", remedy=RESTORE)
        remedy = "make room or the folder writable and start again: accepted tasks go on by themselves"
        return StoreFailed(f"cannot write to {self.path}: {error}", remedy=remedy)


def _is_refused(error: sqlite3.Error) -> bool:
    """Whether the system refused SQLite the disk. Our statements are right, so all else is in the file."""
    # Python's own errors, as for text that is no UTF-8, have no code; extended codes keep it in the low byte.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in REFUSED


def _tell_each(jobs: list[Job], error: StoreFailed | None) -> None:
    for job in jobs:
        job.done(error)


class _Call(Job):
    """A function to run in a savepoint of its own, and the future of its result."""

    def __init__(self, function: Callable[[sqlite3.Connection], Any], future: asyncio.Future[Any]) -> None:
        self.future = future
        self._function = function
        self._result: Any = None
        self._error: Exception | None = None

    def apply(self, connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT call")
        try:
            self._result = self._function(connection)
        except Exception as error:  # handed to the caller by `done`
            if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                raise  # the file itself is in trouble: the whole group fails
            connection.execute("ROLLBACK TO call")
            self._error = error
        connection.execute("RELEASE call")

    def done(self, error: StoreFailed | None) -> None:
        if self.future.done():
            return  # its waiter was cancelled
        problem = error or self._error
        if problem is not None:
            self.future.set_exception(problem)
        else:
            self.future.set_result(self._result)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply the schema's files that the database has not seen. Raises StoreTooNew for a later version."""
    steps = schema_steps()
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(steps):
        raise StoreTooNew(
            f"{path} has schema version {version}, this Meshwright knows {len(steps)}",
            remedy="upgrade Meshwright, or choose another folder with --data DIR",
        )
    for number, script in enumerate(steps[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={number};\nCOMMIT;")


def schema_steps() -> list[str]:
    """The schema's SQL files, in order."""
    files = [
        file for file in resources.files("meshwright.storage.schema").iterdir() if file.name.endswith(".sql")
    ]
    return [file.read_text() for file in sorted(files, key=lambda file: file.name)]
