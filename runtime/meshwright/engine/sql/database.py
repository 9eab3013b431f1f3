"""The port of the mesh's database: one writer that groups jobs into transactions, and readers.

Jobs commit in the order of submission, and those that wait share a transaction, hence an fsync. Readers see
committed data only. A dialect adds connections, errors and types; everything else is here.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from meshwright.core.errors import StoreFailed
from meshwright.engine.sql import migrations
from meshwright.engine.sql.folder import Loss
from meshwright.engine.sql.migrations import MESH, Upgrade, create_versions, pending_upgrade, upgrade

_Dialect = Literal["sqlite", "postgres"]
Row = tuple[Any, ...]
Values = Sequence[Any] | Mapping[str, Any]
ResultT = TypeVar("ResultT")
CallT = TypeVar("CallT", bound=Callable[..., Any])
Calls = Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]
"""Functions that take a session, and their other arguments."""
_logger = logging.getLogger("meshwright.store")

_MAX_JOBS = 512  # in one transaction
MAX_ROWS = 100  # in one statement: its values stay far below the 32,766 that both databases accept


def by_one_call(function: CallT) -> CallT:
    """Mark a function that writes by one call of a server's function: that is a transaction of its own."""
    function.is_by_one_call = True  # type: ignore[attr-defined]
    return function


def is_by_one_call(function: Callable[..., Any]) -> bool:
    """Whether it is marked so."""
    return getattr(function, "is_by_one_call", False)


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
    """`sqlite` or `postgres`."""
    unbindable: ClassVar[tuple[type[Exception], ...]] = ()
    """The errors of the driver for a value that it cannot send, raised before anything is written."""
    connection: Any
    """The driver's connection."""
    recent: Any = None
    """The rows that the event log wrote here last."""
    is_alone = is_undone = False
    """Whether the call that begins has a transaction of its own, and whether that is to be undone."""

    @abstractmethod
    def execute(self, statement: str, values: Values = ()) -> Cursor:
        """Run one statement."""

    @abstractmethod
    def stream(self, statement: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a statement one by one, for as long as the caller wants more."""

    @abstractmethod
    def script(self, text: str) -> None:
        """Run several statements, all or nothing."""

    @abstractmethod
    def bindable(self, value: Any) -> Any:
        """The nearest value that the database accepts."""

    @abstractmethod
    def is_fatal(self, error: Exception) -> bool:
        """Whether an error says that the database itself is in trouble, so that its transaction fails."""

    def by_index(self, table: str, index: str | None) -> str:
        """A table to be read by one of its indices, or by its primary key; all of them are code."""
        return table

    def note_group(self, group_id: bytes, results: Sequence[Any]) -> None:  # noqa: B027 not needed everywhere
        """Note in the transaction which group it writes, so that it is known even if its writer ends."""

    def lists(self, kinds: Sequence[str], columns: Iterable[Sequence[Any]]) -> Sequence[Any]:
        """Columns of some types of PostgreSQL as parameters, each a list, where the database has lists."""
        raise NotImplementedError

    def call(self, function: str, values: Sequence[Any]) -> Cursor:
        """Call a function of the database, where it has some; the name is code, the result one row."""
        raise NotImplementedError

    @property
    def channel(self) -> str:
        """The channel of the mesh's notifications, where the database has them."""
        return ""

    def notify(self, news: str, worker: str = "") -> None:  # noqa: B027 does nothing where there is no other reader
        """Tell the other processes that share the database, or one, once the transaction has committed."""

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, as where the server was restarted."""
        return False

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @abstractmethod
    def insert(self, into: str, rows: Sequence[Row], *, then: str = "") -> None:
        """Insert rows by a statement of fixed shape, which is prepared once.

        `into` (table and columns) and `then` (a conflict clause) are code, never input. A value that the
        database cannot take is replaced by one that it can.
        """

    def select_in(self, select: str, keys: Iterable[Any]) -> list[Row]:
        """The rows of `select`, code that ends with a column, where that column holds one of the keys."""
        rows: list[Row] = []
        for chunk in _chunks(list(keys)):
            rows += self._execute_bound(f"{select} IN ({marks(len(chunk))})", chunk).fetchall()
        return rows

    def delete_in(self, table: str, column: str, keys: Sequence[Any]) -> None:
        """Delete the rows whose column holds one of the keys; table and column are code, never input."""
        for chunk in _chunks(keys):
            self.execute(f"DELETE FROM {table} WHERE {column} IN ({marks(len(chunk))})", chunk)  # noqa: S608

    def write_group(self, calls: Calls, group_id: bytes = b"") -> list[Any]:
        """Call functions in one transaction, and return their results; note them under the id of a group."""
        try:
            self.execute("BEGIN IMMEDIATE")
            results = self._call(calls, group_id)
            self.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # the transaction may have ended
                self.execute("ROLLBACK")
            raise
        return results

    def _call(self, calls: Calls, group_id: bytes) -> list[Any]:
        results = [function(self, *args) for function, args in calls]
        if group_id:
            self.note_group(group_id, results)
        return results

    def _execute_bound(self, statement: str, values: Sequence[Any]) -> Cursor:
        try:
            return self.execute(statement, values)
        except self.unbindable:
            return self.execute(statement, [self.bindable(value) for value in values])


def _chunks(rows: Sequence[ResultT]) -> Iterator[Sequence[ResultT]]:
    return (rows[start : start + MAX_ROWS] for start in range(0, len(rows), MAX_ROWS))


class WriteJob(NamedTuple):
    """A function for the writer, and its callback `on_commit(result, error)`, on the event loop."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    on_commit: Callable[[Any, StoreFailed | None], None]


class Database(ABC):
    """The database of a mesh.

    Jobs commit in the order of submission. One group of them is written at a time, in one transaction, by a
    thread or by a process of its own; jobs submitted meanwhile are the next group.
    """

    dialect: ClassVar[_Dialect]
    """`sqlite` or `postgres`."""
    exclusive: ClassVar[bool]
    """Whether no other process writes to it."""

    def __init__(self, location: str, folder: Path) -> None:
        self.location = location
        """The address of the database, for people: never with a password."""
        self.folder = folder
        """The data folder of this process."""
        self.accepted_loss: Loss | None = None
        self.upgrades: Sequence[Upgrade] = ()
        """The upgrades of tables that were made as it was opened."""
        self.failure: StoreFailed | None = None
        self.on_failure: Callable[[StoreFailed], None] = lambda error: None
        """Called when writing has failed for good and no caller waits for the write."""
        self.preloaded: list[Any] = []
        """The objects that a writing process imports before its first request."""
        self._migrations: dict[str, Traversable] = {MESH: resources.files(migrations)}
        self._waiting: deque[WriteJob] = deque()
        self._is_writing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._session: Session | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._reader: Session | None = None

    def count_accepted(self, tasks: int) -> None:  # noqa: B027 nothing, where a dialect needs none
        """Count tasks that were accepted, durably."""

    async def compact(self) -> None:  # noqa: B027 nothing, where a dialect needs none
        """Give the space of deleted rows back. On PostgreSQL an administrator does that: VACUUM FULL."""

    def migrate(self, component: str, folder: Traversable) -> None:
        """Bring a component's tables up to date when the database is opened."""
        self._migrations[component] = folder

    @property
    def migrations(self) -> Mapping[str, Traversable]:
        """The folders with the steps of each component's tables."""
        return self._migrations

    # Lifetime

    async def open(self) -> None:
        """Bring the schema up to date and start the writer.

        Raises StoreLocked where another process holds it, StoreTooNew, StoreTooOld, StoreFailed.
        """
        self._loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-writer")
        try:
            self._session = await self._loop.run_in_executor(thread, self._prepare)
        except BaseException:  # a cancelled open must release the database too
            thread.shutdown(wait=False)
            self._release()
            raise
        self._thread = thread
        self._readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-reader")

    async def close(self) -> None:
        """Write waiting jobs, and close. Idempotent."""
        if self._thread is not None:
            with suppress(StoreFailed):
                await self.write(_nothing)  # behind all that waits
            await self._end_writing()
            self._thread = None
        if self._session is not None:
            self._session.close()
            self._session = None
        self._release()

    async def _end_writing(self) -> None:
        """End the threads, the readers first: SQLite tidies up behind the connection that is closed last."""
        if self._readers is not None:
            await asyncio.to_thread(self._readers.shutdown)
            self._readers = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        assert self._thread is not None
        await asyncio.to_thread(self._thread.shutdown)

    def write_apart(self, *, after_groups: int = 0) -> asyncio.Future[None] | None:
        """Begin to write in a process of its own, where the database can; the result says from when on.

        The process starts at once, or after so many groups of writes.
        """
        return None

    @abstractmethod
    def connect_reader(self) -> Session:
        """One more read-only session, for a caller that must not wait for a thread; the caller closes it."""

    @abstractmethod
    def _connect_writer(self) -> Session:
        """Open the session that writes."""

    def _keep_copy(self, session: Session) -> Path | None:
        """Copy the database before it is upgraded, where a dialect can."""
        return None

    @abstractmethod
    def _translated(self, error: Exception) -> Exception:
        """A driver's error as StoreFailed, any other as it is."""

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Raise StoreFailed instead of a driver's error."""
        try:
            yield
        except Exception as error:
            problem = self._translated(error)
            if problem is error:
                raise
            raise problem from error

    def _failed(self, error: Exception) -> StoreFailed:
        error = self._translated(error)
        if isinstance(error, StoreFailed):
            return error
        return StoreFailed(f"Cannot write to {self.location}: {error}")

    def _release(self) -> None:  # noqa: B027 nothing, where a dialect needs none
        """Release the database: it is closed, or could not be opened."""

    def _prepare(self) -> Session:
        with self.translating(), ExitStack() as opened:
            session = self._connect_writer()
            opened.callback(session.close)
            self._bring_up_to_date(session)
            opened.pop_all()
            return session

    def _bring_up_to_date(self, session: Session) -> None:
        create_versions(session)
        pending = [
            pending_upgrade(session, component, folder, self.location)
            for component, folder in self._migrations.items()
        ]
        self.upgrades = [*filter(None, pending)]
        if self.upgrades:
            copy = self._keep_copy(session)
            copy_note = f"the database as it was is {copy}" if copy else "no copy is made of it"
            _logger.warning(
                "%s is upgraded (%s); %s", self.location, ", ".join(map(str, self.upgrades)), copy_note
            )
        for component, folder in self._migrations.items():
            upgrade(session, component, folder, self.location)

    # Reading and writing

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        on_commit: Callable[[Any, StoreFailed | None], None],
    ) -> None:
        """Have the writer call `function(session, *args)`; `on_commit(result, error)` follows the commit.

        An error of the function fails the whole transaction. If a process of its own writes, it is a module's
        function, and arguments and result are plain data or can be pickled.
        """
        self._waiting.append(WriteJob(function, args, on_commit))
        self._write_next()

    async def write(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """Call `function(session, ...)` in a write transaction; returns its result once that is durable.

        An error of the function is raised here, and undoes only what the function did. Raises StoreFailed.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(outcome: Any, failure: StoreFailed | None) -> None:
            if isinstance(outcome, bytes):
                outcome = pickle.loads(outcome)  # noqa: S301 of our own process that writes
            result, error = (None, failure) if outcome is None else outcome
            if future.done():
                return  # its waiter was cancelled
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.submit(guarded, (function, args, kwargs), done)
        with self.translating():
            return await future

    async def read(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """Call `function(session, ...)` in the reader's thread; it sees committed data.

        It is called again on a new connection where the server has ended the one before.
        """
        if self._readers is None:
            raise self.failure or StoreFailed(f"{self.location} is not open")

        def call() -> ResultT:
            with self.translating():
                session = self._reading()
                try:
                    return function(session, *args, **kwargs)
                except Exception:  # whose connection has ended; any other is the caller's
                    if not session.is_lost:
                        raise
                return function(self._reading(), *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def read_apart(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """The same on a connection of its own: it may take a second, and other readers do not wait."""

        def call() -> ResultT:
            with self.reading_apart() as session:
                return function(session, *args, **kwargs)

        return await asyncio.to_thread(call)

    @contextmanager
    def reading_apart(self) -> Iterator[Session]:
        """A read-only session of its own. Raises StoreFailed instead of a driver's error."""
        with self.translating(), closing(self.connect_reader()) as session:
            yield session

    def _reading(self) -> Session:
        """The session of the reader's thread."""
        if self._reader is not None and self._reader.is_lost:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            self._reader = self.connect_reader()
        return self._reader

    # Writing

    def _write_next(self) -> None:
        if self._is_writing or not self._waiting:
            return
        self._is_writing = True
        jobs = self._next_jobs()
        failure = self.failure
        if self._thread is None and failure is None:
            failure = StoreFailed(f"{self.location} is not open")
        if failure is not None:
            asyncio.get_running_loop().call_soon(self._written, jobs, [], failure)
        else:
            self._write(jobs)

    def _next_jobs(self) -> Sequence[WriteJob]:
        """The jobs that come into one transaction."""
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_JOBS))]

    def _write(self, jobs: Sequence[WriteJob]) -> None:
        """Write a group; `_written` follows on the event loop."""
        assert self._thread is not None
        self._thread.submit(self._write_in_thread, jobs)

    def _write_in_thread(self, jobs: Sequence[WriteJob]) -> None:
        assert self._session is not None and self._loop is not None
        results: Sequence[Any] = ()
        failure = None
        try:
            results = self._write_group(self._session, jobs)
        except Exception as error:  # noqa: BLE001 whatever it was, nothing of the group is durable: each job learns it
            failure = self._failed(error)
        with suppress(RuntimeError):  # the loop is closed: no caller is left
            self._loop.call_soon_threadsafe(self._written, jobs, results, failure)

    def _write_group(self, session: Session, jobs: Sequence[WriteJob]) -> Sequence[Any]:
        return session.write_group([job[:2] for job in jobs])

    def _written(self, jobs: Sequence[WriteJob], results: Sequence[Any], failure: StoreFailed | None) -> None:
        """A group was written, or not: tell its jobs."""
        self._is_writing = False
        if failure is not None and self.exclusive:  # turns have run ahead of what is lost now
            self.failure = failure
        for job, result in zip(jobs, results if failure is None else [None] * len(jobs), strict=True):
            job.on_commit(result, failure)
        self._write_next()


def guarded(
    session: Session, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Exception | None]:
    """Call a function that can be undone alone; returns its result and what it raised.

    It is undone by a savepoint, or with its transaction where that is its own.
    """
    is_alone, session.is_alone = session.is_alone, False  # a call within it takes a savepoint
    if not is_alone:
        session.execute("SAVEPOINT call")
    result, problem = None, None
    try:
        result = function(session, *args, **kwargs)
    except Exception as error:
        if session.is_fatal(error):
            raise
        problem = error
        if is_alone:
            session.is_undone = True
        else:
            session.execute("ROLLBACK TO SAVEPOINT call")
    if not is_alone:
        session.execute("RELEASE SAVEPOINT call")
    return result, problem


def _nothing(session: Session) -> None:
    """Write nothing."""


def marks(count: int) -> str:
    """So many placeholders."""
    return ",".join("?" * count)
