"""Recovery: who wakes what a worker left behind, and asks again for what the bus lost.

Three things lead here. A reminder of the scheduler names an incarnation whose lease is gone: its list is
adopted. A worker sweeps all lists when it starts and now and then, which needs no scheduler and gives a
scheduler that lost its data its reminders back. And a worker looks at its own open actors, with growing
pauses, since a broker may have lost what they sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meshwright.envelope import ActorRef
from meshwright.errors import MeshError
from meshwright.hosts.dapr.lease import Lease
from meshwright.hosts.dapr.sidecar import Sidecar
from meshwright.hosts.dapr.watch import Watches, WatchList

logger = logging.getLogger("meshwright.dapr")

REMINDER = "watch"
SWEEP_SECONDS = 30.0
LOOK_SECONDS = 1.0  # how often the open actors are gone through for those whose time has come
MAX_PAUSE_SECONDS = 60.0
WOKEN_AT_ONCE = 32


@dataclass(slots=True)
class Look:
    """When an open actor is looked at next, and the pause after that."""

    at: float
    pause: float


class Recovery:
    """Adopts lists, and goes through this worker's own.

    `recover` wakes an actor that somebody left behind, `review` looks at one of our own.
    """

    def __init__(
        self,
        sidecar: Sidecar,
        lease: Lease,
        watches: Watches,
        actor_type: str,
        *,
        redrive_seconds: float,
        recover: Callable[[ActorRef], Awaitable[None]],
        review: Callable[[ActorRef], Awaitable[None]],
    ) -> None:
        self.actor_type = actor_type
        self._sidecar = sidecar
        self._lease = lease
        self._watches = watches
        self._redrive_seconds = redrive_seconds
        self._recover = recover
        self._review = review
        self._watch: WatchList | None = None
        self._looks: dict[ActorRef, Look] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._adopting: set[str] = set()

    async def open(self, watch: WatchList) -> None:
        """Make this worker's list known, before anything is put on it. Raises StoreUnavailable."""
        self._watch = watch
        await self._watches.add(watch.incarnation)

    def start(self) -> None:
        """Begin: the first sweep comes at once."""
        self._tasks = [
            asyncio.create_task(self._sweep_on(), name="sweep"),
            asyncio.create_task(self._look_on(), name="redrive"),
        ]

    async def stop(self) -> None:
        """End. The list stays: whoever comes next goes on with what is open."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []
        self._looks.clear()

    async def close(self) -> None:
        """Leave no list behind where nothing is open. Its reminder is ended by who gets it next."""
        if self._watch is not None and not len(self._watch):
            await self._watches.remove(self._watch.incarnation)

    async def sweep(self) -> None:
        """Adopt every list whose worker is gone, and give the scheduler the reminders of all others."""
        for incarnation in await self._watches.incarnations():
            try:
                if not await self._adopt(incarnation):
                    await self._remind(incarnation)
            except MeshError as error:  # without a scheduler too every list gets its look
                logger.warning("the open work of worker %s is looked for again later: %s", incarnation, error)

    async def on_reminder(self, incarnation: str) -> None:
        """A list's reminder has come to this worker."""
        if incarnation in await self._watches.incarnations():
            await self._adopt(incarnation)
        else:
            await self._sidecar.forget_reminder(self._reminder(incarnation), REMINDER)

    async def _adopt(self, incarnation: str) -> bool:
        """Take over the list of a worker that is gone. False where it is not, or another is at it."""
        assert self._watch is not None
        if incarnation in self._adopting or not await self._lease.is_gone(incarnation):
            return False
        self._adopting.add(incarnation)
        try:
            watch = self._watch
            if not await self._watches.begin_adopting(incarnation, watch.incarnation, self._lease.is_gone):
                return False
            await self._take_over(incarnation, watch)
        finally:
            self._adopting.discard(incarnation)
        return True

    async def _take_over(self, incarnation: str, watch: WatchList) -> None:
        refs = await self._watches.close(incarnation)
        await asyncio.gather(*filter(None, map(watch.arm, refs)))
        await self._watches.remove(incarnation)
        if refs:
            logger.info("%d open actors of worker %s are taken up", len(refs), incarnation)
        at_once = asyncio.Semaphore(WOKEN_AT_ONCE)

        async def wake(ref: ActorRef) -> None:
            async with at_once:
                await self._recover(ref)

        await asyncio.gather(*map(wake, refs))
        await self._sidecar.forget_reminder(self._reminder(incarnation), REMINDER)

    async def _remind(self, incarnation: str) -> None:
        seconds = self._redrive_seconds
        await self._sidecar.remind(
            self._reminder(incarnation), REMINDER, due_seconds=seconds, period_seconds=seconds
        )

    def _reminder(self, incarnation: str) -> ActorRef:
        return ActorRef(self.actor_type, incarnation)

    async def _sweep_on(self) -> None:
        while True:
            try:
                await self.sweep()
            except MeshError as error:
                logger.warning("open work of other workers is looked for again later: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._redrive_seconds))
            assert self._watch is not None
            for ref in self._due(self._watch, loop.time()):
                try:
                    await self._review(ref)
                except MeshError as error:
                    logger.warning("%s is looked at again later: %s", ref, error)

    def _due(self, watch: WatchList, now: float) -> list[ActorRef]:
        """Those whose time has come; what is on the list for the first time is given its own."""
        self._looks = {ref: look for ref, look in self._looks.items() if ref in watch}
        due = []
        for ref in watch:
            look = self._looks.get(ref)
            if look is None:
                self._looks[ref] = Look(now + self._redrive_seconds, self._redrive_seconds)
            elif look.at <= now:
                look.pause = min(2 * look.pause, MAX_PAUSE_SECONDS)
                look.at = now + look.pause
                due.append(ref)
        return due
