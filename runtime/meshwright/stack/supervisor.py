"""Starts programs, restarts those that die, and stops them all."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from meshwright.errors import ServiceFailed
from meshwright.stack.checks import reason_of
from meshwright.stack.child import Child, Log
from meshwright.stack.network import PROBE_SECONDS, answers
from meshwright.stack.services import Layer, Service

LOOK_SECONDS = 2.0
_DUMP_SECONDS = 0.5


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

    def pause(self, restarts: int) -> float:
        """Before the restart of that number, from 1."""
        return min(self.first_pause_seconds * 2 ** (restarts - 1), self.max_pause_seconds)


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
        """The first run, ready. Raises ServiceFailed with its last words."""
        if not await self._run():
            raise self._failed(f"{self.service.name} {self._how()}")

    async def keep(self) -> None:
        """Restart it whenever it ends. Raises ServiceFailed once that is of no use."""
        restarts, limit = 0, self._patience.max_restarts
        loop = asyncio.get_running_loop()
        while self.child is not None:
            since = loop.time()
            await self._until_it_ends(self.child)
            works_long = loop.time() - since >= self._patience.steady_seconds
            restarts = 1 if works_long else restarts + 1
            if restarts > limit:
                raise self._failed(f"{self.service.name} died {restarts} times in a row; it {self._how()}")
            pause = self._patience.pause(restarts)
            count = f"{restarts} of {limit}"
            self._warn(f"{self.service.name} {self._how()}; starting it again in {pause:g} s ({count})")
            await asyncio.sleep(pause)
            if await self._run():
                self._warn(f"{self.service.name} works again")

    async def stop(self) -> None:
        """End it."""
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
        loop, pause = asyncio.get_running_loop(), min(LOOK_SECONDS, service.silent_seconds / 5)
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
            return True
        await self.child.stop()
        return False

    def _how(self) -> str:
        """How the last run ended, and its last words."""
        assert self.child is not None
        reason = reason_of(self._log.tail)
        return f"{self.child.ended}: {reason.text}" if reason.text else self.child.ended

    def _failed(self, message: str) -> ServiceFailed:
        steps = [reason_of(self._log.tail).remedy, f"its log is {self._log.path}"]
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
            _ManagedProcess,
            warn=warn,
            patience=patience or Patience(),
            descriptors=descriptors,
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
