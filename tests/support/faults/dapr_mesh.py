"""A mesh on Dapr to do harm to: services of its own, and two workers of one app, each with its sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshwright.core.messages import ENDED
from meshwright.parts.proving.oracle import Evidence, complaints
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import PlannedTask
from tests.support.faults.dapr_evidence import ask_redis, gather, read_store
from tests.support.faults.dapr_node import Post
from tests.support.faults.node import Job
from tests.support.faults.worker_process import LOOK_SECONDS, WorkerProcess
from tests.support.services import Services, Sidecar

NAMESPACE = "faults"
MAX_MODEL_SECONDS = 0.2
REST_SECONDS = 120.0  # what a mesh has to come to rest
OUTCOMES = {f"task.{status}" for status in ENDED}
MAX_QUOTED = 20
MAX_LOG_LINES = 200


class Worker(WorkerProcess):
    """A worker beside its sidecar."""

    def __init__(self, post: Post, sidecar: Sidecar, broker_url: str, variables: Mapping[str, str]) -> None:
        environment = {**variables, **sidecar.app.environment(), "MESH_BROKER_URL": broker_url}
        super().__init__(
            Path(post.data).name, "tests.support.faults.dapr_node", Path(f"{post.data}.log"), environment
        )
        self.post = post
        self.sidecar = sidecar

    def launch(self) -> None:
        """Start it, and do not wait."""
        self.run(self.post.encode())

    async def start(self) -> None:
        """Start it; its client, if it has one, goes on."""
        self.launch()
        await self.ready()
        self.begin()

    def break_on_purpose(self, control: str) -> None:
        """Have its next run broken, or with an empty control sound."""
        self.post = replace(self.post, job=replace(self.post.job, control=control))


LEASE_LOST = "could not renew its lease in time"


class DaprMesh:
    """Two workers, `front` and `replica`, and a client in the front that has a plan's tasks done.

    In a block all of it runs; at its end all is killed.
    """

    def __init__(
        self,
        services: Services,
        folder: Path,
        plan: Sequence[PlannedTask],
        *,
        job: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """`job` are more fields of the job of both, `options` those of their posts."""
        self.services = services
        self.plan = plan
        self.books = Records(folder)
        self._folder = folder
        control, model_seconds = options.pop("control", ""), options.pop("model_seconds", MAX_MODEL_SECONDS)
        known = {"control": control, "max_model_seconds": model_seconds, **(job or {})}
        self._job = Job(str(folder), plan, **known)
        self._options = options
        self.front = self._worker("mesh-0", is_front=True)
        self.replica = self._worker("mesh-1", is_front=False)

    def _worker(self, name: str, *, is_front: bool) -> Worker:
        [port] = self.services.ports.take(1)
        sidecar = self.services.daprd("mesh", port=port, namespace=NAMESPACE, pod=f"{name}_{NAMESPACE}")
        job = self._job if is_front else replace(self._job, plan=())
        post = Post(job, str(self._folder / name), NAMESPACE, is_front, **self._options)
        return Worker(post, sidecar, self.services.broker_url, self.services.environment)

    async def __aenter__(self) -> Self:
        try:
            for worker in (self.front, self.replica):
                worker.sidecar.launch()
                worker.launch()
            for worker in (self.replica, self.front):
                await worker.ready()
            self.front.begin()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill both workers and their sidecars."""
        for worker in (self.front, self.replica):
            worker.kill()
            worker.sidecar.end()

    def pids(self) -> list[int]:
        """The workers, their sidecars, the store and the broker."""
        workers = [pid for worker in (self.front, self.replica) for pid in (worker.pid, worker.sidecar.pid)]
        return [*workers, self.services.pid("redis"), self.services.pid("mosquitto")]

    async def outcomes(self, count: int) -> None:
        """Wait until the client was told so many outcomes."""
        while self.books.outcomes.count() < count:
            await asyncio.sleep(LOOK_SECONDS)

    async def actors(self, count: int) -> None:
        """Wait until so many actors have had a turn."""
        while len((await read_store(self.services, NAMESPACE)).documents) < count:
            await asyncio.sleep(LOOK_SECONDS)

    async def forget(self, name: str) -> None:
        """Delete what the store has under a name."""
        assert await ask_redis(self.services, "del", f"state||{NAMESPACE}/{name}") == 1

    async def gather(self, *, kills: int = 0) -> Evidence:
        cost_usd = self._job.cost_usd or None
        data = Path(self.front.post.data)
        return await gather(self.services, NAMESPACE, self.books, data, kills=kills, cost_usd=cost_usd)

    async def judge(self, *, kills: int = 0, slept: int = 0) -> Evidence:
        """Ask the oracle until it has nothing to complain of, for as long as a mesh may take to rest."""
        evidence, found = await self.complaints(kills=kills, slept=slept)
        if found:
            quoted = "\n".join(found[:MAX_QUOTED])
            for worker in (self.front, self.replica):
                lines = worker.log.splitlines()
                print(f"{worker.post.data}:", *lines[-MAX_LOG_LINES:], sep="\n  ")
            raise AssertionError(f"{len(found)} complaints, the first of them:\n{quoted}")
        print(f"no outcome for {silence(evidence):.1f} s at most; the longest task {longest(evidence):.1f} s")
        return evidence

    async def complaints(
        self, *, kills: int = 0, slept: int = 0, seconds: float = REST_SECONDS
    ) -> tuple[Evidence, list[str]]:
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while self.books.outcomes.count() < len(self.plan) and clock() < until:
            await asyncio.sleep(5 * LOOK_SECONDS)
        while True:
            lost = sum(LEASE_LOST in worker.log for worker in (self.front, self.replica))  # a busy machine
            evidence = await self.gather(kills=max(kills, lost))
            evidence = replace(evidence, frozen_workers=max(slept, lost))
            found = [*self._untold(evidence), *complaints(evidence)]
            if not found or clock() > until:
                return evidence, found
            await asyncio.sleep(50 * LOOK_SECONDS)

    def _untold(self, evidence: Evidence) -> list[str]:
        counts = {"accepted": len(evidence.accepted), "told of": len(evidence.reported)}
        wanted = len(self.plan)
        return [f"{count} of {wanted} tasks were {what}" for what, count in counts.items() if count != wanted]


def silence(evidence: Evidence) -> float:
    """The longest time in which no task ended, once one had, in seconds."""
    times = sorted(event.time for event in evidence.events if event.event_type in OUTCOMES)
    return max((later - earlier).total_seconds() for earlier, later in pairwise(times))


def longest(evidence: Evidence) -> float:
    """How long the task took that took longest, from its acceptance to its outcome, in seconds."""
    begun = {event.task_id: event.time for event in evidence.select_events("task.accepted")}
    ended = [event for event in evidence.events if event.event_type in OUTCOMES]
    return max((event.time - begun[event.task_id]).total_seconds() for event in ended)
