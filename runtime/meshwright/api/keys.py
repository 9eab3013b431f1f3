"""Virtual keys: make one, list them, end one; from this machine alone, whoever holds a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright.api.callers import is_local
from meshwright.api.model_examples import KEY, KEY_REQUEST, KEYS, NEW_KEY
from meshwright.api.openapi import answers, problems, reads
from meshwright.api.wire import RawRoute, answer, read_model
from meshwright.ledger.keys import Forbidden, Key, NewKey
from meshwright.mesh import Mesh
from meshwright.messages import ID_PATTERN, Identifier

NOT_HERE = problems({403: "Only a caller on this machine may look after keys."})


class KeyRequest(BaseModel):
    """Whose key to make. `budget` is what its holder may spend, like `5.00/day`."""

    model_config = ConfigDict(extra="forbid")

    agent_id: Identifier
    tenant_id: Identifier = "default"
    budget: str | None = Field(default=None, max_length=64)


class KeyList(BaseModel):
    """Keys, the oldest first."""

    items: list[Key]


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
            summary="Make a virtual key",
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
                **NOT_HERE,
            },
            openapi_extra=reads(KeyRequest, KEY_REQUEST),
        )
        app.add_api_route(
            "/keys",
            self.list,
            summary="List virtual keys",
            tags=["keys"],
            responses={**answers(KeyList, KEYS), **NOT_HERE},
        )
        app.add_api_route(
            "/keys/{key_id}",
            self.revoke,
            methods=["DELETE"],
            summary="Revoke a virtual key",
            tags=["keys"],
            responses={**answers(Key, KEY), **problems({404: "There is no such key."}), **NOT_HERE},
        )

    async def create(self, request: Request) -> Response:
        """Make a key for an agent of a tenant. With the first one, all callers of models need one."""
        check_local(request)
        wanted = await read_model(request, KeyRequest, self._mesh.settings)
        made = await self._mesh.keys.create(wanted.agent_id, tenant_id=wanted.tenant_id, budget=wanted.budget)
        return answer(made, 201, {"Cache-Control": "no-store"})

    async def list(self, request: Request) -> Response:
        """Show every key that was made, and whose it is; never the key itself."""
        check_local(request)
        return answer(KeyList(items=await self._mesh.keys.list()))

    async def revoke(self, request: Request, key_id: Annotated[str, Path(pattern=ID_PATTERN)]) -> Response:
        """End a key at once, and for good."""
        check_local(request)
        return answer(await self._mesh.keys.revoke(key_id))


def check_local(request: Request) -> None:
    """Raise Forbidden for a request from elsewhere."""
    if not is_local(request):
        raise Forbidden("keys are looked after from this machine alone", remedy="use `mesh keys` there")
