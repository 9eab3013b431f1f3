"""A due time of a schedule becomes one task on every store, through crashes and beside other processes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import pytest

from meshwright.core.capability import Capability, Registration
from meshwright.core.errors import StoreFailed
from meshwright.core.events import Event
from meshwright.core.messages import Caller, Receipt, TaskRequest
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.database import Database
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.work.protocol import Accept, TaskKey
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.acceptance import PayloadLimits, hash_request, make_task
from meshwright.mesh.orchestration.orchestrator import Orchestrator
from meshwright.mesh.orchestration.registry import Registry
from meshwright.parts.schedules import table
from meshwright.parts.schedules.schedule import LEASE, Put, Schedule, ScheduleKey, ScheduleState
from meshwright.parts.schedules.table import ScheduleRunner
from meshwright.parts.schedules.times import ScheduleSpec
from meshwright.testing import ManualClock
from tests.support.event_logs import database_at
from tests.support.harness import RuntimeHarness
from tests.support.postgres import Location

KEY = ScheduleKey("acme", "a")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 6
TABLES = files("meshwright.parts.schedules") / "tables"
TASK = TaskRequest(agent_id="clerk", payload={"text": "Count."})
MINUTELY = Put(spec=ScheduleSpec(every_seconds=60, task=TASK, catch_up="all", overlap="allow"), by="ada")


class TaskDesk:
    """The part of a mesh that schedules use, on a host and a database: it accepts tasks, and does no work."""

    def __init__(
        self, runtime: Runtime, database: Database, log: EventLog, show: Callable[[Event], None]
    ) -> None:
        self.runtime = runtime
        self.database = database
        self.log = log
        self._show = show

    def get(self, kind: type[Any]) -> Any:
        return self

    async def write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def write() -> Any:
            result, events = await self.log.write(function, *args, **kwargs)
            for event in events:
                self._show(event)
            return result

        return await asyncio.shield(write())

    async def submit(
        self, request: TaskRequest, caller: Caller, *, idempotency_key: str, **options: Any
    ) -> Receipt:
        now = self.runtime.clock.now()
        task = make_task(request, caller, now=now, limits=PayloadLimits(), idempotency_key=idempotency_key)
        accept = Accept.wrap(task, request_hash=hash_request(request, caller, idempotency_key))
        return await self.runtime.call(TaskKey(task.tenant_id, task.task_id).ref, "accept", accept)


def tasks_by(clock: ManualClock) -> ActorKind:
    week = timedelta(days=7).total_seconds()
    registry = Registry(clock, degraded_after_seconds=week, offline_after_seconds=2 * week)
    registry.register(Registration(agent_id="clerk", name="Clerk", capabilities=(Capability("clerking"),)))
    return ActorKind.from_class(Orchestrator, registry=registry)


async def opened(database: Database) -> EventLog:
    database.migrate("schedules", TABLES)
    log = EventLog(database)
    await database.open()
    await log.start()
    return log


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[tuple[Database, EventLog]]:
    """The database of a front, which outlives the crashes of the store."""
    database = SqliteDatabase(tmp_path, durability="off")
    log = await opened(database)
    yield database, log
    log.close()
    await database.close()


@pytest.mark.parametrize("has_crashes", [False, True], ids=["calm", "crashing"])
async def test_a_due_time_becomes_one_task(
    harness: RuntimeHarness, clock: ManualClock, front: tuple[Database, EventLog], has_crashes: bool
) -> None:
    async def begin(runtime: Runtime) -> ScheduleRunner:
        runner = ScheduleRunner(cast("Mesh", TaskDesk(runtime, *front, harness.watch.take)))
        await runner.start()
        return runner

    runtime = await harness.open(tasks_by(clock), clock=clock)
    runner = await begin(runtime)
    await runner.put(KEY, MINUTELY, 1)
    for count in range(1, ROUNDS + 1):
        await clock.advance(60 if count == 1 else 60 - LEASE.total_seconds())
        if has_crashes:
            await runner.stop()
            runtime = await harness.crash(runtime)
            runner = await begin(runtime)
        await clock.advance(LEASE.total_seconds())
        await harness.watch.until(lambda count=count: len(harness.watch.of("schedule.started")) >= count)
    due = [f"schedule:a:2026-01-01T00:{minute:02}:00+00:00" for minute in range(1, ROUNDS + 1)]
    await harness.watch.until(lambda: len(harness.watch.of("task.accepted")) >= ROUNDS)
    accepted = [event for event in harness.watch.of("task.accepted") if event.tenant_id == "acme"]
    assert Counter(event.idempotency_key for event in accepted) == Counter(due)
    state = await front[0].read(table.find, KEY)
    assert [record.status for record in state.history] == ["started"] * ROUNDS
    await runner.stop()


@pytest.fixture
async def log(location: Location) -> AsyncIterator[EventLog]:
    """A log with the table of schedules beside it, in a database of each kind."""
    database = database_at(location)
    log = await opened(database)
    yield log
    log.close()
    await database.close()


def claimed(session: Any, now: datetime) -> tuple[Any, list[Event]]:
    return table.claim(session, now), []


async def test_a_due_schedule_is_claimed_once_until_its_lease_ends(log: EventLog) -> None:
    due = NOW + timedelta(seconds=60)
    await log.write(table.put, KEY, NOW, MINUTELY, 1)
    assert (await log.write(claimed, NOW))[0] == ([], due)
    assert (await log.write(claimed, due))[0] == ([KEY], due + LEASE)
    assert (await log.write(claimed, due))[0] == ([], due + LEASE)
    assert (await log.write(claimed, due + LEASE))[0] == ([KEY], due + 2 * LEASE)


async def test_a_run_is_given_out_once_and_its_late_report_changes_nothing(log: EventLog) -> None:
    async def change(now: datetime, *change: Any) -> tuple[Any, list[str]]:
        changed, events = await log.write(table.change, KEY, now, *change)
        return changed[0], [event.event_type for event in events]

    due = NOW + timedelta(seconds=60)
    await log.write(table.put, KEY, NOW, MINUTELY, 1)
    [run], _ = await change(due, Schedule.advance, [])
    assert await change(due, Schedule.advance, []) == ([], [])
    [again], _ = await change(due + LEASE, Schedule.advance, [])  # the first process took too long
    assert again.task_id == run.task_id
    assert await change(due + LEASE, Schedule.report, run, "failed", "late") == (None, [])
    assert await change(due + LEASE, Schedule.report, again, "started", None) == (None, ["schedule.started"])


@pytest.fixture
async def earlier(location: Location, tmp_path: Path) -> Database:
    """A database from when schedules were actors with a list, which one of them is in."""
    steps = tmp_path / "steps"
    steps.mkdir()
    name = "0001_schedules.sql"
    (steps / name).write_text((TABLES / name).read_text())
    database = database_at(location)
    database.migrate("schedules", steps)
    await database.open()
    await database.write(_insert, "schedules", {"tenant_id": "acme", "id": "a", "document": "{}"})
    await database.close()
    return database


def _insert(session: Any, into: str, row: dict[str, Any]) -> None:
    session.insert(f"{into} ({', '.join(row)})", [tuple(row.values())])


async def reopened(location: Location) -> Database:
    database = database_at(location)
    await opened(database)
    return database


async def test_actors_of_an_earlier_version_become_rows(earlier: Database, location: Location) -> None:
    state = ScheduleState.new(MINUTELY, NOW)
    head = {"type": "Schedule", "revision": 1, "last_turn": "", "sent": 1, "wake_at": 60.0, "obliged": 0}
    heads = [("acme:a", state.model_dump_json()), ("acme:gone", '{"spec":null}'), ("acme:unborn", "")]
    await earlier.open()
    owner = {"owner": ""} if earlier.dialect == "postgres" else {}
    for name, document in heads:
        row = {**head, **owner, "id": name, "seen": None, "state": document.encode()}
        await earlier.write(_insert, "heads", row)
    await earlier.close()
    database = await reopened(location)
    page = await database.read(table.list_schedules, "acme", "", 10)
    assert [item.id for item in page.items] == ["a"]
    assert await database.read(table.find, KEY) == state
    assert await database.write(table.claim, NOW) == ([KEY], NOW + LEASE)
    await database.close()


async def test_a_database_whose_schedules_are_actors_elsewhere_is_refused(
    earlier: Database, location: Location
) -> None:
    for _ in range(2):  # nothing is changed
        with pytest.raises(StoreFailed, match="schedules_of_an_earlier_version_are_actors_in_dapr"):
            await reopened(location)


async def test_a_run_cancels_another_only_once_that_has_its_task(log: EventLog) -> None:
    async def change(minutes: int, *change: Any) -> Any:
        changed, _ = await log.write(table.change, KEY, NOW + timedelta(minutes=minutes), *change)
        return changed[0]

    spec = MINUTELY.spec.model_copy(update={"overlap": "cancel_other"})
    await log.write(table.put, KEY, NOW, MINUTELY.model_copy(update={"spec": spec}), 1)
    [first] = await change(1, Schedule.advance, [])
    await change(1, Schedule.report, first, "started", None)
    [second] = await change(2, Schedule.advance, [])  # another process is about to submit it
    assert second.cancels == [first.task_id]
    again = await change(3, Schedule.advance, [first.task_id])
    assert [run.task_id for run in again] == [second.task_id]  # its lease has ended; the third waits
    await change(3, Schedule.report, again[0], "started", None)
    [third] = await change(3, Schedule.advance, [])
    assert third.cancels == [second.task_id]
