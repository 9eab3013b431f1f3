"""The component of schedules: their operations, and the jobs of mesh.toml."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, Field

from meshwright import MeshError, TaskRequest
from meshwright.component import Audit, Caller, Mesh, Tasks
from meshwright.kit import (
    ConfigError,
    Identifier,
    InvalidInput,
    Limit,
    NoAgentAvailable,
    NotFound,
    Registry,
    Role,
    Rule,
    has_role,
    new_id,
    operation,
)
from meshwright.mesh.orchestration.acceptance import make_task
from meshwright.parts.schedules import table
from meshwright.parts.schedules.schedule import (
    PendingRun,
    Put,
    Schedule,
    ScheduledRun,
    ScheduleKey,
    ScheduleState,
    ScheduleSummary,
)
from meshwright.parts.schedules.settings import SchedulesSettings
from meshwright.parts.schedules.table import SchedulePage, ScheduleRunner
from meshwright.parts.schedules.times import ScheduleSpec, due_times, fires_at, local

_SEE = Rule("sees schedules", (Role.VIEWER,))
_CHANGE = Rule("changes schedules", (Role.OPERATOR,))
_NONE = {404: "There is no such schedule."}
_MAY_CHANGE = {403: "Only a caller with the role operator changes schedules."}
_DECLARED = {409: "It is declared in mesh.toml."}
_FILE = Caller(requested_by="mesh.toml", source="settings")


class ScheduleView(ScheduleSummary):
    """A whole schedule. `task` is the request that it submits, for callers who may see contents.

    `history` has its last 20 runs, the last one first; `pending` counts those that wait for the one before.
    """

    catch_up: str
    max_catch_up: int
    overlap: str
    jitter_seconds: float
    until: datetime | None = None
    max_runs: int | None = None
    task: TaskRequest | None = None
    pending: int = 0
    history: list[ScheduledRun] = Field(default_factory=list)


class DueTime(BaseModel):
    """A due time: in UTC, as clocks in the schedule's zone show it, and when its run begins with jitter."""

    due_at: datetime
    local: datetime
    fires_at: datetime


class DueTimes(BaseModel):
    """Due times, the next one first."""

    items: list[DueTime]


class ScheduleChange(ScheduleSpec):
    """A schedule as it is to be. Without `paused` it stays paused or active."""

    paused: bool | None = None


class ScheduleRequest(ScheduleChange):
    """A new schedule; without an `id` it gets one."""

    id: Identifier | None = None


class Schedules:
    """The schedules of a mesh. Each operation raises NotFound for a schedule that the tenant does not have.

    Changes are durable when they return. They raise Conflict for a schedule that comes from mesh.toml.
    """

    config: SchedulesSettings

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings[SchedulesSettings]
        self._clock = mesh.runtime.clock
        if mesh.role.is_front:
            self._runner = ScheduleRunner(mesh)

    async def start(self) -> None:
        """Apply the schedules of the settings."""
        if self.mesh.role.is_front:
            await self._declare()

    async def begin(self) -> None:
        """Run the schedules that are due."""
        if self.mesh.role.is_front:
            await self._runner.start()

    async def stop(self) -> None:
        """Run nothing more."""
        if self.mesh.role.is_front:
            await self._runner.stop()

    @operation(_SEE, "GET /schedules", "List schedules")
    async def list_schedules(
        self, caller: Caller, *, limit: Limit = 100, cursor: Identifier | None = None
    ) -> SchedulePage:
        """List the schedules of your tenant by id, with their next due time and the result of the last."""
        return await self.mesh.log.view(table.list_schedules, caller.tenant_id, cursor or "", limit)

    @operation(
        _CHANGE,
        "POST /schedules",
        "Make a schedule",
        status=201,
        response="Durable.",
        errors={409: "There is one with that id.", **_MAY_CHANGE},
        headers={"Location": "/schedules/{0.id}"},
    )
    async def create_schedule(self, caller: Caller, request: ScheduleRequest) -> ScheduleView:
        """Submit a task at due times: by `cron` in a time `zone`, at an interval, or once `at` a time.

        `task` is a task as `POST /tasks` takes it. Tasks are requested by `schedule:ID`.
        """
        key = ScheduleKey(caller.tenant_id, request.id or f"s-{new_id().lower()}")
        schedule, _ = await self._apply(key, request, caller, is_new=True)
        return schedule

    @operation(_SEE, "GET /schedules/{schedule_id}", "Show a schedule", errors=_NONE)
    async def show_schedule(self, schedule_id: Identifier, caller: Caller) -> ScheduleView:
        """Show a schedule with its last 20 runs, the last one first."""
        key = ScheduleKey(caller.tenant_id, schedule_id)
        return await self._view(key, with_task=has_role(caller, Role.CONTENTS))

    @operation(
        _CHANGE,
        "PUT /schedules/{schedule_id}",
        "Make or change one",
        response="It was changed; durable.",
        created="Made.",
        errors=_MAY_CHANGE | _DECLARED,
    )
    async def put_schedule(
        self, schedule_id: Identifier, caller: Caller, change: ScheduleChange
    ) -> tuple[ScheduleView, bool]:
        """Create a schedule, or replace its fields. A change of `cron`, interval, `at` or `zone` restarts it."""  # noqa: E501
        return await self._apply(ScheduleKey(caller.tenant_id, schedule_id), change, caller)

    @operation(
        _CHANGE,
        "DELETE /schedules/{schedule_id}",
        "Delete a schedule",
        status=204,
        errors=_NONE | _MAY_CHANGE | _DECLARED,
    )
    async def delete_schedule(self, schedule_id: Identifier, caller: Caller) -> None:
        """Delete a schedule. Tasks that it has started go on."""
        key = ScheduleKey(caller.tenant_id, schedule_id)
        await self._change(caller, "deleted", key, partial(Schedule.remove, declared=False))

    @operation(_CHANGE, "POST /schedules/{schedule_id}/pause", "Pause a schedule", errors=_NONE | _MAY_CHANGE)
    async def pause_schedule(self, schedule_id: Identifier, caller: Caller) -> ScheduleView:
        """Run nothing until it is resumed."""
        key = ScheduleKey(caller.tenant_id, schedule_id)
        await self._change(caller, "paused", key, partial(Schedule.pause, paused=True))
        return await self.show_schedule(schedule_id, caller)

    @operation(
        _CHANGE, "POST /schedules/{schedule_id}/resume", "Resume a schedule", errors=_NONE | _MAY_CHANGE
    )
    async def resume_schedule(self, schedule_id: Identifier, caller: Caller) -> ScheduleView:
        """Go on, and make up for due times that have passed meanwhile as `catch_up` says."""
        key = ScheduleKey(caller.tenant_id, schedule_id)
        await self._change(caller, "resumed", key, partial(Schedule.pause, paused=False))
        self._runner.signal(key)
        return await self.show_schedule(schedule_id, caller)

    @operation(
        _CHANGE,
        "POST /schedules/{schedule_id}/run",
        "Run a schedule now",
        status=202,
        response="`status` says whether its task was `started`, or why not.",
        errors=_NONE | _MAY_CHANGE,
    )
    async def run_schedule(self, schedule_id: Identifier, caller: Caller) -> ScheduledRun:
        """Submit the task once more, now, whatever is open. The due times stay as they are."""
        key = ScheduleKey(caller.tenant_id, schedule_id)
        run_now = partial(Schedule.run_now, by=caller.requested_by, name=new_id())
        run: PendingRun = await self._change(caller, "run", key, run_now)
        await self._runner.submit(key, await self._state(key), run)
        history = (await self._state(key)).history
        runs = await self.mesh.log.view(table.with_outcomes, key.tenant_id, history)
        result = next((other for other in runs if other.task_id == run.task_id), None)
        if result is None:
            raise NotFound(
                f"The run {run.task_id} is not in the history", remedy="Look for its task", field="id"
            )
        return result

    @operation(_SEE, "GET /schedules/{schedule_id}/next", "Preview due times", errors=_NONE)
    async def preview_schedule(
        self, schedule_id: Identifier, caller: Caller, *, count: Annotated[int, Field(ge=1, le=100)] = 5
    ) -> DueTimes:
        """Show when it is due next, also while it is paused."""
        key = ScheduleKey(caller.tenant_id, schedule_id)
        state = await self._state(key)
        spec, anchor = state.spec, state.anchor
        count_left = count if spec.max_runs is None else min(count, max(0, spec.max_runs - state.runs))
        after = max(state.position, self._clock.now())
        items = [
            DueTime(due_at=due, local=local(spec, due), fires_at=fires_at(spec, key.name, anchor, due))
            for due in islice(due_times(spec, anchor, after), count_left)
        ]
        return DueTimes(items=items)

    async def _view(self, key: ScheduleKey, *, with_task: bool) -> ScheduleView:
        state = await self._state(key)
        settings = state.spec.model_dump(
            include={"catch_up", "max_catch_up", "overlap", "jitter_seconds", "until", "max_runs"}
        )
        history = await self.mesh.log.view(table.with_outcomes, key.tenant_id, state.history)
        return ScheduleView(
            **dict(state.summary(key.schedule_id)) | {"last_run": history[0] if history else None},
            **settings,
            task=state.spec.task if with_task else None,
            pending=len(state.pending),
            history=history,
        )

    async def _apply(
        self, key: ScheduleKey, change: ScheduleChange, caller: Caller, *, is_new: bool = False
    ) -> tuple[ScheduleView, bool]:
        """Create or change a schedule; returns it, and whether it is new.

        Raises InvalidInput, NotFound for an agent that the mesh does not have, and Conflict if it is to be
        new and exists.
        """
        spec = ScheduleSpec(**{name: getattr(change, name) for name in ScheduleSpec.model_fields})
        spec = spec.checked(self._clock.now())
        self._check_task(spec.task, caller)
        put = Put(
            spec=spec, by=caller.requested_by, budgets=caller.budgets, paused=change.paused, is_new=is_new
        )
        is_new = await self._put(caller, key, put)
        return await self._view(key, with_task=True), is_new

    async def _state(self, key: ScheduleKey) -> ScheduleState:
        return await self.mesh.database.read(table.find, key)

    def _check_task(self, task: TaskRequest, caller: Caller) -> None:
        """Raises the errors of submitting the task, naming its field."""
        try:
            limits, registry = self.mesh.get(Tasks).payload_limits, self.mesh.get(Registry)
            new_task = make_task(task, caller, now=self._clock.now(), limits=limits)
            capabilities = registry.capabilities()
            if task.agent_id is not None:
                registry.find(task.agent_id)
            elif task.capability not in capabilities:
                raise InvalidInput(
                    f"No agent has the capability {task.capability!r}",
                    remedy=f"Known are {', '.join(capabilities)}",
                    field="capability",
                )
            with suppress(NoAgentAvailable):  # there may be one when it is due
                registry.choose(new_task)
        except MeshError as error:
            error.field = f"task.{error.field}"
            raise

    async def _put(self, caller: Caller, key: ScheduleKey, put: Put) -> bool:
        when = {"cron", "every_seconds", "at", "zone"}
        details = put.spec.model_dump(mode="json", include=when, exclude_none=True)
        subject = f"schedules/{key.schedule_id}"
        async with self.mesh.get(Audit).change(caller, "schedule.changed", subject, details):
            return await self._runner.put(key, put, self.config.max_per_tenant)

    async def _change(self, caller: Caller, action: str, key: ScheduleKey, method: Callable[..., Any]) -> Any:
        """Audit a change of a schedule that exists, and make it."""
        await self._state(key)
        async with self.mesh.get(Audit).change(caller, f"schedule.{action}", f"schedules/{key.schedule_id}"):
            return await self._runner.change(key, method)

    async def _declare(self) -> None:
        """Bring the declared schedules in line with the settings. Raises ConfigError."""
        declared = await self.mesh.database.read(table.declared_schedules)
        for job in self.config.jobs:
            key = ScheduleKey(job.tenant_id, job.id)
            spec = ScheduleSpec.model_validate(job.model_dump(exclude={"id", "tenant_id"}))
            try:
                spec = spec.checked()
            except MeshError as error:
                raise ConfigError(
                    f"[[schedules.jobs]] {job.id}: {error.message}", remedy=error.remedy, field="schedules"
                ) from None
            before = declared.pop(key, None)
            if before is None or before.spec != spec:
                await self._put(_FILE, key, Put(spec=spec, by=_FILE.requested_by, declared=True))
        for key in declared:  # the file has it no longer
            with suppress(NotFound):
                await self._change(_FILE, "deleted", key, partial(Schedule.remove, declared=True))
