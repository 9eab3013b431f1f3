"""`/figures`, `/metrics` and `/scale/{app}`: a mesh in numbers, for people, monitoring and autoscalers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Response

from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.figures.metrics import CONTENT_TYPE
from meshwright.services.figures.operations import SCRAPE, SEE, FiguresOperations
from meshwright.services.figures.records import Figures, Scale

router = make_router("figures")


async def _figures_of(mesh: MeshDep) -> FiguresOperations:
    return mesh.get(FiguresOperations)


_Service = Annotated[FiguresOperations, Depends(_figures_of)]
_ViewerDep = Annotated[Caller, by_rule(SEE)]


@router.get("/figures", summary="Show figures")
async def _show_figures(service: _Service, caller: _ViewerDep) -> Figures:
    """Show agents, workers, models, what is parked, stuck or dead, and the disk, as they are now.

    The holder of a key sees the tasks of the key's tenant, the administrator all of it.
    """
    return await service.show(caller)


@router.get(
    "/metrics",
    summary="Scrape metrics",
    response_class=Response,
    response_description="The text format of Prometheus.",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def _scrape(service: _Service, caller: Annotated[Caller, by_rule(SCRAPE)]) -> Response:
    """Give the figures of the whole mesh in the text format of Prometheus.

    A scraper elsewhere sends a key: `mesh keys create --name prometheus --tenant '*' --role viewer`.
    """
    return Response(await service.metrics(caller), media_type=CONTENT_TYPE)


@router.get(
    "/scale/{app}",
    summary="Show an agent's work, for autoscalers",
    responses=problems({404: "There is no such agent."}),
)
async def _show_scale(
    service: _Service, caller: _ViewerDep, app: Annotated[str, Path(pattern=ID_PATTERN)]
) -> Scale:
    """Count the tasks of an agent, or of all (`mesh`), that wait for a slot or run, for an autoscaler."""
    return await service.scale(caller, app)
