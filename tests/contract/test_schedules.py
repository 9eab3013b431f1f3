"""A due time of a schedule becomes one task on every store, through crashes and beside other workers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import cast

import pytest

from meshwright.core.capability import Capability, Registration
from meshwright.core.messages import Caller, Receipt, TaskRequest
from meshwright.core.schedule import ScheduleSpec
from meshwright.kernel.host import Signals
from meshwright.kernel.runtime import Runtime
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.orchestration.acceptance import PayloadLimits, hash_of, make_task
from meshwright.orchestration.orchestrator import Orchestrator
from meshwright.orchestration.registry import Registry
from meshwright.services.schedules.actor import SCHEDULE, Put, Schedule, ScheduleKey, ScheduleState
from meshwright.services.schedules.component import ScheduleRunner
from meshwright.testing import ManualClock
from meshwright.work.protocol import Accept, TaskKey
from tests.support.host_harness import HostHarness

Staff = Callable[[Runtime], Signals]
KEY = ScheduleKey("acme", "a")
ROUNDS = 6


class TaskDesk:
    """The part of a mesh that schedules use, on a host alone: it accepts tasks, and nothing works on them."""

    def __init__(self, host: Runtime) -> None:
        self.host = host

    async def submit(
        self, request: TaskRequest, caller: Caller, *, idempotency_key: str, traceparent: str | None = None
    ) -> Receipt:
        now = self.host.clock.now()
        task = make_task(request, caller, now=now, limits=PayloadLimits(), idempotency_key=idempotency_key)
        accept = Accept.of(task, request_hash=hash_of(request, caller, idempotency_key))
        return await self.host.call(TaskKey(task.tenant_id, task.task_id).ref, "accept", accept)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def kinds(clock: ManualClock) -> list[ActorKind]:
    week = timedelta(days=7).total_seconds()
    registry = Registry(clock, degraded_after_seconds=week, offline_after_seconds=2 * week)
    registry.register(Registration(agent_id="clerk", name="Clerk", capabilities=(Capability("clerking"),)))
    return [ActorKind.of(Schedule, type=SCHEDULE), ActorKind.of(Orchestrator, registry=registry)]


@pytest.fixture
async def staff() -> AsyncIterator[Staff]:
    """Makes a runner for each host, and stops them all at the end."""
    runners: dict[Runtime, ScheduleRunner] = {}

    def runner_of(host: Runtime) -> Signals:
        runners[host] = ScheduleRunner(cast("Mesh", TaskDesk(host)))
        asyncio.get_running_loop().create_task(runners[host].start())
        return runners[host]

    yield runner_of
    for runner in runners.values():
        await runner.stop()


@pytest.mark.parametrize("has_crashes", [False, True], ids=["calm", "crashing"])
async def test_a_due_time_becomes_one_task(
    harness: HostHarness, clock: ManualClock, staff: Staff, has_crashes: bool
) -> None:
    host = await harness.open(*kinds(clock), clock=clock, staff=staff)
    task = TaskRequest(agent_id="clerk", payload={"text": "Count."})
    spec = ScheduleSpec(every_seconds=60, task=task, catch_up="all", overlap="allow")
    await host.call(KEY.ref, "put", Put(spec=spec, by="ada"))
    for count in range(1, ROUNDS + 1):
        await clock.advance(60)
        if has_crashes:
            host = await harness.crash(host)
        await harness.watch.until(lambda count=count: len(harness.watch.of("schedule.started")) >= count)
    due = [f"schedule:a:2026-01-01T00:{minute:02}:00+00:00" for minute in range(1, ROUNDS + 1)]
    accepted = [event for event in harness.watch.of("task.accepted") if event.tenant_id == "acme"]
    assert Counter(event.idempotency_key for event in accepted) == Counter(due)
    host = await harness.reopen(host)  # what the last crash undid is done again, as the same task
    await clock.advance(60)
    await harness.watch.until(lambda: len(harness.watch.of("schedule.started")) == ROUNDS + 1)
    state = await host.read(KEY.ref)
    assert isinstance(state, ScheduleState)
    assert [record.status for record in state.history][:ROUNDS] == ["started"] * ROUNDS
