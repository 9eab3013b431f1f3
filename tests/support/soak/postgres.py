"""The soak on PostgreSQL: three workers, their writers and the server die, freeze and lose their disk."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from meshwright.engine.sql.postgres import PostgresDatabase
from meshwright.parts.proving.evidence import read_evidence
from meshwright.parts.proving.oracle import Evidence, complaints
from meshwright.parts.proving.processes import child_pids, command_line, send, writer_pids
from meshwright.parts.proving.records import Records
from tests.support.faults.node import Job
from tests.support.faults.postgres_node import Post
from tests.support.faults.worker_process import WorkerProcess
from tests.support.postgres import Address, Cluster
from tests.support.soak.course import Course, deal
from tests.support.soak.small_disk import SmallDisk
from tests.support.soak.wall_clock import JUMPS_SECONDS, WallClock

WORKERS = ("one", "two", "three")
SILENT_SECONDS = 240.0  # after which nothing comes any more
REST_SECONDS = 120.0
FROZEN_SECONDS = 13.0  # beyond a lease
LOOK_SECONDS = 0.05
Strike = Callable[[], Awaitable[None]]


class PostgresSoak:
    """Three workers on one database, the first with the client."""

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        course: Course,
        rng: random.Random,
        *,
        clock: WallClock,
        disk: SmallDisk,
    ) -> None:
        self._cluster, self._job, self._course, self._rng = cluster, job, course, rng
        self._clock, self._disk = clock, disk
        self._folder = Path(job.folder)
        self._url: Address = cluster.new_schema()
        self._books = Records(self._folder)
        module = "tests.support.faults.postgres_node"
        self._workers = [
            WorkerProcess(name, module, self._folder / f"{name}.log", clock.environment) for name in WORKERS
        ]
        self._kinds: Mapping[str, Strike] = {
            "worker killed": self._kill_worker,
            "writer killed": self._kill_writer,
            "connection killed": self._kill_connection,
            "server killed": self._kill_server,
        }
        self._others: dict[str, Strike] = {
            "worker frozen": lambda: self._freeze(self._any_worker().pid),
            "writer frozen": lambda: self._freeze(*writer_pids(self._any_worker().pid)[:1]),
            "connection frozen": lambda: self._freeze(*self._any_connection()),
            "server frozen": lambda: self._freeze(self._cluster.pid, *child_pids(self._cluster.pid)),
        }
        if clock.is_there:
            self._others["clock jumped"] = self._jump
        if disk.is_there:
            self._others["disk full"] = self._fill_the_disk

    async def __aenter__(self) -> Self:
        for worker in self._workers:
            self._launch(worker)
            await worker.ready()
        self._workers[0].begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()

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
            self._books.allow(round(share * (number + 1)))  # so that each fault meets work under way
            await self._until(round(share * (number + self._rng.random() * 0.8)))
            await (dict(self._kinds) | self._others)[kind]()
            self._course.struck(kind, is_kill=kind in self._kinds, ended=self._books.outcomes.count())
        self._books.allow(size.tasks)
        await self._until(size.tasks)

    async def evidence(self) -> tuple[Evidence, list[str]]:
        """Ask the oracle until it has nothing to complain of, for as long as a mesh may take to rest."""
        until = time.monotonic() + REST_SECONDS
        while True:
            evidence = await self._gather()
            found = complaints(evidence)
            if not found or time.monotonic() > until:
                return evidence, found
            await asyncio.sleep(20 * LOOK_SECONDS)

    def logs(self) -> str:
        """The last that the workers have said."""
        return "\n".join(
            f"{name}: ...{worker.log[-4000:]}" for name, worker in zip(WORKERS, self._workers, strict=True)
        )

    async def _gather(self) -> Evidence:
        kills = self._course.faults.total() * len(WORKERS)  # a server that is away ends all leases
        database = PostgresDatabase(self._url, self._folder)
        return await read_evidence(database, self._books, kills=kills, cost_usd=self._job.cost_usd)

    # The workers

    def _launch(self, worker: WorkerProcess) -> None:
        name = WORKERS[self._workers.index(worker)]
        post = Post(
            self._job if name == WORKERS[0] else replace(self._job, plan=()),
            str(self._folder / name),
            self._url,
        )
        if post.job.plan:
            told = {task_id for task_id, _, _ in self._books.outcomes.read()}
            accepted = dict(self._books.accepted.read())
            left = [item for item in self._job.plan if accepted.get(item.key) not in told]
            post = replace(post, job=replace(self._job, plan=left))
        worker.run(post.encode())

    def _any_worker(self) -> WorkerProcess:
        return self._rng.choice(self._workers)

    async def _until(self, count: int) -> None:
        """Wait for so many outcomes. Fails where none has come for long, or a worker has ended by itself."""
        seen, heard_at = -1, time.monotonic()
        while (told := self._books.outcomes.count()) < count:
            if told > seen:
                seen, heard_at = told, time.monotonic()
            ended = [name for name, worker in zip(WORKERS, self._workers, strict=True) if worker.has_ended()]
            assert not ended, f"workers ended by themselves: {ended}\n{self.logs()}"
            if time.monotonic() - heard_at > SILENT_SECONDS:
                for worker in self._workers:
                    send(worker.pid, signal.SIGABRT)  # each says where it is
                await asyncio.sleep(1)
                raise AssertionError(f"no outcome after the first {told}\n{self.logs()}")
            await asyncio.sleep(LOOK_SECONDS)

    # Faults

    async def _kill_worker(self) -> None:
        worker = self._any_worker()
        worker.kill()
        await self._start_again(worker)

    async def _start_again(self, worker: WorkerProcess) -> None:
        self._launch(worker)
        await worker.ready()
        worker.begin()

    async def _kill_writer(self) -> None:
        for writer in writer_pids(self._any_worker().pid):
            send(writer, signal.SIGKILL)

    def _any_connection(self) -> list[int]:
        """A process of the server that serves a worker, if there is one now."""
        found = [pid for pid in child_pids(self._cluster.pid) if "127.0.0.1(" in command_line(pid)]
        return self._rng.sample(found, min(1, len(found)))

    async def _kill_connection(self) -> None:
        """Kill -9 a process of the server: it ends all others, and recovers as after a crash."""
        for pid in self._any_connection():
            send(pid, signal.SIGKILL)

    async def _kill_server(self) -> None:
        self._cluster.stop(self._rng.choice([signal.SIGQUIT, signal.SIGINT]))
        await asyncio.sleep(self._rng.uniform(0, 2))
        await asyncio.to_thread(self._cluster.start)

    async def _freeze(self, *pids: int) -> None:
        for pid in pids:
            send(pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.5, FROZEN_SECONDS))
        for pid in pids:
            send(pid, signal.SIGCONT)

    async def _jump(self) -> None:
        self._clock.jump(self._rng.choice(JUMPS_SECONDS))

    async def _fill_the_disk(self) -> None:
        self._disk.fill()
        await asyncio.sleep(self._rng.uniform(0.2, 3.0))
        self._disk.make_room()
        if not self._cluster.pid:  # it cannot go on without a log
            await asyncio.to_thread(self._cluster.start)
