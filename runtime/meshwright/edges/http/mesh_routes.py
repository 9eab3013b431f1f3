"""The mesh: its agents and scores, costs and budgets, the context-service, keys, and probes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright import __version__
from meshwright.context.plan import CompressRequest, CompressResponse
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import NotFound
from meshwright.core.messages import ID_PATTERN, Identifier, ScoreCard
from meshwright.edges.auth import keys_required, visible_spender
from meshwright.edges.http.routing import CallerDep, MeshDep, ReadyMesh, make_router, problems, valid_trace
from meshwright.events.status import MeshStatus
from meshwright.ledger.costs import By, Costs, since_of
from meshwright.ledger.keys import Key, NewKey
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


@router.get("/agents", summary="List agents", tags=["agents"])
async def list_agents(mesh: MeshDep) -> AgentList:
    """Show every agent that is registered, and how it is doing."""
    return AgentList(items=mesh.registry.agents())


@router.get(
    "/agents/score/{capability}",
    summary="Score agents for a capability",
    tags=["agents"],
    responses=problems({404: "No agent has that capability."}),
)
async def score_agents(mesh: MeshDep, capability: Annotated[str, Path(pattern=ID_PATTERN)]) -> ScoreList:
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
async def sum_costs(mesh: MeshDep, caller: CallerDep, query: Annotated[CostQuery, Query()]) -> Costs:
    """Sum up what calls of models have cost, most expensive first, and all of them together.

    `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
    `unpriced` counts the calls whose cost nobody knows.
    The holder of a key sees the calls of the key's tenant, the administrator those of all.
    """
    since = None if query.since is None else since_of(query.since, mesh.host.clock.now())
    return await mesh.costs(query.by, since=since, tenant_id=visible_spender(caller))


@router.get("/status", summary="How is the mesh doing?", tags=["tasks"])
async def show_status(mesh: MeshDep, caller: CallerDep) -> MeshStatus:
    """Count open tasks by status and by what they wait for, and show which deployments are left alone.

    The holder of a key sees the tasks of the key's tenant, the administrator all of it.
    """
    return await mesh.status(visible_spender(caller))


@router.post("/compress", summary="Compress a context", tags=["context"])
async def compress(
    request: Request, mesh: MeshDep, caller: CallerDep, wanted: CompressRequest
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
async def create_key(mesh: MeshDep, wanted: KeyRequest, response: Response) -> NewKey:
    """Create a key for an agent of a tenant. From the first one on, every caller needs a key."""
    if not wanted.force:
        remedy = "Name one of them, or llm-service; --force (in JSON: force) creates the key anyway"
        mesh.check_agent(wanted.agent_id, remedy=remedy)
    response.headers["Cache-Control"] = "no-store"
    return await mesh.keys.create(wanted.agent_id, tenant_id=wanted.tenant_id, budget=wanted.budget)


@keys.get("/keys", summary="List virtual keys", responses=problems(_NOT_ADMIN))
async def list_keys(mesh: MeshDep) -> KeyList:
    """List every key that was created, and whose it is; never the key itself."""
    return KeyList(items=await mesh.keys.list(), required=await keys_required(mesh.keys, mesh.settings))


@keys.post("/keys/open", summary="Require no key any more", responses=problems(_NOT_ADMIN))
async def open_mesh(mesh: MeshDep) -> Opened:
    """Revoke every key, and require none until another is created. `keys.required = true` still holds."""
    return Opened(revoked=await mesh.keys.open())


@keys.delete(
    "/keys/{key_id}",
    summary="Revoke a virtual key",
    responses=problems({404: "There is no such key.", **_NOT_ADMIN}),
)
async def revoke_key(mesh: MeshDep, key_id: Annotated[str, Path(pattern=ID_PATTERN)]) -> Key:
    """Revoke a key immediately. This cannot be undone, and callers still need a key."""
    return await mesh.keys.revoke(key_id)


# Probes


@probes.get("/healthz", summary="Is it alive?")
async def alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok", "version": __version__}


@probes.get(
    "/readyz", summary="Does it take tasks?", responses=problems({503: "It is starting or stopping."})
)
async def ready(mesh: ReadyMesh) -> dict[str, str]:
    """Answer with 200 while the mesh takes tasks."""
    return {"status": "ready"}


@probes.get("/health", summary="Is the llm-service there?")
async def llm_alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok"}
