"""The soak on Dapr: workers, sidecars and all that they rest on die, freeze and lose their disk."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

from meshwright.parts.proving.oracle import Evidence
from meshwright.parts.proving.processes import send
from tests.support.faults.dapr_mesh import DaprMesh, Worker
from tests.support.soak.course import Course, deal
from tests.support.soak.small_disk import SmallDisk
from tests.support.soak.wall_clock import JUMPS_SECONDS, WallClock

SILENT_SECONDS = 240.0  # after which nothing comes any more
DOWN_SECONDS = 2.0
FROZEN_SECONDS = 5.5  # beyond a lease
LOOK_SECONDS = 0.05
SERVICES = ("redis", "mosquitto", "placement", "scheduler")
JUMPS_OF_MINUTES = [seconds for seconds in JUMPS_SECONDS if seconds <= 60]
"""Those after which receivers still know the ids of what they took, by which the oracle finds gaps."""
Strike = Callable[[], Awaitable[None]]


class DaprSoak:
    """Does harm to a mesh that runs."""

    def __init__(
        self, mesh: DaprMesh, course: Course, rng: random.Random, *, clock: WallClock, disk: SmallDisk
    ) -> None:
        self._mesh, self._course, self._rng = mesh, course, rng
        self._clock, self._disk = clock, disk
        self._kinds: dict[str, Strike] = {
            "worker killed": lambda: self._kill_worker(self._any_worker()),
            "sidecar killed": lambda: self._kill_sidecar(self._any_worker()),
            "both killed": lambda: self._kill_both(self._any_worker()),
            **{f"{name} killed": self._killer_of(name) for name in SERVICES},
        }
        self._others: dict[str, Strike] = {"frozen": self._freeze}
        if clock.is_there:
            self._others["clock jumped"] = self._jump
        if disk.is_there:
            self._others["disk full"] = self._fill_the_disk

    async def run(self) -> None:
        """Strike, and wait until the plan is done."""
        size = self._course.size
        faults = [
            *deal(self._rng, list(self._kinds), size.kills),
            *deal(self._rng, list(self._others), size.others),
        ]
        self._rng.shuffle(faults)
        for number, kind in enumerate(faults):
            share = size.tasks / len(faults)
            self._mesh.books.allow(round(share * (number + 1)))  # so that each fault meets work under way
            await self._until(round(share * (number + self._rng.random() * 0.8)))
            await (self._kinds | self._others)[kind]()
            self._course.struck(kind, is_kill=kind in self._kinds, ended=self._mesh.books.outcomes.count())
        self._mesh.books.allow(size.tasks)
        await self._until(size.tasks)

    async def evidence(self) -> tuple[Evidence, list[str]]:
        """Ask the oracle until it has nothing to complain of, for as long as a mesh may take to rest."""
        faults = self._course.faults.total()
        return await self._mesh.complaints(kills=2 * faults, slept=faults)

    def logs(self) -> str:
        """The last that the workers have said."""
        workers = (self._mesh.front, self._mesh.replica)
        return "\n".join(f"{worker.post.data}: ...{worker.log[-4000:]}" for worker in workers)

    def _any_worker(self) -> Worker:
        return self._rng.choice([self._mesh.front, self._mesh.replica])

    async def _until(self, count: int) -> None:
        """Wait for so many outcomes. Fails where none has come for long."""
        seen, heard_at = -1, time.monotonic()
        while (told := self._mesh.books.outcomes.count()) < count:
            if told > seen:
                seen, heard_at = told, time.monotonic()
            if time.monotonic() - heard_at > SILENT_SECONDS:
                for worker in (self._mesh.front, self._mesh.replica):
                    send(worker.pid, signal.SIGABRT)  # each says where it is
                await asyncio.sleep(1)
                raise AssertionError(f"no outcome after the first {told}\n{self.logs()}")
            await asyncio.sleep(LOOK_SECONDS)

    # Faults

    async def _kill_worker(self, worker: Worker) -> None:
        worker.kill()
        await worker.start()

    async def _kill_sidecar(self, worker: Worker) -> None:
        worker.sidecar.kill()
        await worker.sidecar.start()

    async def _kill_both(self, worker: Worker) -> None:
        worker.kill()
        worker.sidecar.kill()
        worker.sidecar.launch()
        await worker.start()

    def _killer_of(self, name: str) -> Strike:
        async def kill() -> None:
            self._mesh.services.kill(name)
            await asyncio.sleep(self._rng.uniform(0, DOWN_SECONDS))
            self._mesh.services.start_again(name)

        return kill

    async def _freeze(self) -> None:
        services = [self._mesh.services.pid(name) for name in ("placement", "scheduler")]
        frozen = self._rng.sample([*self._mesh.pids(), *services], self._rng.randint(1, 3))
        for pid in frozen:
            send(pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.5, FROZEN_SECONDS))
        for pid in frozen:
            send(pid, signal.SIGCONT)

    async def _jump(self) -> None:
        self._clock.jump(self._rng.choice(JUMPS_OF_MINUTES))

    async def _fill_the_disk(self) -> None:
        """The disk of the store: Redis ends where it cannot write its log."""
        self._disk.fill()
        await asyncio.sleep(self._rng.uniform(0.2, DOWN_SECONDS))
        self._disk.make_room()
        if self._mesh.services.has_ended("redis"):
            self._mesh.services.start_again("redis")
