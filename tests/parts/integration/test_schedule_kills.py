"""Schedules of a mesh whose processes are killed: each due time has one task, and none is left out."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.postgres import Address
from tests.support.running_mesh import RunningMesh, mesh_up

EVERY_SECOND = {
    "every_seconds": 1,
    "task": {"agent_id": "simple-agent", "payload": {"text": "What is a turn?"}},
    "catch_up": "all",
    "max_catch_up": 100,
    "overlap": "allow",
}
RUNS = 12
KILLS = 3


async def started(running: RunningMesh, count: int) -> None:
    """Wait for so many runs more."""
    runs = running.stream(after=await running.client.last_seq(), event_type="schedule.started")
    for _ in range(count):
        await anext(runs)


async def finish(running: RunningMesh, count: int = RUNS) -> None:
    """Wait for the last run, and see that each due time from the first to the last has one task."""
    found: dict[str, Any] = {}
    async for event in running.stream(event_type="schedule.started"):
        found = event["payload"]["schedule"]
        if found["status"] == "ended":
            break
    assert found["runs"] == count
    [listed] = (await running.get("/schedules")).body["items"]
    assert (listed["status"], listed["runs"]) == ("ended", count)
    events = await running.client.events(limit=1000, event_type="task.accepted")
    accepted = Counter(event.idempotency_key for event in events)
    assert set(accepted.values()) == {1}
    due = sorted(datetime.fromisoformat(str(key).partition(":tick:")[2]) for key in accepted)
    assert [due[0] + timedelta(seconds=number) for number in range(count)] == due
    for event in events:
        assert (await running.outcome(str(event.task_id)))["status"] == "succeeded"


async def test_a_killed_mesh_submits_each_due_time_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for kill in range(KILLS):
        async with mesh_up(data) as running:
            if not kill:
                await running.call("PUT", "/schedules/tick", json={**EVERY_SECOND, "max_runs": RUNS})
            await started(running, 1)
            await asyncio.sleep(0.003 * kill)  # in the middle of another step each time
            await running.kill()
    async with mesh_up(data) as running:
        await finish(running)


async def test_killed_fronts_submit_each_due_time_once(tmp_path: Path, postgres_url: Address) -> None:
    async with AsyncExitStack() as stack:
        fronts = [
            await stack.enter_async_context(mesh_up(tmp_path / name, MESH_DATABASE=str(postgres_url)))
            for name in ("one", "two", "three")
        ]
        await fronts[0].call("PUT", "/schedules/tick", json={**EVERY_SECOND, "max_runs": RUNS})
        for front in fronts[:2]:
            await started(fronts[2], 2)
            await front.kill()
        await finish(fronts[2])
