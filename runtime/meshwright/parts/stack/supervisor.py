"""Starts programs, restarts those that die, and stops them all. None of them outlives this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Self

from meshwright.core.errors import ServiceFailed
from meshwright.engine.sql.folder import open_private, write_private
from meshwright.kit import Backoff
from meshwright.parts.stack.checks import failure_reason
from meshwright.parts.stack.machine import PROBE_SECONDS, answers, until_it_answers
from meshwright.parts.stack.services import Layer, Service

LAUNCH = Path(__file__).with_name("launch.py")
_CHUNK_BYTES = 65_536
_OUTPUT_SECONDS = 1.0
"""How long the output is read after the end: a child of the child may hold it open."""
_MAX_LOG_BYTES = 4 * 1024 * 1024
_MAX_LINE = 16_384  # characters; a longer line is split
_TAIL_LINES = 50
_LOOK_SECONDS = 2.0
_DUMP_SECONDS = 0.5


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
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
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


def service_command(service: Service) -> list[str]:
    """The arguments that start its program as a child of this process, killed when this process ends.

    Start it from the main thread: the kernel takes the end of the starting thread for that of its process.
    """
    return [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), *service.argv]


def write_files(service: Service) -> None:
    """Write what its program reads, for this user alone."""
    for path, text in service.files.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)


class _ServiceOutput:
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
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=_OUTPUT_SECONDS)
            self._reading.cancel()

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._source, "rb", buffering=0)
        )
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                self._log.write(self._name, chunk)
        finally:
            self._log.end(self._name)
            transport.close()


class Child:
    """A program that was started."""

    def __init__(self, service: Service, process: Process, outputs: Sequence[_ServiceOutput]) -> None:
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
        outputs = _ServiceOutput("stdout", log), _ServiceOutput("stderr", log)
        try:
            process = await asyncio.create_subprocess_exec(
                *service_command(service),
                stdin=DEVNULL,
                stdout=outputs[0].end,
                stderr=outputs[1].end,
                env={**service.environment, **service.once},
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C of a terminal reaches this process alone, which stops them
            )
        finally:
            for output in outputs:
                output.begin()
        return cls(service, process, outputs)

    @property
    def ended(self) -> str:
        """How it ended, as text."""
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
        ending = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(until_it_answers(self.service.ready))
        try:
            seconds = self.service.ready_seconds
            first, _ = await asyncio.wait(
                {ending, ready}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ending.cancel()
            ready.cancel()
        self._late = not first
        return ready in first and self._process.returncode is None

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


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a program that dies is restarted. Times in seconds.

    The pause before a restart doubles each time. A program that worked for `steady_seconds` counts from the
    start again.
    """

    max_restarts: int = 10
    first_pause_seconds: float = 0.1
    max_pause_seconds: float = 10.0
    steady_seconds: float = 5.0


class _ManagedProcess:
    """A service that is kept alive: its runs, one after the other."""

    def __init__(
        self,
        service: Service,
        log: Log,
        *,
        warn: Callable[[str], None],
        patience: Patience,
        descriptors: Sequence[int],
    ) -> None:
        self.service = service
        self.child: Child | None = None
        self._log = log
        self._warn = warn
        self._patience = patience
        self._descriptors = descriptors

    async def start(self) -> None:
        if not await self._run():
            raise self._failed(f"{self.service.name} {self._how()}")

    async def keep(self) -> None:
        """Restart it whenever it ends. Raises ServiceFailed once that is of no use."""
        patience, loop = self._patience, asyncio.get_running_loop()
        limit = patience.max_restarts
        backoff = Backoff(patience.first_pause_seconds, patience.max_pause_seconds, jitter=0.0)
        while self.child is not None:
            since = loop.time()
            await self._until_it_ends(self.child)
            if loop.time() - since >= patience.steady_seconds:
                backoff.reset()
            pause, restarts = backoff.next(), backoff.failures
            if restarts > limit:
                raise self._failed(f"{self.service.name} died {restarts} times in a row; it {self._how()}")
            count = f"{restarts} of {limit}"
            self._warn(f"{self.service.name} {self._how()}; starting it again in {pause:g} s ({count})")
            await asyncio.sleep(pause)
            if await self._run():
                self._warn(f"{self.service.name} works again")

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop()
        self._log.close()

    async def _until_it_ends(self, child: Child) -> None:
        watching = asyncio.create_task(self._kill_when_silent(child), name=f"watch-{self.service.name}")
        try:
            await child.wait()
        finally:
            watching.cancel()

    async def _kill_when_silent(self, child: Child) -> None:
        """Kill a program that hangs. A probe counts for its own time: this process may be stopped, too."""
        service, silent = self.service, 0.0
        if not service.alive or not service.silent_seconds:
            return
        loop, pause = asyncio.get_running_loop(), min(_LOOK_SECONDS, service.silent_seconds / 5)
        while silent < service.silent_seconds:
            since = loop.time()
            await asyncio.sleep(pause)
            answered = await answers(service.alive)
            silent = 0.0 if answered else silent + min(loop.time() - since, pause + PROBE_SECONDS)
        limit = f"{service.silent_seconds:g} s"
        self._warn(f"{service.name} hangs: no answer for {limit}; its stacks are in {self._log.path}")
        child.send(signal.SIGUSR2)
        await asyncio.sleep(_DUMP_SECONDS)
        child.send(signal.SIGKILL)

    async def _run(self) -> bool:
        """One more run; False where it never became ready, in which case it has ended."""
        try:
            self.child = await Child.start(self.service, self._log, descriptors=self._descriptors)
        except OSError as error:
            raise ServiceFailed(f"{self.service.argv[0]} cannot be run: {error}") from error
        if await self.child.works():
            self.service = replace(self.service, once={})
            return True
        await self.child.stop()
        return False

    def _how(self) -> str:
        assert self.child is not None
        reason = failure_reason(self._log.tail)
        return f"{self.child.ended}: {reason.text}" if reason.text else self.child.ended

    def _failed(self, message: str) -> ServiceFailed:
        steps = [failure_reason(self._log.tail).remedy, f"its log is {self._log.path}"]
        return ServiceFailed(message, remedy="; ".join(filter(None, steps)))


class Supervisor:
    """Keeps services alive until it is stopped.

    `warn` gets a line for a person whenever something dies or works again; `on_line` every line that a worker
    prints, with its name and the stream. `descriptors` stay open in every program, so that a lock is held
    until the last ends.
    """

    def __init__(
        self,
        logs: Path,
        *,
        warn: Callable[[str], None],
        on_line: Callable[[str, str, str], None] = lambda name, stream, line: None,
        patience: Patience | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._logs = logs
        self._on_line = on_line
        self._manage = partial(
            _ManagedProcess, warn=warn, patience=patience or Patience(), descriptors=descriptors
        )
        self._processes: list[_ManagedProcess] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> list[tuple[Service, int]]:
        """Every service with the process id of its present run, in the order of their start."""
        return [(process.service, process.child.pid) for process in self._processes if process.child]

    async def start(self, services: Sequence[Service]) -> Sequence[Service]:
        """Start services side by side, return them when all are ready, and keep them alive from then on.

        Raises ServiceFailed, and leaves none of them running then.
        """
        together = [self._new(service) for service in services]
        try:
            await _start_all(together)
        except BaseException:  # a cancelled start too must leave nothing running
            await _stop_all(together)
            raise
        self._processes += together
        for process in together:
            task = asyncio.create_task(process.keep(), name=f"keep-{process.service.name}")
            task.add_done_callback(self._given_up)
            self._keeping.append(task)
        return services

    def reconfigure(self, changed: Service) -> None:
        """Write the changed files of a service, and have its program read them (SIGHUP). Raises OSError."""
        for process in self._processes:
            if process.service.name == changed.name and process.child is not None:
                write_files(changed)
                process.service = changed  # also of its next run
                process.child.send(signal.SIGHUP)

    async def failure(self) -> BaseException:
        """Wait until one of them cannot be kept alive, and return why: a ServiceFailed."""
        return await asyncio.shield(self._failed)

    def send(self, layer: Layer, number: signal.Signals) -> None:
        """Send a signal to all of a layer."""
        for process in self._processes:
            if process.service.layer is layer and process.child is not None:
                process.child.send(number)

    async def stop(self) -> None:
        """End them all: layer by layer, those of one layer side by side. Idempotent."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        downwards = sorted(self._processes, key=lambda process: process.service.layer, reverse=True)
        for _, layer in groupby(downwards, key=lambda process: process.service.layer):
            await _stop_all(list(layer))
        self._processes.clear()
        self._keeping.clear()

    def _new(self, service: Service) -> _ManagedProcess:
        path = self._logs / f"{service.name}.log"
        if service.layer is not Layer.WORKERS:
            return self._manage(service, Log(path))
        return self._manage(service, Log(path, on_line=partial(self._on_line, service.name)))

    def _given_up(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_result(error)


async def _start_all(together: Sequence[_ManagedProcess]) -> None:
    """Start them side by side; the first error ends the others' starts."""
    try:
        async with asyncio.TaskGroup() as group:
            for process in together:
                group.create_task(process.start())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _stop_all(together: Sequence[_ManagedProcess]) -> None:
    await asyncio.gather(*(process.stop() for process in together))
