"""One run of a program of the stack, which never outlives this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from meshwright.stack.log import Log
from meshwright.stack.probes import until_it_answers
from meshwright.stack.services import Service
from meshwright.storage.folder import write_private

LAUNCH = Path(__file__).with_name("launch.py")
CHUNK_BYTES = 65_536
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
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)


class Output:
    """One stream that a program writes to.

    Not asyncio's own pipes: those hide the end of a program for as long as a child of it holds them open.
    """

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._source, self.end = os.pipe()
        self._reading: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The program has its end of it, and we let go of ours."""
        os.close(self.end)
        self._reading = asyncio.create_task(self._read(), name=f"{self._name}-{self._log.path.stem}")

    async def ended(self) -> None:
        """Wait until all is read; somebody who has left the program's group may hold it open for ever."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=OUTPUT_SECONDS)
            self._reading.cancel()

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._source, "rb", buffering=0)
        )
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                self._log.take(self._name, chunk)
        finally:
            self._log.end(self._name)
            transport.close()


class Child:
    """A program that was started."""

    def __init__(self, service: Service, process: Process, log: Log, outputs: Sequence[Output]) -> None:
        self.service = service
        self.log = log
        self.pid = process.pid
        self._process = process
        self._late = False
        self._outputs = outputs

    @classmethod
    async def start(cls, service: Service, log: Log, *, descriptors: Sequence[int] = ()) -> Self:
        """Run its program. `descriptors` are files of ours that stay open in it. Raises OSError."""
        write_files(service)
        log.begin()
        stdout, stderr = Output("stdout", log), Output("stderr", log)
        try:
            process = await asyncio.create_subprocess_exec(
                *command_of(service),
                stdin=DEVNULL,
                stdout=stdout.end,
                stderr=stderr.end,
                env=dict(service.environment),
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C of a terminal is for us alone: we stop them, in order
            )
        finally:
            stdout.begin()
            stderr.begin()
        return cls(service, process, log, (stdout, stderr))

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode or 0
        if self._late:
            return f"was not ready within {self.service.ready_seconds:g} s"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    async def wait(self) -> None:
        """Return when it has ended with all that it had started itself, and what it said is in its log."""
        await self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for output in self._outputs:
            await output.ended()

    async def works(self) -> bool:
        """Wait until it is ready (True), or has ended, or took too long (False)."""
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(until_it_answers(self.service.ready))
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
