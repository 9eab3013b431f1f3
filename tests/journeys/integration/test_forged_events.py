"""Callers publish events of their own, and nothing of the mesh takes them for the mesh's."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.console.output import document, event_line
from meshwright.core.access import Role
from meshwright.core.events import Event
from meshwright.core.ids import new_id
from meshwright.core.topics import MESH, TASK_PROGRESS
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.identity.rules import event_facts
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.event_logs import event, forge, payload_fields
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh
from tests.support.tenants import finished_task, holder

ADMIN_TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
VIEWS = (
    *("/costs", "/costs?by=tenant", "/budgets", "/allowances", "/keys", "/agents/score/echoing", "/agents"),
    *("/schedules", "/tasks", "/inbox", "/status", "/api/agents"),
)
PASSING = re.compile(r'"(used_at|last_seen|since|next_due|retry_at)": [^,}]*')
ODD: tuple[Any, ...] = (
    None,
    [],
    [7],
    {},
    {"a": [{}]},
    "text",
    -1,
    1e308,
    "1e999999999",
    "1e-999999999",
    "NaN",
    True,
)
HOSTILE: tuple[Any, ...] = (
    {},
    {"x": 1, "payload": None, "caller": "me", "subject": 7, "kind": "event", "key": [1], "schedule": {}},
    {"ranges": [[1, 10**12], "x"], "through": {}, "last_seq": "1", "lost_until_seq": 9, "seq": -1, "hash": 1},
    {"key_id": "01GHOST", "tenant_id": "*", "roles": ["admin"], "created_at": "2030-01-01T00:00:00Z"},
    {"deployment": "offline", "seconds": 1e300, "cost_usd": "1e999999", "usage": "many", "success": False},
)


def known_types(api: Api) -> list[str]:
    """Every type that a component declares or a projection is made from."""
    folded = {
        name for part in api.mesh.components for item in part.projections() for name in item.event_types
    }
    found = {*payload_fields(), *folded}
    assert len(found) > 80
    return sorted(found)


async def payloads(api: Api, event_type: str) -> list[Any]:
    """Payloads to forge an event with: hostile ones, and that of a true event, made dear and bad."""
    events = await api.mesh.log.query(EventFilter(event_type=event_type, order="desc", limit=1))
    copied = [event.fields for event in events]
    changed = {"cost_usd": "1000000", "success": False, "status": "failed", "tenant_id": "acme"}
    return [*HOSTILE, *({**fields, **changed} for fields in copied), *copied]


async def publish(api: Api, event_type: str, payload: Any, headers: dict[str, str]) -> None:
    body = {"topic": "app.x", "event_type": event_type, "payload": payload}
    status, answer = await api.call("POST", "/events", json=body, headers=headers)
    assert (status, answer["event_type"]) == (202, f"app.{event_type}")


async def insert(api: Api, event_type: str, payload: Any, headers: dict[str, str]) -> None:
    await forge(api.mesh.database, api.mesh.log, event_type, payload)


def malformed(event_type: str, payload: Any, task_id: str | None) -> Event:
    """An event of the mesh without the payload of its type."""
    topic = TASK_PROGRESS if task_id else MESH
    return event(0, event_type, id=new_id(), topic=topic, task_id=task_id, payload=payload)


async def views(api: Api, tenants: Sequence[str] = ("", "default", "acme", "rival")) -> dict[str, str]:
    """All that an administrator sees, of every tenant and of each, but for the list of events."""
    found = {}
    for path in VIEWS:
        for tenant in tenants:
            headers = {**ADMIN, "Mesh-Tenant": tenant} if tenant else ADMIN
            status, document = await api.call("GET", path, headers=headers)
            assert status == 200, (path, tenant, document)
            document.pop("tenants", None)  # with what each stores
            found[f"{path} of {tenant or 'all'}"] = PASSING.sub("", json.dumps(document, sort_keys=True))
    for event_type in ("audit.recorded", "model.called", "key.created", "budget.opened", "attempt.ended"):
        events = (await api.get("/events", event_type=event_type, order="desc"))["items"]
        found[event_type] = json.dumps([event["id"] for event in events if "read" not in str(event)])
    verified = await api.get("/audit/verify")
    assert (verified["faults"], verified["notes"]) == ([], [])
    return found


@asynccontextmanager
async def running(project: Path) -> AsyncIterator[Api]:
    async with http_mesh(project, admin_token=ADMIN_TOKEN) as api:
        api.session.headers.update(ADMIN)
        yield api


@pytest.mark.parametrize("door", [publish, insert])
async def test_forged_events_change_nothing_but_the_list_of_events(tmp_path: Path, door: Any) -> None:
    async with running(tmp_path) as api:
        await finished_task(api, await holder(api, "acme"), "echo", "hello")
        rival = await holder(api, "rival", Role.SUBMITTER)
        await finished_task(api, rival, "echo", "hello")
        before = await views(api)
    async with running(tmp_path) as api:
        assert await views(api) == before, "this test compares too much"
        for event_type in known_types(api):
            for payload in await payloads(api, event_type):
                await door(api, event_type, payload, rival)
            events = await api.mesh.log.query(EventFilter(event_type=event_type, limit=1000))
            assert [event.payload for event in events if event.topic == "app.x"] == []
        assert await views(api) == before
    async with running(tmp_path) as api:
        assert await views(api) == before
        await api.mesh.log.rebuild()
        assert await views(api) == before
        assert api.mesh.log.stalled() == []
        assert (await api.call("POST", "/keys/open"))[0] == 200
        assert (await api.call("GET", "/tasks", headers={"Authorization": ""}))[0] == 200


async def test_malformed_events_break_no_reader(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        task_id = await finished_task(api, await holder(api, "default"), "echo", "hello")
        for event_type in known_types(api):
            real = await payloads(api, event_type)
            odd = [{**fields, name: value} for fields in real[-1:] for name in fields for value in ODD]
            events = [malformed(event_type, payload, task_id) for payload in (*real, *ODD, *odd)]
            events += [malformed(event_type, payload, None) for payload in (*real, *ODD)]
            await api.mesh.log.append(events)
    async with running(tmp_path) as api:
        for path in (*VIEWS, "/audit/verify", f"/tasks/{task_id}", f"/tasks/{task_id}/steps"):
            status, answer = await api.call("GET", path)
            assert status == 200, (path, answer)
        assert api.mesh.log.stalled() == []
        assert (await api.mesh.get(Tasks).outcome(await finished_task(api, ADMIN, "echo", "again"))).success
        async for found in api.mesh.log.replay(EventFilter()):
            assert event_line(document(found))
            event_facts(found, api.mesh.events)
    data = str(tmp_path / ".mesh")
    for options in (["events", "--limit", "1000"], ["events", "--task", task_id], ["models"], ["status"]):
        done = await mesh(*options, "--data", data)
        assert done.status == 0, (options, done)
