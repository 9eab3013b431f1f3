"""The deployments of models: what there is, where a call goes, and whether each answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from meshwright.edges.auth import require_all_tenants
from meshwright.edges.http.routing import MeshDep, OperatorDep, make_router, problems

router = make_router("models")
_NOT_OPERATOR = {403: "The caller is no operator of all tenants."}
_NO_GROUP = {400: "There is no such group, or nothing of it can be called."}


class RouteQuery(BaseModel):
    """Which call: its group, and its tags, with commas between them."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default="default", min_length=1, max_length=128)
    tags: str = Field(default="", max_length=1024)


class TestRequest(BaseModel):
    """Which group to test; none: all."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, min_length=1, max_length=128)


class DeploymentTests(BaseModel):
    """A result for each deployment: whether it answers (`ok`), its model and cost, or its error."""

    items: list[dict[str, Any]]


@router.get("/deployments", summary="List deployments of models", responses=problems(_NOT_OPERATOR))
async def list_deployments(mesh: MeshDep, caller: OperatorDep) -> dict[str, Any]:
    """List the groups of models with their deployments, prices, fallbacks, and missing variables."""
    require_all_tenants(caller, "lists deployments")
    return {**await mesh.deployments.overview(), "warnings": list(mesh.warnings)}


@router.get(
    "/deployments/route", summary="Explain where a call goes", responses=problems(_NOT_OPERATOR | _NO_GROUP)
)
async def explain_route(
    mesh: MeshDep, caller: OperatorDep, query: Annotated[RouteQuery, Query()]
) -> dict[str, Any]:
    """Say which deployments a call of a group with tags would reach, what follows, and why."""
    require_all_tenants(caller, "lists deployments")
    return mesh.deployments.route(query.model, [tag for tag in query.tags.split(",") if tag])


@router.post("/deployments/test", summary="Test deployments", responses=problems(_NOT_OPERATOR | _NO_GROUP))
async def test_deployments(mesh: MeshDep, caller: OperatorDep, wanted: TestRequest) -> DeploymentTests:
    """Call each usable deployment plainly, streamed and with a tool, for a few tokens each.

    One that answers gets calls again, and tasks that wait for it go on.
    """
    require_all_tenants(caller, "tests deployments")
    async with mesh.audit.change(caller, "deployments.tested", "deployments", {"model": wanted.model}):
        return DeploymentTests(items=await mesh.deployments.test(wanted.model))
