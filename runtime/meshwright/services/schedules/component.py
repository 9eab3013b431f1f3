"""The component of schedules: their operations, the jobs of mesh.toml, and the runner of their tasks."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from meshwright.component import Actors, Component
from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.clock import Backoff
from meshwright.core.errors import (
    ConfigError,
    HostError,
    IdempotencyConflict,
    InvalidInput,
    MeshError,
    NoAgentAvailable,
    NotFound,
)
from meshwright.core.messages import ENDED, Caller, Event, TaskRequest, new_id
from meshwright.core.schedule import ScheduleSpec, due_times, fires_at, local
from meshwright.events.audit import Audit
from meshwright.events.projections import Projection
from meshwright.identity.operations import Operations
from meshwright.identity.rules import Rule, has_role
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import Mesh
from meshwright.orchestration.acceptance import FINAL, make_task
from meshwright.orchestration.registry import Registry
from meshwright.orchestration.tasks import Tasks
from meshwright.roles import FRONT
from meshwright.services.schedules.actor import (
    SCHEDULE,
    SOURCE,
    PendingRun,
    Put,
    Report,
    RunNow,
    Schedule,
    ScheduleKey,
    ScheduleState,
    ScheduleSummary,
    unknown_schedule,
)
from meshwright.services.schedules.table import (
    ScheduledRun,
    SchedulePage,
    ScheduleProjection,
    count_others,
    declared_schedules,
    list_schedules,
    with_outcomes,
)
from meshwright.work.record import read_task

if TYPE_CHECKING:
    from fastapi import APIRouter

SEE = Rule("sees schedules", (Role.VIEWER,))
CHANGE = Rule("changes schedules", (Role.OPERATOR,))
_FILE = Caller(requested_by="mesh.toml", source="settings")
_AGENT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds: after a start, agents elsewhere are not known yet
_logger = logging.getLogger("meshwright.schedules")


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


class Schedules(Component):
    """The schedules of a mesh. Each operation raises NotFound for a schedule that the tenant does not have.

    It raises the errors of `SEE` or `CHANGE` for a caller who may not see or change schedules.
    """

    name = "schedules"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._host, self._locks = mesh.host, defaultdict[str, asyncio.Lock](asyncio.Lock)
        if mesh.role.is_front:
            self._runner = ScheduleRunner(mesh)
            self.parts.append(self._runner)

    def actors(self) -> Iterable[Actors]:
        """One for each schedule."""
        return [Actors(ActorKind.of(Schedule, type=SCHEDULE), FRONT)]

    def projections(self) -> Iterable[Projection]:
        """The list of schedules."""
        return [ScheduleProjection()]

    def migrations(self) -> Traversable:
        """The table of the list."""
        return files("meshwright.services.schedules") / "tables"

    def routes(self) -> APIRouter:
        """`/schedules`."""
        from meshwright.services.schedules.routes import router

        return router

    async def start(self) -> None:
        """Apply the schedules of the settings, then begin."""
        if self.mesh.role.is_front:
            await self._declare()
        await super().start()

    async def page(self, caller: Caller, *, after: str = "", limit: int = 100) -> SchedulePage:
        """Schedules of the caller's tenant by id, after one."""
        SEE.check(caller)
        return await self.mesh.log.view(list_schedules, caller.tenant_id, after, limit)

    async def show(self, key: ScheduleKey, caller: Caller) -> ScheduleView:
        """A schedule with its history, and with its task for a caller who sees contents."""
        SEE.check(caller)
        return await self._view(key, with_task=has_role(caller, Role.CONTENTS))

    async def _view(self, key: ScheduleKey, *, with_task: bool) -> ScheduleView:
        state, spec = await self._state(key)
        settings = spec.model_dump(
            include={"catch_up", "max_catch_up", "overlap", "jitter_seconds", "until", "max_runs"}
        )
        return ScheduleView(
            **dict(state.summary(key.schedule_id)),
            **settings,
            task=spec.task if with_task else None,
            pending=len(state.pending),
            history=await self.mesh.log.view(with_outcomes, key.tenant_id, state.history),
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
        spec = spec.checked(self._host.clock.now())
        self._check_task(spec.task, caller)
        put = Put(spec=spec, by=caller.requested_by, budgets=caller.budgets, paused=paused, is_new=is_new)
        most = self.config.max_per_tenant
        async with self._locks[key.tenant_id]:
            if await self.mesh.log.view(count_others, key.tenant_id, key.schedule_id) >= most:
                raise InvalidInput(
                    f"Tenant {key.tenant_id} has {most:,} schedules already",
                    remedy="Delete some, or raise max_per_tenant in [schedules]",
                    field="id",
                )
            is_new = await self._put(caller, key, put)
        return await self._view(key, with_task=True), is_new

    async def remove(self, key: ScheduleKey, caller: Caller) -> None:
        """Delete a schedule; tasks that it has started go on. Raises Conflict if it comes from mesh.toml."""
        CHANGE.check(caller)
        await self._change(caller, "deleted", key, "remove", False)

    async def pause(self, key: ScheduleKey, caller: Caller) -> ScheduleView:
        """Run nothing until it is resumed."""
        CHANGE.check(caller)
        await self._change(caller, "paused", key, "pause", True)
        return await self.show(key, caller)

    async def resume(self, key: ScheduleKey, caller: Caller) -> ScheduleView:
        """Go on, and make up for due times that have passed as `catch_up` says."""
        CHANGE.check(caller)
        await self._change(caller, "resumed", key, "pause", False)
        return await self.show(key, caller)

    async def run_now(self, key: ScheduleKey, caller: Caller) -> ScheduledRun:
        """Run once now, even if a task is open; the due times stay as they are. Returns the result."""
        CHANGE.check(caller)
        wanted = RunNow(by=caller.requested_by, name=new_id())
        task_id = await self._change(caller, "run", key, "run_now", wanted)
        await self._runner.done(key.ref)
        state, _ = await self._state(key)
        runs = await self.mesh.log.view(with_outcomes, key.tenant_id, state.history)
        found = next((run for run in runs if run.task_id == task_id), None)
        if found is None:
            raise NotFound(f"The run {task_id} is not in the history", remedy="Look for its task", field="id")
        return found

    async def preview(self, key: ScheduleKey, caller: Caller, count: int) -> list[DueTime]:
        """The next due times, also those of a paused schedule."""
        SEE.check(caller)
        state, spec = await self._state(key)
        anchor, position = state.anchor, state.position
        if anchor is None or position is None:
            return []
        left = count if spec.max_runs is None else min(count, max(0, spec.max_runs - state.runs))
        after = max(position, self._host.clock.now())
        return [
            DueTime(due_at=due, local=local(spec, due), fires_at=fires_at(spec, key.ref.id, anchor, due))
            for due in islice(due_times(spec, anchor, after), left)
        ]

    async def _state(self, key: ScheduleKey) -> tuple[ScheduleState, ScheduleSpec]:
        state = await self._host.read(key.ref)
        if not isinstance(state, ScheduleState) or state.spec is None:
            raise unknown_schedule(key.schedule_id)
        return state, state.spec

    def _check_task(self, task: TaskRequest, caller: Caller) -> None:
        """Raises the errors of submitting the task, naming its field."""
        try:
            make_task(task, caller, now=self._host.clock.now(), limits=self.mesh.get(Tasks).payload_limits)
            known = self.mesh.get(Registry).capabilities()
            if task.agent_id is not None:
                self.mesh.get(Registry).find(task.agent_id)
            elif task.capability not in known:
                raise InvalidInput(
                    f"No agent has the capability {task.capability!r}",
                    remedy=f"Known are {', '.join(known)}",
                    field="capability",
                )
        except MeshError as error:
            error.field = f"task.{error.field}"
            raise

    async def _put(self, caller: Caller, key: ScheduleKey, put: Put) -> bool:
        when = {"cron", "every_seconds", "at", "zone"}
        details = put.spec.model_dump(mode="json", include=when, exclude_none=True)
        subject = f"schedules/{key.schedule_id}"
        async with self.mesh.get(Audit).change(caller, "schedule.changed", subject, details):
            return await self._host.call(key.ref, "put", put)

    async def _change(
        self, caller: Caller, action: str, key: ScheduleKey, turn: str, body: Any = None
    ) -> Any:
        """Audit a change of a schedule that exists, and make it."""
        await self._state(key)
        async with self.mesh.get(Audit).change(caller, f"schedule.{action}", f"schedules/{key.schedule_id}"):
            return await self._host.call(key.ref, turn, body)

    async def _declare(self) -> None:
        """Bring the declared schedules in line with the settings. Raises ConfigError."""
        declared = await self.mesh.log.view(declared_schedules)
        for job in self.config.jobs:
            key = ScheduleKey(job.tenant_id, job.id)
            declared.discard(key)
            spec = ScheduleSpec.model_validate(job.model_dump(exclude={"id", "tenant_id"}))
            try:
                spec = spec.checked()
            except MeshError as error:
                raise ConfigError(
                    f"[[schedules.jobs]] {job.id}: {error.message}", remedy=error.remedy, field="schedules"
                ) from None
            state = await self._host.read(key.ref)
            if not (isinstance(state, ScheduleState) and state.declared and state.spec == spec):
                await self._put(_FILE, key, Put(spec=spec, by=_FILE.requested_by, declared=True))
        for tenant_id, schedule_id in declared:  # the file has it no longer
            with suppress(NotFound):
                await self._change(_FILE, "deleted", ScheduleKey(tenant_id, schedule_id), "remove", True)


class ScheduleRunner:
    """Submits the tasks of the runs that schedules decide on, and reports the results to their actors.

    It works for the schedules that signal in this process. Every step may be repeated, here or in another
    process: a task is known by its idempotency key.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._working: dict[ActorRef, asyncio.Task[None]] = {}
        self._again: set[ActorRef] = set()
        self._is_running = False
        mesh.host.attach(self, SCHEDULE)
        mesh.host.listen(topics.TASK_PROGRESS, self._ended, FINAL, sealed=True)

    async def start(self) -> None:
        """Begin, with the schedules that have signalled before."""
        self._is_running = True
        for ref in list(self._again):
            self.signal(ref, None)

    async def stop(self) -> None:
        """End; open runs go on at the next start."""
        self._is_running = False
        working = list(self._working.values())
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def signal(self, ref: ActorRef, signal: object) -> None:
        """Carry out the runs of a schedule."""
        self._again.add(ref)
        if self._is_running and ref not in self._working:
            self._working[ref] = asyncio.create_task(self._work(ref), name=f"runs of {ref}")

    def lease_lost(self) -> None:
        """Nothing: the schedules are asked to recover."""

    async def done(self, ref: ActorRef) -> None:
        """Return once the signals of a schedule are handled."""
        if (working := self._working.get(ref)) is not None:
            await asyncio.shield(working)

    def _ended(self, event: Event) -> None:
        """A run that is queued may start when the one before it has ended."""
        source, _, rest = (event.idempotency_key or "").partition(":")
        if source == SOURCE:
            self.signal(ScheduleKey(event.tenant_id, rest.partition(":")[0]).ref, None)

    async def _work(self, ref: ActorRef) -> None:
        pauses = Backoff(0.25, 30.0)
        try:
            while ref in self._again:
                self._again.discard(ref)
                try:
                    await self._advance(ref)
                    pauses.reset()
                except Exception as error:  # whatever it was, the schedule must go on
                    level = logging.INFO if isinstance(error, HostError) else logging.ERROR
                    is_defect = level == logging.ERROR
                    _logger.log(level, "Retrying the runs of %s: %s", ref, error, exc_info=is_defect)
                    self._again.add(ref)
                    await asyncio.sleep(pauses.next())
        finally:
            del self._working[ref]

    async def _advance(self, ref: ActorRef) -> None:
        state, host = await self._mesh.host.read(ref), self._mesh.host
        if not isinstance(state, ScheduleState) or not state.pending:
            return
        key = ScheduleKey.of(ref)
        ended = [task_id for task_id in state.open if await self._has_ended(key.tenant_id, task_id)]
        for run in await host.call(ref, "decide", ended):
            report = await self._carry_out(key, state, PendingRun.model_validate(run, from_attributes=True))
            await host.call(ref, "report", report)
            self._again.add(ref)  # a run that is queued behind it may start now

    async def _has_ended(self, tenant_id: str, task_id: str) -> bool:
        try:
            record, _ = await read_task(self._mesh.host, task_id, tenant_id)
        except NotFound:
            return True
        return record.status in ENDED

    async def _carry_out(self, key: ScheduleKey, state: ScheduleState, run: PendingRun) -> Report:
        """Submit the task of a run, and return the result. Raises HostError while that is unknown."""
        assert state.spec is not None
        caller = Caller(
            tenant_id=key.tenant_id,
            requested_by=f"{SOURCE}:{key.schedule_id}",
            source=SOURCE,
            budgets=state.budgets,
            roles=frozenset({Role.SUBMITTER}),
        )
        operations = Operations(self._mesh, caller)
        for task_id in run.cancels:
            with suppress(NotFound):
                await operations.cancel(task_id)
        failure = None
        try:
            await self._submit(operations, state.spec.task, run)
        except HostError:
            raise
        except IdempotencyConflict:  # it was submitted before the schedule was changed
            pass
        except MeshError as error:
            failure = f"{error.code}: {error}"
        status = "failed" if failure else "started"
        return Report(idempotency_key=run.idempotency_key, status=status, reason=failure)

    async def _submit(self, operations: Operations, request: TaskRequest, run: PendingRun) -> None:
        clock = self._mesh.host.clock
        for pause in () if run.by else _AGENT_PAUSES:
            try:
                await operations.submit(request, idempotency_key=run.idempotency_key)
                return
            except NoAgentAvailable:
                await clock.sleep_until(clock.now() + timedelta(seconds=pause))
        await operations.submit(request, idempotency_key=run.idempotency_key)
