"""A start refuses servers, roles and poolers that cannot do what the mesh needs, and says the remedy."""

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import psycopg
import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.errors import StoreFailed, StoreUnavailable
from meshwright.core.messages import TaskRequest
from meshwright.engine.sql import postgres
from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.stack.machine import Ports
from tests.support.postgres import NAME, PASSWORD, USER, Address, Cluster
from tests.support.services import unavailable
from tests.support.settings import Settings

POOLER = """
[databases]
{name} = host=127.0.0.1 port={port} dbname={name} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = extra_float_digits,options
unix_socket_dir =
"""


@contextmanager
def pooler(cluster: Cluster, mode: str) -> Iterator[str]:
    """The address of the cluster's database through a pooler."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        unavailable("PgBouncer is not installed: apt install pgbouncer")
    ports = Ports()
    (port,) = ports.take(1)
    own = cluster.folder / "pgbouncer.ini"  # the server's user may read it
    own.write_text(
        POOLER.format(name=NAME, port=cluster.port, user=USER, password=PASSWORD, own_port=port, mode=mode)
    )
    as_another = {"user": pwd.getpwnam("postgres").pw_uid} if os.geteuid() == 0 else {}
    own.chmod(0o644)
    process = subprocess.Popen([program, "-q", str(own)], **as_another)
    url = f"postgresql://{USER}@127.0.0.1:{port}/{NAME}"
    try:
        while process.poll() is None:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                pass
        yield url
    finally:
        process.terminate()
        process.wait()
        ports.close()


async def refused(url: str, folder: Path) -> StoreFailed:
    with pytest.raises(StoreFailed) as found:
        await PostgresDatabase(url, folder).open()
    return found.value


async def test_a_pooler_by_transaction_is_refused_with_the_remedy(
    own_postgres: Cluster, tmp_path: Path
) -> None:
    with pooler(own_postgres, "transaction") as url:
        error = await refused(url, tmp_path)
    assert "changes the session with each transaction" in error.message
    assert "pool_mode = session" in (error.remedy or "")


async def test_a_pooler_by_session_is_used(own_postgres: Cluster, tmp_path: Path) -> None:
    with pooler(own_postgres, "session") as url:
        database = PostgresDatabase(url, tmp_path)
        await database.open()
        assert await database.read(lambda session: session.execute("SELECT 1").fetchall()) == [(1,)]
        await database.close()


@asynccontextmanager
async def one_at_a_time(port: int) -> AsyncIterator[int]:
    """The port of a server that forwards one connection at a time, and closes the others."""
    is_taken, served = asyncio.Lock(), set[asyncio.Task[None]]()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(cast("asyncio.Task[None]", asyncio.current_task()))
        if not is_taken.locked():
            async with is_taken:
                from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(forward(reader, to_server), forward(from_server, writer))
                to_server.close()
                await to_server.wait_closed()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*served)


async def test_a_server_of_one_connection_is_refused_at_once(
    postgres: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_at_a_time(postgres.port) as port:
        error = await refused(postgres.url().replace(f":{postgres.port}/", f":{port}/"), tmp_path)
    assert "takes one connection at a time" in error.message and "SQLite needs none" in (error.remedy or "")
    assert caplog.messages == [], "nothing is waited for"


async def test_a_server_that_is_too_old_is_refused(
    postgres_url: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "MIN_VERSION", 99)
    error = await refused(postgres_url, tmp_path)
    assert "too old" in error.message
    assert "PostgreSQL 99 or newer" in (error.remedy or "")


@pytest.mark.parametrize(
    ("forbidden", "said"),
    [
        ("CREATE ON SCHEMA public FROM poor, PUBLIC", "permission denied for schema"),
        ("USAGE ON SCHEMA public FROM poor, PUBLIC", "no schema has been selected"),
        ("USAGE ON LANGUAGE plpgsql FROM PUBLIC", "permission denied for language"),
    ],
)
async def test_a_role_without_a_right_is_told_which(
    own_postgres: Cluster, tmp_path: Path, forbidden: str, said: str
) -> None:
    await asyncio.to_thread(own_postgres.query, "CREATE ROLE poor LOGIN PASSWORD 'word'")
    await asyncio.to_thread(own_postgres.query, "GRANT USAGE, CREATE ON SCHEMA public TO poor")
    await asyncio.to_thread(own_postgres.query, f"REVOKE {forbidden}")
    error = await refused(f"postgresql://poor:word@127.0.0.1:{own_postgres.port}/{NAME}", tmp_path)
    assert said in error.message
    assert "TO poor" in (error.remedy or "")


SET_ODDLY = (
    "client_encoding = 'LATIN1'",
    "DateStyle = 'German, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Asia/Kathmandu'",
    "bytea_output = 'escape'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "extra_float_digits = 0",
    "lock_timeout = '100ms'",
    "standard_conforming_strings = off",
    "statement_timeout = '1s'",
)


async def test_a_session_does_not_depend_on_the_settings_of_its_role(
    postgres: Cluster, tmp_path: Path
) -> None:
    url, role = postgres.new_schema(), "odd"
    postgres.query(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    try:
        for setting in SET_ODDLY:
            postgres.query(f"ALTER ROLE {role} SET {setting}")
        address = str(url).replace(f"//{USER}:", f"//{role}:")
        assert role in address
        database = PostgresDatabase(address, tmp_path)
        await database.open()
        try:
            title = "naïve — Zürich ✓"
            await database.write(
                lambda session: session.execute("CREATE TABLE odd (t text, f float8, b bytea)")
            )
            await database.write(
                lambda session: session.insert("odd (t, f, b)", [(title, 1795778477.020902, b"\x00\\")])
            )
            rows = await database.read(lambda session: session.execute("SELECT t, f, b FROM odd").fetchall())
            assert rows == [(title, 1795778477.020902, b"\x00\\")]
        finally:
            await database.close()
    finally:
        postgres.query(f"DROP OWNED BY {role} CASCADE")
        postgres.query(f"DROP ROLE {role}")


class Echo(Agent):
    """Answers at once."""

    agent_id = "echo"
    capabilities = (Capability("echoes"),)

    async def run(self, run: Run) -> str:
        return run.task.text


async def test_another_search_path_of_the_role_moves_no_mesh_unnoticed(
    own_postgres: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for schema in ("one", "two"):
        own_postgres.query(f"CREATE SCHEMA {schema}")
    own_postgres.query(f"ALTER ROLE {USER} SET search_path = one")
    url = own_postgres.url().partition("?")[0]
    settings = Settings(data_dir=tmp_path, database=Address(url))
    async with build_mesh(settings, project=tmp_path, agents=[Echo]) as mesh:
        await mesh.get(Tasks).ask("echo", "first")
        own_postgres.query(f"ALTER ROLE {USER} SET search_path = two")
        own_postgres.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meshwright'"
        )
        request = TaskRequest(task_id="second", agent_id="echo", payload={"text": "second"})
        async with asyncio.timeout(60):
            while True:  # the first calls may meet the connections that have ended
                try:
                    await mesh.get(Tasks).submit(request)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
            assert (await mesh.get(Tasks).outcome("second")).success
    assert own_postgres.rows("SELECT 1 FROM pg_tables WHERE schemaname = 'two'") == []
    assert "another database, or another schema" not in caplog.text
    async with build_mesh(settings, project=tmp_path, agents=[Echo]):
        assert f"than the data folder {tmp_path} was used with before" in caplog.text


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_a_database_of_another_encoding_is_refused_by_name(
    postgres: Cluster, tmp_path: Path, encoding: str
) -> None:
    name = f"enc_{encoding.lower()}"
    postgres.query(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0", "postgres")
    try:
        with pytest.raises(StoreFailed, match=f"has the encoding {encoding}") as refusal:
            await PostgresDatabase(postgres.url(name), tmp_path).open()
        assert "ENCODING 'UTF8' TEMPLATE template0" in (refusal.value.remedy or "")
    finally:
        postgres.query(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
