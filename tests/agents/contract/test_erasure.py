"""Erasure: the contents of tasks are gone from every file, and the event log still verifies."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Client, Run, ToolFailed
from meshwright.agents.run.erasure import Eraser
from meshwright.core.errors import Conflict, MeshError, NotFound
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.task_lists import TaskSubject
from meshwright.engine.events.verify import verify
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.offline_model import OfflineModel
from tests.support.postgres import Address
from tests.support.settings import load_settings

ANN = Caller(requested_by="ann")
BOB = Caller(requested_by="bob")
ADMIN = Caller(requested_by="admin")
SECRET, OTHER = "hunter2-of-ann", "swordfish-of-bob"


class Writer(Agent):
    """Keeps what it is told wherever a mesh keeps anything."""

    agent_id = "writer"
    capabilities = (Capability("writing"),)
    delegates_to = ("helper",)

    async def run(self, run: Run) -> str:
        reply = await run.ask(run.task.text)
        await run.remember(f"somebody said {run.task.text}", "project")
        await run.progress(f"half of {run.task.text}")
        answer = await run.delegate("helper", f"help with {run.task.text}")
        if "fail" in run.task.text:
            raise ToolFailed(f"cannot do {run.task.text}")
        return f"{reply} and {answer}"


class Helper(Agent):
    """Asks a person."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)

    async def run(self, run: Run) -> str:
        return f"{await run.ask_person(f'What of {run.task.text}?')} to {run.task.text}"


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    settings = load_settings(
        tmp_path,
        data_dir=tmp_path / "data",
        models={"cache": "disk"},
        tracing={"content": True},
        keys={"admin_token": "mesh-admin-0123456789-0123456789-0123456789"},
    )
    agents = [Writer, Helper]
    async with build_mesh(settings, project=tmp_path, agents=agents, model=OfflineModel()) as mesh:
        yield mesh


async def finished(mesh: Mesh, caller: Caller, text: str, **fields: Any) -> str:
    """Have a task done, and its question answered."""
    request = TaskRequest(agent_id="writer", payload={"text": text}, **fields)
    receipt = await mesh.get(Tasks).submit(request, caller)
    asked = mesh.log.tail(EventFilter(event_type="task.waiting", agent_id="helper", after_seq=0))
    async for event in asked:
        waits = (await mesh.get(Tasks).task(event.task_id or "")).waits
        if waits and text in waits[0].reason:
            await mesh.get(Tasks).answer(
                event.task_id or "", waits[0].wait_id, f"an answer about {text}", ADMIN
            )
            break
    await asked.aclose()
    await mesh.get(Tasks).outcome(receipt.task_id)
    return receipt.task_id


def holding(folder: Path, text: str) -> list[str]:
    """The files that hold a text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.name for path in files if text.encode() in path.read_bytes())


async def search(mesh: Mesh, text: str) -> list[str]:
    """The tasks with a text."""
    page = await mesh.log.tasks(tenant_id="default", text=text)
    assert page.unindexed == 0
    return [task.task_id for task in page.items]


async def test_nothing_of_a_requester_is_left_in_any_file(mesh: Mesh) -> None:
    folder = mesh.database.folder
    mine = [
        await finished(mesh, ANN, f"{SECRET} one", thread_id="t1"),
        await finished(mesh, ANN, f"{SECRET} fail"),
    ]
    other = await finished(mesh, BOB, f"{OTHER} two", thread_id="t1")
    assert "mesh.db" in "".join(holding(folder, SECRET))
    assert len(await search(mesh, SECRET)) == len(await search(mesh, "hunter2")) == 4
    assert len(await search(mesh, OTHER)) == 2

    erased = await mesh.get(Eraser).erase(ADMIN, TaskSubject(requested_by="ann"))
    assert erased.tasks == 4 and erased.events > 8
    assert holding(folder, SECRET) == [] and holding(folder, "hunter2") == []
    assert await search(mesh, "hunter2") == []
    assert verify(mesh.database).faults == []
    for task_id in mine:
        view = await mesh.get(Tasks).task(task_id)
        assert view.payload == {} and view.outcome is not None and view.outcome.result is None
        assert SECRET not in str(await mesh.get(Tasks).transcripts(task_id))
    assert (await mesh.get(Tasks).task(other)).payload == {"text": f"{OTHER} two"}
    assert OTHER in (await mesh.get(Tasks).outcome(other)).text

    before = await mesh.log.tasks(tenant_id="default")
    await mesh.log.rebuild()
    after = await mesh.log.tasks(tenant_id="default")
    assert [(task.task_id, task.requested_by, task.status) for task in after.items] == [
        (task.task_id, task.requested_by, task.status) for task in before.items
    ]
    assert await search(mesh, "hunter2") == [] and len(await search(mesh, OTHER)) == 2
    assert await mesh.get(Eraser).erase(ADMIN, TaskSubject(requested_by="ann")) is not None  # safe to repeat
    await mesh.stop()
    assert holding(folder, SECRET) == [] and holding(folder, OTHER) != []
    found = verify(mesh.database)
    assert found.faults == [] and found.erased > 8 and found.signed_seq == found.last


async def test_nothing_of_a_requester_is_left_in_postgres(tmp_path: Path, postgres_url: Address) -> None:
    import psycopg

    settings = load_settings(tmp_path, data_dir=tmp_path / "data", database=str(postgres_url))
    async with build_mesh(settings, project=tmp_path, agents=[Writer, Helper], model=OfflineModel()) as mesh:
        await finished(mesh, ANN, f"{SECRET} one")
        assert len(await search(mesh, "hunter2")) == 2
        await mesh.get(Eraser).erase(ADMIN, TaskSubject(requested_by="ann"))
        assert await search(mesh, "hunter2") == []
        assert verify(mesh.database).faults == []
    query = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    with psycopg.connect(postgres_url) as connection:
        tables = [name for (name,) in connection.execute(query).fetchall()]
        rows = {name: connection.execute(f"SELECT * FROM {name}".encode()).fetchall() for name in tables}
    assert [name for name in tables if "hunter2" in str(rows[name])] == []
    assert holding(tmp_path, SECRET) == []


async def test_an_erasure_is_on_record_and_needs_ended_tasks(mesh: Mesh) -> None:
    receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="helper", payload={"text": SECRET}), ANN)
    with pytest.raises(Conflict, match=r"1 tasks of id '.*', or of the same threads, are still open"):
        await mesh.get(Eraser).erase(ADMIN, TaskSubject(task_id=receipt.task_id))
    await mesh.get(Tasks).cancel(receipt.task_id)
    await mesh.get(Tasks).outcome(receipt.task_id)
    with pytest.raises(NotFound, match="There is no task of thread 'nope'"):
        await mesh.get(Eraser).erase(ADMIN, TaskSubject(thread_id="nope"))
    with pytest.raises(NotFound):
        await mesh.get(Eraser).erase(Caller(tenant_id="acme"), TaskSubject(task_id=receipt.task_id))
    await mesh.get(Eraser).erase(ADMIN, TaskSubject(task_id=receipt.task_id))
    [event] = await mesh.log.query(EventFilter(aggregate_id=f"audit/tasks of id {receipt.task_id!r}"))
    assert event.fields["action"] == "contents.erased" and event.fields["details"] == {"tasks": 1}


async def test_a_payload_that_was_erased_by_other_means_is_found(mesh: Mesh) -> None:
    task_id = await finished(mesh, ANN, SECRET)
    await mesh.get(Eraser).erase(ADMIN, TaskSubject(task_id=task_id))
    await mesh.stop()
    import sqlite3

    with sqlite3.connect(mesh.database.folder / "mesh.db") as connection:
        connection.execute("UPDATE events SET payload = '{}' WHERE payload = ?", (b'{"erased":true}',))
    connection.close()
    [fault] = verify(mesh.database).faults
    assert fault.endswith("was erased, and then given another payload")


async def test_one_subject_is_named_over_http(mesh: Mesh) -> None:
    async with Client.local(mesh) as client:
        with pytest.raises(MeshError, match="name one of requested_by, thread_id and task_id"):
            await client.erase(requested_by="ann", task_id="t1")
        with pytest.raises(NotFound):
            await client.erase(requested_by="nobody")
