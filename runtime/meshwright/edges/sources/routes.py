"""`/webhooks` and `/channels`: what may deliver to the mesh."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from meshwright.core.messages import Caller
from meshwright.edges.http.routing import MeshDep, by_rule, make_router
from meshwright.edges.sources.operations import LIST, Sources, SourceView

_ViewerDep = Annotated[Caller, by_rule(LIST)]
router = make_router("sources")


class SourceList(BaseModel):
    """Sources, by id."""

    items: list[SourceView]


@router.get("/webhooks", summary="List webhooks")
async def _list_webhooks(mesh: MeshDep, caller: _ViewerDep) -> SourceList:
    """Show the sources of your tenant with their rules, and the hosts to which outcomes are pushed."""
    return SourceList(items=mesh.get(Sources).page("webhooks", caller))


@router.get("/channels", summary="List channels")
async def _list_channels(mesh: MeshDep, caller: _ViewerDep) -> SourceList:
    """Show the channels of your tenant with the agents that answer, and whether each is connected.

    It is this process that is connected, or not.
    """
    return SourceList(items=mesh.get(Sources).page("channels", caller))
