"""The audit trail: who changed what is in the event log before it is changed."""

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Client
from meshwright.core.errors import MeshError
from meshwright.core.events import Event
from meshwright.core.messages import Caller
from meshwright.engine.events.audit import RECORDED, Audit, hashed
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.verify import verify
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.models.offline_model import OfflineModel
from tests.support.http_mesh import Echo, Gate
from tests.support.settings import load_settings

TOKEN = "mesh-admin-0123456789-0123456789-0123456789"
ANN = Caller(tenant_id="acme", requested_by="ann", key_id="k1", roles=frozenset({"approver"}), source="mqtt")


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    settings = load_settings(
        tmp_path, data_dir=tmp_path / "data", keys={"admin_token": TOKEN}, audit={"head_seconds": 0.01}
    )
    async with build_mesh(settings, project=tmp_path, agents=[Echo, Gate], model=OfflineModel()) as mesh:
        yield mesh


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[Client]:
    async with Client.local(mesh) as client:
        yield client


async def trail(mesh: Mesh) -> list[Event]:
    await mesh.runtime.emit([])  # behind what was queued
    found = await mesh.log.query(EventFilter(event_type=RECORDED))
    return [event for event in found if event.fields["action"] != "configuration.changed"]


async def actions(mesh: Mesh) -> list[tuple[str, str]]:
    return [(event.fields["action"], event.fields["subject"]) for event in await trail(mesh)]


async def test_a_record_says_who_did_what_from_where(mesh: Mesh) -> None:
    details = {"answer": hashed({"text": "yes"}), "password": "hunter2-is-it", "rule": "5/day"}
    await mesh.get(Audit).record(ANN, "schedule.paused", "schedules/digest", details)
    [event] = await trail(mesh)
    assert event.tenant_id == "acme" and event.aggregate_id == "audit/schedules/digest"
    assert event.fields == {
        "action": "schedule.paused",
        "subject": "schedules/digest",
        "caller": {"requested_by": "ann", "key_id": "k1", "roles": ["approver"], "edge": "mqtt"},
        "details": {**details, "password": "[redacted]"},
    }
    assert details["answer"].startswith("sha256:") and details["answer"] != hashed({"text": "no"})


async def test_a_change_that_is_refused_is_recorded_as_failed(mesh: Mesh, client: Client) -> None:
    with pytest.raises(MeshError):
        await client.create_key("echo", expires="banana")
    with pytest.raises(MeshError):
        await client.allow("nobody", "5/day")
    with pytest.raises(MeshError):
        await client.disallow("echo")
    assert [
        (event.fields["action"], event.fields["details"].get("error")) for event in await trail(mesh)
    ] == [
        ("key.created", None),
        ("key.created.failed", "InvalidInput"),
        ("allowance.set", None),
        ("allowance.set.failed", "InvalidInput"),
        ("allowance.removed", None),
        ("allowance.removed.failed", "NotFound"),
    ]


async def test_a_flood_of_wrong_keys_does_not_fill_the_log(mesh: Mesh) -> None:
    wrong = f"sk-mesh-{'0' * 26}-{'x' * 43}"
    async with Client.local(mesh) as stranger:
        stranger._connection._headers["Authorization"] = f"Bearer {wrong}"
        for _ in range(100):
            with pytest.raises(MeshError, match="not one of this mesh's"):
                await stranger.tasks()
    found = await trail(mesh)
    assert len(found) == 10
    assert {event.fields["action"] for event in found} == {"credentials.refused"}
    assert wrong not in str(found) and found[0].fields["details"]["address"] == "127.0.0.1"


async def test_who_reads_contents_is_recorded_once_an_hour(mesh: Mesh, client: Client) -> None:
    outcome = await client.ask("echo", "hello")
    for _ in range(3):
        assert isinstance([step async for step in client.transcript(outcome.task_id)], list)
    await client.steps(outcome.task_id)  # without contents
    assert await actions(mesh) == [("contents.read", f"tasks/{outcome.task_id}")]


async def test_settings_that_changed_are_recorded_at_the_start_without_secrets(tmp_path: Path) -> None:
    async def started(**settings: Any) -> list[Event]:
        loaded = load_settings(tmp_path, data_dir=tmp_path / "data", **settings)
        async with build_mesh(loaded, project=tmp_path, agents=[Echo], model=OfflineModel()) as mesh:
            found = await mesh.log.query(EventFilter(aggregate_id="audit/settings"))
            return [event.fields["details"] for event in found]

    password = {"url": None, "password": "a-password-of-mqtt"}
    assert len(await started()) == 1
    assert len(await started()) == 1
    details = await started(mqtt=password, orchestration={"max_attempts": 2})
    assert details[-1]["changed"] == ["mqtt.password", "orchestration.max_attempts"]
    assert "a-password" not in str(details)


async def test_heads_are_signed_while_the_mesh_runs_and_at_its_end(mesh: Mesh, client: Client) -> None:
    before = await mesh.log.last_seq()
    await client.ask("echo", "hello")
    async for event in mesh.log.tail(EventFilter(event_type="audit.head", after_seq=before)):
        assert event.fields["seq"] > 0
        break
    await mesh.stop()
    found = verify(mesh.database)
    assert (found.faults, found.notes) == ([], [])
    assert found.heads >= 2 and found.signed_seq == found.last
    for path in mesh.database.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
