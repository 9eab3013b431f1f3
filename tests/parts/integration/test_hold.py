"""A mesh that is held begins no work in any process, also after a restart, until it is released."""

import asyncio
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run, TaskRequest
from meshwright.core.messages import Caller
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh, ProcessRole
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import OfflineModel
from meshwright.parts.maintenance import component
from meshwright.parts.maintenance.operations import Maintenance
from tests.support.http_mesh import http_mesh
from tests.support.postgres import Address
from tests.support.settings import Settings

OPERATOR = Caller(requested_by="ada", all_tenants=True, roles=frozenset({"operator"}))
TASKS = 8


class Clerk(Agent):
    """Says where it works."""

    agent_id = "clerk"
    capabilities = (Capability("filing"),)
    max_concurrency = 1

    async def run(self, run: Run) -> str:
        return "filed"


async def test_a_held_mesh_accepts_tasks_and_begins_them_when_it_is_released(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        assert (await api.client.outcome(await api.submit(agent_id="echo", text="Hello"))).success
        assert await api.client.hold() == {"state": "held", "running": 0, "waiting": 0}
        assert (await api.call("GET", "/readyz"))[0] == 200
        task_id = await api.submit(agent_id="echo", text="Hello")
    async with http_mesh(tmp_path) as api:
        status, found = await api.call("POST", "/hold")
        assert (status, found) == (200, {"state": "held", "running": 0, "waiting": 1})
        assert (await api.get("/status"))["state"] == "held"
        assert (await api.client.release())["state"] == "working"
        assert (await api.client.outcome(task_id)).success
    async with http_mesh(tmp_path) as api:
        assert (await api.get("/status"))["state"] == "working"


async def test_workers_on_postgresql_follow(
    postgres_url: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "_LOOK_SECONDS", 0.05)

    def process(name: str, *, is_front: bool) -> Mesh:
        settings = Settings(data_dir=tmp_path / name, database=postgres_url)
        role = ProcessRole(is_front=is_front)
        return build_mesh(settings, project=tmp_path, agents=[Clerk], model=OfflineModel(), role=role)

    async with process("front", is_front=True) as front, process("worker", is_front=False) as worker:
        await front.get(Maintenance).hold(OPERATOR)
        await until(worker, "held")
        request = TaskRequest(agent_id="clerk", payload={"text": "File it."})
        tasks = [(await front.get(Tasks).submit(request)).task_id for _ in range(TASKS)]
        async with process("later", is_front=False) as later:
            assert later.state == "held"
            held = await front.log.tasks(tenant_id="default", status="dispatched")
            assert {task.task_id for task in held.items} == {*tasks}
            await front.get(Maintenance).release(OPERATOR)
            assert [(await front.get(Tasks).outcome(task_id)).status for task_id in tasks] == [
                "succeeded"
            ] * TASKS
            await until(worker, "working")
            await until(later, "working")


async def until(mesh: Mesh, state: str) -> None:
    async with asyncio.timeout(240):
        while mesh.state != state:
            await asyncio.sleep(0.01)
