"""PostgreSQL: one database that several workers and fronts of a mesh share (the extra `postgres`)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError, StoreFailed
from meshwright.core.plugins import install_command
from meshwright.sql.database import Cursor, Job, Row, Session, Values
from meshwright.sql.writer import ApartDatabase, WriterProcess

try:
    import psycopg
    from psycopg import conninfo, errors
except ImportError as error:
    raise ConfigError(
        "PostgreSQL needs psycopg, which is not installed", remedy=install_command("postgres")
    ) from error

logger = logging.getLogger("meshwright.store")

WAIT_SECONDS = 30.0  # that a start waits for a server which is away
_PAUSE_SECONDS = 0.5
_AWAY = (None, "57P01", "57P02", "57P03")  # not reached; it stops, crashes or starts
_MAX_INTEGER = 2**63 - 1
_MAX_TRIES = 5  # of a transaction that another one was in the way of
CONNECT_SECONDS = 10
_MIGRATION_LOCK = 0x6D657368  # "mesh"
_COLUMN_TYPES = """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = ?::regclass AND attnum > 0 AND NOT attisdropped
"""
_EXPECTED = "postgresql://user:password@host:5432/name"
_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")


_Connection = psycopg.Connection[Row]


class PostgresSession(Session):
    """A connection to PostgreSQL; `connection` is the driver's."""

    dialect = "postgres"

    def __init__(self, connection: _Connection, reconnect: Callable[[], _Connection] | None = None) -> None:
        """`reconnect` makes another connection where a group finds this one closed."""
        self.connection = connection
        self._reconnect = reconnect
        self._channel = ""
        self._inserts: dict[tuple[str, str], bytes] = {}

    def execute(self, statement: str, values: Values = ()) -> Cursor:
        """Run one statement."""
        if not values:
            return self.connection.execute(statement.encode())
        return self.connection.execute(_converted(statement), self._bound(values))

    def insert(self, into: str, rows: Sequence[Row], *, then: str = "") -> None:
        """Insert rows by one statement, which takes a list for each column."""
        if not rows:
            return
        columns = [[self.bindable(value) for value in column] for column in zip(*rows, strict=True)]
        statement = self._inserts.get((into, then)) or self._insert_statement(into, then)
        self.connection.execute(statement, columns)

    def pipeline(self) -> AbstractContextManager[Any]:
        """Send statements without waiting for the results of those before; a fetch waits for all so far."""
        return self.connection.pipeline()

    def write_group(self, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Call functions in one transaction: again if another was in its way, and on a new connection."""
        for attempt in range(_MAX_TRIES):
            try:
                if self.connection.closed and self._reconnect is not None:
                    self.connection = self._reconnect()
                with self.connection.transaction():
                    return [function(self, *args) for function, args in calls]
            except Exception as error:
                if not _is_retryable(error) or attempt + 1 == _MAX_TRIES:
                    raise
                time.sleep(0.01 * attempt)
        raise AssertionError

    def _insert_statement(self, into: str, then: str) -> bytes:
        table, _, columns = into.rstrip(")").partition(" (")
        types = dict(self.execute(_COLUMN_TYPES, (table,)).fetchall())
        lists = ",".join(f"%s::{types[name]}[]" for name in columns.split(", "))
        statement = f"INSERT INTO {into} SELECT * FROM unnest({lists}) {then}".encode()  # noqa: S608 code
        self._inserts[into, then] = statement
        return statement

    def stream(self, statement: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a statement one by one."""
        yield from self.connection.cursor().stream(_converted(statement), self._bound(values))

    def script(self, text: str) -> None:
        """Run several statements, all or nothing."""
        with self.connection.transaction():
            self.connection.execute(text.encode())

    def bindable(self, value: Any) -> Any:
        """The nearest value that PostgreSQL accepts."""
        if isinstance(value, str):
            return (
                value if value.isprintable() else value.encode(errors="replace").decode().replace("\0", "?")
            )
        if isinstance(value, int):  # booleans too: the tables have none
            return max(-_MAX_INTEGER - 1, min(int(value), _MAX_INTEGER))
        return value

    def is_fatal(self, error: Exception) -> bool:
        """Whether the connection is gone, or another transaction was in the way: both concern the group."""
        return _is_retryable(error) or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, as where the server was restarted."""
        return self.connection.closed

    @property
    def channel(self) -> str:
        """The channel of the mesh's notifications: one for each schema."""
        if not self._channel:
            [(schema,)] = self.execute("SELECT current_schema()").fetchall()
            self._channel = "mesh_" + hashlib.sha256(schema.encode()).hexdigest()[:16]
        return self._channel

    def notify(self, news: str) -> None:
        """Tell all workers, once the transaction has committed."""
        self.execute("SELECT pg_notify(?, ?)", (self.channel, news))

    def _bound(self, values: Values) -> Values:
        if isinstance(values, Mapping):
            return {name: self.bindable(value) for name, value in values.items()}
        return [self.bindable(value) for value in values]


class PostgresDatabase(ApartDatabase):
    """A PostgreSQL database; its tables lie in the first schema of the connection's search path."""

    dialect = "postgres"
    exclusive = False

    def __init__(self, url: str, folder: Path, *, durable: bool = True) -> None:
        """Raises ConfigError for an address that is none, without its text, which may hold a password."""
        try:
            self._parameters = conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            raise ConfigError(
                "The address of the database cannot be read", remedy=f"Write it like {_EXPECTED}"
            ) from None
        host, name = self._parameters.get("host", "localhost"), self._parameters.get("dbname", "")
        super().__init__(f"PostgreSQL {name!r} on {host}", folder)
        self._durable = durable

    def connect(self) -> _Connection:
        """One more connection, in autocommit. Raises psycopg.Error."""
        return _connect(self._settings())

    async def connect_async(self) -> psycopg.AsyncConnection[Row]:
        """The same for the event loop."""
        return await psycopg.AsyncConnection.connect(**self._settings(), autocommit=True)

    async def check(self) -> str:
        """Log in, and leave. Returns a sentence. Raises StoreFailed."""
        try:
            connection = await self.connect_async()
        except psycopg.Error as error:
            raise self._translated(error) from error
        await connection.close()
        return f"{self.location} accepts the mesh"

    async def open(self) -> None:
        """The same; a server that is not there yet, or starts, is waited for."""
        ends = time.monotonic() + WAIT_SECONDS
        is_told = False
        while True:
            try:
                return await super().open()
            except StoreFailed as error:
                if not _is_away(error.__cause__) or time.monotonic() > ends:
                    raise
                if not is_told:
                    logger.warning("%s; waiting for it, up to %g s", error.message, WAIT_SECONDS)
                is_told = True
            await asyncio.sleep(_PAUSE_SECONDS)

    def connect_reader(self) -> PostgresSession:
        """One more session to read, for a caller that must not wait for a thread; the caller closes it."""
        return PostgresSession(self.connect())

    def _settings(self) -> dict[str, Any]:
        known: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "meshwright"}
        return {**known, **self._parameters}

    def _connect_writer(self) -> PostgresSession:
        return self._writer()()

    def _writer(self) -> Callable[[], PostgresSession]:
        settings = self._settings()
        if not self._durable:
            settings["options"] = f"{settings.get('options', '')} -c synchronous_commit=off"
        return partial(_connect_writer, settings)

    def _writer_ended(self, process: WriterProcess, jobs: Sequence[Job]) -> None:
        """The group may be durable or not, as where a connection ends: its batches are tried again."""
        if self._thread is not None:
            self._thread.submit(process.kill)
        if jobs:
            failure = StoreFailed(f"The process that writes to {self.location} has ended")
            self._written(jobs, (), failure)

    def _bring_up_to_date(self, session: Session) -> None:
        """Several workers may start at once: one after the other."""
        session.execute("SELECT pg_advisory_lock(?)", (_MIGRATION_LOCK,))
        try:
            super()._bring_up_to_date(session)
        finally:
            session.execute("SELECT pg_advisory_unlock(?)", (_MIGRATION_LOCK,))

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, psycopg.Error):
            return error
        words = " ".join(str(error).split())
        if password := self._parameters.get("password"):
            words = words.replace(str(password), "***")
        remedy = "Check that it runs, that the address is right, and that the user may write"
        return StoreFailed(f"{self.location} failed: {words}", remedy=remedy)


def _is_away(error: BaseException | None) -> bool:
    """Whether a server was not reached, or said that it is starting or stopping."""
    return isinstance(error, psycopg.OperationalError) and error.sqlstate in _AWAY


def _connect(settings: dict[str, Any]) -> _Connection:
    return psycopg.connect(**settings, autocommit=True)


def _connect_writer(settings: dict[str, Any]) -> PostgresSession:
    connect = partial(_connect, settings)
    return PostgresSession(connect(), connect)


def _is_retryable(error: Exception) -> bool:
    """Whether another transaction was in the way, so that the same one can succeed now."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


@lru_cache(maxsize=4096)
def _converted(statement: str) -> bytes:
    """A statement with the driver's placeholders."""
    return _NAMED.sub(r"%(\1)s", statement.replace("%", "%%")).replace("?", "%s").encode()
