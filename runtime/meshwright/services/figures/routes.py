"""`/metrics`: a mesh in numbers, for monitoring."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from meshwright.core.messages import Caller
from meshwright.core.operations import operation_of
from meshwright.edges.http.routing import MeshDep, by_rule, make_router
from meshwright.services.figures.metrics import CONTENT_TYPE
from meshwright.services.figures.operations import FiguresOperations

router = make_router("figures")
_Scraper = Annotated[Caller, by_rule(operation_of(FiguresOperations.metrics).rule)]


@router.get(
    "/metrics",
    summary="Scrape metrics",
    response_class=Response,
    response_description="The text format of Prometheus.",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def _scrape(mesh: MeshDep, caller: _Scraper) -> Response:
    """Give the figures of the whole mesh in the text format of Prometheus.

    A scraper elsewhere sends a key: `mesh keys create --name prometheus --tenant '*' --role viewer`.
    """
    return Response(await mesh.get(FiguresOperations).metrics(caller), media_type=CONTENT_TYPE)
