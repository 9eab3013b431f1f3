"""One run of a program of the stack, which never outlives this process, and the file of its output."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Self

from meshwright.sql.folder import open_private, write_private
from meshwright.stack.network import until_it_answers
from meshwright.stack.services import Service

LAUNCH = Path(__file__).with_name("launch.py")
CHUNK_BYTES = 65_536
_OUTPUT_SECONDS = 1.0
"""How long the output is read after the end: a child of the child may hold it open."""
_MAX_LOG_BYTES = 4 * 1024 * 1024
_MAX_LINE = 16_384  # characters; a longer line is split
TAIL_LINES = 50


class Log:
    """The output of a program, over all its runs.

    The file has at most `max_bytes`; when it is full it is renamed to `NAME.log.1`, which is replaced. Every
    whole line is passed to `on_line`, with the name of its stream: `stdout` or `stderr`.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = _MAX_LOG_BYTES,
        on_line: Callable[[str, str], None] = lambda stream, line: None,
    ) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._max_bytes = max_bytes
        self._on_line = on_line
        self._rests: dict[str, str] = {}
        self._file = self._open()

    def write(self, stream: str, output: bytes) -> None:
        """Append what the program has written to a stream."""
        with suppress(OSError):  # a full disk must not stop the program
            if self._file.tell() + len(output) > self._max_bytes:
                self._file.close()
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
                self._file = self._open()
            self._file.write(output[-self._max_bytes :])
        *lines, rest = (self._rests.get(stream, "") + output.decode(errors="replace")).split("\n")
        if len(rest) > _MAX_LINE:
            lines.append(rest)
            rest = ""
        self._rests[stream] = rest
        for line in lines:
            self._pass_on(stream, line)

    def end(self, stream: str) -> None:
        """The program has closed a stream: its last line is whole."""
        self._pass_on(stream, self._rests.pop(stream, ""))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _pass_on(self, stream: str, line: str) -> None:
        if text := line.rstrip():
            self.tail.append(text)
            self._on_line(stream, text)

    def _open(self) -> FileIO:
        return FileIO(open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def command_of(service: Service) -> list[str]:
    """The arguments that start its program as a child of this process, killed when this process ends.

    Start it from the main thread: the kernel takes the end of the starting thread for that of its process.
    """
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), *service.argv]


def write_files(service: Service) -> None:
    """Write what its program reads, for this user alone."""
    for path, text in service.files.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)


class _Output:
    """One stream of a program.

    Not asyncio's pipes: those hide the end of a program for as long as a child of it holds them open.
    """

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._source, self.end = os.pipe()
        self._reading: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Read, now that the program has inherited its end."""
        os.close(self.end)
        self._reading = asyncio.create_task(self._read(), name=f"{self._name}-{self._log.path.stem}")

    async def ended(self) -> None:
        """Wait until all is read, for a bounded time."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_OUTPUT_SECONDS)
            self._reading.cancel()

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._source, "rb", buffering=0)
        )
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                self._log.write(self._name, chunk)
        finally:
            self._log.end(self._name)
            transport.close()


class Child:
    """A program that was started."""

    def __init__(self, service: Service, process: Process, outputs: Sequence[_Output]) -> None:
        self.service = service
        self.pid = process.pid
        self._process = process
        self._late = False
        self._outputs = outputs

    @classmethod
    async def start(cls, service: Service, log: Log, *, descriptors: Sequence[int] = ()) -> Self:
        """Run its program. `descriptors` are files of ours that stay open in it. Raises OSError."""
        write_files(service)
        log.tail.clear()
        outputs = _Output("stdout", log), _Output("stderr", log)
        try:
            process = await asyncio.create_subprocess_exec(
                *command_of(service),
                stdin=DEVNULL,
                stdout=outputs[0].end,
                stderr=outputs[1].end,
                env=dict(service.environment),
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C of a terminal reaches this process alone, which stops them
            )
        finally:
            for output in outputs:
                output.begin()
        return cls(service, process, outputs)

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode or 0
        if self._late:
            return f"was not ready within {self.service.ready_seconds:g} s"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    async def wait(self) -> None:
        """Return when it and all its children have ended, and its output is in the log."""
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
        """Ask it to end, and kill it where it does not within its time. Idempotent."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.service.stop_seconds):
                await self._process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
        await self.wait()
