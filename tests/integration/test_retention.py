"""Ended tasks leave the lists by age and status; what is open, or belongs to it, stays."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Mesh, Run, ToolFailed, build_mesh
from meshwright.core.errors import Forbidden, IdempotencyConflict, InvalidInput
from meshwright.core.messages import Caller, TaskRequest
from meshwright.events.filter import EventFilter
from meshwright.orchestration.tasks import Tasks
from meshwright.services.maintenance.verify import verify_store
from meshwright.services.retention.retention import Retention
from tests.support.postgres import Address
from tests.support.settings import Settings
from tests.support.sqlite_mesh import Echo, up

ADMIN = Caller(all_tenants=True, roles=frozenset({"admin"}), requested_by="admin")
OLD = 40
AGES = {"succeeded_days": 30, "failed_days": 90}


class Failing(Agent):
    """Has somebody else do a part of it, and fails."""

    agent_id = "failing"
    capabilities = (Capability("failing"),)
    delegates_to = ("echo",)

    async def run(self, run: Run) -> str:
        await run.delegate("echo", "a part")
        raise ToolFailed("told to fail")


def now_is_later(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, days: float = OLD) -> None:
    clock = mesh.host.clock
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + timedelta(days=days), raising=False)


async def listed(mesh: Mesh) -> set[str]:
    return {task.task_id for task in (await mesh.log.tasks(tenant_id="default")).items}


async def faults(mesh: Mesh) -> list[str]:
    await mesh.log.flush()
    return verify_store(mesh.database, mesh.log.projections, mesh.database.migrations).faults


async def test_old_tasks_leave_the_lists_by_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with up(tmp_path, Failing, retention=AGES) as running:
        mesh, retention = running.mesh, running.mesh.get(Retention)
        request = TaskRequest(agent_id="echo", payload={"text": "a secret"})
        receipt = await mesh.get(Tasks).submit(request, idempotency_key="once")
        await running.outcome(receipt.task_id)
        failed = (await running.ask("failing")).task_id
        parts = await listed(running.mesh) - {receipt.task_id, failed}
        assert len(parts) == 1 and (await retention.count(ADMIN)).tasks == {}
        now_is_later(running.mesh, monkeypatch)
        assert (await retention.count(ADMIN)).tasks == {"succeeded": 1}
        assert await listed(running.mesh) == {receipt.task_id, failed, *parts}  # to count prunes nothing
        found = await retention.prune(ADMIN)
        assert (found.tasks, found.has_more) == ({"succeeded": 1}, False)
        assert await listed(running.mesh) == {failed, *parts}
        view = await mesh.get(Tasks).task(receipt.task_id)
        assert (
            (view.status, view.payload) == ("succeeded", {}) and view.outcome and view.outcome.result is None
        )
        with pytest.raises(IdempotencyConflict):
            await mesh.get(Tasks).submit(request, idempotency_key="once")
        [event] = await mesh.log.query(EventFilter(event_type="tasks.pruned"))
        assert event.fields == {"count": 1, "tasks": [receipt.task_id]}
        assert (await retention.prune(ADMIN)).tasks == {}
        assert await faults(running.mesh) == []
        await mesh.log.rebuild()
        assert await listed(running.mesh) == {failed, *parts}


async def test_what_an_open_task_needs_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with up(tmp_path, retention=AGES) as running:
        in_thread = (await running.ask("echo", thread_id="talk")).task_id
        open_one = await running.submit("gate", thread_id="talk")
        boss = await running.submit("boss", "gate:Hello")
        alone = (await running.ask("echo")).task_id
        await running.event("task.waiting", boss)
        before = await listed(running.mesh)
        now_is_later(running.mesh, monkeypatch)
        retention = running.mesh.get(Retention)
        assert (await retention.prune(ADMIN)).tasks == {"succeeded": 1}
        assert await listed(running.mesh) == before - {alone} >= {in_thread, open_one, boss}
        running.gate.set()
        assert [(await running.outcome(task_id)).status for task_id in (open_one, boss)] == ["succeeded"] * 2
        assert await faults(running.mesh) == []
        now_is_later(running.mesh, monkeypatch)  # once more as long: then the tree goes as a whole
        assert (await retention.prune(ADMIN)).tasks == {"succeeded": len(before) - 1}
        assert await listed(running.mesh) == set()


async def test_a_running_mesh_prunes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with up(tmp_path) as running:
        task_id = (await running.ask("echo")).task_id
        with pytest.raises(InvalidInput, match="no age"):
            await running.mesh.get(Retention).prune(ADMIN)
        with pytest.raises(Forbidden):
            await running.mesh.get(Retention).count(Caller(requested_by="ada"))
    async with up(tmp_path, retention={"succeeded_days": 0.01}) as running:
        retention: Any = running.mesh.get(Retention)
        await retention.stop()
        now_is_later(running.mesh, monkeypatch, days=1)
        await retention.start()
        assert (await running.event("tasks.pruned")).fields["tasks"] == [task_id]


async def test_tasks_on_postgresql_are_pruned_too(
    postgres_url: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, database=postgres_url, retention=AGES)
    async with build_mesh(settings, project=tmp_path, agents=[Echo, Failing]) as mesh:
        failed = await mesh.get(Tasks).ask("failing", "Hello")  # its part stays with it
        await mesh.get(Tasks).ask("echo", "Hello")
        now_is_later(mesh, monkeypatch)
        assert (await mesh.get(Retention).prune(ADMIN)).tasks == {"succeeded": 1}
        left = await listed(mesh)
        assert failed.task_id in left and len(left) == 2
        assert await faults(mesh) == []
