"""Reviews threads that recover: they may have missed a cancel, or the end of a delegated task.

Versions that dropped messages to agents that were not loaded have left such threads.
"""

from __future__ import annotations

import asyncio
import logging

from meshwright.core.errors import HostError
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import Cancel, TaskKey, tenant_of
from meshwright.work.record import Entry, TaskRecord, ThreadState

logger = logging.getLogger("meshwright.work")


class Reviews:
    """Reviews threads one after another."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._due: dict[ActorRef, None] = {}
        self._reviewing: asyncio.Task[None] | None = None

    def add(self, ref: ActorRef) -> None:
        """Review a thread soon."""
        self._due[ref] = None
        if self._reviewing is None or self._reviewing.done():
            self._reviewing = asyncio.create_task(self._review_all(), name="review of threads")

    def stop(self) -> None:
        """Review no more: the next start does."""
        self._due.clear()
        if self._reviewing is not None:
            self._reviewing.cancel()

    async def _review_all(self) -> None:
        while self._due:
            ref = next(iter(self._due))
            del self._due[ref]  # before the read: if it recovers meanwhile it is reviewed again
            try:
                state = await self._runtime.read(ref)
                for entry in state.inbox if isinstance(state, ThreadState) else ():
                    await self._review(ref, entry)
                    await asyncio.sleep(0)  # a read need not wait, and others get their turn
            except HostError as error:
                logger.warning("%s is reviewed at the next start: %s", ref, error)
            except Exception:  # a defect in one thread must not end the review of the others
                logger.exception("%s could not be reviewed; the next start tries again", ref)

    async def _review(self, ref: ActorRef, entry: Entry) -> None:
        tenant_id = tenant_of(ref)
        if entry.cancelled is None:
            record = await self._record(TaskKey(tenant_id, entry.task_id))
            attempt = None if record is None else record.open_attempt
            is_open = attempt is not None and attempt.attempt == entry.attempt
            if record is not None and (record.cancelling or not is_open):
                cancel = Cancel(task_id=entry.task_id, generation=entry.generation, attempt=entry.attempt)
                await self._runtime.call(ref, "cancel", cancel)
        for child_id in entry.children:
            record = await self._record(child := TaskKey(tenant_id, child_id))
            if record is not None and record.outcome is not None:
                await self._runtime.call(child.ref, "repeat_end")

    async def _record(self, key: TaskKey) -> TaskRecord | None:
        record = await self._runtime.read(key.ref)
        return record if isinstance(record, TaskRecord) and record.task is not None else None
