"""The mesh: its agents and scores, costs and status, the context-service, and probes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request
from pydantic import BaseModel, Field

from meshwright.context.plan import CompressRequest, CompressResponse
from meshwright.core import __version__
from meshwright.core.capability import AgentInfo
from meshwright.core.errors import Draining
from meshwright.core.ids import ID_PATTERN, Identifier
from meshwright.core.messages import ScoreCard
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import Strict
from meshwright.edges.http.filters import OfTask
from meshwright.edges.http.routing import ReadyMesh, make_router, may, problems
from meshwright.events.status import MeshStatus
from meshwright.identity.operations import Operations
from meshwright.ledger.costs import BY_PATTERN, Bucket, Costs

router = make_router()
probes = make_router("health", is_open=True)


class AgentList(BaseModel):
    """Agents by name."""

    items: list[AgentInfo]


class ScoreList(BaseModel):
    """Score cards, the best first."""

    items: list[ScoreCard]


class _CostQuery(Strict, OfTask):
    """One key to sum by or two (`agent,model`); times like `24h` ago (s, m, h, d or w), or RFC 3339.

    With a `bucket` the costs are a series. Agent, thread, model and prompt are those of the call, all other
    fields those of its task.
    """

    by: str = Field(default="agent", json_schema_extra={"pattern": BY_PATTERN})
    since: str | None = Field(default=None, min_length=1, max_length=40)
    until: str | None = Field(default=None, min_length=1, max_length=40)
    bucket: Bucket | None = None
    agent_id: Identifier | None = None


@router.get("/agents", summary="List agents", tags=["agents"])
async def _list_agents(operations: Annotated[Operations, may(Operations.agents)]) -> AgentList:
    """Show every agent that is registered, and how it is doing."""
    return AgentList(items=operations.agents())


@router.get(
    "/agents/score/{capability}",
    summary="Score agents for a capability",
    tags=["agents"],
    responses=problems({404: "No agent has that capability."}),
)
async def _score_agents(
    operations: Annotated[Operations, may(Operations.scores)],
    capability: Annotated[str, Path(pattern=ID_PATTERN)],
) -> ScoreList:
    """Show how the agents that are not offline score for a capability, factor by factor, best first."""
    return ScoreList(items=operations.scores(capability))


@router.get(
    "/costs",
    summary="Sum up costs",
    tags=["costs"],
    responses=problems(
        {
            404: "A value of the filter never was: `detail` says which there are.",
            422: "`since` or `until` is not a time, or `by` nothing.",
        }
    ),
)
async def _sum_costs(
    operations: Annotated[Operations, may(Operations.costs)], query: Annotated[_CostQuery, Query()]
) -> Costs:
    """Sum up what calls of models have cost, most expensive first, and all of them together.

    With `bucket` there is an item for each hour or day of UTC in which calls ended, the earliest first.
    `cost_usd` is what is known of it, `estimated_usd` how much of that is of tokens that were estimated;
    `unpriced` counts the calls with an unknown cost.
    The holder of a key sees the calls of the key's tenant, the administrator those of all.
    """
    return await operations.costs(**dict(query))


@router.get("/status", summary="Show the state of the mesh", tags=["tasks"])
async def _show_status(operations: Annotated[Operations, may(Operations.status)]) -> MeshStatus:
    """Count open tasks by status and by what they wait for, and show which deployments are left alone.

    The holder of a key sees the tasks of the key's tenant, the administrator all of it.
    """
    return await operations.status()


@router.post("/compress", summary="Compress a context", tags=["context"])
async def _compress(
    request: Request, operations: Annotated[Operations, may(Operations.compress)], wanted: CompressRequest
) -> CompressResponse:
    """Make the context that the receiver needs: by rules, and by a model where those are not enough."""
    return await operations.compress(wanted, traceparent=valid_trace(request.headers.get("traceparent")))


# Probes


@probes.get("/healthz", summary="Is the process alive?")
async def _alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok", "version": __version__}


@probes.get(
    "/readyz",
    summary="Does it take tasks?",
    responses=problems({503: "It is starting, stopping or draining, or its store is away."}),
)
async def _ready(mesh: ReadyMesh) -> dict[str, str]:
    """Answer with 200 while the mesh takes tasks."""
    if mesh.state == "draining":
        raise Draining("This process begins no more work", remedy="Stop it, or release it: mesh release")
    if not mesh.takes_tasks:
        raise Draining(
            "The store of this mesh is away, or its lease was lost", remedy="Ask again in a moment"
        )
    return {"status": "ready"}


@probes.get("/health", summary="Is a model available?")
async def _llm_alive() -> dict[str, str]:
    """Answer while the process can."""
    return {"status": "ok"}
