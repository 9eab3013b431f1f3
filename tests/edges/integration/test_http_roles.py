"""Each route has its roles, and no tenant sees anything of another."""

import inspect
import json
import re
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from meshwright import Agent, Capability, File, Run
from meshwright.core.access import ALL_ROLES, Role, granted
from meshwright.core.messages import Caller
from meshwright.edges.http.app import create_app
from meshwright.edges.http.errors import RouterKind
from meshwright.edges.http.routing import get_needs
from meshwright.mesh.identity.auth import Forbidden, Unauthenticated
from meshwright.mesh.identity.rules import require
from meshwright.money.keys import Keys
from tests.support.http_mesh import Api, http_mesh
from tests.support.tenants import SECRET, Asker, check_untouched, fill, finished_task, holder

TOKEN = "the-admin-token-of-this-test-is-long"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
STREAM = "/events/stream"
SCRIPTS = files("meshwright.parts.page") / "web/ui"
PUBLIC = {"/", "/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js", "/healthz", "/readyz", "/health"}
PUBLIC |= {"/a2a/jwks.json"}  # public keys
PUBLIC |= {f"/ui/{file.name}" for file in SCRIPTS.iterdir() if file.is_file()}
PUBLIC |= {f"/ui/vendor/{file.name}" for file in (SCRIPTS / "vendor").iterdir()}
LOGIN = {"/session"}
"""Open, as it takes the credentials in its body."""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with http_mesh(tmp_path, Asker, admin_token=TOKEN) as api:
        yield api


def http_routes(api: Api) -> Iterator[APIRoute]:
    """The routes of the API, and those of components."""
    return (route for route in all_routes(api) if not is_open(route))


def is_open(route: APIRoute) -> bool:
    return getattr(route, "kind", RouterKind()).is_open


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
            described = paths.get(route.path_format, {}).get(method.lower(), {}).get("requestBody", {})
            yield route, method, described.get("content", {}).get("application/json", {}).get("example")


async def send(api: Api, method: str, path: str, **options: Any) -> tuple[int, str]:
    async with api.session.request(method, path, **options) as response:
        return response.status, await response.text()


async def test_every_route_states_its_role(api: Api) -> None:
    for route in all_routes(api):
        if is_open(route):
            signs = ("authenticate(", "verify_token")
            is_signed = any(check in inspect.getsource(route.endpoint) for check in signs)
            assert is_signed or route.path in PUBLIC | LOGIN
            continue
        if route.path == "/me":  # whoever has a key may ask who that makes it, without any role too
            continue
        assert get_needs(route.endpoint), (
            f"{route.path}: {route.endpoint.__qualname__} states no role. Take `may(...)`, or "
            "`caller: Annotated[Caller, needs(Role.X)]`, from meshwright.edges.http.routing"
        )


async def test_a_refused_caller_gets_a_problem_before_its_body_is_read(api: Api) -> None:
    viewer = await holder(api, "acme", Role.VIEWER)
    for route, method, _ in operations(api):
        needed = get_needs(route.endpoint)
        if needed is not None and Role.VIEWER not in needed.rule.roles:
            path = re.sub(r"\{\w+(:path)?\}", "x", route.path)
            status, text = await send(api, method, path, headers=viewer, data=b"{ not read")
            assert status == 403 and "Only a caller with the role" in text, (method, path, text)


def test_rules_say_to_a_caller_the_role_that_it_lacks() -> None:
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


@pytest.mark.parametrize(("owner", "other"), [("acme", "other"), ("default", "other")])
async def test_no_route_shows_a_tenant_anything_of_another(api: Api, owner: str, other: str) -> None:
    described = list(operations(api))  # seconds of work: later, idle connections would reach their timeout
    owned = await fill(api, owner)
    ids, marks = owned.ids[:2], owned.marks
    mine = await api.mesh.get(Keys).create("spy", tenant_id=other, roles=(Role.ADMIN,))
    spy = {"Authorization": f"Bearer {mine.key}"}
    tried = 0
    for route, method, example in described:
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


async def test_a_viewer_sees_size_and_type_of_a_file_and_not_its_name(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Giver, admin_token=TOKEN) as api:
        viewer = await holder(api, "acme", Role.VIEWER)
        task_id = await finished_task(api, await holder(api, "acme"), "giver", "please")
        status, text = await send(api, "GET", f"/tasks/{task_id}/events", headers=viewer)
        [attached] = [one for one in json.loads(text)["items"] if one["event_type"] == "file.attached"]
        assert status == 200 and SECRET not in text
        assert (attached["payload"]["media_type"], attached["payload"]["size"]) == ("text/plain", len(SECRET))


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
    other = await api.mesh.get(Keys).create("echo", tenant_id="other")
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
