"""A tenant that asks for more than it may is refused, on every edge and alone, and learns when to return."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.run.erasure import Eraser
from meshwright.core.clock import SystemClock
from meshwright.core.errors import Overloaded
from meshwright.core.messages import Caller, TaskRequest
from meshwright.edges.http import errors
from meshwright.engine.events.task_lists import TaskSubject
from meshwright.mesh.orchestration.settings import TenantsSettings
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.mesh.orchestration.tenants import Tenants
from meshwright.money.keys import Keys
from tests.support.http_mesh import Api, http_mesh

TASK = {"agent_id": "echo", "payload": {"text": "hi"}}
CHAT = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
ACME, OTHER = {"Mesh-Tenant": "acme"}, {"Mesh-Tenant": "other"}


async def post(api: Api, path: str, headers: dict[str, str], **options: Any) -> tuple[int, Any, str]:
    async with api.session.post(path, headers=headers, **options) as response:
        document = await response.json(content_type=None)
        return response.status, document, response.headers.get("Retry-After", "")


async def test_a_tenant_over_its_rate_is_refused_alone_and_told_of_once(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, tenants={"tasks_per_minute": 6, "acme": {"tasks_per_minute": 2}}) as api:
        for _ in range(2):
            assert (await post(api, "/tasks", ACME, json=TASK))[0] == 202
        for _ in range(3):
            status, problem, again = await post(api, "/tasks", ACME, json=TASK)
            assert (status, problem["code"], problem["field"]) == (429, "Overloaded", "tenant_id")
            assert 25 <= int(again) <= 30
            assert "tasks_per_minute" in problem["remedy"]
        status, problem, _ = await post(api, "/tasks", ACME, data=b"{ not even read")
        assert status == 429
        for _ in range(5):
            assert (await post(api, "/tasks", OTHER, json=TASK))[0] == 202
        events = (await api.get("/events", event_type="tenant.limited"))["items"]
        assert not events  # another tenant's
        async with api.session.get("/events?event_type=tenant.limited", headers=ACME) as response:
            [told] = (await response.json())["items"]
        assert told["payload"] == {"limit": "tasks_per_minute", "refused": 1}


async def test_a_tenant_has_so_many_open_tasks_of_its_own(tmp_path: Path) -> None:
    waiting = {"agent_id": "gate", "payload": {"text": "please"}}
    async with http_mesh(tmp_path, tenants={"max_open_tasks": 1}) as api:
        _, receipt, _ = await post(api, "/tasks", ACME, json=waiting)
        status, problem, again = await post(api, "/tasks", ACME, json=waiting)
        assert (status, again) == (429, "5")
        assert problem["detail"] == "Tenant acme has 1 open tasks, and may have 1"
        assert (await post(api, "/tasks", OTHER, json=waiting))[0] == 202
        api.gate.set()
        await api.mesh.get(Tasks).outcome(receipt["task_id"], "acme")
        assert (await post(api, "/tasks", ACME, json=waiting))[0] == 202


async def test_calls_of_models_count_for_the_tenant_that_pays(tmp_path: Path) -> None:
    plain = {"model": "fast", "messages": CHAT["messages"]}
    async with http_mesh(tmp_path, tenants={"calls_per_minute": 2}) as api:
        assert (await post(api, "/v1/chat/completions", ACME, json=CHAT))[0] == 200
        assert (await post(api, "/complete", {}, json={**plain, "tenant_id": "acme"}))[0] == 200
        status, answer, again = await post(api, "/v1/chat/completions", ACME, json=CHAT)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(again) > 20
        status, answer, _ = await post(api, "/v1/messages", ACME, json={**CHAT, "max_tokens": 5})
        assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
        assert (await post(api, "/complete", ACME, data=b"{ not even read"))[0] == 429
        assert (await post(api, "/complete", {}, json={**plain, "tenant_id": "acme"}))[0] == 429
        assert (await post(api, "/complete", OTHER, json=plain))[0] == 200


async def test_buckets_of_idle_tenants_do_not_pile_up() -> None:
    async def stored() -> dict[str, int]:
        return {}

    settings = TenantsSettings(tasks_per_minute=1e7)
    tenants = Tenants(settings, SystemClock(), lambda *_, **__: None, stored, max_open_tasks=100)
    for number in range(30_000):
        await tenants.take(f"tenant-{number}", "tasks_per_minute")
    assert len(tenants._buckets) <= 10_001


async def test_a_tenant_that_stores_what_it_may_is_refused_until_it_erases(tmp_path: Path) -> None:
    large = {**TASK, "thread_id": "one", "payload": {"text": "hi", "more": "x" * 200_000}}
    event = {"topic": "app.orders", "event_type": "order.paid"}
    limits = {"acme": {"max_storage": "1MB", "max_open_tasks": 7}}
    async with http_mesh(tmp_path, tenants=limits) as api:
        while (sent := await post(api, "/tasks", ACME, json=large))[0] == 202:
            await api.mesh.get(Tasks).outcome(sent[1]["task_id"], "acme")
        status, problem, again = sent
        assert (status, problem["code"], problem["field"], again) == (507, "StorageExceeded", "tenant_id", "")
        assert "and may store 1,000,000" in problem["detail"] and "mesh erase" in problem["remedy"]
        assert (await post(api, "/tasks", ACME, data=b"{ not even read"))[0] == 507
        assert (await post(api, "/events", ACME, json=event))[0] == 507
        assert (await post(api, "/complete", ACME, json={**CHAT, "model": "fast"}))[0] == 507
        status, answer, _ = await post(api, "/v1/chat/completions", ACME, json=CHAT)
        assert (status, answer["error"]["code"]) == (429, "insufficient_quota")
        assert (await post(api, "/tasks", OTHER, json=large))[0] == 202
        async with api.session.get("/events?event_type=tenant.limited", headers=ACME) as response:
            [told] = (await response.json())["items"]
        assert told["payload"] == {"limit": "max_storage", "refused": 1}

        async with api.session.get("/status", headers=ACME) as response:
            [use] = (await response.json())["tenants"]
        assert use["stored_bytes"] >= use["max_storage"] == 1_000_000
        assert (use["tenant_id"], use["open_tasks"], use["max_open_tasks"]) == ("acme", 0, 7)
        assert {use["tenant_id"] for use in (await api.get("/status"))["tenants"]} >= {"acme", "other"}

        await api.mesh.get(Eraser).erase(Caller(tenant_id="acme"), TaskSubject(thread_id="one"))
        async with asyncio.timeout(240):  # the size that is known may be a second old
            while (await post(api, "/tasks", ACME, json=TASK))[0] != 202:
                await asyncio.sleep(0.1)


async def test_refusals_of_a_flood_are_held_back_and_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, held = asyncio.Event(), asyncio.Event()

    async def hold(seconds: float) -> None:
        held.set()
        await let_go.wait()

    monkeypatch.setattr(errors, "sleep", hold)
    limits = {"acme": {"tasks_per_minute": 1, "calls_per_minute": 1}}
    async with http_mesh(tmp_path, tenants=limits) as api:
        made = {
            name: await api.mesh.get(Keys).create("ada", tenant_id=name) for name in ("acme", "other", "*")
        }
        ours, other, every = ({"Authorization": f"Bearer {key.key}"} for key in made.values())
        for path, body in (("/tasks", TASK), ("/complete", {**CHAT, "model": "fast"})):
            held.clear()
            let_go.clear()
            flood: list[asyncio.Task[tuple[int, Any, str]]] = []
            while not held.is_set():  # ten a second are answered at once
                flood.append(asyncio.create_task(post(api, path, ours, json=body)))
                await asyncio.wait(flood[-1:], timeout=0.01)
            assert (await post(api, path, other, json=body))[0] in (200, 202)
            for _ in range(15):  # behind credentials of all tenants there are others
                assert (await post(api, path, {**every, **ACME}, json=body))[0] == 429
            let_go.set()
            answers = [status for status, _, _ in await asyncio.gather(*flood)]
            assert set(answers[1:]) == {429}


async def test_a_tenant_without_limits_leaves_open_tasks_to_others(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, max_open_tasks=20) as api:
        tasks, request = api.mesh.get(Tasks), TaskRequest(agent_id="gate", payload={"text": "Hello"})
        for _ in range(19):
            await tasks.submit(request, Caller(tenant_id="acme"))
        with pytest.raises(Overloaded, match="Tenant acme has 19 open tasks, and may have 19"):
            await tasks.submit(request, Caller(tenant_id="acme"))
        await tasks.submit(request, Caller(tenant_id="other"))
        api.gate.set()
