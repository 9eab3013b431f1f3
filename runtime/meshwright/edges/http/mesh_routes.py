"""The mesh: its agents and scores, costs and budgets, the context-service, keys, and probes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from meshwright import __version__
from meshwright.context.plan import CompressRequest, CompressResponse
from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import Draining
from meshwright.core.messages import ID_PATTERN, Identifier, ScoreCard
from meshwright.edges.http.routing import ReadyMesh, make_router, may, problems, valid_trace
from meshwright.events.status import MeshStatus
from meshwright.identity.administration import Administration
from meshwright.identity.operations import Operations
from meshwright.ledger.costs import By, Costs
from meshwright.ledger.keys import NewKey, keys_required
from meshwright.ledger.virtual_keys import Key, KeyTenant

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
async def list_agents(operations: Annotated[Operations, may("agents")]) -> AgentList:
    """Show every agent that is registered, and how it is doing."""
    return AgentList(items=operations.agents())


@router.get(
    "/agents/score/{capability}",
    summary="Score agents for a capability",
    tags=["agents"],
    responses=problems({404: "No agent has that capability."}),
)
async def score_agents(
    operations: Annotated[Operations, may("scores")], capability: Annotated[str, Path(pattern=ID_PATTERN)]
) -> ScoreList:
    """Show how the agents that are not offline score for a capability, factor by factor, best first."""
    return ScoreList(items=operations.scores(capability))


@router.get(
    "/costs",
    summary="Sum up what models cost",
    tags=["costs"],
    responses=problems({422: "`since` is not a time, or `by` nothing."}),
)
async def sum_costs(
    operations: Annotated[Operations, may("costs")], query: Annotated[CostQuery, Query()]
) -> Costs:
    """Sum up what calls of models have cost, most expensive first, and all of them together.

    `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
    `unpriced` counts the calls with an unknown cost.
    The holder of a key sees the calls of the key's tenant, the administrator those of all.
    """
    return await operations.costs(query.by, since=query.since)


@router.get("/status", summary="How is the mesh doing?", tags=["tasks"])
async def show_status(operations: Annotated[Operations, may("status")]) -> MeshStatus:
    """Count open tasks by status and by what they wait for, and show which deployments are left alone.

    The holder of a key sees the tasks of the key's tenant, the administrator all of it.
    """
    return await operations.status()


@router.post("/compress", summary="Compress a context", tags=["context"])
async def compress(
    request: Request, operations: Annotated[Operations, may("compress")], wanted: CompressRequest
) -> CompressResponse:
    """Make the context that the receiver needs: by rules, and by a model where those are not enough."""
    return await operations.compress(wanted, traceparent=valid_trace(request.headers.get("traceparent")))


# Keys, for the administrator alone


@keys.post(
    "/keys",
    status_code=201,
    summary="Create a virtual key",
    response_description="`key` is shown this once.",
    responses=problems(_NOT_ADMIN),
)
async def create_key(
    operations: Annotated[Administration, may("create_key", Administration)],
    wanted: KeyRequest,
    response: Response,
) -> NewKey:
    """Create a key for a person, a program or an agent. From the first one on, every caller needs a key.

    An administrator of one tenant creates keys of that tenant alone.
    """
    response.headers["Cache-Control"] = "no-store"
    return await operations.create_key(**dict(wanted))


@keys.get("/keys", summary="List virtual keys", responses=problems(_NOT_ADMIN))
async def list_keys(
    operations: Annotated[Administration, may("list_keys", Administration)],
) -> KeyList:
    """List the keys of the caller's tenant, and whose each is; never the key itself.

    The administrator of the mesh sees those of all tenants.
    """
    mesh = operations.mesh
    required = await keys_required(mesh.keys, mesh.settings)
    return KeyList(items=await operations.list_keys(), required=required)


@keys.post("/keys/open", summary="Require no key any more", responses=problems(_NOT_ADMIN))
async def open_mesh(
    operations: Annotated[Administration, may("open_keys", Administration)],
) -> Opened:
    """Revoke every key, and require none until another is created. `keys.required = true` still holds."""
    return Opened(revoked=await operations.open_keys())


@keys.delete(
    "/keys/{key_id}",
    summary="Revoke a virtual key",
    responses=problems({404: "There is no such key.", **_NOT_ADMIN}),
)
async def revoke_key(
    operations: Annotated[Administration, may("revoke_key", Administration)],
    key_id: Annotated[str, Path(pattern=ID_PATTERN)],
) -> Key:
    """Revoke a key immediately. This cannot be undone, and callers still need a key."""
    return await operations.revoke_key(key_id)


@keys.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    summary="Rotate a virtual key",
    response_description="`key` is shown this once.",
    responses=problems({404: "There is no such key.", 409: "It was revoked or rotated.", **_NOT_ADMIN}),
)
async def rotate_key(
    operations: Annotated[Administration, may("rotate_key", Administration)],
    key_id: Annotated[str, Path(pattern=ID_PATTERN)],
    wanted: RotateRequest,
    response: Response,
) -> NewKey:
    """Create a key in another's place: of the same agent, tenant, roles and budget. Both work for `grace`."""
    response.headers["Cache-Control"] = "no-store"
    return await operations.rotate_key(key_id, grace=wanted.grace, expires=wanted.expires)


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
