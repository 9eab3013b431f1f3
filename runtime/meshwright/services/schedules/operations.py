"""The component of schedules: their operations, and the jobs of mesh.toml."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from meshwright.core.access import Role
from meshwright.core.errors import ConfigError, InvalidInput, MeshError, NoAgentAvailable, NotFound
from meshwright.core.ids import new_id
from meshwright.core.messages import Caller, TaskRequest
from meshwright.events.audit import Audit
from meshwright.identity.rules import Rule, has_role
from meshwright.mesh import Mesh
from meshwright.orchestration.acceptance import make_task
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.tasks import Tasks
from meshwright.services.schedules import table
from meshwright.services.schedules.runner import ScheduleRunner
from meshwright.services.schedules.schedule import (
    PendingRun,
    Put,
    Schedule,
    ScheduleKey,
    ScheduleState,
    ScheduleSummary,
)
from meshwright.services.schedules.settings import SchedulesSettings
from meshwright.services.schedules.table import ScheduledRun, SchedulePage
from meshwright.services.schedules.times import ScheduleSpec, due_times, fires_at, local

if TYPE_CHECKING:
    pass

SEE = Rule("sees schedules", (Role.VIEWER,))
CHANGE = Rule("changes schedules", (Role.OPERATOR,))
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


class Schedules:
    """The schedules of a mesh. Each operation raises NotFound for a schedule that the tenant does not have.

    It raises the errors of `SEE` or `CHANGE` for a caller who may not see or change schedules.
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

    async def page(self, caller: Caller, *, after: str = "", limit: int = 100) -> SchedulePage:
        """Schedules of the caller's tenant by id, after one."""
        SEE.check(caller)
        return await self.mesh.database.read(table.list_schedules, caller.tenant_id, after, limit)

    async def show(self, key: ScheduleKey, caller: Caller) -> ScheduleView:
        """A schedule with its history, and with its task for a caller who sees contents."""
        SEE.check(caller)
        return await self._view(key, with_task=has_role(caller, Role.CONTENTS))

    async def _view(self, key: ScheduleKey, *, with_task: bool) -> ScheduleView:
        state = await self._state(key)
        settings = state.spec.model_dump(
            include={"catch_up", "max_catch_up", "overlap", "jitter_seconds", "until", "max_runs"}
        )
        return ScheduleView(
            **dict(state.summary(key.schedule_id)),
            **settings,
            task=state.spec.task if with_task else None,
            pending=len(state.pending),
            history=await self.mesh.log.view(table.with_outcomes, key.tenant_id, state.history),
        )

    async def put(
        self,
        key: ScheduleKey,
        spec: ScheduleSpec,
        caller: Caller,
        *,
        paused: bool | None,
        is_new: bool = False,
    ) -> tuple[ScheduleView, bool]:
        """Create or change a schedule; returns it, and whether it is new. Durable when this returns.

        Raises InvalidInput, NotFound for an agent that the mesh does not have, and Conflict if it is to be
        new and exists, or comes from mesh.toml.
        """
        CHANGE.check(caller)
        spec = spec.checked(self._clock.now())
        self._check_task(spec.task, caller)
        put = Put(spec=spec, by=caller.requested_by, budgets=caller.budgets, paused=paused, is_new=is_new)
        is_new = await self._put(caller, key, put)
        return await self._view(key, with_task=True), is_new

    async def remove(self, key: ScheduleKey, caller: Caller) -> None:
        """Delete a schedule; tasks that it has started go on. Raises Conflict if it comes from mesh.toml."""
        CHANGE.check(caller)
        await self._change(caller, "deleted", key, partial(Schedule.remove, declared=False))

    async def pause(self, key: ScheduleKey, caller: Caller) -> ScheduleView:
        """Run nothing until it is resumed."""
        CHANGE.check(caller)
        await self._change(caller, "paused", key, partial(Schedule.pause, paused=True))
        return await self.show(key, caller)

    async def resume(self, key: ScheduleKey, caller: Caller) -> ScheduleView:
        """Go on, and make up for due times that have passed as `catch_up` says."""
        CHANGE.check(caller)
        await self._change(caller, "resumed", key, partial(Schedule.pause, paused=False))
        self._runner.signal(key)
        return await self.show(key, caller)

    async def run_now(self, key: ScheduleKey, caller: Caller) -> ScheduledRun:
        """Run once now, even if a task is open; the due times stay as they are. Returns the result."""
        CHANGE.check(caller)
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

    async def preview(self, key: ScheduleKey, caller: Caller, count: int) -> list[DueTime]:
        """The next due times, also those of a paused schedule."""
        SEE.check(caller)
        state = await self._state(key)
        spec, anchor = state.spec, state.anchor
        count_left = count if spec.max_runs is None else min(count, max(0, spec.max_runs - state.runs))
        after = max(state.position, self._clock.now())
        return [
            DueTime(due_at=due, local=local(spec, due), fires_at=fires_at(spec, key.name, anchor, due))
            for due in islice(due_times(spec, anchor, after), count_left)
        ]

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
