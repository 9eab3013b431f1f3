"""Virtual keys: create, list and revoke them, and open the mesh again, with the admin token."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.edges.auth import keys_required, require_admin
from meshwright.edges.http.openapi import BODY_PROBLEMS, answers, takes
from meshwright.edges.http.routing import JsonRoute, MeshDep, caller_of, make_router
from meshwright.ledger.keys import Key, NewKey
from meshwright.messages import ID_PATTERN, Identifier

_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "A key manages no keys."}


class _AdminRoute(JsonRoute):
    """A route for the administrator alone: for others its body is not even read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler, behind a look at who asks."""
        handle = super().get_route_handler()

        async def handle_for_admin(request: Request) -> Response:
            require_admin(await caller_of(request))
            return await handle(request)

        return handle_for_admin


router = make_router("keys", route_class=_AdminRoute)


class KeyRequest(BaseModel):
    """Whose key to create. `budget` is what its holder may spend, like `5.00/day`.

    `force` allows an agent that the mesh does not have.
    """

    model_config = ConfigDict(extra="forbid")

    agent_id: Identifier
    tenant_id: Identifier = "default"
    budget: str | None = Field(default=None, max_length=64)
    force: bool = False


class KeyList(BaseModel):
    """Keys, the oldest first; `required` says whether callers need one."""

    items: list[Key]
    required: bool


class Opened(BaseModel):
    """The mesh requires no key any more; `revoked` keys were revoked for that."""

    revoked: int


@router.post(
    "/keys",
    status_code=201,
    summary="Create a virtual key",
    response_description="`key` is shown this once.",
    responses=answers("NewKey", {**BODY_PROBLEMS, **_NOT_ADMIN}, status=201),
    openapi_extra=takes("KeyRequest"),
)
async def create_key(mesh: MeshDep, wanted: KeyRequest, response: Response) -> NewKey:
    """Create a key for an agent of a tenant. From the first one on, every caller needs a key."""
    if not wanted.force:
        mesh.check_agent(wanted.agent_id)
    response.headers["Cache-Control"] = "no-store"
    return await mesh.keys.create(wanted.agent_id, tenant_id=wanted.tenant_id, budget=wanted.budget)


@router.get("/keys", summary="List virtual keys", responses=answers("KeyList", _NOT_ADMIN))
async def list_keys(mesh: MeshDep) -> KeyList:
    """List every key that was created, and whose it is; never the key itself."""
    return KeyList(items=await mesh.keys.list(), required=await keys_required(mesh.keys, mesh.settings))


@router.post("/keys/open", summary="Require no key any more", responses=answers("Opened", _NOT_ADMIN))
async def open_mesh(mesh: MeshDep) -> Opened:
    """Revoke every key, and require none until another is created. `keys.required = true` still holds."""
    return Opened(revoked=await mesh.keys.open())


@router.delete(
    "/keys/{key_id}",
    summary="Revoke a virtual key",
    responses=answers("Key", {404: "There is no such key.", **_NOT_ADMIN}),
)
async def revoke_key(mesh: MeshDep, key_id: Annotated[str, Path(pattern=ID_PATTERN)]) -> Key:
    """Revoke a key immediately. This cannot be undone, and callers still need a key."""
    return await mesh.keys.revoke(key_id)
