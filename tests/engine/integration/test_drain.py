"""Draining over HTTP: nothing more begins, and what runs ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.engine.events.filter import EventFilter
from tests.support.http_mesh import Api, http_mesh


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path) as api:
        yield api


async def started(api: Api, task_id: str) -> None:
    async for _ in api.mesh.log.tail(EventFilter(event_type="task.started", task_id=task_id, after_seq=0)):
        return


async def test_a_drained_mesh_ends_what_runs_and_begins_nothing_more(api: Api) -> None:
    running = await api.submit(agent_id="gate", text="Hello")
    await started(api, running)
    status, found = await api.call("POST", "/drain")
    assert (status, found) == (200, {"state": "draining", "running": 1, "waiting": 0})
    assert (await api.call("GET", "/readyz"))[0] == 503
    later = await api.submit(agent_id="echo", text="Hello")
    draining = asyncio.create_task(api.client.drain(wait_seconds=60))
    api.gate.set()
    assert await draining == {"state": "draining", "running": 0, "waiting": 1}
    assert (await api.client.outcome(running)).status == "succeeded"
    assert (await api.get("/status"))["state"] == "draining"
    assert (await api.client.release())["state"] == "working"
    assert (await api.client.outcome(later)).status == "succeeded"
    assert (await api.call("GET", "/readyz"))[0] == 200


async def test_a_drain_that_waits_returns_after_its_time(api: Api) -> None:
    task_id = await api.submit(agent_id="gate", text="Hello")
    await started(api, task_id)
    assert (await api.client.drain(wait_seconds=0.05))["running"] == 1
    status, problem = await api.call("POST", "/drain", params={"wait": "long"})
    assert (status, problem["field"]) == (422, "wait")
