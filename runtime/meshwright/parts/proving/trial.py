"""One run of `mesh prove`: workers on a store, faults by a seed, and the judgement of the oracle."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meshwright.core.errors import InvalidInput, StoreFailed
from meshwright.core.folders import locked_folder
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts.proving.evidence import read_evidence
from meshwright.parts.proving.oracle import Evidence, complaints
from meshwright.parts.proving.processes import WorkerProcess, send
from meshwright.parts.proving.proxy import Proxy
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.worker import COST_USD, Job
from meshwright.parts.proving.workload import make_plan

if TYPE_CHECKING:
    from meshwright.core.settings import Settings
    from meshwright.parts.proving.broker import BrokerReport, TrialBroker
    from meshwright.parts.proving.paid import PaidReport
    from meshwright.parts.proving.schema import Schema

WORKER = ("-m", "meshwright.parts.proving.worker")
FAILOVER = "failover"
"""The kind of faults that others brought about: a standby was promoted."""
_MARK = "run-"
_LOOK_SECONDS = 0.2
_PROGRESS_SECONDS = 10.0
_PATIENCE_SECONDS = 120.0
"""After so long without an outcome the open tasks count as lost."""
_LOOKS = 30
"""Looks of the oracle at a mesh that comes to rest: complaints of the last one count."""
_REST_SECONDS = 2.0
_LOST_MESSAGES, _LOST_SECONDS = 5, 5.0
"""Messages whose acknowledgements are lost before their connection is cut, and for how long at most."""
_FROZEN_SECONDS = (0.5, 13.0)  # around the lease of 10 s
_MAX_BACKLOG = 64
_MAX_STARTS = 5


@dataclass(frozen=True)
class TrialOptions:
    """The settings of a run; two runs with the same ones have the same tasks and faults."""

    minutes: float
    """Minutes in which tasks are submitted."""
    kills: int
    """Kills of processes in that time."""
    workers: int
    """Worker processes."""
    rate: float
    """Tasks that are submitted each second, at most."""
    seed: int
    """The seed of tasks and faults."""
    model: str = ""
    """The name of the model that answers plain tasks by real calls; "": it is simulated."""
    budget_usd: str = "0"
    """The dollars that real calls may cost."""

    @property
    def tasks(self) -> int:
        """The tasks of the plan."""
        return max(1, round(self.minutes * 60 * self.rate))


class ScheduledFault(NamedTuple):
    """A fault of the schedule."""

    at: float
    """Seconds since the start of the run."""
    kind: str
    """The kind of the fault."""


class Findings(NamedTuple):
    """The result of a run."""

    evidence: Evidence
    """The records that were judged."""
    complaints: Sequence[str]
    """A sentence for each broken promise."""
    faults: Mapping[str, int]
    """The number of faults of each kind."""
    server: Mapping[str, str]
    """The version and settings of the database."""
    commit_seconds: float | None
    """The median time of a small commit; None on SQLite."""
    broker: BrokerReport | None = None
    """The findings about the broker of the run; None without one."""
    paid: PaidReport | None = None
    """The real calls of the run; None if there were to be none."""


def schedule_faults(
    options: TrialOptions, *, is_shared: bool, has_broker: bool = False
) -> list[ScheduledFault]:
    """Spread the faults over the time of a run."""
    rng = random.Random(f"faults {options.seed}")
    kills = ["worker killed", "worker killed", "writer killed"]
    kinds = list(islice(cycle(kills), options.kills))
    kinds += ["worker frozen"] * -(-options.kills // 20)
    if is_shared:
        kinds += ["connections cut"] * -(-options.kills // 2)
    if has_broker:
        kinds += ["broker cut", "acknowledgements lost"] * max(1, options.kills // 4)
    rng.shuffle(kinds)
    share = options.minutes * 60 / max(1, len(kinds))
    return [ScheduledFault((number + 0.8 * rng.random()) * share, kind) for number, kind in enumerate(kinds)]


async def run_trial(
    options: TrialOptions,
    folder: Path,
    *,
    database: str | None,
    broker: tuple[Settings, str] | None = None,
    beside: bool = False,
    report: Callable[[str], None],
    program: Sequence[str] = WORKER,
    patience_seconds: float = _PATIENCE_SECONDS,
    looks: int = _LOOKS,
) -> Findings:
    """Run tasks on a store of the run's own, and judge them.

    The run has its files in a folder below `folder`, on PostgreSQL its tables in a schema of its own; both
    are removed at its end, with those that killed runs left. `broker` has the settings with the user and
    files of a broker, and its address: half of the tasks go by it, below a prefix of the run's own. `report`
    gets lines of progress. Raises MeshError where nothing can be proved.
    """
    if database is None and options.workers > 1:
        raise InvalidInput(
            "SQLite has one worker process",
            remedy="Leave out --workers, or name a PostgreSQL database: --database",
            field="workers",
        )
    async with AsyncExitStack() as stack:
        try:
            own_folder, killed = stack.enter_context(locked_folder(folder, _MARK))
        except OSError as error:
            problem = f"The folder {folder} cannot be written: {error.strerror or error}"
            raise StoreFailed(problem, remedy="Name another: --data DIR") from error
        for left in killed:
            report(f"removed {left}, which a killed run left")
        trial = StoreTrial(options, own_folder, report, program, patience_seconds)
        if broker is not None:
            from meshwright.parts.proving.broker import TrialBroker

            plan = make_plan(options.tasks, random.Random(options.seed))
            run_id, *dead = (path.name.removeprefix(_MARK) for path in (own_folder, *killed))
            own_broker = TrialBroker(*broker, run_id, plan)
            opened = own_broker.opened(dead, beside=beside, report=report)
            trial.broker = await stack.enter_async_context(opened)
        if database is not None:
            from meshwright.parts.proving.schema import open_schema

            schema = stack.enter_context(open_schema(database, report))
            for name in schema.create(beside=beside):
                report(f"dropped the schema {name}, which a killed run left")
            trial.schema = schema
            for server in schema.servers:
                trial.proxies.append(await stack.enter_async_context(Proxy(*server)))
        stack.callback(trial.kill)
        return await trial.run(looks)


class StoreTrial:
    """The workers of a run, and the faults that strike them."""

    def __init__(
        self,
        options: TrialOptions,
        folder: Path,
        report: Callable[[str], None],
        program: Sequence[str],
        patience_seconds: float,
    ) -> None:
        self._options, self._folder, self._report = options, folder, report
        self._program, self._patience_seconds = program, patience_seconds
        self.schema: Schema | None = None
        """The schema of the run; None on SQLite."""
        self.proxies: list[Proxy] = []
        """The proxies before the servers of the database."""
        self._timeline = 0
        self.broker: TrialBroker | None = None
        """The broker that half of the tasks go by."""
        self._records = Records(folder)
        self._rng = random.Random(f"targets {options.seed}")
        self._workers: list[WorkerProcess] = []
        self._counts = Counter[str]()
        self._interrupted: dict[int, float] = {}
        """When each process was killed or frozen first."""
        self._complaints: list[str] = []
        self._kinds: Mapping[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill_worker,
            "writer killed": self._kill_writer,
            "worker frozen": self._freeze_worker,
            "connections cut": self._cut_connections,
            "broker cut": self._cut_broker,
            "acknowledgements lost": self._lose_acknowledgements,
        }

    async def run(self, looks: int) -> Findings:
        """Run the tasks with all faults, and judge them."""
        server = self.schema.versions() if self.schema else {}
        commit_seconds = self.schema.commit_seconds() if self.schema else None
        self._timeline = self.schema.timeline() if self.schema else 0
        self._workers += [self._worker(index) for index in range(self._options.workers)]
        for worker in self._workers:
            worker.launch()
            if not await worker.ready():
                raise StoreFailed(
                    f"A worker does not start on the store: {worker.failure}",
                    remedy="Correct what it names, and run mesh prove again",
                )
        async with AsyncExitStack() as stack:
            if self.broker is not None:
                await stack.enter_async_context(self.broker.client.publishing())
            pacing = asyncio.create_task(self._pace())
            stack.callback(pacing.cancel)
            await self._strike()
            await pacing
            await self._await_outcomes()
            evidence, broken = await self._judge(looks)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        broker = None if self.broker is None else self.broker.report
        broken = [*self._complaints, *broken]
        return Findings(evidence, broken, self._counts, server, commit_seconds, broker, self._read_paid())

    def _read_paid(self) -> PaidReport | None:
        if not self._options.model:
            return None
        from meshwright.parts.proving.paid import read_paid

        return read_paid(self._options.model, Decimal(self._options.budget_usd), self._records)

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()

    def _worker(self, index: int) -> WorkerProcess:
        data = self._folder / ("data" if self.schema is None else f"worker-{index}")
        data.mkdir(mode=0o700)
        options, broker = self._options, self.broker
        address = self.schema.address([proxy.port for proxy in self.proxies]) if self.schema else ""
        job = Job(
            *(str(self._folder), str(data), address, options.seed, options.tasks, index, options.workers),
            has_broker=broker is not None,
            project=str(Path.cwd()),
            model=options.model,
            budget_usd=options.budget_usd,
            mqtt={} if broker is None or index else broker.worker_table(),  # one edge: it has one client id
        )
        return WorkerProcess(self._program, data, job.encode())

    # The time of a run

    async def _pace(self) -> None:
        """Let clients submit at the rate of the run, and show how far it is."""
        clock, options = asyncio.get_running_loop().time, self._options
        begun = shown = clock()
        while (elapsed := clock() - begun) < options.minutes * 60:
            self._allow(int(options.rate * elapsed) + 1)
            if clock() - shown > _PROGRESS_SECONDS:
                shown = clock()
                faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))
                self._report(
                    f"{elapsed:.0f} s of {options.minutes * 60:g}: {self._ended():,} tasks ended; {faults}"
                )
            await asyncio.sleep(_LOOK_SECONDS)
        self._allow(options.tasks)

    def _allow(self, count: int) -> None:
        """Let clients have submitted so many tasks, as far as not too many are open."""
        room = _MAX_BACKLOG - (self._expected() - self._ended())
        allowed = self._records.allowed()
        self._records.allow(max(allowed, min(count, self._options.tasks, allowed + room)))
        if self.broker is not None:
            self.broker.client.allowed = self._records.allowed()

    def _ended(self) -> int:
        return self._records.outcomes.count() + (len(self.broker.client.outcomes) if self.broker else 0)

    def _expected(self) -> int:
        """The tasks that are to end."""
        allowed = self._records.allowed()
        return allowed if self.broker is None else allowed // 2 + self.broker.expected()

    async def _strike(self) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        for fault in schedule_faults(
            self._options, is_shared=self.schema is not None, has_broker=self.broker is not None
        ):
            while clock() - begun < fault.at:
                await self._restart_ended()
                await asyncio.sleep(_LOOK_SECONDS)
            await self._kinds[fault.kind]()
            self._counts[fault.kind] += 1

    async def _await_outcomes(self) -> None:
        """Wait for the tasks that were allowed, as long as outcomes come."""
        clock = asyncio.get_running_loop().time
        seen, seen_at = -1, clock()
        while (ended := self._ended()) < self._expected():
            if ended > seen:
                seen, seen_at = ended, clock()
            if clock() - seen_at > self._patience_seconds:
                own = self._records.allowed() // (2 if self.broker else 1)
                missing = own - self._records.accepted.count()
                if missing > 0:
                    self._complaints.append(f"{missing} tasks were submitted and never accepted")
                return
            await self._restart_ended()
            await asyncio.sleep(_LOOK_SECONDS)

    # Faults

    def _any_worker(self) -> WorkerProcess:
        return self._rng.choice(self._workers)

    async def _kill_worker(self) -> None:
        worker = self._any_worker()
        self._note_interruption(worker.pids)
        worker.kill()
        await self._restart(worker)

    def _note_interruption(self, pids: Sequence[int]) -> None:
        now = time.time()
        self._interrupted = {**dict.fromkeys(pids, now), **self._interrupted}

    async def _kill_writer(self) -> None:
        writers = self._any_worker().pids[1:]
        for pid in writers:
            send(pid, signal.SIGKILL)
        if not writers:  # it has just started, or the system does not say
            await self._kill_worker()

    async def _freeze_worker(self) -> None:
        pids = self._any_worker().pids[:1]
        self._note_interruption(pids)
        try:
            for pid in pids:
                send(pid, signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(*_FROZEN_SECONDS))
        finally:
            for pid in pids:
                send(pid, signal.SIGCONT)

    async def _cut_connections(self) -> None:
        for proxy in self.proxies:
            proxy.cut(self._rng)

    async def _cut_broker(self) -> None:
        assert self.broker is not None
        self.broker.proxy.cut()

    async def _lose_acknowledgements(self) -> None:
        """Let the mesh accept messages without the broker's knowledge: it delivers them again."""
        assert self.broker is not None
        client, proxy = self.broker.client, self.broker.proxy
        proxy.loses_requests, goal = True, client.acknowledged + _LOST_MESSAGES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOST_SECONDS):
                while client.acknowledged < goal:  # noqa: ASYNC110 of a broker
                    await asyncio.sleep(_LOOK_SECONDS)
        await asyncio.sleep(_LOOK_SECONDS)
        proxy.cut()

    async def _restart(self, worker: WorkerProcess) -> None:
        failure = ""
        for _ in range(_MAX_STARTS):
            worker.launch()
            if await worker.ready():
                return
            failure = worker.failure
            worker.kill()
            await asyncio.sleep(_REST_SECONDS)
        raise StoreFailed(
            f"A worker does not start again on the store: {failure}",
            remedy="Look whether the store still runs, and run mesh prove again",
        )

    async def _restart_ended(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker.has_ended:
                self._complaints.append(f"worker {index} failed by itself: {worker.failure}")
                worker.kill()
                await self._restart(worker)

    # The judgement

    async def _judge(self, looks: int) -> tuple[Evidence, list[str]]:
        """Ask the oracle until it has no complaint: a mesh takes a while to rest."""
        while True:
            looks -= 1
            if self.schema is None:  # one process at a time may have the file
                await self._workers[0].stop()
            evidence = await self._read_evidence()
            broken = complaints(evidence) + (self.broker.judge(evidence) if self.broker else [])
            if not broken or looks <= 0:
                return evidence, broken
            if self.schema is None:
                await self._restart(self._workers[0])
            await asyncio.sleep(_REST_SECONDS)

    async def _read_evidence(self) -> Evidence:
        """Read the store. A cut connection, as by a failover, may end the runs of each worker."""
        if self.schema is not None and (promoted := self.schema.timeline() - self._timeline) > 0:
            self._counts[FAILOVER] = promoted
        kills = self._counts.total() * self._options.workers
        evidence = await read_evidence(self._database(), self._records, kills=kills, cost_usd=COST_USD)
        outcomes = {} if self.broker is None else self.broker.client.outcomes
        accepted, reported = [*evidence.accepted, *outcomes], [*evidence.reported, *outcomes.items()]
        plan = {
            item.key: item.text for item in make_plan(self._options.tasks, random.Random(self._options.seed))
        }
        return replace(
            evidence,
            accepted=accepted,
            reported=reported,
            texts={task_id: plan[key] for key, task_id in self._records.accepted.read()},
            interrupted={**dict(self._records.stalls.read()), **self._interrupted},
        )

    def _database(self) -> Database:
        if self.schema is None:
            return SqliteDatabase(self._folder / "data")
        from meshwright.engine.sql.postgres import PostgresDatabase

        return PostgresDatabase(self.schema.address(), self._folder)  # this thread has the proxy to serve
