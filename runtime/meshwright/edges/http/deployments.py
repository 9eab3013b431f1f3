"""The deployments of models: what there is, where a call goes, and whether each answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from meshwright.edges.http.routing import make_router, may, problems
from meshwright.identity.administration import Administration

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
async def list_deployments(
    operations: Annotated[Administration, may("deployments", Administration)],
) -> dict[str, Any]:
    """List the groups of models with their deployments, prices, fallbacks, and missing variables."""
    return await operations.deployments()


@router.get(
    "/deployments/route", summary="Explain where a call goes", responses=problems(_NOT_OPERATOR | _NO_GROUP)
)
async def explain_route(
    operations: Annotated[Administration, may("explain_route", Administration)],
    query: Annotated[RouteQuery, Query()],
) -> dict[str, Any]:
    """Say which deployments a call of a group with tags would reach, what follows, and why."""
    return operations.explain_route(query.model, [tag for tag in query.tags.split(",") if tag])


@router.post("/deployments/test", summary="Test deployments", responses=problems(_NOT_OPERATOR | _NO_GROUP))
async def test_deployments(
    operations: Annotated[Administration, may("test_deployments", Administration)], wanted: TestRequest
) -> DeploymentTests:
    """Call each usable deployment plainly, streamed and with a tool, for a few tokens each.

    One that answers gets calls again, and tasks that wait for it go on.
    """
    return DeploymentTests(items=await operations.test_deployments(wanted.model))
