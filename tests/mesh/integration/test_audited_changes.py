"""Every route and MQTT command that changes a mesh or shows contents is in the audit trail.

A new route or topic fails here until `tests/support/audited_routes.py` says what it records, or why nothing.
"""

import asyncio
import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent
from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.core.access import Role
from meshwright.core.errors import StoreFailed
from meshwright.core.events import Event
from meshwright.core.messages import Caller, TaskRequest
from meshwright.edges.broker.topics import TASK_VERBS
from meshwright.engine.events.audit import RECORDED
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import question_id
from meshwright.engine.events.verify import verify
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.keys import Keys
from tests.edges.integration.test_http_roles import PUBLIC, Asker, Giver, all_routes
from tests.support.audited_routes import ACCEPTED, CHANGES, FACTS, READS, TASK, VARIANTS, Change
from tests.support.fake_chats import WHSEC, standard_headers
from tests.support.http_mesh import Api, http_mesh
from tests.support.mqtt_broker import client, mosquitto, payloads_of

TOKEN = "mesh-admin-0123456789-0123456789-0123456789"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
CHAT = {
    "kind": "http",
    "agent": "asker",
    "secret": WHSEC,
    "url": "http://127.0.0.1:9/in",
    "answer_by": ["boss"],
}
FORGE = {
    "sources": {"forge": {"kind": "generic", "scheme": "standard", "secret": WHSEC}},
    "rules": [{"source": "forge", "agent": "echo", "text": "Fix it"}],
}


class World(dict[str, str]):
    def fill(self, value: Any) -> Any:
        return json.loads(re.sub(r"\{(\w+)\}", lambda found: self.get(found[1], found[0]), json.dumps(value)))


@asynccontextmanager
async def audited(folder: Path, *agents: type[Agent], **settings: Any) -> AsyncIterator[tuple[Api, World]]:
    """A mesh in which each of the requests can be made."""
    kept = {"succeeded_days": 30}
    options = {"channels": {"chat": CHAT}, "webhooks": FORGE, "retention": kept, **settings}
    async with http_mesh(
        folder, Asker, *agents, admin_token=TOKEN, data_dir=folder / "data", **options
    ) as api:
        made = await api.mesh.get(Keys).create("ada", tenant_id="*", roles=tuple(Role))
        world = World(token=made.key, ada=made.key_id, job="job", echo="echo", greeter="greeter", done="done")
        world |= {label: label for label in ("production", "canary")}
        for number in (1, 2):
            world[f"key_{number}"] = (await api.mesh.get(Keys).create("echo")).key_id
            await asked(api, world, number)
        world["ended"] = await asked(api, world, 3)
        await api.mesh.get(Tasks).answer(world["ended"], world["wait_3"], "yes")
        await api.mesh.get(Tasks).outcome(world["ended"])
        await asked(api, world, 5)
        world["failed"] = await asked(api, world, 4)
        await api.mesh.get(Tasks).cancel(world["failed"])
        await api.mesh.get(Tasks).outcome(world["failed"])
        schedule = {"id": "job", "cron": "0 7 29 2 *", "task": TASK}
        config = {
            "agent_id": "echo",
            "name": "E",
            "llm_provider": "openai",
            "llm_model": "m",
            "llm_api_key": "k" * 20,
        }
        prompt = {"name": "greeter", "template": "Greet."}
        evaluation = {
            "evaluation_id": "done",
            "data": {"items": [{"output": "acme-secret"}]},
            "metrics": ["length"],
        }
        for path, body in (
            ("/schedules", schedule),
            ("/api/agents", config),
            ("/v1/prompts", prompt),
            ("/v1/evaluations", evaluation),
        ):
            assert (await api.call("POST", path, json=body, headers=ADMIN))[0] == 201
        async for _ in api.mesh.log.tail(EventFilter(event_type="evaluation.ended", after_seq=0)):
            break
        trial = {"name": "x", "agent_id": "echo", "variants": VARIANTS}
        _, made_trial = await api.call("POST", "/v1/experiments", json=trial, headers=ADMIN)
        world["trial"] = made_trial["experiment_id"]
        canary = "/v1/prompts/greeter/labels/canary"
        assert (await api.call("PUT", canary, json={"version": 1}, headers=ADMIN))[0] == 200
        for number, status in ((1, "active"), (2, "quarantined")):
            memory_id = world[f"memory_{number}"] = f"m-{number}"
            text = f"Port {number} is open."
            item = MemoryItem(memory_id=memory_id, scope="global", text=text, subject="ports")
            await api.mesh.get(MemoryStore).remember(item.model_copy(update={"status": status}))
        yield api, world


async def asked(api: Api, world: World, number: int, agent_id: str = "asker") -> str:
    """A task that waits for a person."""
    _, receipt = await api.call(
        "POST", "/tasks", json={"agent_id": agent_id, "budget_usd": "1"}, headers=ADMIN
    )
    task_id = world[f"asked_{number}"] = receipt["task_id"]
    world[f"wait_{number}"] = await waiting(api, task_id)
    world[f"question_{number}"] = question_id("default", world[f"wait_{number}"])
    return task_id


async def waiting(api: Api, task_id: str, tenant_id: str = "default") -> str:
    """Wait until a task asks; returns what its question is known by."""
    async with asyncio.timeout(240):
        wanted = EventFilter(event_type="task.waiting", task_id=task_id, after_seq=0)
        async for _ in api.mesh.log.tail(wanted):
            break
    return (await api.mesh.get(Tasks).task(task_id, tenant_id)).waits[0].wait_id


async def send(api: Api, world: World, name: str, change: Change) -> tuple[int, dict[str, Any]]:
    method, path = name.split()
    path = re.sub(r"\{(\w+)\}", lambda found: world[(change.at or {})[found[1]]], path)
    headers, body = {"Authorization": f"Bearer {world['token']}"}, world.fill(change.body)
    options = {"json": body, "params": change.query or {}, "headers": headers}
    async with api.session.request(method, path, **options) as response:
        return response.status, json.loads(await response.text() or "{}")


async def snapshot(api: Api) -> str:
    """All that a change could have changed."""
    paths = (
        "/keys",
        "/schedules",
        "/api/agents",
        "/v1/prompts",
        "/v1/evaluations",
        "/v1/experiments",
        "/allowances",
        "/budgets",
        "/tasks",
        "/memories?status=all",
    )
    found = [(await api.call("GET", path, headers=ADMIN))[1] for path in paths]
    secrets = api.mesh.settings.data_dir / "secrets.key"
    key = hashlib.sha256(secrets.read_bytes()).hexdigest() if secrets.exists() else ""
    return re.sub(r'"used_at": [^,}]*', "", json.dumps([*found, key], indent=1))


async def trail(api: Api, after_seq: int = 0) -> list[Event]:
    await api.mesh.runtime.emit([])  # behind what was queued
    return await api.mesh.log.query(EventFilter(event_type=RECORDED, after_seq=after_seq))


def recorded(events: list[Event]) -> list[tuple[str, str, str]]:
    return [
        (event.fields["caller"]["requested_by"], event.fields["action"], event.fields["subject"])
        for event in events
    ]


def refuse_audit(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the log take everything but what the audit trail records."""
    emit = api.mesh.runtime.emit

    def emit_others(events: Any) -> Any:
        if any(event.event_type == RECORDED for event in events):
            raise StoreFailed("the audit trail is full")
        return emit(events)

    monkeypatch.setattr(api.mesh.runtime, "emit", emit_others)


async def test_every_route_is_audited_or_says_why_not(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, channels={"chat": CHAT | {"agent": "echo"}}, webhooks=FORGE) as api:
        routes = [route for route in all_routes(api) if route.path not in PUBLIC]
        found = {f"{method} {route.path}" for route in routes for method in route.methods}
    changing = {name for name in found if not name.startswith("GET ")}
    assert changing == CHANGES.keys() | ACCEPTED.keys()
    assert {name.removeprefix("GET ") for name in found - changing} == READS.keys() | set(FACTS.split())


async def test_every_change_is_recorded_and_refused_where_it_cannot_be(tmp_path: Path) -> None:
    async with audited(tmp_path) as (api, world):
        before = await snapshot(api)
        with pytest.MonkeyPatch.context() as patch:
            refuse_audit(api, patch)
            for name, change in CHANGES.items():
                status, problem = await send(api, world, name, change)
                assert (status, problem.get("detail")) == (503, "the audit trail is full"), (name, problem)
                assert await snapshot(api) == before, name
        for name, change in CHANGES.items():
            last = await api.mesh.log.last_seq()
            status, answer = await send(api, world, name, change)
            assert status < 300, (name, answer)
            world |= {"new": answer.get("key_id", ""), "made": answer.get("experiment_id", "")}
            [event] = await trail(api, last)
            assert recorded([event]) == [("ada", change.action, world.fill(change.subject))], name
            caller = event.fields["caller"]
            assert (caller["key_id"], caller["edge"], event.tenant_id) == (world["ada"], "api", "default")
            assert event.time.timestamp() > 0 and world["token"] not in event.encode().decode()


async def test_who_reads_contents_is_recorded_and_refused_where_it_cannot_be(tmp_path: Path) -> None:
    async with audited(tmp_path, Giver) as (api, world):
        reader = await api.mesh.get(Keys).create("reader", roles=tuple(Role))
        names = {"path": "1", "number": "1", "agent_id": "echo", "memory_id": "m-1", "evaluation_id": "done"}
        world["given"] = (await api.mesh.get(Tasks).submit(TaskRequest(agent_id="giver"))).task_id
        await api.mesh.get(Tasks).outcome(world["given"])
        for path, subject in READS.items():
            headers = {"Authorization": f"Bearer {reader.key}", "A2A-Version": "1.0"}
            last = await api.mesh.log.last_seq()
            below = {"params": {"contents": "true"}} if path.endswith("/steps") else {}
            for refused in (True, False):
                with pytest.MonkeyPatch.context() as patch:
                    if refused:
                        refuse_audit(api, patch)
                    task_id = world.fill(subject).removeprefix("tasks/")
                    url = path.format(task_id=task_id, id=task_id, **names)
                    async with api.session.get(url, headers=headers, **below) as response:
                        assert (response.status == 503) is refused, (path, await response.text())
                        text = "" if "event-stream" in response.content_type else await response.text()
                        assert not refused or "acme-secret" not in text
                found = await trail(api, last)
                assert len(found) == (not refused), path
            assert recorded(found)[0][::2] == ("reader", world.fill(subject)), path
            reader = await api.mesh.get(Keys).create("reader", roles=tuple(Role))  # who has read nothing yet


async def test_roles_and_keys_that_are_misused_are_recorded(tmp_path: Path) -> None:
    async with audited(tmp_path) as (api, world):
        viewer = await api.mesh.get(Keys).create("viewer", roles=(Role.VIEWER,))
        await api.mesh.get(Keys).revoke(world["key_1"])
        last = await api.mesh.log.last_seq()
        headers = {"Authorization": f"Bearer {viewer.key}"}
        for method, path in (
            ("POST", "/tasks"),
            ("POST", "/keys"),
            ("POST", f"/tasks/{world['asked_1']}/cancel"),
        ):
            assert (await api.call(method, path, json={}, headers=headers))[0] == 403
        assert (await api.call("GET", "/keys", headers={"Authorization": "Bearer sk-wrong"}))[0] == 401
        assert (await api.call("GET", "/tasks", headers={**headers, "Mesh-Tenant": "other"}))[0] == 403
        async with api.session.ws_connect("/ws", headers=headers) as socket:
            assert not socket.closed  # a viewer may
        found = await trail(api, last)
    refused = ("viewer", "access.refused", f"keys/{viewer.key_id}")
    assert recorded(found) == [refused] * 3 + [("anonymous", "credentials.refused", "keys")] * 2
    assert [event.fields["details"]["request"] for event in found] == [
        "POST /tasks",
        "POST /keys",
        f"POST /tasks/{world['asked_1']}/cancel",
        "GET /keys",
        "GET /tasks",
    ]
    assert all(event.fields["details"]["address"] == "127.0.0.1" for event in found)


async def test_a_chat_answers_and_is_refused_like_every_caller(tmp_path: Path) -> None:
    async with audited(tmp_path) as (api, _):
        first = await say(api, "m-1", "paint it", "ada")
        with pytest.MonkeyPatch.context() as patch:
            refuse_audit(api, patch)
            assert (await say(api, "m-2", "green", "boss"))[0] == 503
        task_id = first[1]["accepted"][0]["task_id"]
        assert (await api.mesh.get(Tasks).task(task_id)).status == "waiting"
        last = await api.mesh.log.last_seq()
        assert (await say(api, "m-2", "green", "boss"))[1]["accepted"][0]["task_id"] == task_id
        assert recorded(await trail(api, last)) == [
            ("channel:chat:boss", "task.answered", f"tasks/{task_id}")
        ]
        accepted = await api.mesh.log.query(EventFilter(event_type="task.accepted", task_id=task_id))
        assert accepted[0].fields["requested_by"] == "channel:chat:ada"
        assert (await api.call("POST", "/channels/chat", json={}))[0] == 401
        assert (await api.call("POST", "/webhooks/forge", json={}))[0] == 401
        body = b'{"action": "opened"}'
        headers = standard_headers("d-1", body)
        assert (await api.call("POST", "/webhooks/forge", data=body, headers=headers))[0] == 202
        misused = [event.fields["caller"]["edge"] for event in (await trail(api, last))[1:]]
        assert misused == ["channel:chat", "webhook:forge"]
        delivered = await api.mesh.log.query(EventFilter(event_type="webhook.received"))
        assert [event.fields["delivery"] for event in delivered] == ["d-1"]


async def say(api: Api, message_id: str, content: str, sender: str) -> tuple[int, Any]:
    message = {"id": message_id, "sender": sender, "content": content, "thread_id": "t-1"}
    body = json.dumps(message).encode()
    headers = standard_headers(message_id, body)
    status, answer = await api.call("POST", "/channels/chat", data=body, headers=headers)
    if sender == "ada":
        await waiting(api, answer["accepted"][0]["task_id"])
    return status, answer


MQTT = {
    "submit": None,  # task.accepted says who, in the same commit
    "cancel": ("task.cancelled", "{{}}"),
    "answer": ("task.answered", '{{"key": "{wait}", "value": "yes"}}'),
}
"""The commands over MQTT, each with its action and a message."""


@pytest.mark.needs("mosquitto")
async def test_every_command_over_mqtt_is_recorded_or_refused(tmp_path: Path) -> None:
    assert {"submit", *TASK_VERBS} == MQTT.keys()
    clients = [
        {"user": "ada", "tenant": "acme", "roles": list(Role)},
        {"user": "vera", "tenant": "acme", "roles": ["viewer"]},
    ]
    own = Caller(tenant_id="acme", requested_by="ada")
    async with (
        mosquitto(tmp_path / "broker") as broker,
        http_mesh(tmp_path, Asker, mqtt={"url": broker.url, "clients": clients}) as api,
        client(broker, "mesh/acme/#") as sender,
    ):
        await payloads_of(api.mesh, "edge.connected")
        for verb, (action, message) in {verb: told for verb, told in MQTT.items() if told}.items():
            receipt = await api.mesh.get(Tasks).submit(TaskRequest(agent_id="asker"), own)
            wait = await waiting(api, receipt.task_id, "acme")
            topic = f"mesh/acme/clients/{{}}/tasks/{receipt.task_id}/{verb}"
            last = await api.mesh.log.last_seq()
            for user in ("vera", "mallory", "ada"):
                sender.publish(topic.format(user), json.loads(message.format(wait=wait)))
            async with asyncio.timeout(240):
                tail = api.mesh.log.tail(EventFilter(event_type=RECORDED, after_seq=last))
                found = [await anext(tail) for _ in range(3)]
                await tail.aclose()
            subject = f"tasks/{receipt.task_id}"
            assert sorted(recorded(found)) == [
                ("ada", action, subject),
                ("anonymous", "credentials.refused", "keys"),
                ("vera", "access.refused", "callers/vera"),
            ]
            assert {event.fields["caller"]["edge"] for event in found} == {"mqtt"}


async def test_what_a_disk_does_not_take_of_the_audit_trail_does_not_happen(tmp_path: Path) -> None:
    options = {"admin_token": TOKEN, "data_dir": tmp_path / "data"}
    async with http_mesh(tmp_path, **options):
        pass
    with closing(sqlite3.connect(tmp_path / "data" / "mesh.db")) as database, database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.event_type = 'audit.recorded' "
            "BEGIN SELECT RAISE(ABORT, 'no room for audit'); END"
        )
    with pytest.raises(StoreFailed, match="no room for audit"):
        async with http_mesh(tmp_path, **options) as api:
            assert (await api.call("POST", "/keys", json={"agent_id": "echo"}, headers=ADMIN))[0] == 503
            raise await api.mesh.failure()
    with closing(sqlite3.connect(tmp_path / "data" / "mesh.db")) as database, database:
        database.execute("DROP TRIGGER refuse")
    async with http_mesh(tmp_path, **options) as api:
        assert await api.mesh.get(Keys).list() == []
        assert verify(api.mesh.database).faults == []
