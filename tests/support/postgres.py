"""PostgreSQL for tests: a private cluster for each pytest process, and an empty schema for each test.

    async def test_it(postgres_url: str) -> None: ...       # postgresql://..., a schema of the test's own
    async def test_it(location: Location) -> None: ...            # twice: a folder, an address of PostgreSQL

The cluster listens on loopback and on a socket in a folder of its own. It is started when a test asks for it
first, from the programs of this machine; without them the test is skipped, and fails under REQUIRE_TIERS=all.
"""

import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from meshwright.parts.stack.machine import Ports

USER, PASSWORD, NAME = "mesh", "s3cret-" + secrets.token_hex(8), "mesh"
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "shared_buffers": "32MB"}
LOCATIONS = ("sqlite", "postgres")


class Address(str):
    """The address of a schema; `address / "name"` is that of another one, as with folders."""

    def __truediv__(self, name: str) -> "Address":
        import psycopg

        schema = "_".join((self.rpartition("%3D")[2], *name.split()))
        with psycopg.connect(self, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
        return Address(self.rpartition("%3D")[0] + f"%3D{schema}")


Location = Path | Address
"""A data folder, or the address of a PostgreSQL database."""


class Cluster:
    """A PostgreSQL server with a data folder of its own."""

    def __init__(
        self,
        programs: Path,
        settings: Mapping[str, str] | None = None,
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._programs = programs
        self._settings = {**SETTINGS, **(settings or {})}
        self._environment = {**os.environ, **(environment or {})}
        self._ports = Ports()
        (self.port,) = self._ports.take(1)
        self.folder = folder or Path(tempfile.mkdtemp(prefix="mesh-postgres-"))
        self._owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._schemas = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the data folder and start the server, with an empty database."""
        os.chown(self.folder, self._owner.pw_uid, self._owner.pw_gid)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = self.folder / "data"
        init = ["-D", str(data), "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8"]
        self._run("initdb", [*init, "--locale=C", "--no-sync"])
        self.start()
        self.query(f"CREATE DATABASE {NAME}", "postgres")

    def start(self) -> None:
        """Start the server; it accepts connections when this returns."""
        options = [option for name, value in self._settings.items() for option in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, **self._as_owner()
            )
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]

    @property
    def pid(self) -> int:
        """The server's first process, 0 where it has ended."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server at once, as a crash of its machine does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait()

    def copy(self) -> Path:
        """Copy the data of the server, which must not run."""
        target = Path(tempfile.mkdtemp(prefix="copy-", dir=self.folder)) / "data"
        subprocess.run(["cp", "-a", str(self.folder / "data"), str(target)], check=True)
        return target

    def restore(self, copy: Path) -> None:
        """Put a copy in place of the data of the server, which must not run."""
        shutil.rmtree(self.folder / "data")
        subprocess.run(["cp", "-a", str(copy), str(self.folder / "data")], check=True)

    def standby(self) -> "Cluster":
        """A server that follows this one, in a folder of its own; the caller removes it."""
        standby = Cluster(self._programs, self._settings, environment=self._environment)
        os.chown(standby.folder, self._owner.pw_uid, self._owner.pw_gid)
        standby._environment["PGPASSWORD"] = PASSWORD  # what follows reads it too
        target = ["-D", str(standby.folder / "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync"]
        standby._run("pg_basebackup", ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, *target])
        standby.start()
        return standby

    def catch_up(self, primary: "Cluster") -> None:
        """Wait until this standby has all that its primary has."""
        [(reached,)] = primary.rows("SELECT pg_current_wal_lsn()::text")
        while self.rows(f"SELECT pg_last_wal_replay_lsn() < '{reached}'") != [(False,)]:
            pass

    def lag(self) -> None:
        """Have this standby hear nothing more of its primary."""
        with (self.folder / "data" / "postgresql.auto.conf").open("a") as settings:
            settings.write("primary_conninfo = ''\n")
        self.query("SELECT pg_reload_conf()")
        while self.rows("SELECT 1 FROM pg_stat_wal_receiver"):
            pass

    def promote(self) -> None:
        """Make this standby a primary."""
        self.query("SELECT pg_promote()")

    def remove(self) -> None:
        """End the server, and delete its data."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._ports.close()

    def url(self, database: str = NAME, schema: str = "public") -> Address:
        """An address, with the password."""
        options = quote(f"-csearch_path={schema}")
        return Address(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}?options={options}")

    def new_schema(self) -> Address:
        """The address of an empty schema."""
        schema = f"test_{next(self._schemas)}"
        self.query(f"CREATE SCHEMA {schema}")
        return self.url(schema=schema)

    def query(self, statement: str, database: str = NAME) -> None:
        """Run a statement."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def _run(self, program: str, arguments: Sequence[str]) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, env=self._environment, **self._as_owner())

    def _as_owner(self) -> dict[str, object]:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return {"cwd": self.folder}
        return {
            "user": self._owner.pw_uid,
            "group": self._owner.pw_gid,
            "extra_groups": [],
            "cwd": self.folder,
        }


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, where Debian puts them or on PATH."""
    of_debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = of_debian[-1] if of_debian else shutil.which("initdb")
    return Path(found).parent if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A cluster that all tests share: nobody may stop it."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def own_postgres() -> Iterator[Cluster]:
    """A cluster of this test alone, to stop and start again."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def standby(own_postgres: Cluster) -> Iterator[Cluster]:
    """A standby of `own_postgres`."""
    cluster = own_postgres.standby()
    try:
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def postgres_url(postgres: Cluster) -> Address:
    """The address of an empty schema."""
    return postgres.new_schema()


@pytest.fixture(params=LOCATIONS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return tmp_path if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@contextmanager
def running_cluster(
    folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A cluster, by default in a folder of its own, whose server has some variables in its environment."""
    from tests.support.services import unavailable

    programs = postgres_programs()
    if programs is None:
        unavailable("PostgreSQL is not installed: apt install postgresql")
    cluster = Cluster(programs, folder=folder, environment=environment)
    try:
        cluster.create()
        yield cluster
    finally:
        cluster.remove()
