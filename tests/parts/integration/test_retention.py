"""Ended tasks leave the lists by age and status; what is open, or belongs to it, stays."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, ToolFailed
from meshwright.core.errors import DelegationFailed, Forbidden, IdempotencyConflict, InvalidInput, NotFound
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.topics import TASK_PROGRESS
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.rows import delete_heads
from meshwright.engine.sql.database import Session
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.costs import CostQuery, sum_costs
from meshwright.parts.maintenance.verify import verify_store
from meshwright.parts.retention.operations import Retention
from tests.support.postgres import Address, Location
from tests.support.running_mesh import run as mesh_command
from tests.support.settings import Settings
from tests.support.sqlite_mesh import Echo, up

ADMIN = Caller(all_tenants=True, roles=frozenset({"admin"}), requested_by="admin")
OLD = 40
AGES = {"succeeded_days": 30, "failed_days": 90}
RECORDS_DAYS = 30
CALL = {"call_id": "c1", "user": "echo", "model": "big", "cost_usd": "0.25", "cost_source": "priced"}


class Failing(Agent):
    """Has somebody else do a part of it, and fails."""

    agent_id = "failing"
    capabilities = (Capability("failing"),)
    delegates_to = ("echo",)

    async def run(self, run: Run) -> str:
        await run.delegate("echo", "a part")
        raise ToolFailed("told to fail")


class Careless(Agent):
    """Has somebody else do a part of it, which fails, and goes on."""

    agent_id = "careless"
    capabilities = (Capability("caring"),)
    delegates_to = ("failing",)

    async def run(self, run: Run) -> str:
        with suppress(DelegationFailed):
            await run.delegate("failing", "a part")
        return "done"


def now_is_later(mesh: Mesh, monkeypatch: pytest.MonkeyPatch, days: float = OLD) -> None:
    clock = mesh.runtime.clock
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
        assert len(parts) == 1 and (await retention.prune(ADMIN, dry_run=True)).tasks == {}
        now_is_later(running.mesh, monkeypatch)
        assert (await retention.prune(ADMIN, dry_run=True)).tasks == {"succeeded": 1}
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
            await running.mesh.get(Retention).prune(Caller(requested_by="ada"), dry_run=True)
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


async def heads(mesh: Mesh) -> set[tuple[str, str]]:
    """The actors of tasks and threads that have a record."""
    query = "SELECT type, id FROM heads WHERE type IN ('Orchestrator', 'Conversation', 'echo', 'failing')"
    return {(kind, name) for kind, name in await mesh.database.read(_rows, query)}


def _rows(session: Session, query: str) -> list[Any]:
    return session.execute(query).fetchall()


@asynccontextmanager
async def mesh_at(location: Location, folder: Path) -> AsyncIterator[Mesh]:
    address = {"database": location} if isinstance(location, str) else {}
    settings = Settings(data_dir=folder / "data", retention=AGES, **address)
    async with build_mesh(settings, project=folder, agents=[Echo, Failing]) as mesh:
        yield mesh


async def called(mesh: Mesh, task_id: str) -> None:
    """Have a task cost something."""
    event = mesh.event("model.called", CALL, topic=TASK_PROGRESS, task_id=task_id, tenant_id="default")
    await mesh.runtime.emit([event])


async def test_records_go_some_days_after_their_tasks(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = TaskRequest(agent_id="echo", payload={"text": "Hello"})
    async with mesh_at(location, tmp_path) as mesh:
        tasks, retention = mesh.get(Tasks), mesh.get(Retention)
        first = (await tasks.submit(request, idempotency_key="once")).task_id
        await tasks.outcome(first)
        talking = await tasks.ask("echo", "Hello", thread_id="talk")
        failed = await tasks.ask("failing", "Hello")  # stays, and so does its part
        await called(mesh, first)
        [part] = await listed(mesh) - {first, talking.task_id, failed.task_id}
        before = await heads(mesh)
        spent = await sum_costs(mesh.log, CostQuery("default"))
        now_is_later(mesh, monkeypatch)
        assert (await retention.prune(ADMIN)).records == 0
        assert (await retention.prune(ADMIN, dry_run=True)).records == 0
        threads = {("echo", "default:talk"), ("Conversation", "default:talk"), ("echo", f"default:{first}")}
        assert threads <= before and await heads(mesh) == before - threads
        again = await tasks.ask("echo", "Hello", thread_id="talk")
        now_is_later(mesh, monkeypatch, RECORDS_DAYS - 1)
        assert (await retention.prune(ADMIN, dry_run=True)).records == 0
        now_is_later(mesh, monkeypatch, 2)
        planned = await retention.prune(ADMIN, dry_run=True)
        assert (planned.tasks, planned.records) == ({"succeeded": 1}, 2)
        found = await retention.prune(ADMIN)
        assert (found.tasks, found.records, found.has_more) == ({"succeeded": 1}, 2, False)
        gone = {("Orchestrator", first), ("Orchestrator", talking.task_id)}
        assert await heads(mesh) & (gone | threads) == set()
        assert {("Orchestrator", name) for name in (again.task_id, failed.task_id, part)} <= await heads(mesh)
        assert (await sum_costs(mesh.log, CostQuery("default"))).total == spent.total
        assert spent.total.cost_usd == Decimal("0.25")
        assert await faults(mesh) == []
        events = await mesh.log.query(EventFilter(event_type="records.pruned"))
        assert {name for event in events for name in event.fields["tasks"]} == {first, talking.task_id}
        with pytest.raises(NotFound):
            await tasks.task(first)
        receipt = await tasks.submit(request, idempotency_key="once")  # the key is that of another task now
        assert (await tasks.outcome(receipt.task_id)).success and receipt.task_id == first
        assert (await tasks.ask("echo", "Hello", thread_id="talk")).success
        assert await faults(mesh) == []
        await mesh.log.rebuild()
        assert await faults(mesh) == []


async def test_records_of_tasks_above_listed_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that failed is listed for longer than the task that has asked for it."""
    async with up(tmp_path, Careless, Failing, retention=AGES) as running:
        mesh, retention = running.mesh, running.mesh.get(Retention)
        above = (await running.ask("careless")).task_id
        now_is_later(mesh, monkeypatch)
        assert (await retention.prune(ADMIN)).tasks == {"succeeded": 1}
        now_is_later(mesh, monkeypatch, RECORDS_DAYS + 1)  # the failed part has 19 days left
        assert (await retention.prune(ADMIN)).records == 0 and ("Orchestrator", above) in await heads(mesh)
        now_is_later(mesh, monkeypatch, 20)
        found = await retention.prune(ADMIN)
        assert (found.tasks, found.records) == ({"failed": 1, "succeeded": 1}, 1)
        assert ("Orchestrator", above) not in await heads(mesh) and await faults(mesh) == []


async def test_old_tasks_are_pruned_whose_events_went_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with up(tmp_path, retention=AGES) as running:
        mesh, retention = running.mesh, running.mesh.get(Retention)
        task_id = (await running.ask("echo", "a secret")).task_id
        await mesh.runtime.emit([mesh.event("app.noted", {}, topic="app.notes") for _ in range(2100)])
        assert await mesh.log.prune(max_events=10) > 2000
        assert await listed(mesh) == {task_id}
        now_is_later(mesh, monkeypatch)
        assert (await retention.prune(ADMIN)).tasks == {"succeeded": 1}
        assert await listed(mesh) == set() and await faults(mesh) == []
        now_is_later(mesh, monkeypatch, RECORDS_DAYS + 1)
        assert (await retention.prune(ADMIN)).records == 1
        assert await heads(mesh) == set() and await faults(mesh) == []


async def test_a_thread_stays_while_a_listed_task_has_it(
    location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh_at(location, tmp_path) as mesh:
        tasks, retention = mesh.get(Tasks), mesh.get(Retention)
        old = await tasks.ask("echo", "the old secret", thread_id="talk")
        now_is_later(mesh, monkeypatch, 20)
        young = await tasks.ask("echo", "the young one", thread_id="talk")
        now_is_later(mesh, monkeypatch, 20)
        assert (await retention.prune(ADMIN)).tasks == {"succeeded": 1}
        assert {("echo", "default:talk"), ("Conversation", "default:talk")} <= await heads(mesh)
        stored = str(await mesh.database.read(_rows, "SELECT * FROM heads"))
        records = str(await mesh.database.read(_rows, "SELECT * FROM records"))
        assert "the old secret" not in stored + records and "the young one" in stored
        head = ("echo", "default:talk", 1)  # its revision has risen since
        assert await mesh.database.write(delete_heads, [head]) == []
        assert old.task_id != young.task_id and await faults(mesh) == []
        assert (await tasks.ask("echo", "Hello", thread_id="talk")).success
        assert await faults(mesh) == []


async def test_a_thread_of_many_tasks_goes_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with up(tmp_path, retention=AGES) as running:
        mesh = running.mesh
        ids = [await running.submit("echo", f"{number}", thread_id="talk") for number in range(120)]
        for task_id in ids:
            await running.outcome(task_id)
        now_is_later(mesh, monkeypatch)
        assert (await mesh.get(Retention).prune(ADMIN)).tasks == {"succeeded": 120}
        assert await heads(mesh) == {("Orchestrator", task_id) for task_id in ids}
        records = await mesh.database.read(_rows, "SELECT * FROM records WHERE type <> 'Account'")
        assert records == [] and await faults(mesh) == []


class Moody(Agent):
    """Fails where it is told to."""

    agent_id = "moody"
    capabilities = (Capability("moods"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "fail":
            raise ToolFailed("told to fail")
        return "done"


async def test_a_thread_stays_that_has_forgotten_a_listed_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It remembers the last eight ends alone."""
    async with up(tmp_path, Moody, retention=AGES) as running:
        for text in ("fail", *"123456789"):
            await running.ask("moody", text, thread_id="talk")
        now_is_later(running.mesh, monkeypatch)
        assert (await running.mesh.get(Retention).prune(ADMIN)).tasks == {"succeeded": 9}
        kinds = {"Orchestrator", "Conversation", "moody"}
        query = "SELECT type, id FROM heads WHERE id LIKE '%talk'"
        assert {kind for kind, _ in await running.mesh.database.read(_rows, query)} & kinds == {
            "Conversation",
            "moody",
        }
        assert (await running.ask("moody", "again", thread_id="talk")).success
        assert await faults(running.mesh) == []


def test_a_command_prunes_only_where_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text("[retention]\nsucceeded_days = 0.01\n")
    mesh_command("ask", "-q", "simple-agent", "Hello", cwd=tmp_path)
    assert (
        mesh_command("submit", "--capability", "general-query", "Hello", cwd=tmp_path).returncode == 0
    )  # the list is written
    with closing(sqlite3.connect(tmp_path / ".mesh/mesh.db", isolation_level=None)) as database:
        database.execute("UPDATE tasks SET completed_at = completed_at - 86400")
    assert mesh_command("submit", "--capability", "general-query", "Hello", cwd=tmp_path).returncode == 0
    assert mesh_command("prune", "--dry-run", cwd=tmp_path).stdout == "would prune: 1 succeeded\n"
    assert mesh_command("prune", "--yes", cwd=tmp_path).stdout == "pruned: 1 succeeded\n"
