"""The worker processes of a run: starts, freezes and kills them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

READY_SECONDS = 120.0
_STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_MAX_LINE = 1000


class WorkerProcess:
    """Runs the worker program with one job, again and again."""

    def __init__(self, program: Sequence[str], folder: Path, job: str) -> None:
        """`folder` gets its log and the file of its job, which may hold a password."""
        self._program = program
        self._log = folder / "worker.log"
        self._job_file = folder / "job.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._begins_at = 0
        self._job_file.touch(mode=0o600)
        self._job_file.write_text(job)

    @property
    def last_line(self) -> str:
        """The last line that it has printed since it was started; "" if none."""
        lines = [line for line in self._read_log().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:_MAX_LINE] if lines else ""

    @property
    def failure(self) -> str:
        """How it has failed: its exit status, or how long its start was waited for; and its last line."""
        status = None if self._process is None else self._process.poll()
        how = f"not ready after {READY_SECONDS:g} s" if status is None else f"ended with status {status}"
        return f"{how}; {f'its last line: {self.last_line}' if self.last_line else 'it printed nothing'}"

    @property
    def pids(self) -> list[int]:
        """The process and the process that writes for it, as far as they run."""
        if self._process is None or self._process.poll() is not None:
            return []
        return [self._process.pid, *writer_pids(self._process.pid)]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self._process is None or self._process.poll() is not None

    def launch(self) -> None:
        """Start it without waiting."""
        with self._log.open("ab") as log:
            self._begins_at = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, *self._program, str(self._job_file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C reaches the parent alone, and a frozen orphan is ended
            )

    async def ready(self) -> bool:
        """Wait until it works; False if it has ended before, or takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while b"ready\n" not in self._read_log():
                    if self.has_ended:
                        return False
                    await asyncio.sleep(_LOOK_SECONDS)
                return True
        return False

    def kill(self) -> None:
        """Kill -9, with the process that writes for it."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def stop(self) -> None:
        """End it by SIGTERM; kill it if it takes too long."""
        if self._process is not None and not self.has_ended:
            send(self._process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        self.kill()

    def _read_log(self) -> bytes:
        with self._log.open("rb") as log:
            log.seek(self._begins_at)
            return log.read()


def send(pid: int, number: signal.Signals) -> None:
    """Send a process a signal, if it runs."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def writer_pids(pid: int) -> list[int]:
    """Return the processes that write for another one; none where the system has no /proc."""
    return [child for child in child_pids(pid) if "meshwright.engine.sql.writer" in command_line(child)]


def child_pids(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    children: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (thread / "children").read_text().split())
    return children


def command_line(pid: int) -> str:
    """Return the command line of a process; "" if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
