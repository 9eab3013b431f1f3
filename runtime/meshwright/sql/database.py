"""The port of the mesh's database: one writer that groups jobs into transactions, and readers.

Jobs commit in the order of submission, and those that wait share a transaction, hence an fsync. Readers see
committed data only. A dialect adds connections, errors and types; everything else is here.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from meshwright.errors import StoreFailed, StoreTooNew
from meshwright.sql.mark import Loss

_Dialect = Literal["sqlite", "postgres"]
Row = tuple[Any, ...]
ResultT = TypeVar("ResultT")
ArgumentsP = ParamSpec("ArgumentsP")

MESH = "mesh"
"""The component whose tables are the mesh's own."""
_CREATE_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS component_versions (component TEXT PRIMARY KEY, version INTEGER)"
)
_SELECT_VERSION = "SELECT version FROM component_versions WHERE component = ?"
_MAX_JOBS = 512  # in one transaction
MAX_ROWS = 100  # in one statement: its values stay far below the 32,766 that both databases accept


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        ...

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...


class Session(ABC):
    """A connection, used by one thread at a time. Statements take `?` or `:name`, and are the same for both
    databases wherever SQL allows."""

    dialect: ClassVar[_Dialect]
    unbindable: ClassVar[tuple[type[Exception], ...]]
    """What the driver raises for a value that it cannot send, before anything is written."""

    @abstractmethod
    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> Cursor:
        """Run one statement."""

    @abstractmethod
    def bindable(self, value: Any) -> Any:
        """The nearest value that the database accepts."""

    @abstractmethod
    def stream(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Generator[Row, None, None]:
        """The rows of a statement one by one, for as long as the caller wants more."""

    @abstractmethod
    def script(self, text: str) -> None:
        """Run several statements, all or nothing."""

    def by_index(self, table: str, index: str | None) -> str:
        """A table to be read by one of its indices, or by its primary key; all of them are code."""
        return table

    @abstractmethod
    def is_fatal(self, error: Exception) -> bool:
        """Whether an error says that the database itself is in trouble, so that its transaction fails."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def insert(self, into: str, rows: Sequence[Sequence[Any]], *, then: str = "") -> int:
        """Insert rows, many to a statement, and return how many were written.

        `into` (table and columns) and `then` (a conflict clause) are code, never input. A value that the
        database cannot take is replaced by one that it can.
        """
        written = 0
        for start in range(0, len(rows), MAX_ROWS):
            chunk = rows[start : start + MAX_ROWS]
            row = f"({marks(len(chunk[0]))})"
            statement = f"INSERT INTO {into} VALUES {','.join([row] * len(chunk))} {then}"  # noqa: S608 code
            values = [value for row in chunk for value in row]
            try:
                written += self.execute(statement, values).rowcount
            except self.unbindable:
                written += self.execute(statement, [self.bindable(value) for value in values]).rowcount
        return written

    def select_in(self, select: str, keys: Iterable[Any]) -> list[Row]:
        """The rows of `select`, code that ends with a column, where that column holds one of the keys."""
        wanted = list(keys)
        found: list[Row] = []
        for start in range(0, len(wanted), MAX_ROWS):
            chunk = wanted[start : start + MAX_ROWS]
            statement = f"{select} IN ({marks(len(chunk))})"
            try:
                found += self.execute(statement, chunk).fetchall()
            except self.unbindable:
                found += self.execute(statement, [self.bindable(key) for key in chunk]).fetchall()
        return found

    def delete_in(self, table: str, column: str, keys: Sequence[Any]) -> None:
        """Delete the rows whose column holds one of the keys; table and column are code, never input."""
        for start in range(0, len(keys), MAX_ROWS):
            chunk = keys[start : start + MAX_ROWS]
            self.execute(f"DELETE FROM {table} WHERE {column} IN ({marks(len(chunk))})", chunk)  # noqa: S608


class Job(Protocol):
    """Something to write. `apply` runs in the writer's thread, in a transaction shared with other jobs."""

    def apply(self, session: Session) -> None:
        """Execute the statements. What it raises fails the other jobs of the transaction too."""
        ...

    def done(self, error: StoreFailed | None) -> None:
        """Called on the event loop once the transaction is durable, or with the reason why it is not."""
        ...


class Database(ABC):
    """The database of a mesh. `exclusive`: no other process writes to it."""

    dialect: ClassVar[_Dialect]
    exclusive: ClassVar[bool]

    def __init__(self, location: str, folder: Path) -> None:
        self.location = location
        """Where it is, for people: never a password."""
        self.folder = folder
        """The data folder of this process."""
        self.accepted_loss: Loss | None = None
        self.failure: StoreFailed | None = None
        self._migrations: dict[str, Traversable] = {MESH: resources.files("meshwright.sql.migrations")}
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._readers: ThreadPoolExecutor | None = None
        self._reader: Session | None = None
        self._writer: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def count_accepted(self, tasks: int) -> None:  # noqa: B027 nothing, where a dialect needs none
        """Count tasks that the transaction accepts. For the writer's thread."""

    def migrate(self, component: str, folder: Traversable) -> None:
        """Bring a component's tables up to date when the database is opened."""
        self._migrations[component] = folder

    # Lifetime

    async def open(self) -> None:
        """Bring the schema up to date and start the writer.

        Raises StoreLocked where another process holds it, StoreTooNew, StoreFailed.
        """
        self._loop = asyncio.get_running_loop()
        try:
            session = await asyncio.to_thread(self._prepare)
        except BaseException:  # a cancelled open must release the database too
            self._release()
            raise
        self._readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-reader")
        self._writer = threading.Thread(
            target=self._write_all, args=(session,), name="mesh-writer", daemon=True
        )
        self._writer.start()

    async def close(self) -> None:
        """Write what is waiting, and close. Idempotent."""
        if self._readers is not None:
            await asyncio.to_thread(self._readers.shutdown)
            self._readers = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._writer is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._writer.join)
            self._writer = None
        self._release()

    @abstractmethod
    def connect_reader(self) -> Session:
        """One more read-only session, for a caller that must not wait for a thread; the caller closes it."""

    @abstractmethod
    def _connect_writer(self) -> Session:
        """Open the session that writes."""

    @abstractmethod
    def _translated(self, error: Exception) -> Exception:
        """A driver's error as StoreFailed, any other as it is."""

    def _raise(self, error: Exception) -> None:
        """Raise StoreFailed instead of a driver's error."""
        problem = self._translated(error)
        if problem is not error:
            raise problem from error

    def _failed(self, error: Exception) -> StoreFailed:
        error = self._translated(error)
        return (
            error
            if isinstance(error, StoreFailed)
            else StoreFailed(f"cannot write to {self.location}: {error}")
        )

    def _release(self) -> None:  # noqa: B027 nothing, where a dialect needs none
        """Release the database: it is closed, or could not be opened."""

    def _prepare(self) -> Session:
        session: Session | None = None
        try:
            session = self._connect_writer()
            self._bring_up_to_date(session)
        except Exception as error:
            if session is not None:
                session.close()
            self._raise(error)
            raise
        return session

    def _bring_up_to_date(self, session: Session) -> None:
        for component, folder in self._migrations.items():
            upgrade(session, component, folder, self.location)

    # Reading and writing

    def submit(self, job: Job) -> None:
        """Queue a job for the writer, which calls `job.done` in the end."""
        self._jobs.put(job)

    async def write(
        self,
        function: Callable[Concatenate[Any, ArgumentsP], ResultT],
        *args: ArgumentsP.args,
        **kwargs: ArgumentsP.kwargs,
    ) -> ResultT:
        """Call `function(session, ...)` in a write transaction; returns its result once that is durable.

        What the function raises is raised here, and undoes only what the function did. Raises StoreFailed.
        """
        job = _Call(function, args, kwargs)
        self.submit(job)
        try:
            return await job.future
        except Exception as error:
            self._raise(error)
            raise

    async def read(
        self,
        function: Callable[Concatenate[Any, ArgumentsP], ResultT],
        *args: ArgumentsP.args,
        **kwargs: ArgumentsP.kwargs,
    ) -> ResultT:
        """Call `function(session, ...)` in the reader's thread; it sees committed data."""
        if self._readers is None:
            raise self.failure or StoreFailed(f"{self.location} is not open")

        def call() -> ResultT:
            try:
                if self._reader is None:
                    self._reader = self.connect_reader()
                return function(self._reader, *args, **kwargs)
            except Exception as error:
                self._raise(error)
                raise

        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def read_apart(
        self,
        function: Callable[Concatenate[Any, ArgumentsP], ResultT],
        *args: ArgumentsP.args,
        **kwargs: ArgumentsP.kwargs,
    ) -> ResultT:
        """Call `function(session, ...)` on a connection of its own: it may take a second, and other readers
        do not wait."""

        def call() -> ResultT:
            session = self.connect_reader()
            try:
                return function(session, *args, **kwargs)
            except Exception as error:
                self._raise(error)
                raise
            finally:
                session.close()

        return await asyncio.to_thread(call)

    # The writer's thread

    def _write_all(self, session: Session) -> None:
        running = True
        while running:
            jobs, running = self._waiting_jobs()
            if jobs:
                error = self.failure or self._write_group(session, jobs)
                self._tell(jobs, error)
            self._after_group(session, closing=not running)
        session.close()

    def _seconds_to_wait(self) -> float | None:
        """How long the writer may wait for jobs before `_after_group` is due."""
        return None

    def _after_group(self, session: Session, *, closing: bool) -> None:  # noqa: B027 nothing, where a dialect needs none
        """What the writer does between groups."""

    def _committed(self) -> None:  # noqa: B027 nothing, where a dialect needs none
        """A group has committed."""

    def _waiting_jobs(self) -> tuple[list[Job], bool]:
        try:
            first = self._jobs.get(timeout=self._seconds_to_wait())
        except queue.Empty:
            return [], True
        if first is None:
            return [], False
        jobs = [first]
        while len(jobs) < _MAX_JOBS:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            jobs.append(job)
        return jobs, True

    def _write_group(self, session: Session, jobs: Sequence[Job]) -> StoreFailed | None:
        try:
            session.execute("BEGIN IMMEDIATE" if self.exclusive else "BEGIN")
            for job in jobs:
                job.apply(session)
            session.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 whatever it was, nothing of the group is durable: each job learns it
            with suppress(Exception):  # the transaction may have ended, or the connection be gone
                session.execute("ROLLBACK")
            self.failure = self._failed(error)
            return self.failure
        self._committed()
        return None

    def _tell(self, jobs: Sequence[Job], error: StoreFailed | None) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_tell_all, jobs, error)


class _Call(Job):
    """A function to call in a savepoint, and the future of its result."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._function, self._args, self._kwargs = function, args, kwargs
        self._result: Any = None
        self._error: Exception | None = None

    def apply(self, session: Session) -> None:
        session.execute("SAVEPOINT call")
        try:
            self._result = self._function(session, *self._args, **self._kwargs)
        except Exception as error:  # handed to the caller by `done`
            if session.is_fatal(error):
                raise
            session.execute("ROLLBACK TO SAVEPOINT call")
            self._error = error
        session.execute("RELEASE SAVEPOINT call")

    def done(self, error: StoreFailed | None) -> None:
        if self.future.done():
            return  # its waiter was cancelled
        problem = error or self._error
        if problem is not None:
            self.future.set_exception(problem)
        else:
            self.future.set_result(self._result)


def _tell_all(jobs: Sequence[Job], error: StoreFailed | None) -> None:
    for job in jobs:
        job.done(error)


def marks(count: int) -> str:
    """So many placeholders."""
    return ",".join("?" * count)


# Migrations


def upgrade(session: Session, component: str, folder: Traversable, location: str) -> None:
    """Apply the steps of a component that the database has not seen. Raises StoreTooNew."""
    steps = migration_steps(folder, session.dialect)
    version = _version(session, component)
    latest = max(steps, default=0)
    if version > latest:
        owner = "" if component == MESH else f" of {component}"
        raise StoreTooNew(
            f"{location} has schema version {version}{owner}, this Meshwright knows {latest}",
            remedy="upgrade Meshwright, or choose another database: --data DIR",
        )
    for number, script in sorted(steps.items()):
        if number > version:
            session.script(f"{script}\n{_set_version(session, component, number)}")


def migration_steps(folder: Traversable, dialect: _Dialect) -> dict[int, str]:
    """The SQL files of a folder by number: `0001_name.sql` for both databases, `0001_name.sqlite.sql` or
    `0001_name.postgres.sql` for one."""
    steps: dict[int, str] = {}
    for file in folder.iterdir():
        name, *kind = file.name.removesuffix(".sql").split(".")
        if file.name.endswith(".sql") and kind in ([], [dialect]):
            steps[int(name.partition("_")[0])] = file.read_text()
    return steps


def _version(session: Session, component: str) -> int:
    session.execute(_CREATE_VERSIONS)
    row = session.execute(_SELECT_VERSION, (component,)).fetchone()
    version = row[0] if row else 0
    if component == MESH and session.dialect == "sqlite":  # where it was before components had versions
        version = max(version, session.execute("PRAGMA user_version").fetchone()[0])
    return version


def _set_version(session: Session, component: str, version: int) -> str:
    statement = (
        f"INSERT INTO component_versions VALUES ('{component}', {version:d}) "  # noqa: S608 a name in code
        "ON CONFLICT (component) DO UPDATE SET version = excluded.version;"
    )
    if component == MESH and session.dialect == "sqlite":
        statement += f" PRAGMA user_version = {version:d};"  # what an older Meshwright looks at
    return statement
