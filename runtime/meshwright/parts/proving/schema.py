"""The schema of a run on PostgreSQL: makes it beside what is there, reads the server's settings, drops it.

A name begins with a mark, the comment of the schema says what it is, and an advisory lock of the run's
session says that the run lives. A schema with mark and comment whose lock is free was left by a killed run.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from meshwright.core.errors import ConfigError, InvalidInput, StoreFailed
from meshwright.core.plugins import install_command
from meshwright.engine.sql.timelines import SELECT_TIMELINE, single_servers

try:
    import psycopg
    from psycopg import conninfo, sql
except ImportError as error:
    raise ConfigError(
        "PostgreSQL needs psycopg, which is not installed", remedy=install_command("postgres")
    ) from error

MARK = "mesh_prove_"
COMMENT = "meshwright prove: a schema of its own, which the next run drops"
_CONNECT_SECONDS = 10
_PORT = 5432
_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")
_COMMITS = 20
_MARKED_SCHEMAS = (
    "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mesh\\_prove\\_%%' AND "
    "obj_description(oid, 'pg_namespace') = %s AND pg_has_role(nspowner, 'USAGE')"
)
_TASKS = "SELECT EXISTS (SELECT FROM {}.heads WHERE revision > 0)"


class Schema:
    """A schema for one run on the database of an address, and the session that made it."""

    def __init__(self, address: str) -> None:
        """Raises ConfigError for an address that cannot be read."""
        try:
            self._parameters: dict[str, Any] = dict(conninfo.conninfo_to_dict(address))
        except psycopg.Error:
            raise ConfigError(
                "The address of the database cannot be read",
                remedy="Write it like postgresql://user:password@host:5432/name",
                field="database",
            ) from None
        self.name = f"{MARK}{secrets.token_hex(4)}"
        self._connection = self._connect()
        info = self._connection.info
        self.location = f"PostgreSQL {info.dbname!r} on {info.host}"
        servers = single_servers(self._parameters)
        self.servers = [(info.host, info.port)]
        """Host and port of each server that the address names."""
        if len(servers) > 1:
            self.servers = [
                (one.get("hostaddr") or one["host"], int(one.get("port") or _PORT)) for one in servers
            ]

    def create(self, *, beside: bool) -> list[str]:
        """Drop what killed runs left, and make the schema; returns the names of those that it dropped.

        Raises InvalidInput if the address's schema has tasks of a mesh and the run may not go on `beside`
        them, StoreFailed if the role may not make schemas.
        """
        self._refuse_tasks(beside=beside)
        self._refuse_missing_rights()
        dropped = []
        for (name,) in self._connection.execute(_MARKED_SCHEMAS, (COMMENT,)).fetchall():
            if self._try_lock(name):
                self._drop(name)
                self._connection.execute("SELECT pg_advisory_unlock(%s)", (_lock_key(name),))
                dropped.append(str(name))
        self._try_lock(self.name)
        with self._connection.transaction():
            self._connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.name)))
            comment = sql.SQL("COMMENT ON SCHEMA {} IS {}").format(
                sql.Identifier(self.name), sql.Literal(COMMENT)
            )
            self._connection.execute(comment)
        self._refuse_other_schema()
        return dropped

    def address(self, proxy_ports: Sequence[int] = ()) -> str:
        """Return the address of the schema, directly or through proxies of the servers on ports of loopback.

        The host stays in the address, so that its certificate and its password are still found by its name.
        """
        parameters = {
            name: value
            for name, value in self._parameters.items()
            if name not in ("host", "hostaddr", "port", "options", "password")
        }
        hosts, ports = zip(*self.servers, strict=True)
        if len(hosts) == 1:
            parameters.pop("target_session_attrs", None)
        if proxy_ports:
            hosts = tuple("127.0.0.1" if host.startswith("/") else host for host in hosts)
            parameters["hostaddr"], ports = ",".join(["127.0.0.1"] * len(hosts)), tuple(proxy_ports)
        parameters |= {"host": ",".join(hosts), "port": ",".join(map(str, ports))}
        parameters["application_name"] = self.name
        if password := self._connection.info.password:
            parameters["password"] = password
        parameters["options"] = self._options
        pairs = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
        return f"postgresql:///?{pairs}"

    def versions(self) -> Mapping[str, str]:
        """Return the settings of the server that a report names."""
        row = self._row(
            "SELECT current_setting('server_version'), (SELECT count(*) FROM pg_stat_replication), "
            "current_setting('max_connections')"
        )
        names = ("server_version", "standbys", "max_connections")
        settings = {name: str(value) for name, value in zip(names, row, strict=True)}
        settings |= {name: str(self._row(f"SHOW {name}")[0]) for name in _SETTINGS}
        is_direct = self._connection.info.backend_pid == self._row("SELECT pg_backend_pid()")[0]
        return {**settings, "pooler": "no" if is_direct else "by session"}

    def timeline(self) -> int:
        """Return the number of the server's timeline, which rises with each promotion; 0 if it says none."""
        try:
            self._connect_if_lost()
            return int(self._row(SELECT_TIMELINE.decode())[1])
        except psycopg.Error:
            return 0

    def commit_seconds(self) -> float:
        """Return the median time of a small commit in the schema."""
        table = sql.Identifier(self.name, "commit_probe")
        self._connection.execute(sql.SQL("CREATE TABLE {} (number integer)").format(table))
        times = []
        for number in range(_COMMITS):
            begun = time.perf_counter()
            self._connection.execute(sql.SQL("INSERT INTO {} VALUES (%s)").format(table), (number,))
            times.append(time.perf_counter() - begun)
        self._connection.execute(sql.SQL("DROP TABLE {}").format(table))
        return sorted(times)[_COMMITS // 2]

    def drop(self) -> None:
        """End the sessions of the run, drop its schema and close. Connects again if the session was lost."""
        self._connect_if_lost()
        self._drop(self.name)
        self._connection.close()

    def _connect_if_lost(self) -> None:
        try:
            self._row("SELECT 1")
        except psycopg.OperationalError:
            self._connection = self._connect()
            self._try_lock(self.name)

    @property
    def _options(self) -> str:
        return f"{self._parameters.get('options', '')} -c search_path={self.name}".strip()

    def _connect(self, **parameters: Any) -> psycopg.Connection[Any]:
        settings: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS, "application_name": "mesh prove"}
        try:
            return psycopg.connect(**(settings | self._parameters | parameters), autocommit=True)
        except psycopg.Error as error:
            raise StoreFailed(
                f"The database cannot be reached: {' '.join(str(error).split())}",
                remedy="Check that it runs, that the address is right, and that the role may log in",
            ) from None

    def _drop(self, name: str) -> None:
        self._connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = %s AND pid <> pg_backend_pid()",
            (name,),
        )
        self._connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))

    def _try_lock(self, name: str) -> bool:
        return bool(self._row("SELECT pg_try_advisory_lock(%s)", _lock_key(name))[0])

    def _refuse_tasks(self, *, beside: bool) -> None:
        schema, has_heads = self._row("SELECT current_schema(), to_regclass('heads') IS NOT NULL")
        if beside or not has_heads:
            return
        try:
            table = sql.SQL(_TASKS).format(sql.Identifier(schema))
            [(has_tasks,)] = self._connection.execute(table).fetchall()
        except psycopg.Error:
            has_tasks = True
        if has_tasks:
            raise InvalidInput(
                f"The schema {schema} of {self.location} holds the tasks of a mesh",
                remedy="Name another database, or prove it beside them, which touches none: --beside",
                field="database",
            )

    def _refuse_missing_rights(self) -> None:
        role, database, may_create, may_write_functions = self._row(
            "SELECT current_user, current_database(), "
            "has_database_privilege(current_database(), 'CREATE'), has_language_privilege('plpgsql', 'USAGE')"
        )
        role, database = (sql.Identifier(name).as_string(self._connection) for name in (role, database))
        grants = [
            *([] if may_create else [f"GRANT CREATE ON DATABASE {database} TO {role}"]),
            *([] if may_write_functions else [f"GRANT USAGE ON LANGUAGE plpgsql TO {role}"]),
        ]
        if grants:
            raise StoreFailed(
                f"The role {role} may not make a schema of its own in {self.location}",
                remedy=f"As its owner run: {'; '.join(grants)}",
            )

    def _refuse_other_schema(self) -> None:
        """Refuse a pooler that passes the schema's name over: workers would write into another one."""
        try:
            with self._connect(options=self._options) as connection:
                row = connection.execute("SELECT current_schema()").fetchone()
        except BaseException:
            self.drop()
            raise
        if row != (self.name,):
            self.drop()
            raise StoreFailed(
                f"{self.location} is reached through a pooler that ignores the search_path of a connection",
                remedy="Name the server itself, or have the pooler pass it on: PgBouncer needs "
                "track_extra_parameters = search_path and no options in ignore_startup_parameters",
            )

    def _row(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(statement.encode(), values or None).fetchone()


@contextmanager
def open_schema(address: str, report: Callable[[str], None]) -> Iterator[Schema]:
    """Connect to a database for a run, and drop the run's schema at its end, or report why it stays.

    Raises ConfigError and StoreFailed.
    """
    schema = Schema(address)
    try:
        yield schema
    finally:
        try:
            schema.drop()
        except (StoreFailed, psycopg.Error) as error:
            why = " ".join(str(error).split())
            report(f"the schema {schema.name} stays, and the next run here drops it: {why}")


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
