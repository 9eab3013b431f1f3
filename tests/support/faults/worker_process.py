"""A worker's process, which a test starts, kills and starts again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from meshwright.parts.stack.services import Layer, Service
from tests.support.faults.node import ROOT
from tests.support.services import Process

READY_SECONDS = 120.0
LOOK_SECONDS = 0.02


class WorkerProcess:
    """Runs a module with one argument, the file of its post. It says "ready", and begins on SIGUSR1."""

    def __init__(self, name: str, module: str, log: Path, environment: Mapping[str, str]) -> None:
        self._name, self._module, self._log, self._environment = name, module, log, environment
        self._process: Process | None = None
        self._begins_at = 0

    @property
    def log(self) -> str:
        """All it has said, in each of its runs."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def run(self, post: str) -> None:
        """Start it, and do not wait."""
        self._begins_at = self._log.stat().st_size if self._log.exists() else 0
        file = self._log.with_suffix(".post")
        file.write_text(post)  # longer than an argument may be
        self._process = Process(self._service(str(file)), self._log)
        self._process.launch()

    async def ready(self) -> None:
        """Wait until it works."""
        assert self._process is not None
        async with asyncio.timeout(READY_SECONDS):
            while b"ready\n" not in self._said():
                assert self._process.failure() is None, self._process.failure()
                await asyncio.sleep(LOOK_SECONDS)

    def begin(self) -> None:
        """Let its client, if it has one, begin or go on."""
        self.send(signal.SIGUSR1)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """SIGTERM: it ends as it should."""
        assert self._process is not None
        await asyncio.to_thread(self._process.stop)

    def has_ended(self) -> bool:
        """Whether it has ended, by itself or not."""
        return self._process is None or self._process.failure() is not None

    def _said(self) -> bytes:
        """All it has said in this run."""
        with self._log.open("rb") as log:
            log.seek(self._begins_at)
            return log.read()

    def _service(self, argument: str) -> Service:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return Service(
            name=self._name,
            layer=Layer.WORKERS,
            argv=(sys.executable, "-m", self._module, argument),
            address="",
            ready="",
            environment={**os.environ, **self._environment, "PYTHONPATH": path},
            stop_seconds=30.0,
        )
