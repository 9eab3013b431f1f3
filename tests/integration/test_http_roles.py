"""What each role may do over HTTP, route by route, and that no tenant sees anything of another."""

import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from meshwright import Agent, Capability, File, Run
from meshwright.core.access import ALL_ROLES, Role, granted
from meshwright.core.messages import Caller
from meshwright.edges.auth import Forbidden, Unauthenticated, require
from meshwright.edges.http.app import OPEN_PATHS, create_app
from meshwright.edges.http.routing import needs_of
from tests.support.http_mesh import Api, http_mesh
from tests.support.tenants import SECRET, Asker, asked_task, check_untouched, fill, finished_task, holder

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
STREAM = "/events/stream"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Asker, admin_token=TOKEN) as api:
        yield api


def http_routes(api: Api) -> Iterator[APIRoute]:
    """The routes of the API, and those of components."""
    signed = tuple(path for part in api.mesh.components for path in getattr(part, "signed_paths", ()))
    for route in all_routes(api):
        if route.path not in OPEN_PATHS and not route.path.startswith(signed):  # a signature says who it is
            yield route


def all_routes(api: Api) -> Iterator[APIRoute]:
    """Those, and the routes that ask no caller who it is."""
    waiting: list[object] = [*create_app(api.mesh).routes]
    while waiting:
        route = waiting.pop(0)
        if isinstance(route, APIRoute):
            yield route
        elif (
            router := getattr(route, "original_router", None)
        ) is not None:  # as FastAPI keeps what it includes
            waiting += router.routes


def operations(api: Api) -> Iterator[tuple[APIRoute, str, dict[str, Any] | None]]:
    """Each route with its method and the example of its body."""
    paths = create_app(api.mesh).openapi()["paths"]
    for route in http_routes(api):
        for method in sorted(route.methods):
            described = paths[route.path_format][method.lower()].get("requestBody", {})
            yield route, method, described.get("content", {}).get("application/json", {}).get("example")


async def send(api: Api, method: str, path: str, **options: Any) -> tuple[int, str]:
    async with api.session.request(method, path, **options) as response:
        return response.status, await response.text()


async def test_every_route_states_its_role(api: Api) -> None:
    signed = tuple(path for part in api.mesh.components for path in getattr(part, "signed_paths", ()))
    for route in http_routes(api):
        checks = "authenticate(" if route.path.startswith(signed) else "require("
        stated = needs_of(route.endpoint) or checks in inspect.getsource(route.endpoint)
        assert stated, (
            f"{route.path}: {route.endpoint.__qualname__} states no role. Take `caller: ViewerDep` "
            "(or ContentsDep, SubmitterDep, OperatorDep, needs(...)) from meshwright.edges.http.routing, "
            "or call require(caller, Role.X, ...) first"
        )


async def test_each_role_may_use_its_routes_and_no_others(api: Api) -> None:
    keys = {role: await holder(api, "acme", role) for role in Role}
    for route, method, example in operations(api):
        needed = needs_of(route.endpoint)
        if needed is None or route.path == STREAM:
            continue
        path = re.sub(r"\{\w+(:path)?\}", "x", route.path)
        for role, headers in keys.items():
            status, text = await send(api, method, path, headers=headers, json=example)
            allowed = not granted(frozenset({role})).isdisjoint(needed.roles)
            is_refused = status == 403 and "Only a caller with the role" in text
            assert is_refused is not allowed, (method, path, role, status, text)


def test_who_has_no_role_may_do_nothing_and_is_told_what_it_needs() -> None:
    assert granted(frozenset({"admin"})) == ALL_ROLES and granted(frozenset({"king"})) == frozenset()
    with pytest.raises(Unauthenticated):
        require(Caller(), Role.VIEWER, "looks")
    holder = Caller(requested_by="ada", roles=frozenset({Role.VIEWER}))
    with pytest.raises(Forbidden) as raised:
        require(holder, Role.OPERATOR, "pauses schedules")
    assert str(raised.value) == (
        "Only a caller with the role operator pauses schedules; ada has viewer. "
        "Use a key that has it: mesh keys create --role operator"
    )


class Giver(Agent):
    """Gives a file."""

    agent_id = "giver"
    capabilities = (Capability("giving"),)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.attach(File(name=f"{SECRET}.txt", data=SECRET.encode()))
        return "Given."


async def test_files_are_contents_and_of_their_tenant_alone(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Giver, admin_token=TOKEN) as api:
        submitter = await holder(api, "acme", Role.SUBMITTER)
        task_id = await finished_task(api, submitter, "giver", "Give.")
        path, payload = (
            f"/tasks/{task_id}/files/1",
            {"text": "Look.", "files": [{"url": f"/tasks/{task_id}/files/1"}]},
        )
        for roles, tenant, expected in (
            ((Role.SUBMITTER,), "acme", 200),
            ((Role.CONTENTS,), "acme", 200),
            ((Role.VIEWER,), "acme", 403),
            ((), "globex", 404),
        ):
            headers = await holder(api, tenant, *roles)
            status, text = await send(api, "GET", path, headers=headers)
            assert (status, text == SECRET) == (expected, expected == 200), (roles, tenant, text)
        viewer, other = await holder(api, "acme", Role.VIEWER), await holder(api, "globex")
        assert SECRET not in (await send(api, "GET", f"/tasks/{task_id}", headers=viewer))[1]
        named = {"agent_id": "giver", "payload": payload}
        assert (await send(api, "POST", "/tasks", headers=other, json=named))[0] == 404
        assert (await send(api, "POST", "/tasks", headers=submitter, json=named))[0] == 202


async def test_a_viewer_sees_facts_and_no_contents(api: Api) -> None:
    submitter, viewer = await holder(api, "acme"), await holder(api, "acme", Role.VIEWER)
    task_id = await finished_task(api, submitter, "echo", SECRET)
    asked = await asked_task(api, submitter)
    paths = ["/tasks", f"/tasks/{task_id}", f"/tasks/{asked}", f"/tasks/{asked}/events", "/events", "/status"]
    for path in paths:
        assert SECRET in (await send(api, "GET", path, headers=submitter))[1], path
        status, text = await send(api, "GET", path, headers=viewer)
        assert status == 200 and SECRET not in text, (path, text)
    view = json.loads((await send(api, "GET", f"/tasks/{task_id}", headers=viewer))[1])
    assert (view["status"], view["outcome"]["success"]) == ("succeeded", True)
    stream = {**viewer, "Accept": "text/event-stream"}
    status, text = await send(api, "GET", f"/tasks/{task_id}/events", headers=stream)
    assert "task.succeeded" in text and SECRET not in text
    assert (await send(api, "GET", "/inbox", headers=viewer))[0] == 403


async def test_a_submitter_sees_cancels_and_answers_its_own_tasks_alone(api: Api) -> None:
    ours, theirs = await holder(api, "acme", Role.SUBMITTER), await holder(api, "acme")
    own, other = await asked_task(api, ours), None
    made = await api.mesh.keys.create("colleague", tenant_id="acme")
    theirs = {"Authorization": f"Bearer {made.key}"}
    other = await asked_task(api, theirs)
    assert SECRET in (await send(api, "GET", f"/tasks/{own}", headers=ours))[1]
    assert (await send(api, "GET", f"/tasks/{own}/steps", headers=ours))[0] == 200
    for method, below in (("GET", ""), ("GET", "/events"), ("GET", "/steps"), ("POST", "/cancel")):
        assert (await send(api, method, f"/tasks/{other}{below}", headers=ours))[0] == 403, below
    wait = json.loads((await send(api, "GET", f"/tasks/{other}", headers=theirs))[1])["waits"][0]["wait_id"]
    answer = {"key": wait, "value": "yes"}
    assert (await send(api, "POST", f"/tasks/{other}/answer", headers=ours, json=answer))[0] == 403
    assert (await send(api, "POST", f"/tasks/{other}/answer", headers=theirs, json=answer))[0] == 202
    assert (await send(api, "POST", f"/tasks/{own}/cancel", headers=ours))[0] in (200, 202)


@pytest.mark.parametrize(("owner", "other"), [("acme", "other"), ("acme", "default"), ("default", "other")])
async def test_no_route_shows_a_tenant_anything_of_another(api: Api, owner: str, other: str) -> None:
    owned = await fill(api, owner)
    ids, marks = owned.ids[:2], owned.marks
    mine = await api.mesh.keys.create("spy", tenant_id=other, roles=(Role.ADMIN,))
    spy = {"Authorization": f"Bearer {mine.key}"}
    tried = 0
    for route, method, example in operations(api):
        if route.path == STREAM:
            continue
        names = re.findall(r"\{(\w+)(?::path)?\}", route.path)
        for guess in owned.ids if names else ("",):
            path = re.sub(r"\{\w+(:path)?\}", guess, route.path)
            queries = [{}, *({"task_id": guess} for guess in ids), {"since": "1h", "by": "task"}]
            for query in queries if method == "GET" else [{}]:
                status, text = await send(api, method, path, headers=spy, json=example, params=query)
                shown = text.replace(guess, "") if guess and status >= 400 else text
                for value in query.values():  # what a refusal repeats of the question
                    shown = shown.replace(value, "") if status >= 400 else shown
                assert not any(mark in shown for mark in marks), (method, path, query, text)
                assert status not in (200, 202) or not names or method == "GET", (method, path, text)
                tried += 1
        for named in ({"Mesh-Tenant": owner}, {"Mesh-Tenant": "*"}):
            headers = {**spy, **named}
            path = re.sub(r"\{\w+(:path)?\}", ids[0], route.path)
            assert (await send(api, method, path, headers=headers, json=example))[0] in (
                400,
                403,
                422,
            )  # 400: of /v1
    assert tried > 60
    _, text = await _stream(api, spy)
    assert not any(mark in text for mark in marks)
    await check_untouched(api, owned)


async def test_a_caller_of_all_tenants_acts_for_the_tenant_that_it_names(api: Api) -> None:
    ours = await holder(api, "acme")
    task_id = await finished_task(api, ours, "echo", "hello")
    assert (await send(api, "GET", f"/tasks/{task_id}", headers=ADMIN))[0] == 404
    named = {**ADMIN, "Mesh-Tenant": "acme"}
    assert (await send(api, "GET", f"/tasks/{task_id}", headers=named))[0] == 200
    _, text = await send(api, "GET", "/keys", headers=named)
    assert [key["tenant_id"] for key in json.loads(text)["items"]] == ["acme"]
    every = await holder(api, "*", Role.VIEWER)
    assert (await send(api, "GET", f"/tasks/{task_id}", headers={**every, "Mesh-Tenant": "acme"}))[0] == 200


async def test_the_administrator_of_a_tenant_manages_its_keys_alone(api: Api) -> None:
    admin = await holder(api, "acme", Role.ADMIN)
    other = await api.mesh.keys.create("echo", tenant_id="other")
    status, made = await api.call("POST", "/keys", json={"agent_id": "echo"}, headers=admin)
    assert (status, made["tenant_id"], made["roles"]) == (201, "acme", ["submitter", "viewer", "contents"])
    for tenant_id in ("other", "*"):
        wanted = {"agent_id": "echo", "tenant_id": tenant_id}
        assert (await api.call("POST", "/keys", json=wanted, headers=admin))[0] == 403
    for method, below in (("DELETE", ""), ("POST", "/rotate")):
        path = f"/keys/{other.key_id}{below}"
        assert (await api.call(method, path, json={}, headers=admin))[0] == 404
    assert (await api.call("POST", "/keys/open", headers=admin))[0] == 403
    assert (await api.call("DELETE", f"/keys/{made['key_id']}", headers=admin))[0] == 200


async def _stream(api: Api, headers: dict[str, str]) -> tuple[int, str]:
    """All events that a caller sees from the first on, up to one that it publishes itself."""
    event = {"topic": "app.end", "event_type": "the.end"}
    assert (await api.call("POST", "/events", json=event, headers=headers))[0] == 202
    text = ""
    async with api.session.get(STREAM, params={"after_seq": 0}, headers=headers) as response:
        async for line in response.content:
            text += line.decode()
            if "event: app.the.end" in text and not line.strip():
                return response.status, text
    raise AssertionError(text)
