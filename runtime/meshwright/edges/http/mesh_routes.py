"""The mesh: its agents and scores, costs and budgets, the context-service, keys, and probes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright import __version__
from meshwright.context.plan import CompressRequest, CompressResponse
from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import Draining, InvalidInput, NotFound
from meshwright.core.messages import ID_PATTERN, Caller, Identifier, ScoreCard, new_id
from meshwright.edges.auth import ADMINISTRATOR, has_role, require_all_tenants, visible_tenant
from meshwright.edges.facts import status_facts
from meshwright.edges.http.routing import (
    AdminDep,
    MeshDep,
    ReadyMesh,
    SubmitterDep,
    ViewerDep,
    make_router,
    problems,
    valid_trace,
)
from meshwright.events.status import MeshStatus
from meshwright.ledger.costs import By, Costs, since_of
from meshwright.ledger.keys import LLM_SERVICE, NewKey, keys_required
from meshwright.ledger.virtual_keys import Key, KeyTenant, unknown_key
from meshwright.mesh import Mesh
from meshwright.models.port import CallContext

router = make_router()
keys = make_router("keys")
probes = make_router("health")
_NOT_ADMIN = {401: "The admin token is missing or wrong.", 403: "A key manages no keys."}


class AgentList(BaseModel):
    """Agents by name."""

    items: list[AgentInfo]


class ScoreList(BaseModel):
    """Score cards, the best first."""

    items: list[ScoreCard]


class CostQuery(BaseModel):
    """What to sum by, and from when: `24h` ago (s, m, h, d or w), or RFC 3339."""

    model_config = ConfigDict(extra="forbid")

    by: By = "agent"
    since: str | None = Field(default=None, min_length=1, max_length=40)


class KeyRequest(BaseModel):
    """Whose key to create, and what for. `budget` is what its holder may spend, like `5.00/day`.

    `name` is a person or a program, `agent_id` an agent of the mesh: one of the two. `tenant_id` is that of
    the caller where it is not named; `*` is all tenants. `expires` is a time from now like `30d`.
    """

    model_config = ConfigDict(extra="forbid")

    name: Identifier | None = None
    agent_id: Identifier | None = None
    tenant_id: KeyTenant | None = None
    roles: tuple[Role, ...] = Field(default=KEY_ROLES, min_length=1, max_length=len(Role))
    expires: str | None = Field(default=None, max_length=16)
    budget: str | None = Field(default=None, max_length=64)

    def holder(self, mesh: Mesh) -> str:
        """Whose key it is. Raises InvalidInput for an unknown agent, and for a name that means another."""
        if (self.name is None) == (self.agent_id is None):
            remedy = "Name a person or a program by name, or an agent of the mesh by agent_id"
            raise InvalidInput("A key is of one name or of one agent", remedy=remedy, field="name")
        if self.agent_id is not None:
            remedy = "For a person or a program use name (mesh keys create --name)"
            mesh.registry.check_agent(self.agent_id, remedy=remedy)
            return self.agent_id
        assert self.name is not None
        if self.name in (ADMINISTRATOR, Caller().requested_by):
            raise InvalidInput(
                f"The name {self.name!r} is the mesh's own", remedy="Choose another name", field="name"
            )
        if self.name in (LLM_SERVICE, *(info.agent_id for info in mesh.registry.agents())):
            remedy = "For its key use agent_id (mesh keys create --agent), else choose another name"
            raise InvalidInput(f"{self.name!r} is an agent of this mesh", remedy=remedy, field="name")
        return self.name


class RotateRequest(BaseModel):
    """How long both keys are good, and after how long the new one expires, like `1h` and `30d`.

    Where `expires` is not given, the new key lives as long as the other was to.
    """

    model_config = ConfigDict(extra="forbid")

    grace: str = Field(default="1h", max_length=16)
    expires: str | None = Field(default=None, max_length=16)


class KeyList(BaseModel):
    """Keys, the oldest first; `required` says whether callers need one."""

    items: list[Key]
    required: bool


class Opened(BaseModel):
    """The mesh requires no key any more; `revoked` keys were revoked for that."""

    revoked: int


@router.get("/agents", summary="List agents", tags=["agents"])
async def list_agents(mesh: MeshDep, caller: ViewerDep) -> AgentList:
    """Show every agent that is registered, and how it is doing."""
    return AgentList(items=mesh.registry.agents())


@router.get(
    "/agents/score/{capability}",
    summary="Score agents for a capability",
    tags=["agents"],
    responses=problems({404: "No agent has that capability."}),
)
async def score_agents(
    mesh: MeshDep, caller: ViewerDep, capability: Annotated[str, Path(pattern=ID_PATTERN)]
) -> ScoreList:
    """Show how the agents that are not offline score for a capability, factor by factor, best first."""
    known = mesh.registry.capabilities()
    if capability not in known:
        raise NotFound(
            f"No agent has the capability {capability!r}",
            remedy=f"Known are {', '.join(known) or 'none: no agent is registered'}",
            field="capability",
        )
    return ScoreList(items=mesh.registry.scores(capability))


@router.get(
    "/costs",
    summary="Sum up what models cost",
    tags=["costs"],
    responses=problems({422: "`since` is not a time, or `by` nothing."}),
)
async def sum_costs(mesh: MeshDep, caller: ViewerDep, query: Annotated[CostQuery, Query()]) -> Costs:
    """Sum up what calls of models have cost, most expensive first, and all of them together.

    `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
    `unpriced` counts the calls with an unknown cost.
    The holder of a key sees the calls of the key's tenant, the administrator those of all.
    """
    since = None if query.since is None else since_of(query.since, mesh.host.clock.now())
    return await mesh.costs(query.by, since=since, tenant_id=visible_tenant(caller))


@router.get("/status", summary="How is the mesh doing?", tags=["tasks"])
async def show_status(mesh: MeshDep, caller: ViewerDep) -> MeshStatus:
    """Count open tasks by status and by what they wait for, and show which deployments are left alone.

    The holder of a key sees the tasks of the key's tenant, the administrator all of it.
    """
    status = await mesh.status(visible_tenant(caller))
    return status if has_role(caller, Role.CONTENTS) else status_facts(status)


@router.post("/compress", summary="Compress a context", tags=["context"])
async def compress(
    request: Request, mesh: MeshDep, caller: SubmitterDep, wanted: CompressRequest
) -> CompressResponse:
    """Make the context that the receiver needs: by rules, and by a model where those are not enough."""
    return await mesh.context.compress(
        wanted,
        tenant_id=caller.tenant_id,
        traceparent=valid_trace(request.headers.get("traceparent")),
        context=lambda: CallContext(tenant_id=caller.tenant_id, budgets=caller.budgets),
    )


# Keys, for the administrator alone


@keys.post(
    "/keys",
    status_code=201,
    summary="Create a virtual key",
    response_description="`key` is shown this once.",
    responses=problems(_NOT_ADMIN),
)
async def create_key(mesh: MeshDep, caller: AdminDep, wanted: KeyRequest, response: Response) -> NewKey:
    """Create a key for a person, a program or an agent. From the first one on, every caller needs a key.

    An administrator of one tenant creates keys of that tenant alone.
    """
    tenant_id = wanted.tenant_id or caller.tenant_id
    if tenant_id != caller.tenant_id:
        require_all_tenants(caller, "creates keys of another tenant")
    holder = wanted.holder(mesh)
    response.headers["Cache-Control"] = "no-store"
    key_id = new_id()
    known = {
        "tenant_id": tenant_id,
        "holder": holder,
        **wanted.model_dump(include={"roles", "expires", "budget"}),
    }
    async with mesh.audit.change(caller, "key.created", f"keys/{key_id}", known):
        return await mesh.keys.create(
            holder,
            key_id=key_id,
            tenant_id=tenant_id,
            roles=wanted.roles,
            expires=wanted.expires,
            budget=wanted.budget,
        )


@keys.get("/keys", summary="List virtual keys", responses=problems(_NOT_ADMIN))
async def list_keys(mesh: MeshDep, caller: AdminDep) -> KeyList:
    """List the keys of the caller's tenant, and whose each is; never the key itself.

    The administrator of the mesh sees those of all tenants.
    """
    tenant_id = visible_tenant(caller)
    keys = [key for key in await mesh.keys.list() if tenant_id in (None, key.tenant_id)]
    return KeyList(items=keys, required=await keys_required(mesh.keys, mesh.settings))


@keys.post("/keys/open", summary="Require no key any more", responses=problems(_NOT_ADMIN))
async def open_mesh(mesh: MeshDep, caller: AdminDep) -> Opened:
    """Revoke every key, and require none until another is created. `keys.required = true` still holds."""
    require_all_tenants(caller, "opens the mesh")
    async with mesh.audit.change(caller, "keys.opened", "keys"):
        return Opened(revoked=await mesh.keys.open())


@keys.delete(
    "/keys/{key_id}",
    summary="Revoke a virtual key",
    responses=problems({404: "There is no such key.", **_NOT_ADMIN}),
)
async def revoke_key(
    mesh: MeshDep, caller: AdminDep, key_id: Annotated[str, Path(pattern=ID_PATTERN)]
) -> Key:
    """Revoke a key immediately. This cannot be undone, and callers still need a key."""
    await _check_tenant(mesh, caller, key_id)
    async with mesh.audit.change(caller, "key.revoked", f"keys/{key_id}"):
        return await mesh.keys.revoke(key_id)


@keys.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    summary="Rotate a virtual key",
    response_description="`key` is shown this once.",
    responses=problems({404: "There is no such key.", 409: "It was revoked or rotated.", **_NOT_ADMIN}),
)
async def rotate_key(
    mesh: MeshDep,
    caller: AdminDep,
    key_id: Annotated[str, Path(pattern=ID_PATTERN)],
    wanted: RotateRequest,
    response: Response,
) -> NewKey:
    """Create a key in another's place: of the same agent, tenant, roles and budget. Both work for `grace`."""
    await _check_tenant(mesh, caller, key_id)
    response.headers["Cache-Control"] = "no-store"
    async with mesh.audit.change(caller, "key.rotated", f"keys/{key_id}", wanted.model_dump()):
        return await mesh.keys.rotate(key_id, grace=wanted.grace, expires=wanted.expires)


async def _check_tenant(mesh: Mesh, caller: Caller, key_id: str) -> None:
    """Raises NotFound for a key that the caller does not see."""
    if visible_tenant(caller) not in (None, (await mesh.keys.find(key_id)).tenant_id):
        raise unknown_key(key_id)


# Probes


@probes.get("/healthz", summary="Is it alive?")
async def alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok", "version": __version__}


@probes.get(
    "/readyz",
    summary="Does it take tasks?",
    responses=problems({503: "It is starting or stopping, or its store is away."}),
)
async def ready(mesh: ReadyMesh) -> dict[str, str]:
    """Answer with 200 while the mesh takes tasks."""
    if not mesh.takes_tasks:
        raise Draining(
            "The store of this mesh is away, or its lease was lost", remedy="Ask again in a moment"
        )
    return {"status": "ready"}


@probes.get("/health", summary="Is the llm-service there?")
async def llm_alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok"}
