"""Access over HTTP: open until a key is required, then for keys' holders; and the administrator."""

import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.topics import MESH
from meshwright.edges.http.app import create_app
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply
from meshwright.money.keys import Keys, NewKey
from meshwright.testing import ScriptedModel
from tests.support.http_mesh import Api, http_mesh
from tests.support.model_api import HELLO, service

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
OPEN = {"/healthz", "/readyz", "/health", "/session"}
PRICE = {"input": 1, "output": 30}


class Asker(Agent):
    """Asks a model once."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    prompt_text = "Answer."
    remembers = False

    async def run(self, run: Run) -> str:
        return await run.ask("Hello?")


def shows(key: NewKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.key}"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, admin_token=TOKEN) as api:
        yield api


def routes(api: Api) -> list[tuple[str, str]]:
    """The method and a path of every route that the documentation shows."""
    document = create_app(api.mesh).openapi()
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return [(method, re.sub(r"\{\w+\}", "x", path)) for method, path in found]


async def test_every_route_but_health_needs_a_key_once_there_is_one(api: Api, tmp_path: Path) -> None:
    key = await api.mesh.get(Keys).create("helper")
    await api.mesh.get(Keys).revoke(key.key_id)
    wrong = {"Authorization": "Bearer mesh-admin-" + "x" * 43}
    for method, path in routes(api):
        for headers in ({}, shows(key), wrong, {"X-Forwarded-For": "1.1.1.1"}):
            async with api.session.request(method, path, headers=headers) as response:
                assert (response.status == 401) is (path not in OPEN), (method, path, headers)
    async with api.session.get("/docs") as response:
        assert response.status == 200


async def test_the_address_of_a_caller_grants_no_administration(api: Api) -> None:
    wanted = {"agent_id": "echo", "tenant_id": "acme"}
    for method, path in (
        *(("POST", "/keys"), ("GET", "/keys"), ("DELETE", "/keys/x"), ("POST", "/keys/open")),
        *(("POST", "/erase"), ("POST", "/secrets/rotate"), ("POST", "/api/agents"), ("GET", "/audit/verify")),
    ):
        for headers in ({}, {"Host": "127.0.0.1"}, {"Authorization": "Bearer guess"}):
            assert (await api.call(method, path, json=wanted, headers=headers))[0] == 401
    assert (await api.call("POST", "/keys", data="{nope"))[0] == 401
    key = await api.mesh.get(Keys).create("echo")
    assert (await api.call("POST", "/keys", json=wanted, headers=shows(key)))[0] == 403
    assert (await api.call("POST", "/keys", data="{nope", headers=shows(key)))[0] == 403
    assert (await api.call("POST", "/keys/open", headers=shows(key)))[0] == 403
    assert [each.key_id for each in await api.mesh.get(Keys).list()] == [key.key_id]


async def test_the_admin_token_manages_keys_and_opens_the_mesh_again(api: Api) -> None:
    status, made = await api.call("POST", "/keys", json={"agent_id": "echo"}, headers=ADMIN)
    assert status == 201
    status, problem = await api.call("POST", "/keys", json={"agent_id": "nobody"}, headers=ADMIN)
    assert (status, problem["field"]) == (422, "agent_id")
    for wrong, said in [
        ({}, "of one name or of one agent"),
        ({"name": "ada", "agent_id": "echo"}, "of one name or of one agent"),
        ({"name": "echo"}, "is an agent of this mesh"),
        ({"name": "admin"}, "the mesh's own"),
    ]:
        status, problem = await api.call("POST", "/keys", json=wrong, headers=ADMIN)
        assert (status, problem["field"], said in problem["detail"]) == (422, "name", True)
        assert problem["remedy"]
    assert (await api.call("POST", "/keys", json={"name": "nobody"}, headers=ADMIN))[0] == 201
    _, listed = await api.call("GET", "/keys", headers=ADMIN)
    assert [(key["agent_id"], key["revoked_at"]) for key in listed["items"]] == [
        ("echo", None),
        ("nobody", None),
    ]
    assert listed["required"] is True
    assert (await api.call("GET", "/tasks"))[0] == 401
    assert await api.call("POST", "/keys/open", headers=ADMIN) == (200, {"revoked": 2})
    assert (await api.call("GET", "/tasks"))[0] == 200
    held = {"Authorization": f"Bearer {made['key']}"}
    assert (await api.call("GET", "/tasks", headers=held))[0] == 401
    happened = [
        (event["event_type"], event["payload"].get("agent_id"))
        for event in (await api.get("/events", topic=MESH))["items"]
        if event["event_type"].startswith("key")
    ]
    created, revoked = "key.created", "key.revoked"
    assert happened[:2] == [(created, "echo"), (created, "nobody")]
    assert sorted(happened[2:4]) == [(revoked, "echo"), (revoked, "nobody")]
    assert happened[4] == ("keys.opened", None)
    async with api.session.get("/events", params={"topic": MESH}) as response:
        assert made["key"][-43:] not in await response.text()


async def test_the_settings_decide_over_the_data(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=TOKEN, require_keys=True) as api:
        assert (await api.call("GET", "/tasks"))[0] == 401
        await api.mesh.get(Keys).create("echo")
        await api.mesh.get(Keys).open()
        assert (await api.call("GET", "/tasks"))[0] == 401
        assert (await api.call("GET", "/tasks", headers=ADMIN))[0] == 200
        await api.mesh.get(Keys).create("echo")
    async with http_mesh(tmp_path, require_keys=False) as api:
        assert (await api.call("GET", "/tasks", headers={"Via": "proxy"}))[0] == 200


async def test_the_admin_acts_for_the_default_tenant(api: Api) -> None:
    _, receipt = await api.call("POST", "/tasks", json={"agent_id": "echo"}, headers=ADMIN)
    view = await api.mesh.get(Tasks).task(receipt["task_id"])
    assert (view.tenant_id, view.requested_by) == ("default", "admin")


@pytest.mark.parametrize("named", [{}, {"task_id": "order-7"}])
async def test_a_key_of_a_colleague_is_refused_without_the_id_of_its_task(
    api: Api, named: dict[str, str]
) -> None:
    body = {"agent_id": "echo", "payload": {"text": "Hello"}, "thread_id": "orders", **named}
    repeated = {} if named else {"Idempotency-Key": "2026-11-27"}
    ada, bob, eve = [
        await api.mesh.get(Keys).create(name, tenant_id=tenant_id)
        for name, tenant_id in (("ada", "acme"), ("bob", "acme"), ("eve", "other"))
    ]
    status, first = await api.call("POST", "/tasks", json=body, headers=shows(ada) | repeated)
    assert status == 202
    for text in ("Hello", "Another"):
        asked = {**body, "payload": {"text": text}}
        status, problem = await api.call("POST", "/tasks", json=asked, headers=shows(bob) | repeated)
        assert (status, problem["code"]) == (409, "IdempotencyConflict")
        assert problem["field"] == ("task_id" if named else "Idempotency-Key")
        assert "another caller" in problem["detail"] and problem["remedy"]
        assert named or first["task_id"] not in str(problem)
    status, hers = await api.call("POST", "/tasks", json=body, headers=shows(eve) | repeated)
    assert (status, hers["task_id"] == first["task_id"]) == (202, bool(named))  # of another tenant
    assert (await api.call("GET", f"/tasks/{hers['task_id']}", headers=shows(eve)))[0] == 200
    outcome = await api.mesh.get(Tasks).outcome(first["task_id"], "acme")
    assert outcome.success
    assert len((await api.mesh.log.tasks(tenant_id="acme")).items) == 1


async def test_a_new_key_of_the_same_caller_repeats_its_requests(api: Api) -> None:
    body, repeated = {"agent_id": "echo"}, {"Idempotency-Key": "order-7"}
    keys = api.mesh.get(Keys)
    first, by_hand = await keys.create("ada", tenant_id="acme"), await keys.create("ada", tenant_id="acme")
    status, rotated = await api.call("POST", f"/keys/{first.key_id}/rotate", json={}, headers=ADMIN)
    assert status == 201, rotated
    receipts = [
        await api.call("POST", "/tasks", json=body, headers={"Authorization": f"Bearer {key}"} | repeated)
        for key in (first.key, by_hand.key, rotated["key"])
    ]
    assert [status for status, _ in receipts] == [202, 202, 202]
    assert len({receipt["task_id"] for _, receipt in receipts}) == 1


async def test_a_task_is_charged_to_the_budget_of_its_callers_key(tmp_path: Path) -> None:
    replies = [ModelReply(content="Hello!", model="m", cost_usd=Decimal("0.08")) for _ in range(9)]
    model = ScriptedModel(*replies)
    async with service(tmp_path, answering=model, agents=[Asker], default_price=PRICE) as there:
        made = await there.mesh.get(Keys).create("somebody", tenant_id="acme", budget="0.10/day")
        wanted = {"model": "fast", "messages": HELLO}
        assert (await there.post("/tasks", {"agent_id": "asker"}))[0] == 401
        status, receipt = await there.post("/tasks", {"agent_id": "asker"}, **shows(made))
        assert status == 202
        assert (await there.mesh.get(Tasks).outcome(receipt["task_id"], "acme")).success
        status, problem = await there.post("/complete", wanted, **shows(made))
        assert (status, problem["code"]) == (402, "BudgetExceeded")
        assert problem["budget"] == f"key-{made.key_id.lower()}"


async def test_costs_and_budgets_are_a_tenants_own_and_the_admin_sees_all(tmp_path: Path) -> None:
    replies = [ModelReply(content="Hello!", model="m", cost_usd=Decimal("0.01")) for _ in range(6)]
    async with service(
        tmp_path, answering=ScriptedModel(*replies), default_price=PRICE, admin_token=TOKEN
    ) as there:
        wanted = {"model": "fast", "messages": HELLO}
        await there.post("/complete", wanted)
        ours = await there.mesh.get(Keys).create("helper", tenant_id="acme", budget="1/day")
        theirs = await there.mesh.get(Keys).create("helper", tenant_id="other", budget="1/day")
        for key, calls in ((ours, 3), (theirs, 2)):
            for _ in range(calls):
                assert (await there.post("/complete", wanted, **shows(key)))[0] == 200
        for headers, expected in (
            (shows(ours), {"acme": 3}),
            (shows(theirs), {"other": 2}),
            (ADMIN, {"acme": 3, "other": 2, "default": 1}),
        ):
            for since in ({}, {"since": "1h"}):
                async with there.session.get(
                    "/costs", params={"by": "tenant", **since}, headers=headers
                ) as reply:
                    costs = await reply.json()
                assert {each["key"]: each["calls"] for each in costs["items"]} == expected
                assert costs["total"]["calls"] == sum(expected.values())
            async with there.session.get("/budgets", headers=headers) as reply:
                budgets = [each["budget"] for each in (await reply.json())["items"]]
            seen = {"acme": ours, "other": theirs}
            assert sorted(budgets) == sorted(
                f"key-{key.key_id.lower()}" for name, key in seen.items() if name in expected
            )
