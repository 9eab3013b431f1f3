"""A PostgreSQL primary with a synchronous standby, for recipes: kills the primary again and again.

`python failover.py BIN PORT PORT2 EVERY LAST` makes both in the current folder, with the programs of BIN.
Each EVERY seconds, until LAST seconds have passed, it kills the primary with kill -9, promotes the standby,
and makes a new standby of it on the other port. No commit is acknowledged before the standby has it on disk,
but for the seconds in which there is none. SIGTERM ends both.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psycopg

from meshwright.core.folders import remove_folder

WAIT_SECONDS = 60


class Server:
    """One of the two servers, with its port and its folder."""

    def __init__(self, bin_folder: Path, port: int) -> None:
        self.port, self.folder = port, Path.cwd() / f"cluster-{port}"
        self._bin = bin_folder

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL as the user who may run the server."""
        subprocess.run(
            ["runuser", "-u", "postgres", "--", str(self._bin / program), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def make(self) -> None:
        """Make an empty cluster."""
        self.run("initdb", "-D", str(self.folder), "-U", "mesh", "-A", "trust", "-E", "UTF8", "--locale=C")

    def copy(self, primary: "Server") -> None:
        """Make a standby of another server, in place of what is here."""
        if self.folder.exists():
            remove_folder(self.folder)
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "mesh"]
        self.run("pg_basebackup", "-D", str(self.folder), "-R", "-X", "stream", "-c", "fast", *source)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-h 127.0.0.1 -p {self.port} -k {Path.cwd()}"
        log = str(Path.cwd() / f"{self.port}.log")
        self.run("pg_ctl", "start", "-D", str(self.folder), "-l", log, "-w", "-o", options)

    def promote(self) -> None:
        """Make a primary of it."""
        self.run("pg_ctl", "promote", "-D", str(self.folder), "-w")

    def kill(self) -> None:
        """End all its processes at once, as if its machine had died."""
        pid_file = self.folder / "postmaster.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Return the rows of a statement; none for one without."""
        address = f"postgresql://mesh@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def wait_for(self, state: str) -> None:
        """Wait until its standby is in a state."""
        ends = time.monotonic() + WAIT_SECONDS
        while (state,) not in self.execute("SELECT sync_state FROM pg_stat_replication"):
            if time.monotonic() > ends:
                raise TimeoutError(f"the standby of {self.port} does not become {state}")
            time.sleep(0.1)


def add_standby(primary: Server, standby: Server) -> None:
    """Add a standby, for which each commit waits from now on."""
    standby.copy(primary)
    standby.start()
    primary.wait_for("async")
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    primary.wait_for("sync")


def main(bin_folder: str, port: str, second_port: str, every: str, last: str) -> None:
    """Run both until SIGTERM."""
    primary, standby = (Server(Path(bin_folder), int(number)) for number in (port, second_port))
    begun = time.monotonic()
    try:
        primary.make()
        primary.start()
        add_standby(primary, standby)
        while True:
            time.sleep(float(every))
            if time.monotonic() - begun > float(last):
                continue
            primary.kill()
            standby.promote()
            primary, standby = standby, primary
            print(f"{primary.port} is the primary", flush=True)
            add_standby(primary, standby)
    finally:
        primary.kill()
        standby.kill()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(*sys.argv[1:])
