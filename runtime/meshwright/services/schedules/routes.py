"""`/schedules`: list, make, change, pause, resume and run them, and see when they are due."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Response
from pydantic import BaseModel, Field

from meshwright.core.ids import ID_PATTERN, Identifier, new_id
from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import CallerDep, MeshDep, by_rule, make_router, problems
from meshwright.services.schedules.operations import CHANGE, SEE, DueTime, Schedules, ScheduleView
from meshwright.services.schedules.schedule import ScheduleKey
from meshwright.services.schedules.table import ScheduledRun, SchedulePage
from meshwright.services.schedules.times import ScheduleSpec

router = make_router("schedules")
_NONE = {404: "There is no such schedule."}
_MAY_CHANGE = {403: "Only a caller with the role operator changes schedules."}
_DECLARED = {409: "It is declared in mesh.toml."}


class ScheduleChange(ScheduleSpec):
    """A schedule as it is to be. Without `paused` it stays paused or active."""

    paused: bool | None = None


class ScheduleRequest(ScheduleChange):
    """A new schedule; without an `id` it gets one."""

    id: Identifier | None = None


class _ScheduleQuery(Strict):
    """Which schedules to list. `cursor` is the `cursor` of the page before."""

    limit: int = Field(default=100, ge=1, le=500)
    cursor: Identifier | None = None


class _CountQuery(Strict):
    count: int = Field(default=5, ge=1, le=100)


class DueTimes(BaseModel):
    """Due times, the next one first."""

    items: list[DueTime]


async def _schedules_of(mesh: MeshDep) -> Schedules:
    return mesh.get(Schedules)


async def _key_of(caller: CallerDep, schedule_id: Annotated[str, Path(pattern=ID_PATTERN)]) -> ScheduleKey:
    return ScheduleKey(caller.tenant_id, schedule_id)


_Service = Annotated[Schedules, Depends(_schedules_of)]
_ViewerDep = Annotated[Caller, by_rule(SEE)]
_OperatorDep = Annotated[Caller, by_rule(CHANGE)]
_Key = Annotated[ScheduleKey, Depends(_key_of)]


@router.get("/schedules", summary="List schedules")
async def _list_schedules(
    schedules: _Service, caller: _ViewerDep, query: Annotated[_ScheduleQuery, Query()]
) -> SchedulePage:
    """List the schedules of your tenant by id, with their next due time and the result of the last."""
    return await schedules.page(caller, after=query.cursor or "", limit=query.limit)


@router.post(
    "/schedules",
    status_code=201,
    summary="Make a schedule",
    response_description="Durable.",
    responses=problems({409: "There is one with that id.", **_MAY_CHANGE}),
)
async def _create_schedule(
    schedules: _Service, caller: _OperatorDep, request: ScheduleRequest, response: Response
) -> ScheduleView:
    """Submit a task at due times: by `cron` in a time `zone`, at an interval, or once `at` a time.

    `task` is a task as `POST /tasks` takes it. Tasks are requested by `schedule:ID`.
    """
    key = ScheduleKey(caller.tenant_id, request.id or f"s-{new_id().lower()}")
    schedule, _ = await schedules.put(key, _spec_of(request), caller, paused=request.paused, is_new=True)
    response.headers["Location"] = f"/schedules/{key.schedule_id}"
    return schedule


@router.get("/schedules/{schedule_id}", summary="Show a schedule", responses=problems(_NONE))
async def _show_schedule(schedules: _Service, caller: _ViewerDep, key: _Key) -> ScheduleView:
    """Show a schedule with its last 20 runs, the last one first."""
    return await schedules.show(key, caller)


@router.put(
    "/schedules/{schedule_id}",
    summary="Make or change one",
    response_description="It was changed; durable.",
    responses={
        **problems({**_MAY_CHANGE, **_DECLARED}),
        201: {"model": ScheduleView, "description": "Made."},
    },
)
async def _put_schedule(
    schedules: _Service, caller: _OperatorDep, key: _Key, change: ScheduleChange, response: Response
) -> ScheduleView:
    """Create a schedule, or replace its fields. A change of `cron`, interval, `at` or `zone` restarts it."""
    put, is_new = await schedules.put(key, _spec_of(change), caller, paused=change.paused)
    response.status_code = 201 if is_new else 200
    return put


@router.delete(
    "/schedules/{schedule_id}",
    status_code=204,
    summary="Delete a schedule",
    responses=problems({**_NONE, **_MAY_CHANGE, **_DECLARED}),
)
async def _delete_schedule(schedules: _Service, caller: _OperatorDep, key: _Key) -> Response:
    """Delete a schedule. Tasks that it has started go on."""
    await schedules.remove(key, caller)
    return Response(status_code=204)


@router.post(
    "/schedules/{schedule_id}/pause",
    summary="Pause a schedule",
    responses=problems({**_NONE, **_MAY_CHANGE}),
)
async def _pause_schedule(schedules: _Service, caller: _OperatorDep, key: _Key) -> ScheduleView:
    """Run nothing until it is resumed."""
    return await schedules.pause(key, caller)


@router.post(
    "/schedules/{schedule_id}/resume",
    summary="Resume a schedule",
    responses=problems({**_NONE, **_MAY_CHANGE}),
)
async def _resume_schedule(schedules: _Service, caller: _OperatorDep, key: _Key) -> ScheduleView:
    """Go on, and make up for due times that have passed meanwhile as `catch_up` says."""
    return await schedules.resume(key, caller)


@router.post(
    "/schedules/{schedule_id}/run",
    status_code=202,
    summary="Run a schedule now",
    response_description="`status` says whether its task was `started`, or why not.",
    responses=problems({**_NONE, **_MAY_CHANGE}),
)
async def _run_schedule(schedules: _Service, caller: _OperatorDep, key: _Key) -> ScheduledRun:
    """Submit the task once more, now, whatever is open. The due times stay as they are."""
    return await schedules.run_now(key, caller)


@router.get("/schedules/{schedule_id}/next", summary="Preview due times", responses=problems(_NONE))
async def _preview_schedule(
    schedules: _Service, caller: _ViewerDep, key: _Key, query: Annotated[_CountQuery, Query()]
) -> DueTimes:
    """Show when it is due next, also while it is paused."""
    return DueTimes(items=await schedules.preview(key, caller, query.count))


def _spec_of(change: ScheduleChange) -> ScheduleSpec:
    return ScheduleSpec(**{name: getattr(change, name) for name in ScheduleSpec.model_fields})
