"""One run of `mesh prove`: workers on a store, faults by a seed, and the judgement of the oracle."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meshwright.core.errors import InvalidInput, StoreFailed
from meshwright.core.folders import remove_folder
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts.proving.evidence import read_evidence
from meshwright.parts.proving.oracle import Evidence, complaints
from meshwright.parts.proving.processes import WorkerProcess, send
from meshwright.parts.proving.proxy import Proxy
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.worker import COST_USD, Job

if TYPE_CHECKING:
    from meshwright.parts.proving.schema import Schema

WORKER = ("-m", "meshwright.parts.proving.worker")
_MARK = "run-"
_LOOK_SECONDS = 0.2
_PROGRESS_SECONDS = 10.0
_PATIENCE_SECONDS = 120.0
"""After so long without an outcome the open tasks count as lost."""
_LOOKS = 30
"""Looks of the oracle at a mesh that comes to rest: complaints of the last one count."""
_REST_SECONDS = 2.0
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


def schedule_faults(options: TrialOptions, *, is_shared: bool) -> list[ScheduledFault]:
    """Spread the faults over the time of a run."""
    rng = random.Random(f"faults {options.seed}")
    kills = ["worker killed", "worker killed", "writer killed"]
    kinds = list(islice(cycle(kills), options.kills))
    kinds += ["worker frozen"] * -(-options.kills // 20)
    if is_shared:
        kinds += ["connections cut"] * -(-options.kills // 4)
    rng.shuffle(kinds)
    share = options.minutes * 60 / max(1, len(kinds))
    return [ScheduledFault((number + 0.8 * rng.random()) * share, kind) for number, kind in enumerate(kinds)]


async def run_trial(
    options: TrialOptions,
    folder: Path,
    *,
    database: str | None,
    beside: bool = False,
    report: Callable[[str], None],
    program: Sequence[str] = WORKER,
    patience_seconds: float = _PATIENCE_SECONDS,
    looks: int = _LOOKS,
) -> Findings:
    """Run tasks on a store of the run's own, and judge them.

    The run has its files in a folder below `folder`, on PostgreSQL its tables in a schema of its own; both
    are removed at its end, with those that killed runs left. `report` gets lines of progress. Raises
    MeshError where nothing can be proved.
    """
    if database is None and options.workers > 1:
        raise InvalidInput(
            "SQLite has one worker process",
            remedy="Leave out --workers, or name a PostgreSQL database: --database",
            field="workers",
        )
    async with AsyncExitStack() as stack:
        own_folder = stack.enter_context(_own_folder(folder, report))
        if database is None:
            trial = StoreTrial(options, own_folder, "", None, None, report, program, patience_seconds)
        else:
            from meshwright.parts.proving.schema import open_schema

            schema = stack.enter_context(open_schema(database))
            for name in schema.create(beside=beside):
                report(f"dropped the schema {name}, which a killed run left")
            proxy = await stack.enter_async_context(Proxy(schema.host, schema.port))
            trial = StoreTrial(
                options,
                own_folder,
                schema.address(proxy.port),
                schema,
                proxy,
                report,
                program,
                patience_seconds,
            )
        stack.callback(trial.kill)
        return await trial.run(looks)


class StoreTrial:
    """The workers of a run, and the faults that strike them."""

    def __init__(
        self,
        options: TrialOptions,
        folder: Path,
        address: str,
        schema: Schema | None,
        proxy: Proxy | None,
        report: Callable[[str], None],
        program: Sequence[str],
        patience_seconds: float,
    ) -> None:
        self._options, self._folder, self._address = options, folder, address
        self._schema, self._proxy, self._report = schema, proxy, report
        self._patience_seconds = patience_seconds
        self._records = Records(folder)
        self._rng = random.Random(f"targets {options.seed}")
        self._workers = [self._worker(index, program) for index in range(options.workers)]
        self._counts = Counter[str]()
        self._complaints: list[str] = []
        self._kinds: Mapping[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill_worker,
            "writer killed": self._kill_writer,
            "worker frozen": self._freeze_worker,
            "connections cut": self._cut_connections,
        }

    async def run(self, looks: int) -> Findings:
        """Run the tasks with all faults, and judge them."""
        server = self._schema.versions() if self._schema else {}
        commit_seconds = self._schema.commit_seconds() if self._schema else None
        for worker in self._workers:
            worker.launch()
            if not await worker.ready():
                raise StoreFailed(
                    f"A worker does not start on the store: {worker.failure}",
                    remedy="Correct what it names, and run mesh prove again",
                )
        pacing = asyncio.create_task(self._pace())
        try:
            await self._strike()
            await pacing
        finally:
            pacing.cancel()
        await self._await_outcomes()
        evidence, broken = await self._judge(looks)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        return Findings(evidence, [*self._complaints, *broken], self._counts, server, commit_seconds)

    def kill(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()

    def _worker(self, index: int, program: Sequence[str]) -> WorkerProcess:
        data = self._folder / ("data" if self._schema is None else f"worker-{index}")
        data.mkdir(mode=0o700)
        options = self._options
        job = Job(
            str(self._folder), str(data), self._address, options.seed, options.tasks, index, options.workers
        )
        return WorkerProcess(program, data, job.encode())

    # The time of a run

    async def _pace(self) -> None:
        """Let clients submit at the rate of the run, and show how far it is."""
        clock, options = asyncio.get_running_loop().time, self._options
        begun = shown = clock()
        while (elapsed := clock() - begun) < options.minutes * 60:
            ended = self._records.outcomes.count()
            allowed = min(options.tasks, int(options.rate * elapsed) + 1, ended + _MAX_BACKLOG)
            self._records.allow(max(allowed, self._records.allowed()))
            if clock() - shown > _PROGRESS_SECONDS:
                shown = clock()
                faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self._counts.items()))
                self._report(f"{elapsed:.0f} s of {options.minutes * 60:g}: {ended:,} tasks ended; {faults}")
            await asyncio.sleep(_LOOK_SECONDS)
        self._records.allow(
            max(self._records.allowed(), min(options.tasks, self._records.outcomes.count() + _MAX_BACKLOG))
        )

    async def _strike(self) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        for fault in schedule_faults(self._options, is_shared=self._schema is not None):
            while clock() - begun < fault.at:
                await self._restart_ended()
                await asyncio.sleep(_LOOK_SECONDS)
            await self._kinds[fault.kind]()
            self._counts[fault.kind] += 1

    async def _await_outcomes(self) -> None:
        """Wait for the tasks that were allowed, as long as outcomes come."""
        clock = asyncio.get_running_loop().time
        seen, seen_at = -1, clock()
        while (ended := self._records.outcomes.count()) < self._records.allowed():
            if ended > seen:
                seen, seen_at = ended, clock()
            if clock() - seen_at > self._patience_seconds:
                missing = self._records.allowed() - self._records.accepted.count()
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
        worker.kill()
        await self._restart(worker)

    async def _kill_writer(self) -> None:
        worker = self._any_worker()
        writers = worker.pids[1:]
        for pid in writers:
            send(pid, signal.SIGKILL)
        if not writers:  # it has just started, or the system does not say
            worker.kill()
            await self._restart(worker)

    async def _freeze_worker(self) -> None:
        pids = self._any_worker().pids[:1]
        try:
            for pid in pids:
                send(pid, signal.SIGSTOP)
            await asyncio.sleep(self._rng.uniform(*_FROZEN_SECONDS))
        finally:
            for pid in pids:
                send(pid, signal.SIGCONT)

    async def _cut_connections(self) -> None:
        assert self._proxy is not None
        self._proxy.cut(self._rng)

    async def _restart(self, worker: WorkerProcess) -> None:
        failure = ""
        for _ in range(_MAX_STARTS):
            worker.launch()
            if await worker.ready():
                return
            failure = worker.failure
            worker.kill()
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
            if self._schema is None:  # one process at a time may have the file
                await self._workers[0].stop()
            evidence = await self._read_evidence()
            broken = complaints(evidence)
            if not broken or looks <= 0:
                return evidence, broken
            if self._schema is None:
                await self._restart(self._workers[0])
            await asyncio.sleep(_REST_SECONDS)

    async def _read_evidence(self) -> Evidence:
        """Read the store. A cut connection may end the runs of each worker."""
        kills = self._counts.total() * self._options.workers
        return await read_evidence(self._database(), self._records, kills=kills, cost_usd=COST_USD)

    def _database(self) -> Database:
        if self._schema is None:
            return SqliteDatabase(self._folder / "data")
        from meshwright.engine.sql.postgres import PostgresDatabase

        return PostgresDatabase(self._schema.address(), self._folder)  # this thread has the proxy to serve


@contextmanager
def _own_folder(parent: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """A folder below `parent`, locked while this process lives. Those that killed runs left are removed."""
    above = next(path for path in parent.parents if path.exists())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(f"{_MARK}*"):
            with ExitStack() as stack:
                if _try_lock(left, stack):
                    remove_folder(left)
                    report(f"removed {left}, which a killed run left")
        run_id = secrets.token_hex(4)
        draft = parent / f"new-{run_id}"  # nobody removes it before it is locked
        draft.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StoreFailed(
            f"The folder {parent} cannot be written: {error.strerror or error}",
            remedy="Name another: --data DIR",
        ) from error
    with ExitStack() as stack:
        _try_lock(draft, stack)
        folder = draft.rename(parent / f"{_MARK}{run_id}")
        try:
            yield folder
        finally:
            remove_folder(folder)
            with suppress(OSError):  # another run has its folder there
                for path in (parent, *parent.parents):
                    if path == above:
                        break
                    path.rmdir()


def _try_lock(folder: Path, stack: ExitStack) -> bool:
    """Lock a folder for as long as this process lives; False if another process has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
