"""`/drain`, `/hold`, `/release` and `/store/verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field

from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.maintenance.operations import DRAIN, HOLD, RELEASE, VERIFY, Maintenance, MeshWork

router = make_router("administration")
_NO_OPERATOR = problems({403: "The caller is no operator of all tenants."})


class _DrainQuery(Strict):
    """`wait` is how many seconds to wait until nothing runs any more."""

    wait: float = Field(default=0.0, ge=0, le=600)


class StoreVerification(BaseModel):
    """The result of a verification: how much was compared, and each deviation in a line of `faults`."""

    events: int
    lists: int
    tasks: int
    open_tasks: int
    faults: list[str]
    notes: list[str]


@router.post("/drain", summary="Begin no more work", responses=_NO_OPERATOR)
async def _drain(
    mesh: MeshDep, caller: Annotated[Caller, by_rule(DRAIN)], query: Annotated[_DrainQuery, Query()]
) -> MeshWork:
    """Let this process begin no more work and answer 503 at `/readyz`, and wait until nothing runs any more.

    Running work goes on, and tasks are still accepted: they run elsewhere, or at the next start. `/release`
    ends it.
    """
    return await mesh.get(Maintenance).drain(caller, wait_seconds=query.wait)


@router.post("/hold", summary="Hold all work", responses=_NO_OPERATOR)
async def _hold(mesh: MeshDep, caller: Annotated[Caller, by_rule(HOLD)]) -> MeshWork:
    """Let no process of the mesh begin work before a release, also after a restart.

    Running work goes on, and tasks are still accepted. Other processes follow within seconds.
    """
    return await mesh.get(Maintenance).hold(caller)


@router.post("/release", summary="Begin held work", responses=_NO_OPERATOR)
async def _release(mesh: MeshDep, caller: Annotated[Caller, by_rule(RELEASE)]) -> MeshWork:
    """Begin the work of a mesh that is held, in all of its processes, or of this process if it drains."""
    return await mesh.get(Maintenance).release(caller)


@router.get(
    "/store/verify", summary="Verify the store", responses=problems({403: "The caller is no administrator."})
)
async def _verify_store(mesh: MeshDep, caller: Annotated[Caller, by_rule(VERIFY)]) -> StoreVerification:
    """Rebuild the lists from the events and compare them, and hold the tasks to what is promised of them.

    It writes nothing, and takes minutes for a million tasks.
    """
    return StoreVerification(**asdict(await mesh.get(Maintenance).verify(caller)))
