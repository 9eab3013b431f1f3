"""The limits of a tenant are the same at every edge by which a task may come, and leave others alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.errors import Overloaded, StorageExceeded
from meshwright.core.messages import Caller, TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.chat_mesh import http_channel, say
from tests.support.fake_chats import FakeChats
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import Mosquitto, ask, mosquitto
from tests.support.webhook_mesh import deliver, issue, webhooks

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_rr")
LIMITS = {"tasks_per_minute": 1, "max_open_tasks": 1, "max_storage": "1MB"}
TASK = {"agent_id": "echo", "payload": {"text": "hi"}}
CLIENTS = [{"user": name, "tenant": name} for name in ("acme", "other")]


class Lead(Agent):
    """Delegates, once it may."""

    agent_id = "lead"
    capabilities = (Capability("leading"),)
    remembers = False
    delegates_to = ("echo",)

    async def run(self, run: Run) -> str:
        await run.wait_event("app.go", {"event_type": "go.on"})
        return await run.delegate("echo", "on behalf of others")


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mosquitto]:
    async with mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


async def over_http(api: Api, broker: Mosquitto, tenant_id: str) -> Any:
    async with api.session.post("/tasks", json=TASK, headers={"Mesh-Tenant": tenant_id}) as response:
        return await response.json(content_type=None)


async def over_mqtt(api: Api, broker: Mosquitto, tenant_id: str) -> Any:
    return await ask(broker, f"mesh/{tenant_id}/clients/{tenant_id}/submit", TASK)


async def by_webhook(api: Api, broker: Mosquitto, tenant_id: str) -> Any:
    assert tenant_id == "acme"
    return (await deliver(api, issue()))[1]


async def by_chat(api: Api, broker: Mosquitto, tenant_id: str) -> Any:
    assert tenant_id == "acme"
    return (await say(api, "chat", "m-1", "hello"))[1]


async def by_schedule(api: Api, broker: Mosquitto, tenant_id: str) -> Any:
    headers = {"Mesh-Tenant": tenant_id}
    schedule = {"id": "now", "cron": "0 7 29 2 *", "task": TASK}
    assert (await api.call("POST", "/schedules", json=schedule, headers=headers))[0] == 201
    assert (await api.call("POST", "/schedules/now/run", headers=headers))[0] < 300
    ended = EventFilter(tenant_id=tenant_id, after_seq=0)
    async with asyncio.timeout(240):
        async for event in api.mesh.log.tail(ended):
            if event.event_type == "schedule.failed":
                return {"code": str(event.fields["run"]["reason"]).partition(":")[0]}


EDGES = (over_http, over_mqtt, by_webhook, by_chat, by_schedule)


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_tenant_over_a_limit_is_refused_at_every_edge(
    tmp_path: Path, broker: Mosquitto, limit: str
) -> None:
    acme = {"tenant": "acme"}
    async with (
        FakeChats() as chats,
        http_mesh(
            tmp_path,
            Lead,
            tenants={"acme": {limit: LIMITS[limit]}},
            mqtt={"url": broker.url, "clients": CLIENTS},
            webhooks=webhooks(source=acme),
            channels={"chat": http_channel(chats, **acme)},
        ) as api,
    ):
        lead = await used_up(api)
        code = "StorageExceeded" if limit == "max_storage" else "Overloaded"
        accepted = await accepted_tasks(api)
        for send in EDGES:
            answer = await send(api, broker, "acme")
            assert answer.get("code") == code, (send, answer)
        for send in (over_http, over_mqtt):
            assert "task_id" in await send(api, broker, "other")
        assert await accepted_tasks(api) == accepted
        go_on = {"topic": "app.go", "event_type": "go.on"}
        headers = {"Mesh-Tenant": "acme" if limit != "max_storage" else "other"}
        assert (await api.call("POST", "/events", json=go_on, headers=headers))[0] == 202
        if limit != "max_storage":  # what is open goes on, and delegates
            outcome = await asyncio.wait_for(api.mesh.get(Tasks).outcome(lead, "acme"), 60)
            assert outcome.text == "you said: on behalf of others"
            assert await accepted_tasks(api) == accepted + 1


async def used_up(api: Api) -> str:
    """Have tenant acme use up what it may have; returns its first task, which waits."""
    caller = Caller(tenant_id="acme")
    receipt = await api.mesh.get(Tasks).submit(TaskRequest(agent_id="lead"), caller)
    large = TaskRequest(agent_id="gate", payload={"text": "please", "more": "x" * 200_000})
    with pytest.raises((Overloaded, StorageExceeded)):
        async with asyncio.timeout(240):
            while True:
                await api.mesh.get(Tasks).submit(large, caller)
    return receipt.task_id


async def accepted_tasks(api: Api) -> int:
    found = await api.mesh.log.query(EventFilter(tenant_id="acme", event_type="task.accepted", limit=1000))
    return len(found)
