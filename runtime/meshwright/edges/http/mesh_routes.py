"""The mesh: its agents and scores, costs and budgets, the context-service, and probes."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from meshwright import __version__
from meshwright.capability import AgentInfo
from meshwright.context.request import CompressRequest, CompressResponse
from meshwright.edges.auth import visible_spender
from meshwright.edges.http.openapi import BODY_PROBLEMS, answers, problems, takes
from meshwright.edges.http.routing import CallerDep, MeshDep, ReadyMesh, make_router
from meshwright.errors import NotFound
from meshwright.ledger.budgets import BudgetView
from meshwright.ledger.costs import By, Costs, since_of
from meshwright.messages import ID_PATTERN, ScoreCard
from meshwright.models.port import CallContext
from meshwright.tracing import parse

router = make_router()
probes = make_router("health")


class AgentList(BaseModel):
    """Agents by name."""

    items: list[AgentInfo]


class ScoreList(BaseModel):
    """Score cards, the best first."""

    items: list[ScoreCard]


class BudgetList(BaseModel):
    """Budgets, each with whose it is."""

    items: list[BudgetView]


class CostQuery(BaseModel):
    """What to sum by, and from when: `24h` ago (s, m, h, d or w), or RFC 3339."""

    model_config = ConfigDict(extra="forbid")

    by: By = "agent"
    since: str | None = Field(default=None, min_length=1, max_length=40)


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str = __version__


class LlmAlive(BaseModel):
    """The llm-service answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The mesh takes tasks."""

    status: Literal["ready"] = "ready"


@router.get("/agents", summary="List agents", tags=["agents"], responses=answers("AgentList"))
async def list_agents(mesh: MeshDep) -> AgentList:
    """Show every agent that is registered, and how it is doing."""
    return AgentList(items=mesh.registry.agents())


@router.get(
    "/agents/score/{capability}",
    summary="Score agents for a capability",
    tags=["agents"],
    responses=answers("ScoreList", {404: "No agent has that capability."}),
)
async def score_agents(mesh: MeshDep, capability: Annotated[str, Path(pattern=ID_PATTERN)]) -> ScoreList:
    """Show how the agents that are not offline score for a capability, factor by factor, best first."""
    known = mesh.registry.capabilities()
    if capability not in known:
        raise NotFound(
            f"no agent has the capability {capability!r}",
            remedy=f"known are {', '.join(known) or 'none: no agent is registered'}",
            field="capability",
        )
    return ScoreList(items=mesh.registry.scores(capability))


@router.get(
    "/costs",
    summary="Sum up what models cost",
    tags=["costs"],
    responses=answers("Costs", {422: "`since` is not a time, or `by` nothing."}),
)
async def sum_costs(mesh: MeshDep, caller: CallerDep, query: Annotated[CostQuery, Query()]) -> Costs:
    """Sum up what calls of models have cost, most expensive first, and all of them together.

    `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
    `unpriced` counts the calls whose cost nobody knows.
    The holder of a key sees the calls of the key's tenant, the administrator those of all.
    """
    since = None if query.since is None else since_of(query.since, mesh.host.clock.now())
    return await mesh.costs(query.by, since=since, tenant_id=visible_spender(caller))


@router.get("/budgets", summary="List budgets", tags=["costs"], responses=answers("BudgetList"))
async def list_budgets(mesh: MeshDep, caller: CallerDep) -> BudgetList:
    """Show what each budget may spend, has spent and holds for calls under way, and when it renews.

    A budget that each of a scope has for itself is shown for the last 1,000 of whom a call was made.
    """
    return BudgetList(items=await mesh.budget_views(visible_spender(caller)))


@router.post(
    "/compress",
    summary="Compress a context",
    tags=["context"],
    responses=answers("CompressResponse", BODY_PROBLEMS),
    openapi_extra=takes("CompressRequest"),
)
async def compress(
    request: Request, mesh: MeshDep, caller: CallerDep, wanted: CompressRequest
) -> CompressResponse:
    """Make the context that the receiver needs: by rules, and by a model where those are not enough."""
    traceparent = request.headers.get("traceparent")
    return await mesh.context.compress(
        wanted,
        tenant_id=caller.tenant_id,
        traceparent=traceparent if traceparent and parse(traceparent) else None,
        context=CallContext(tenant_id=caller.tenant_id, budgets=caller.budgets),
    )


@probes.get("/healthz", summary="Is it alive?")
async def alive() -> Alive:
    """Answer while the process can."""
    return Alive()


@probes.get(
    "/readyz", summary="Does it take tasks?", responses=problems({503: "It is starting or stopping."})
)
async def ready(mesh: ReadyMesh) -> Ready:
    """Answer with 200 while the mesh takes tasks."""
    return Ready()


@probes.get("/health", summary="Is the llm-service there?")
async def llm_alive() -> LlmAlive:
    """Answer while the process can."""
    return LlmAlive()
