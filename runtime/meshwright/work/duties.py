"""Duties of a worker beside its tasks: reviews of threads that recover, and tasks handed to other workers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshwright.core.errors import HostError
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.kernel.timers import Duty
from meshwright.work.entry import Entry, ThreadState
from meshwright.work.protocol import Cancel, TaskKey, tenant_of
from meshwright.work.record import TaskRecord

if TYPE_CHECKING:
    from meshwright.work.worker import Worker

SHARE_SECONDS = 0.5
"""Between two looks: longer than the other workers take to publish what they were handed."""
_logger = logging.getLogger("meshwright.work")


class Sharing(Duty):
    """Publishes the loads of this worker, and hands over what others can begin sooner."""

    def __init__(self, runtime: Runtime, worker: Worker) -> None:
        self._runtime, self._worker = runtime, worker
        super().__init__(runtime.clock, SHARE_SECONDS, self._look, "shared tasks")

    async def _look(self) -> None:
        loads, waiting = self._worker.loads(), self._worker.waiting_by_agent()
        self._runtime.publish_loads(loads)
        others = self._runtime.loads() if waiting else {}
        for agent_id, count in waiting.items():
            if agent_id in loads:
                theirs = {name: load[agent_id] for name, load in others.items() if agent_id in load}
                for name, share in shares(loads[agent_id], theirs, self._worker.slots_of(agent_id)).items():
                    await self._hand_over(agent_id, name, min(share, count))
                    count -= min(share, count)

    async def _hand_over(self, agent_id: str, name: str, count: int) -> None:
        for offer in self._worker.take_waiting(agent_id, count):
            try:
                await self._runtime.hand_over(offer.ref, name)
            except HostError as error:
                _logger.warning("task %s stays here: %s", offer.task_id, error)
                self._worker.signal(offer.ref, offer)  # back into the slots here


def shares(own: int, others: Mapping[str, int], slots: int) -> dict[str, int]:
    """How many tasks of an agent each of the other workers gets, by its name, of one with `own` tasks.

    Only those with a free slot get some, up to the average; workers above it divide that among themselves.
    """
    average = (own + sum(others.values())) / (len(others) + 1)
    surplus = own - average
    total = surplus + sum(load - average for load in others.values() if load > average)
    gaps = {name: average - load for name, load in others.items() if load < min(average, slots)}
    counts = {name: int(gap * surplus / total) for name, gap in gaps.items()} if surplus > 0 else {}
    return {name: count for name, count in counts.items() if count}


class Reviews:
    """Reviews threads that recover: they may have missed a cancel, or the end of a delegated task.

    Versions that dropped messages to agents that were not loaded have left such threads.
    """

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
                _logger.warning("%s is reviewed at the next start: %s", ref, error)
            except Exception:  # a defect in one thread must not end the review of the others
                _logger.exception("%s could not be reviewed; the next start tries again", ref)

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
