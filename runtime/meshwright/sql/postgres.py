"""PostgreSQL: one database that several workers and fronts of a mesh share (the extra `postgres`)."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError, StoreFailed
from meshwright.core.extras import install_command
from meshwright.sql.database import Cursor, Database, Job, Row, Session, Values

try:
    import psycopg
    from psycopg import conninfo, errors
except ImportError as error:
    raise ConfigError(
        "PostgreSQL needs psycopg, which is not installed", remedy=install_command("postgres")
    ) from error

_MAX_INTEGER = 2**63 - 1
_MAX_TRIES = 5  # of a transaction that another one was in the way of
_CONNECT_SECONDS = 10
_MIN_COPIED_ROWS = 3
_MIGRATION_LOCK = 0x6D657368  # "mesh"
_EXPECTED = "postgresql://user:password@host:5432/name"
_NAMED = re.compile(r"(?<![:\w]):([a-z_]+)")


class PostgresSession(Session):
    """A connection to PostgreSQL; `connection` is the driver's."""

    dialect = "postgres"

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self.connection = connection
        self._channel = ""

    def execute(self, statement: str, values: Values = ()) -> Cursor:
        """Run one statement."""
        if not values:
            return self.connection.execute(statement.encode())
        return self.connection.execute(_converted(statement), self._bound(values))

    def insert(self, into: str, rows: Sequence[Row], *, then: str = "") -> int:
        """Insert rows; several that no other rows can conflict with are copied, which binds no values."""
        if then or len(rows) < _MIN_COPIED_ROWS:
            return super().insert(into, rows, then=then)
        with self.connection.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row([self.bindable(value) for value in row])
        return len(rows)

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


class PostgresDatabase(Database):
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

    def connect(self) -> psycopg.Connection[Row]:
        """One more connection, in autocommit. Raises psycopg.Error."""
        return psycopg.connect(**self._settings(), autocommit=True)

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

    def connect_reader(self) -> PostgresSession:
        """One more session to read, for a caller that must not wait for a thread; the caller closes it."""
        return PostgresSession(self.connect())

    def _settings(self) -> dict[str, Any]:
        known: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS, "application_name": "meshwright"}
        return {**known, **self._parameters}

    def _connect_writer(self) -> PostgresSession:
        session = PostgresSession(self.connect())
        if not self._durable:
            session.execute("SET synchronous_commit = off")
        return session

    def _bring_up_to_date(self, session: Session) -> None:
        """Several workers may start at once: one after the other."""
        session.execute("SELECT pg_advisory_lock(?)", (_MIGRATION_LOCK,))
        try:
            super()._bring_up_to_date(session)
        finally:
            session.execute("SELECT pg_advisory_unlock(?)", (_MIGRATION_LOCK,))

    def _write_group(self, session: Session, jobs: Sequence[Job]) -> Sequence[Any]:
        """Write a group, again where another transaction was in its way; a lost connection is made again."""
        assert isinstance(session, PostgresSession)
        for attempt in range(_MAX_TRIES):
            try:
                if session.connection.closed:
                    session.connection = self._connect_writer().connection
                with session.connection.transaction():
                    return [job.function(session, *job.args) for job in jobs]
            except Exception as error:
                if not _is_retryable(error) or attempt + 1 == _MAX_TRIES:
                    raise
                time.sleep(0.01 * attempt)
        raise AssertionError

    def _translated(self, error: Exception) -> Exception:
        if not isinstance(error, psycopg.Error):
            return error
        words = " ".join(str(error).split())
        if password := self._parameters.get("password"):
            words = words.replace(str(password), "***")
        remedy = "Check that it runs, that the address is right, and that the user may write"
        return StoreFailed(f"{self.location} failed: {words}", remedy=remedy)


def _is_retryable(error: Exception) -> bool:
    """Whether another transaction was in the way, so that the same one can succeed now."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


@lru_cache(maxsize=4096)
def _converted(statement: str) -> bytes:
    """A statement with the driver's placeholders."""
    return _NAMED.sub(r"%(\1)s", statement.replace("%", "%%")).replace("?", "%s").encode()
