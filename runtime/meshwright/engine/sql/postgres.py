"""PostgreSQL: one database that several workers and fronts of a mesh share (the extra `postgres`)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from meshwright.core.errors import ConfigError, StoreFailed
from meshwright.core.patience import RETRY_SECONDS, is_patient
from meshwright.core.plugins import install_command
from meshwright.engine.sql.database import Calls, Cursor, Row, Session, Values, WriteJob, is_by_one_call
from meshwright.engine.sql.writer import ApartDatabase, WriterProcess

if TYPE_CHECKING:
    from meshwright.core.part import ProbeResult

try:
    import psycopg
    from psycopg import conninfo, errors
    from psycopg.adapt import Dumper, PyFormat
    from psycopg.pq import TransactionStatus

    from meshwright.engine.sql.timelines import SELECT_TIMELINE, Timeline, Timelines, single_servers
except ImportError as error:
    raise ConfigError(
        "PostgreSQL needs psycopg, which is not installed", remedy=install_command("postgres")
    ) from error

logger = logging.getLogger("meshwright.store")

WAIT_SECONDS = 30.0  # that a start waits for a server which is away
_PAUSE_SECONDS = 0.5
_AWAY = (None, "57P01", "57P02", "57P03")  # not reached; it stops, crashes or starts
_VARIABLES = ("PG", "KRB5", "SSL_CERT_")  # beginnings of those that the driver reads
ResultT = TypeVar("ResultT")
_MAX_INTEGER = 2**63 - 1
_MAX_TRIES = 5  # of a transaction that another one was in the way of
CONNECT_SECONDS = 10
_SILENT_SERVER = {
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""By these a connection ends whose server says nothing more, as where the network between them is gone."""
_OWN_SETTINGS = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "transaction_timeout": "0",
}
"""The settings that the mesh depends on: a role, a database or the environment may have others."""
_SELECT_SEARCH_PATH = b"SELECT quote_ident(current_schema()) || ', ' || current_setting('search_path')"
_UNSAFE = (
    "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') "
    "AND setting = 'off' ORDER BY name"
)
_ENCODING = "UTF8"
_MIGRATION_LOCK = 0x6D657368  # "mesh"
_NOTIFY = "SELECT pg_notify(?, ?)"
_COLUMN_TYPES = """
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = ?::regclass AND attnum > 0 AND NOT attisdropped
"""
_GRANT = (
    "Let the schema belong to {role}, or as its owner run: GRANT USAGE, CREATE ON SCHEMA ... TO {role}; and "
    "where functions are forbidden GRANT USAGE ON LANGUAGE plpgsql TO {role}"
)
_EXPECTED = "postgresql://user:password@host:5432/name"
_NOT_LET_IN = re.compile("password authentication failed|no password supplied|no pg_hba.conf entry")
_NO_CONNECTION_LEFT = re.compile(
    "too many (connections|clients)|connection slots are reserved|connection limit exceeded"
)
_RAISE_CONNECTIONS = (
    "Raise max_connections of the server, or CONNECTION LIMIT of the role or database: each process of the "
    "mesh takes five connections and more"
)
_NO_TABLES = (
    "No mesh has started there, or the role may not use their schema: check database and search_path of the "
    "address"
)
_QUESTION = re.compile(r"\s*Is the server running[^?]*\?")  # of the library, below its error
_NAMED = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


_Connection = psycopg.Connection[Row]


def _set_own(search_path: str) -> bytes:
    """The statement that sets what the mesh depends on; an empty search path leaves that of the role."""
    own = {**_OWN_SETTINGS, "search_path": search_path.replace("'", "''")} if search_path else _OWN_SETTINGS
    rows = ", ".join(f"('{name}', '{value}')" for name, value in own.items())
    return (
        f"SELECT set_config(own.name, own.value, false) FROM pg_settings JOIN (VALUES {rows}) "  # noqa: S608
        "AS own (name, value) ON own.name = pg_settings.name WHERE pg_settings.setting <> own.value"
    ).encode()


_NULL = struct.pack("!i", -1)


def _sized(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value


_LISTS: dict[str, tuple[int, int, Callable[[Any], bytes]]] = {
    "text": (25, 1009, lambda value: _sized(value.encode(errors="replace").replace(b"\0", b"?"))),
    "bytea": (17, 1001, _sized),
    "bigint": (20, 1016, lambda value: struct.pack("!iq", 8, _clamped(value))),
    "smallint": (21, 1005, lambda value: struct.pack("!ih", 2, value)),
    "double precision": (701, 1022, lambda value: struct.pack("!id", 8, value)),
    "boolean": (16, 1000, lambda value: struct.pack("!i?", 1, value)),
}
"""PostgreSQL's numbers of types, and of lists of them, and how a value is packed."""


class _Array(NamedTuple):
    """A list in the binary format: as text the driver and the server take several times as long for it."""

    oid: int
    data: bytes


class _ArrayDumper(Dumper):
    format = psycopg.pq.Format.BINARY

    def get_key(self, obj: _Array, format: PyFormat) -> Any:
        return _Array, obj.oid

    def upgrade(self, obj: _Array, format: PyFormat) -> Dumper:
        dumper = _ArrayDumper(_Array)
        dumper.oid = obj.oid
        return dumper

    def dump(self, obj: _Array) -> bytes:
        return obj.data


def array(kind: str, values: Sequence[Any]) -> Any:
    """Values of a type of PostgreSQL as one parameter, each the nearest that it accepts."""
    try:
        element, oid, pack = _LISTS[kind]
        packed = b"".join([_NULL if value is None else pack(value) for value in values])
    except (KeyError, AttributeError, TypeError, struct.error):  # another type, or values of another
        return [_bindable(value) for value in values]
    return _Array(oid, struct.pack("!iiIii", 1, 1, element, len(values), 1) + packed)


_EMPTY = {kind: array(kind, ()) for kind in _LISTS}


def _bindable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isprintable() else value.encode(errors="replace").decode().replace("\0", "?")
    if isinstance(value, int):  # booleans too: the tables have none
        return _clamped(int(value))
    return value


def _clamped(value: int) -> int:
    return max(-_MAX_INTEGER - 1, min(value, _MAX_INTEGER))


class PostgresSession(Session):
    """A connection to PostgreSQL; `connection` is the driver's."""

    dialect = "postgres"

    def __init__(self, connection: _Connection, reconnect: Callable[[], _Connection] | None = None) -> None:
        """`reconnect` makes another connection where a group finds this one closed."""
        self.connection = connection
        self._reconnect = reconnect
        self._channel = ""
        self._inserts: dict[tuple[str, str], tuple[bytes, Sequence[str]]] = {}

    def execute(self, statement: str, values: Values = ()) -> Cursor:
        """Run one statement."""
        if not values:
            return self.connection.execute(statement.encode())
        return self.connection.execute(_converted(statement), self._bound(values))

    def insert(self, into: str, rows: Sequence[Row], *, then: str = "") -> None:
        """Insert rows by one statement, which takes a list for each column."""
        if not rows:
            return
        statement, kinds = self._inserts.get((into, then)) or self._insert_statement(into, then)
        columns = [array(kind, column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)]
        self.connection.execute(statement, columns)

    def lists(self, kinds: Sequence[str], columns: Iterable[Sequence[Any]]) -> Sequence[Any]:
        """Columns of some types as parameters, each a list of the nearest values that are accepted."""
        return [
            array(kind, column) if column else _EMPTY[kind]
            for kind, column in zip(kinds, columns, strict=True)
        ]

    def call(self, function: str, values: Sequence[Any]) -> Cursor:
        """Call a function; the name is code, the result one row."""
        cursor = psycopg.RawCursor(self.connection)  # another takes as long to read so many placeholders
        return cursor.execute(_call_statement(function, len(values)), values, prepare=True)

    def write_group(self, calls: Calls, group_id: bytes = b"") -> list[Any]:
        """Call functions in one transaction: again if another was in its way, and on a new connection."""
        is_one_call = len(calls) == 1 and is_by_one_call(calls[0][0])
        for attempt in range(_MAX_TRIES):
            try:
                if self.is_lost and self._reconnect is not None:
                    self.connection.close()
                    self.connection = self._reconnect()
                if is_one_call:
                    return self._call(calls, group_id)
                self.is_alone, self.is_undone = len(calls) == 1, False
                with self.connection.transaction():
                    results = self._call(calls, group_id)
                    if self.is_undone:
                        raise psycopg.Rollback
                return results
            except Exception as error:
                if not _is_retryable(error) or attempt + 1 == _MAX_TRIES:
                    raise
                time.sleep(0.01 * attempt)
        raise AssertionError

    def _insert_statement(self, into: str, then: str) -> tuple[bytes, Sequence[str]]:
        table, _, columns = into.rstrip(")").partition(" (")
        types = dict(self.execute(_COLUMN_TYPES, (table,)).fetchall())
        kinds = [types[name] for name in columns.split(", ")]
        lists = ",".join(f"%s::{kind}[]" for kind in kinds)
        statement = f"INSERT INTO {into} SELECT * FROM unnest({lists}) {then}".encode()  # noqa: S608 code
        self._inserts[into, then] = statement, kinds
        return statement, kinds

    def stream(self, statement: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a statement one by one."""
        yield from self.connection.cursor().stream(_converted(statement), self._bound(values))

    def script(self, text: str) -> None:
        """Run several statements, all or nothing."""
        with self.connection.transaction():
            self.connection.execute(text.encode())

    def bindable(self, value: Any) -> Any:
        """The nearest value that PostgreSQL accepts."""
        return _bindable(value)

    def is_fatal(self, error: Exception) -> bool:
        """Whether the connection is gone, or another transaction was in the way: both concern the group."""
        return _is_retryable(error) or self.connection.closed

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, as where the server was restarted, or still waits for a result.

        The driver may give up in the middle of a command: the connection takes no other from then on.
        """
        status = self.connection.info.transaction_status
        return self.connection.closed or status == TransactionStatus.ACTIVE

    @property
    def channel(self) -> str:
        """The channel of the mesh's notifications: one for each schema."""
        if not self._channel:
            [(schema,)] = self.execute("SELECT current_schema()").fetchall()
            self._channel = "mesh_" + hashlib.sha256(schema.encode()).hexdigest()[:16]
        return self._channel

    def notify(self, news: str, worker: str = "") -> None:
        """Tell all workers, or one, once the transaction has committed."""
        channel = own_channel(self.channel, worker) if worker else self.channel
        self.execute(_NOTIFY, (channel, news))

    def _bound(self, values: Values) -> Values:
        if isinstance(values, Mapping):
            return {name: self.bindable(value) for name, value in values.items()}
        return [self.bindable(value) for value in values]


class PostgresDatabase(ApartDatabase):
    """A PostgreSQL database; its tables lie in the first schema of the connection's search path."""

    dialect = "postgres"
    exclusive = False

    def __init__(self, url: str, folder: Path, *, durable: bool = True, accept_loss: bool = False) -> None:
        """Raises ConfigError for an address that is none, without its text, which may hold a password.

        `accept_loss` lets the start go on with an old primary that came back.
        """
        try:
            self._parameters = conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            raise ConfigError(
                "The address of the database cannot be read", remedy=f"Write it like {_EXPECTED}"
            ) from None
        host, name = self._parameters.get("host", "localhost"), self._parameters.get("dbname", "")
        super().__init__(f"PostgreSQL {name!r} on {host}", folder)
        self._durable, self._accept_loss = durable, accept_loss
        self._timelines = Timelines(folder)
        self._search_path = ""
        """The schemas that the first connection had: a role may get others, and the tables stay in these."""
        self.lock_class = secrets.randbits(31)
        """The class of the advisory locks that this process holds, with another object on each connection."""

    def connect(self) -> _Connection:
        """One more connection, in autocommit. Raises psycopg.Error, StoreFailed for an old primary."""
        return _connect(self._settings(), self._timelines, self.location, self._search_path)

    async def connect_async(self, *, joins: bool = False) -> psycopg.AsyncConnection[Row]:
        """The same for the event loop. If the process `joins` the mesh there, older servers are refused."""
        refusal: StoreFailed | None = None
        for settings in _attempts(self._settings()):
            try:
                connection = await psycopg.AsyncConnection.connect(**settings, autocommit=True)
            except psycopg.Error:
                if refusal is None:
                    raise
                continue
            row = None
            with suppress(psycopg.Error):  # not each server says it to each role
                row = await (await connection.execute(SELECT_TIMELINE)).fetchone()
            refusal = self._timelines.refusal(row, connection.info, self.location)
            if refusal is None:
                if joins and row is not None:
                    self._timelines.note(Timeline(*row))
                await connection.execute(_set_own(self._search_path))
                return connection
            await connection.close()
        assert refusal is not None
        raise refusal

    async def learn_timeline(self) -> None:
        """Find the newest timeline among the servers of the address; older ones are refused from now on."""
        if self._accept_loss:
            self._timelines.forget()
            self._accept_loss = False
        await asyncio.to_thread(self._timelines.learn, single_servers(self._settings()))

    async def probe(self) -> ProbeResult:
        """Log in, try what a start relies on, write nothing, and leave. Raises StoreFailed."""
        from meshwright.engine.sql.probe import probe_server

        try:
            return await asyncio.to_thread(probe_server, self.connect, self.location)
        except psycopg.Error as error:
            raise self._translated(error) from error

    async def open(self) -> None:
        """The same; a server that is not there yet, or starts, is waited for."""
        ends = time.monotonic() + WAIT_SECONDS
        is_told = False
        while True:
            try:
                return await super().open()
            except StoreFailed as error:
                if not error.is_away or time.monotonic() > ends:
                    raise
                if not is_told:
                    logger.warning("%s; waiting for it, up to %g s", error.message, WAIT_SECONDS)
                is_told = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def read(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """The same; patient code waits for a server that is away."""
        return await _patiently(lambda: super(PostgresDatabase, self).read(function, *args, **kwargs))

    async def write(self, function: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
        """The same; patient code calls a function again that may have been committed."""
        return await _patiently(lambda: super(PostgresDatabase, self).write(function, *args, **kwargs))

    def connect_reader(self) -> PostgresSession:
        """One more session to read, for a caller that must not wait for a thread; the caller closes it."""
        return PostgresSession(self.connect())

    def _settings(self) -> dict[str, Any]:
        parameters: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "meshwright"}
        return {**parameters, **_SILENT_SERVER, **self._parameters, "client_encoding": _ENCODING}

    def _connect_writer(self) -> PostgresSession:
        if settings := check_server(self.connect, self.location):
            logger.warning(
                "%s has %s off: a crash of its machine may lose what the mesh has accepted. Switch it on",
                self.location,
                " and ".join(settings),
            )
        if not self._search_path:
            with self.connect() as connection:
                [(search_path,)] = connection.execute(_SELECT_SEARCH_PATH).fetchall()
            self._search_path = search_path or ""  # none where the role may use no schema
        return self._writer()()

    def _writer(self) -> Callable[[], PostgresSession]:
        settings = self._settings()
        if not self._durable:
            settings["options"] = f"{settings.get('options', '')} -c synchronous_commit=off"
        arguments = (settings, self._timelines, self.location, self._search_path)
        return partial(_connect_writer, self.lock_class, *arguments)

    def _next_jobs(self) -> Sequence[WriteJob]:
        """One job: jobs that lock in other orders would wait for each other."""
        return [self._waiting.popleft()]

    def _variables(self) -> Iterable[str]:
        return (name for name in os.environ if name.startswith(_VARIABLES))

    def _writer_ended(self, process: WriterProcess, jobs: Sequence[WriteJob]) -> None:
        """The group may be durable or not, as where a connection ends: its batches are tried again."""
        if self._thread is not None:
            self._thread.submit(process.kill)
        if jobs:
            failure = StoreFailed(f"The process that writes to {self.location} has ended", is_away=True)
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
        words = " ".join(_QUESTION.sub("", str(error)).split())
        if password := self._parameters.get("password"):
            words = words.replace(str(password), "***")
        remedy = "Check that it runs, that the address is right, and that the user may write"
        if isinstance(error, errors.InsufficientPrivilege | errors.InvalidSchemaName):
            remedy = _GRANT.format(role=self._parameters.get("user", "the role"))
        elif _NO_CONNECTION_LEFT.search(words):
            remedy = _RAISE_CONNECTIONS
        elif isinstance(error, errors.UndefinedTable):
            remedy = _NO_TABLES
        elif isinstance(error, errors.ConfigurationLimitExceeded):
            remedy = "Raise the limit that the server names, for the role or the database"
        return StoreFailed(f"{self.location} failed: {words}", remedy=remedy, is_away=_is_away(error))


async def _patiently(call: Callable[[], Awaitable[ResultT]]) -> ResultT:
    while True:
        try:
            return await call()
        except StoreFailed as error:
            if not (error.is_away and is_patient()):
                raise
        await asyncio.sleep(RETRY_SECONDS)


def own_channel(channel: str, worker: str) -> str:
    """The channel of one worker alone, beside the channel of the mesh."""
    return f"{channel}_{worker}"


def _is_away(error: BaseException | None) -> bool:
    """Whether a server was not reached, or said that it is starting or stopping."""
    is_away = isinstance(error, psycopg.OperationalError) and error.sqlstate in _AWAY
    return is_away and not _NOT_LET_IN.search(str(error))


def _attempts(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of a connection as they are, then for each server alone, if there are several."""
    yield settings
    servers = single_servers(settings)
    if len(servers) > 1:
        yield from servers


def _connect(settings: dict[str, Any], timelines: Timelines, location: str, search_path: str) -> _Connection:
    refusal: StoreFailed | None = None
    for attempt in _attempts(settings):
        try:
            connection = psycopg.connect(**attempt, autocommit=True)
        except psycopg.Error:
            if refusal is None:
                raise
            continue
        row = None
        with suppress(psycopg.Error):  # not each server says it to each role
            row = connection.execute(SELECT_TIMELINE).fetchone()
        refusal = timelines.refusal(row, connection.info, location)
        if refusal is None:
            connection.execute(_set_own(search_path))
            connection.adapters.register_dumper(_Array, _ArrayDumper)
            return connection
        connection.close()
    assert refusal is not None
    raise refusal


def _connect_writer(
    lock_class: int, settings: dict[str, Any], timelines: Timelines, location: str, search_path: str
) -> PostgresSession:
    def connect() -> _Connection:
        connection = _connect(settings, timelines, location, search_path)
        connection.execute("SELECT pg_advisory_lock_shared(%s, 0)", (lock_class,))
        return connection

    return PostgresSession(connect(), connect)


def _is_retryable(error: Exception) -> bool:
    """Whether another transaction was in the way, so that the same one can succeed now."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


@lru_cache
def _call_statement(function: str, count: int) -> bytes:
    places = ",".join(f"${place}" for place in range(1, count + 1))
    return f"SELECT * FROM {function}({places})".encode()  # noqa: S608 code


@lru_cache(maxsize=4096)
def _converted(statement: str) -> bytes:
    """A statement with the driver's placeholders."""
    return _NAMED.sub(r"%(\1)s", statement.replace("%", "%%")).replace("?", "%s").encode()


MIN_VERSION = 13
_SELECT_PID = "SELECT pg_backend_pid()"
_USE_SERVER = "Use a PostgreSQL server, or leave out --database: SQLite needs none"


def check_server(connect: Callable[[], Any], location: str) -> list[str]:
    """Refuse a server that is too old, a database that has not UTF-8, and a pooler that changes the session
    between transactions or gives one session to several connections.

    `connect` makes a connection of the driver in autocommit. Returns the settings that are off though a crash
    of the machine then loses commits. Raises StoreFailed, and the driver's errors.
    """
    with connect() as connection:
        version = connection.info.server_version // 10_000
        if version < MIN_VERSION:
            raise StoreFailed(
                f"{location} is PostgreSQL {version}, which is too old",
                remedy=f"Upgrade the server: the mesh needs PostgreSQL {MIN_VERSION} or newer",
            )
        if (encoding := connection.info.parameter_status("server_encoding")) != _ENCODING:
            raise StoreFailed(
                f"The database of {location} has the encoding {encoding}, which cannot hold every text",
                remedy="Make one that has UTF-8: CREATE DATABASE mesh ENCODING 'UTF8' TEMPLATE template0",
            )
        _check_sessions(connect, connection, location)
        return [name for (name,) in connection.execute(_UNSAFE).fetchall()]


def _check_sessions(connect: Callable[[], Any], connection: Any, location: str) -> None:
    """Refuse what gives a connection no session of its own. Raises StoreFailed, and the driver's errors."""
    before = _backend_pid(connection)
    with _second(connect, connection, location) as other:
        if _backend_pid(other) == before and other.info.backend_pid == connection.info.backend_pid:
            raise StoreFailed(
                f"{location} gives one session to several connections, as PGlite's server does; leases "
                "and transactions of the mesh need a session of their own",
                remedy=_USE_SERVER,
            )
    if _is_direct(connection):
        return
    with connect() as other:
        other.execute("BEGIN")  # a pooler by transaction gives it the session that is free now
        others = _backend_pid(other)
        if others == before or _backend_pid(connection) != before:
            raise StoreFailed(
                f"{location} is reached through a pooler that changes the session with each transaction; "
                "leases and notifications of the mesh live in a session",
                remedy="Connect directly, or let the pooler pool by session (pool_mode = session)",
            )


def _second(connect: Callable[[], Any], first: Any, location: str) -> Any:
    """One more connection. Raises StoreFailed where the first stays, and no other is let in beside it."""
    try:
        return connect()
    except psycopg.OperationalError as error:
        if _NO_CONNECTION_LEFT.search(str(error)):
            raise
        _backend_pid(first)  # raises where the server has gone
        raise StoreFailed(
            f"{location} takes one connection at a time, as PGlite's server does by default; a process of "
            "the mesh needs five and more",
            remedy=_USE_SERVER,
        ) from None


def _is_direct(connection: Any) -> bool:
    """Whether no pooler stands in between: it names another process than the server does."""
    return bool(connection.info.backend_pid == _backend_pid(connection))


def _backend_pid(connection: Any) -> int:
    [(pid,)] = connection.execute(_SELECT_PID).fetchall()
    return int(pid)
