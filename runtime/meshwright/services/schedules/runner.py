"""Carries out what schedules decide: submits the tasks of their runs, and reports the results.

It works for the schedules whose turns ran in this process, as their signals say. Whatever it does may be done
again, here or in another process: a task is known by its idempotency key.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from meshwright.core import topics
from meshwright.core.access import Role
from meshwright.core.clock import Backoff
from meshwright.core.errors import HostError, IdempotencyConflict, MeshError, NoAgentAvailable, NotFound
from meshwright.core.messages import ENDED, Caller, Event
from meshwright.identity.operations import Operations
from meshwright.kernel.envelope import ActorRef
from meshwright.mesh import FINAL, Mesh
from meshwright.services.schedules.actor import (
    SCHEDULE,
    SOURCE,
    Ended,
    PendingRun,
    Report,
    ScheduleKey,
    ScheduleState,
)
from meshwright.work.record import read_task

_logger = logging.getLogger("meshwright.schedules")
_AGENT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds: after a start, agents elsewhere are not known yet


class ScheduleRunner:
    """Takes the signals of schedules; a part of the mesh's front."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._working: dict[ActorRef, asyncio.Task[None]] = {}
        self._again: set[ActorRef] = set()
        self._is_running = False
        mesh.host.attach(self, SCHEDULE)
        mesh.host.listen(topics.TASK_PROGRESS, self._ended, FINAL, sealed=True)

    async def start(self) -> None:
        """Begin, also with what was signalled before."""
        self._is_running = True
        for ref in list(self._again):
            self.signal(ref, None)

    async def stop(self) -> None:
        """End; what is left goes on at the next start."""
        self._is_running = False
        working = list(self._working.values())
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def signal(self, ref: ActorRef, signal: object) -> None:
        """Carry out what a schedule has decided, or is to decide."""
        self._again.add(ref)
        if self._is_running and ref not in self._working:
            self._working[ref] = asyncio.create_task(self._work(ref), name=f"runs of {ref}")

    def lease_lost(self) -> None:
        """Nothing: the schedules are asked to recover."""

    async def done(self, ref: ActorRef) -> None:
        """Return once all that was signalled of a schedule is carried out."""
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
                except HostError as error:
                    await self._later(ref, pauses, error)
                except Exception as error:  # whatever it was, the schedule must not stand still for good
                    _logger.exception("the runs of %s are tried again", ref)
                    await self._later(ref, pauses, error)
        finally:
            del self._working[ref]

    async def _later(self, ref: ActorRef, pauses: Backoff, error: Exception) -> None:
        _logger.info("the runs of %s wait: %s", ref, error)
        self._again.add(ref)
        await asyncio.sleep(pauses.next())

    async def _advance(self, ref: ActorRef) -> None:
        """Have a schedule decide, submit what starts, and report it."""
        state, host = await self._mesh.host.read(ref), self._mesh.host
        if not isinstance(state, ScheduleState) or not state.pending:
            return
        key = ScheduleKey.of(ref)
        ended = [task_id for task_id in state.open if await self._has_ended(key.tenant_id, task_id)]
        for run in await host.call(ref, "decide", Ended(task_ids=ended)):
            report = await self._submitted(key, state, PendingRun.model_validate(run, from_attributes=True))
            await host.call(ref, "report", report)
            self._again.add(ref)  # what is queued behind it may have become free

    async def _has_ended(self, tenant_id: str, task_id: str) -> bool:
        try:
            record, _ = await read_task(self._mesh.host, task_id, tenant_id)
        except NotFound:
            return True
        return record.status in ENDED

    async def _submitted(self, key: ScheduleKey, state: ScheduleState, run: PendingRun) -> Report:
        """Submit a run, and return the result. Raises HostError while that is unknown."""
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
        request = state.spec.task
        report = Report(idempotency_key=run.idempotency_key, status="started")
        clock = self._mesh.host.clock
        for pause in (*([] if run.by else _AGENT_PAUSES), None):
            try:
                await operations.submit(request, idempotency_key=run.idempotency_key)
                break
            except NoAgentAvailable as error:
                reason = f"{error.code}: {error}"
            except HostError:
                raise
            except IdempotencyConflict:  # it was submitted before the schedule was changed
                break
            except MeshError as error:
                return report.model_copy(update={"status": "failed", "reason": f"{error.code}: {error}"})
            if pause is None:
                return report.model_copy(update={"status": "failed", "reason": reason})
            await clock.sleep_until(clock.now() + timedelta(seconds=pause))
        return report
