"""Virtual keys: create, list and revoke them, and open the mesh again, with the admin token."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.api.callers import identity_of, keys_required
from meshwright.api.model_examples import KEY, KEY_REQUEST, KEYS, NEW_KEY
from meshwright.api.openapi import answers, problems, reads
from meshwright.api.wire import RawRoute, answer, read_model
from meshwright.ledger.keys import Key, NewKey
from meshwright.mesh import Mesh
from meshwright.messages import ID_PATTERN, Identifier

NOT_ADMIN = problems({401: "The admin token is missing or wrong.", 403: "A key manages no keys."})


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


class KeyRoutes:
    """Virtual keys over HTTP."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def add_to(self, app: FastAPI) -> None:
        """Add the routes to an application."""
        app.router.add_api_route(
            "/keys",
            self.create,
            route_class_override=RawRoute,
            methods=["POST"],
            status_code=201,
            summary="Create a virtual key",
            tags=["keys"],
            responses={
                **answers(NewKey, NEW_KEY, status=201, description="`key` is shown this once."),
                **problems(
                    {
                        400: "The body is not JSON.",
                        413: "The body is too large, or nested too deep.",
                        422: "A field is wrong, and `field` names it.",
                    }
                ),
                **NOT_ADMIN,
            },
            openapi_extra=reads(KeyRequest, KEY_REQUEST),
        )
        app.add_api_route(
            "/keys",
            self.list,
            summary="List virtual keys",
            tags=["keys"],
            responses={**answers(KeyList, KEYS), **NOT_ADMIN},
        )
        app.add_api_route(
            "/keys/open",
            self.open,
            methods=["POST"],
            summary="Require no key any more",
            tags=["keys"],
            responses={**answers(Opened, {"revoked": 2}), **NOT_ADMIN},
        )
        app.add_api_route(
            "/keys/{key_id}",
            self.revoke,
            methods=["DELETE"],
            summary="Revoke a virtual key",
            tags=["keys"],
            responses={**answers(Key, KEY), **problems({404: "There is no such key."}), **NOT_ADMIN},
        )

    async def create(self, request: Request) -> Response:
        """Create a key for an agent of a tenant. From the first one on, every caller needs a key."""
        identity_of(request).require_admin()
        wanted = await read_model(request, KeyRequest, self._mesh.settings)
        if not wanted.force:
            self._mesh.check_agent(wanted.agent_id)
        made = await self._mesh.keys.create(wanted.agent_id, tenant_id=wanted.tenant_id, budget=wanted.budget)
        return answer(made, 201, {"Cache-Control": "no-store"})

    async def list(self, request: Request) -> Response:
        """List every key that was created, and whose it is; never the key itself."""
        identity_of(request).require_admin()
        keys = await self._mesh.keys.list()
        return answer(KeyList(items=keys, required=await keys_required(self._mesh)))

    async def open(self, request: Request) -> Response:
        """Revoke every key, and require none until another is created. `require_keys = true` still holds."""
        identity_of(request).require_admin()
        return answer(Opened(revoked=await self._mesh.keys.open()))

    async def revoke(self, request: Request, key_id: Annotated[str, Path(pattern=ID_PATTERN)]) -> Response:
        """Revoke a key immediately. This cannot be undone, and callers still need a key."""
        identity_of(request).require_admin()
        return answer(await self._mesh.keys.revoke(key_id))
