"""`/v1/evaluations`: have answers measured and judged, and read the figures."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from pydantic import Field

from meshwright.core.ids import ID_PATTERN, Identifier
from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.evaluations.operations import MAKE, SEE, Evaluations
from meshwright.services.evaluations.records import (
    EvaluationItemPage,
    EvaluationPage,
    EvaluationRequest,
    EvaluationView,
)

router = make_router("evaluations", max_body=("evaluations.max_bytes",), names_tenant=True)
_NONE = problems({404: "There is no such evaluation."})
_ViewerDep = Annotated[Caller, by_rule(SEE)]
_MakerDep = Annotated[Caller, by_rule(MAKE)]
_Id = Annotated[str, Path(pattern=ID_PATTERN)]


class _EvaluationQuery(Strict):
    """A page of evaluations; `cursor` is the `cursor` of the page before."""

    limit: int = Field(default=50, ge=1, le=200)
    cursor: Identifier | None = None


class _ItemQuery(Strict):
    """A page of items; `cursor` is the `cursor` of the page before."""

    limit: int = Field(default=100, ge=1, le=500)
    cursor: int = Field(default=0, ge=0, le=2**31 - 1)


@router.get("/v1/evaluations", summary="List evaluations", responses=_NONE)
async def _list_evaluations(
    mesh: MeshDep, caller: _ViewerDep, query: Annotated[_EvaluationQuery, Query()]
) -> EvaluationPage:
    """List the evaluations of your tenant, the newest first, each with its progress and its cost."""
    return await mesh.get(Evaluations).page(caller, before=query.cursor, limit=query.limit)


@router.post(
    "/v1/evaluations",
    status_code=201,
    summary="Make an evaluation",
    response_description="Durable. It runs, and `GET /v1/evaluations/{evaluation_id}` has its figures.",
    responses=problems(
        {
            403: "It takes the roles operator and submitter, and contents for tasks.",
            404: "There is no such agent.",
            409: "There is an evaluation of that id.",
            429: "As many evaluations of the tenant run as may.",
            507: "The tenant stores as much as it may.",
        }
    ),
)
async def _make_evaluation(
    mesh: MeshDep, caller: _MakerDep, request: EvaluationRequest, response: Response
) -> EvaluationView:
    """Have answers measured by metrics, and judged by an agent, criterion by criterion.

    Each answer and each judgement is a task of yours: listed, journaled and charged as any other.
    """
    evaluation = await mesh.get(Evaluations).make(caller, request)
    response.headers["Location"] = f"/v1/evaluations/{evaluation.evaluation_id}"
    return evaluation


@router.get("/v1/evaluations/{evaluation_id}", summary="Show an evaluation", responses=_NONE)
async def _show_evaluation(mesh: MeshDep, caller: _ViewerDep, evaluation_id: _Id) -> EvaluationView:
    """Show how far an evaluation is, its cost, and its figures over the items that are done."""
    return await mesh.get(Evaluations).show(caller, evaluation_id)


@router.delete(
    "/v1/evaluations/{evaluation_id}", status_code=204, summary="Delete an evaluation", responses=_NONE
)
async def _delete_evaluation(mesh: MeshDep, caller: _MakerDep, evaluation_id: _Id) -> Response:
    """Delete an evaluation with its texts, also one that runs. The tasks that it has made stay."""
    await mesh.get(Evaluations).remove(caller, evaluation_id)
    return Response(status_code=204)


@router.get("/v1/evaluations/{evaluation_id}/items", summary="List items", responses=_NONE)
async def _list_items(
    mesh: MeshDep, caller: _ViewerDep, evaluation_id: _Id, query: Annotated[_ItemQuery, Query()]
) -> EvaluationItemPage:
    """List items with their figures; with the role contents also their texts, and the judges' reasons."""
    return await mesh.get(Evaluations).items(caller, evaluation_id, after=query.cursor, limit=query.limit)
