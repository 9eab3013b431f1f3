"""`/prune`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.retention.retention import PRUNE, Pruned, Retention

router = make_router("administration")


class _PruneQuery(Strict):
    """With `dry_run` nothing is pruned."""

    dry_run: bool = False


@router.post(
    "/prune",
    summary="Prune old tasks",
    responses=problems({403: "The caller is no administrator.", 422: "The settings say no age of tasks."}),
)
async def _prune(
    mesh: MeshDep, caller: Annotated[Caller, by_rule(PRUNE)], query: Annotated[_PruneQuery, Query()]
) -> Pruned:
    """Have tasks that ended long enough ago leave the lists, and erase their contents, or count them.

    `[retention]` says how long ago. `has_more` asks for another request.
    """
    retention = mesh.get(Retention)
    return await (retention.count(caller) if query.dry_run else retention.prune(caller))
