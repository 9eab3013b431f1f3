"""Starts programs, starts again those that die, and stops them all."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from meshwright.errors import ServiceFailed
from meshwright.stack.child import Child
from meshwright.stack.log import Log
from meshwright.stack.probes import PROBE_SECONDS, answers
from meshwright.stack.reasons import Reason, reason_of
from meshwright.stack.services import Layer, Service

MAX_PORT_TRIES = 3
LOOK_SECONDS = 2.0
DUMP_SECONDS = 0.5
PORT_TAKEN = ("address already in use", "is in use")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a program that dies is started again. Times in seconds.

    Before the first restart there is no pause to speak of, before each one after it twice the last. One that
    worked for `steady_seconds` counts from the start again.
    """

    max_restarts: int = 10
    first_pause_seconds: float = 0.1
    max_pause_seconds: float = 10.0
    steady_seconds: float = 5.0

    def pause(self, restarts: int) -> float:
        """Before the restart of that number, from 1."""
        return min(self.first_pause_seconds * 2 ** (restarts - 1), self.max_pause_seconds)


class PortTaken(ServiceFailed):
    """A program could not have its port: somebody else was quicker."""


class Kept:
    """A service that is kept alive: its runs, one after the other."""

    def __init__(
        self,
        service: Service,
        log: Log,
        tell: Callable[[str], None],
        patience: Patience,
        descriptors: Sequence[int],
        explain: Callable[[Sequence[str]], Reason],
    ) -> None:
        self.service = service
        self.child: Child | None = None
        self._log = log
        self._tell = tell
        self._patience = patience
        self._descriptors = descriptors
        self._explain = explain

    async def start(self) -> None:
        """The first run, ready. Raises ServiceFailed with what it said, or PortTaken."""
        if await self._run():
            return
        assert self.child is not None
        if any(sign in line.lower() for line in self._log.tail for sign in PORT_TAKEN):
            raise PortTaken(f"{self.service.name} found its port taken: {self._log.tail[-1]}")
        raise self._failed(f"{self.service.name} {self._how()}")

    async def keep(self) -> None:
        """Start it again whenever it ends. Raises ServiceFailed where that helps no more."""
        restarts = 0
        loop = asyncio.get_running_loop()
        while self.child is not None:
            since = loop.time()
            await self._until_it_ends(self.child)
            works_long = loop.time() - since >= self._patience.steady_seconds
            restarts = 1 if works_long else restarts + 1
            if restarts > self._patience.max_restarts:
                raise self._failed(f"{self.service.name} died {restarts} times in a row; it {self._how()}")
            await self._again(restarts)

    async def _until_it_ends(self, child: Child) -> None:
        watching = asyncio.create_task(self._end_when_silent(child), name=f"watch-{self.service.name}")
        try:
            await child.wait()
        finally:
            watching.cancel()

    async def _end_when_silent(self, child: Child) -> None:
        """Kill a program that hangs. A look counts for its own time: this process may be stopped, too."""
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
        self._tell(f"{service.name} hangs: no answer for {limit}; its stacks are in {self._log.path}")
        child.send(signal.SIGUSR2)
        await asyncio.sleep(DUMP_SECONDS)
        child.send(signal.SIGKILL)

    async def stop(self) -> None:
        """End it."""
        if self.child is not None:
            await self.child.stop()
        self._log.close()

    async def _again(self, restarts: int) -> None:
        pause = self._patience.pause(restarts)
        count = f"{restarts} of {self._patience.max_restarts}"
        self._tell(f"{self.service.name} {self._how()}; starting it again in {pause:g} s ({count})")
        await asyncio.sleep(pause)
        if await self._run():
            self._tell(f"{self.service.name} works again")

    async def _run(self) -> bool:
        """One more run; False where it does not come to work, in which case it has ended."""
        try:
            self.child = await Child.start(self.service, self._log, descriptors=self._descriptors)
        except OSError as error:
            raise ServiceFailed(f"{self.service.argv[0]} cannot be run: {error}") from error
        if await self.child.works():
            return True
        await self.child.stop()
        return False

    def _how(self) -> str:
        """How the last run ended, and what it said last."""
        assert self.child is not None
        reason = self._explain(self._log.tail)
        return f"{self.child.ended}: {reason.text}" if reason.text else self.child.ended

    def _failed(self, message: str) -> ServiceFailed:
        steps = [self._explain(self._log.tail).remedy, f"its log is {self._log.path}"]
        return ServiceFailed(message, remedy="; ".join(filter(None, steps)))


class Supervisor:
    """Keeps services alive until it is stopped.

    `tell` gets a line for a person whenever something dies or works again; `hear` every line that a worker
    says, with its name and the stream. `descriptors` stay open in every program, so that a lock is held until
    the last ends. `explain` says why a program ended, by its last lines.
    """

    def __init__(
        self,
        logs: Path,
        *,
        tell: Callable[[str], None],
        hear: Callable[[str, str, str], None] = lambda name, stream, line: None,
        patience: Patience | None = None,
        descriptors: Sequence[int] = (),
        explain: Callable[[Sequence[str]], Reason] = reason_of,
    ) -> None:
        self._logs = logs
        self._tell = tell
        self._hear = hear
        self._patience = patience or Patience()
        self._descriptors = descriptors
        self._explain = explain
        self._kept: list[Kept] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> list[tuple[Service, int]]:
        """Every service with the process id of its present run, in the order of their start."""
        return [(kept.service, kept.child.pid) for kept in self._kept if kept.child is not None]

    async def start(self, make: Callable[[], Sequence[Service]]) -> Sequence[Service]:
        """Start services side by side, and return when all of them are ready; from then on keep them.

        `make` is asked again, for other ports, where one of them was taken. Raises ServiceFailed, and leaves
        none of them running then.
        """
        for tries_left in reversed(range(MAX_PORT_TRIES)):
            together = [self._new(service) for service in make()]
            try:
                await _start_all(together)
            except PortTaken:
                await _stop_all(together)
                if not tries_left:
                    raise
            except BaseException:  # a cancelled start too must leave nothing running
                await _stop_all(together)
                raise
            else:
                break
        self._kept += together
        self._keeping += [self._keep(kept) for kept in together]
        return [kept.service for kept in together]

    async def failure(self) -> BaseException:
        """Wait until one of them cannot be kept alive, and return why: a ServiceFailed."""
        return await asyncio.shield(self._failed)

    def send(self, layer: Layer, number: signal.Signals) -> None:
        """Send a signal to all of a layer."""
        for kept in self._kept:
            if kept.service.layer is layer and kept.child is not None:
                kept.child.send(number)

    async def stop(self) -> None:
        """End them all: layer by layer, those of one layer side by side. Idempotent."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        downwards = sorted(self._kept, key=lambda kept: kept.service.layer, reverse=True)
        for _, layer in groupby(downwards, key=lambda kept: kept.service.layer):
            await _stop_all(list(layer))
        self._kept.clear()
        self._keeping.clear()

    def _new(self, service: Service) -> Kept:
        hears = service.layer is Layer.WORKERS
        log = Log(
            self._logs / f"{service.name}.log",
            on_line=partial(self._hear, service.name) if hears else lambda stream, line: None,
        )
        return Kept(service, log, self._tell, self._patience, self._descriptors, self._explain)

    def _keep(self, kept: Kept) -> asyncio.Task[None]:
        task = asyncio.create_task(kept.keep(), name=f"keep-{kept.service.name}")
        task.add_done_callback(self._given_up)
        return task

    def _given_up(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_result(error)


async def _start_all(together: Sequence[Kept]) -> None:
    """Start them side by side; the first error ends the others' starts."""
    try:
        async with asyncio.TaskGroup() as group:
            for kept in together:
                group.create_task(kept.start())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _stop_all(together: Sequence[Kept]) -> None:
    await asyncio.gather(*(kept.stop() for kept in together))
