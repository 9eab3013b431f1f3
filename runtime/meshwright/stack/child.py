"""One run of a program of the stack, which never outlives this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from meshwright.stack.log import Log
from meshwright.stack.probes import answers
from meshwright.stack.services import Service

LAUNCH = Path(__file__).with_name("launch.py")
CHUNK_BYTES = 65_536
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.01, 0.25
OUTPUT_SECONDS = 1.0
"""How long the output is read on after the end: a child of the child may hold it open."""


def command_of(service: Service) -> list[str]:
    """The arguments that start its program as a child of this process, to be killed when this process ends.

    Start it from the main thread: the kernel takes the end of the starting thread for that of its process.
    """
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), *service.argv]


def write_files(service: Service) -> None:
    """Write what its program reads, for this user alone."""
    for path, text in service.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        draft.replace(path)


class Child:
    """A program that was started."""

    def __init__(self, service: Service, process: Process, log: Log) -> None:
        self.service = service
        self.log = log
        self.pid = process.pid
        self._process = process
        self._late = False
        self._reading = [
            asyncio.create_task(self._read(stream, output), name=f"{stream}-{service.name}")
            for stream, output in (("stdout", process.stdout), ("stderr", process.stderr))
            if output is not None
        ]

    @classmethod
    async def start(cls, service: Service, log: Log, *, descriptors: Sequence[int] = ()) -> Self:
        """Run its program. `descriptors` are files of ours that stay open in it. Raises OSError."""
        write_files(service)
        log.begin()
        process = await asyncio.create_subprocess_exec(
            *command_of(service),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(service.environment),
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C of the terminal is for us: we stop them in order
        )
        return cls(service, process, log)

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode or 0
        if self._late:
            return f"was not ready within {self.service.ready_seconds:g} s"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    async def wait(self) -> None:
        """Return when it has ended, and all that it said is in its log."""
        await self._process.wait()
        await asyncio.wait(self._reading, timeout=OUTPUT_SECONDS)

    async def works(self) -> bool:
        """Wait until it is ready (True), or has ended, or took too long (False)."""
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._answers())
        try:
            limit = self.service.ready_seconds
            done, _ = await asyncio.wait({ended, ready}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            ready.cancel()
        self._late = not done
        return ready in done and self._process.returncode is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask it to end, and kill it where it does not in its time. Idempotent."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.service.stop_seconds):
                await self._process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
        await self.wait()
        for reading in self._reading:
            reading.cancel()

    async def _answers(self) -> None:
        """Return when it answers."""
        pause = FIRST_LOOK_SECONDS
        while not await answers(self.service.ready):
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK_SECONDS)

    async def _read(self, stream: str, output: asyncio.StreamReader) -> None:
        while chunk := await output.read(CHUNK_BYTES):
            self.log.take(stream, chunk)
        self.log.end(stream)
