"""Routes that follow from operations read requests, and refuse them, as routes written by hand do."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from meshwright.core.access import Role
from meshwright.core.ids import Identifier
from meshwright.core.messages import Caller
from meshwright.core.operations import NO_STORE, Rule, get_operation, get_operations, operation
from meshwright.edges.http.errors import CALLER, handle_errors
from meshwright.edges.http.operation_routes import make_routes
from meshwright.mesh.identity.operations import Acting
from tests.support.settings import load_settings

_ADMIN = Rule("paints", (Role.ADMIN,))


class Paint(BaseModel):
    """A painted thing."""

    thing_id: str
    color: str
    coats: int


class Painting(Acting):
    """Paints things."""

    @operation(_ADMIN, "POST /things/{thing_id}/paint", "Paint", tag="paint", status=201, headers=NO_STORE)
    async def paint(
        self, thing_id: Identifier, *, color: Annotated[str, Field(max_length=9)], coats: int = 1
    ) -> Paint:
        """Paint a thing."""
        return Paint(thing_id=thing_id, color=color, coats=coats)

    @operation(Rule("looks", (Role.VIEWER,)), "GET /things", "List", tag="paint")
    def look(self, *, limit: Annotated[int, Field(ge=1)] = 5) -> dict[str, Any]:
        """Look at things."""
        return {"limit": limit}


class _Part:
    """Takes the caller as a parameter, as parts of a mesh do."""

    @operation(_ADMIN)
    async def close(self, name: str, caller: Caller) -> str:
        return f"{name} is closed"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(routes=make_routes(Painting, "paint").routes)
    audit = SimpleNamespace(record_misuse=lambda *_, **__: None)
    app.state.mesh = SimpleNamespace(settings=load_settings(tmp_path), get=lambda _: audit)
    handle_errors(app)

    async def with_caller(scope: Any, receive: Any, send: Any) -> None:
        roles = frozenset(value.decode() for name, value in scope["headers"] if name == b"role")
        scope[CALLER] = Caller(requested_by="ada", key_id="k", roles=roles)
        await app(scope, receive, send)

    transport = httpx.ASGITransport(app=with_caller)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://mesh") as client:
        client.headers["role"] = "admin"
        yield client


async def test_path_and_body_reach_the_method_and_its_result_is_the_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post("/things/t1/paint", json={"color": "red"})
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert answer.json() == {"thing_id": "t1", "color": "red", "coats": 1}
    assert (await client.get("/things", params={"limit": "7"})).json() == {"limit": 7}


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("t1", {"colour": "red"}, ["color", "colour"]),
        ("t1", {"color": "a color too long"}, ["color"]),
        ("t 1", {"color": 1}, ["thing_id", "color"]),
        ("t1", [], ["body"]),
    ],
)
async def test_every_wrong_field_is_named(
    client: httpx.AsyncClient, path: str, body: Any, fields: list[str]
) -> None:
    answer = await client.post(f"/things/{path}/paint", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == fields


async def test_a_refused_caller_gets_a_problem_before_its_body_is_read(client: httpx.AsyncClient) -> None:
    pieces: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        pieces.append(b"{")
        yield b"{"

    answer = await client.post("/things/t1/paint", content=body(), headers={"role": "viewer"})
    assert answer.status_code == 403 and not pieces
    assert "Only a caller with the role admin may POST /things/t1/paint" in answer.json()["detail"]


async def test_bodies_have_the_limits_of_the_mesh(client: httpx.AsyncClient) -> None:
    large = b'"' + b"x" * 20_000_000 + b'"'
    assert (await client.post("/things/t1/paint", content=large)).status_code == 413
    assert (await client.post("/things/t1/paint", content=b"{")).status_code == 400
    assert (await client.put("/things/t1/paint", content=b"{}")).status_code == 405


async def test_a_method_checks_its_rule_by_whomever_it_is_called() -> None:
    viewer, admin = (
        Caller(requested_by="ada", key_id="k", roles=frozenset({role})) for role in ("viewer", "admin")
    )
    with pytest.raises(Exception, match="Only a caller with the role admin paints"):
        await Painting(Any, viewer).paint("t1", color="red")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="Only a caller with the role admin paints"):
        await _Part().close("shop", viewer)
    assert await _Part().close("shop", caller=admin) == "shop is closed"
    assert list(get_operations(Painting)) == ["paint", "look"]
    assert get_operation(Painting.paint).rule is _ADMIN
