"""Tasks that were begun at other systems, and are cancelled there once nobody waits for them any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from meshwright.core import topics
from meshwright.core.clock import Backoff
from meshwright.core.errors import MeshError
from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.earlier_records import read_steps
from meshwright.engine.work.protocol import steps_stream
from meshwright.engine.work.record import read_task
from meshwright.mesh.mesh import Mesh

_UNSUCCESSFUL = ("task.failed", "task.cancelled", "task.timed_out")
_LOOK_BACK, _MAX_LOOK_BACK = timedelta(days=1), 100
_MAX_TRIES = 40
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0
_logger = logging.getLogger("meshwright.mesh")


class TaskElsewhere(NamedTuple):
    """A task at another system, as the result of a step of the mesh has it."""

    place: str
    """The name of the other system; no text where the result does not say it."""
    id: str
    """Its id there."""
    has_ended: bool
    """Whether it has ended there."""


class CancelsElsewhere:
    """Cancels tasks at other systems whose tasks of the mesh have ended without success.

    `read` tells of the result of a step of an agent which task elsewhere it is about. `cancel` cancels the
    task of an id at a place; it raises MeshError where the place is away, and is called again then.
    """

    def __init__(
        self,
        mesh: Mesh,
        read: Callable[[str, Mapping[str, Any]], TaskElsewhere | None],
        cancel: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._mesh, self._read, self._cancel = mesh, read, cancel
        self._cancelling: set[asyncio.Task[None]] = set()
        mesh.runtime.listen(topics.TASK_PROGRESS, self._note, _UNSUCCESSFUL, sealed=True)

    async def start(self, agent_ids: Iterable[str]) -> None:
        """Cancel too what tasks of some agents had begun that ended within the last day.

        The mesh may have stopped before it had told the other system.
        """
        since = datetime.now(UTC) - _LOOK_BACK
        for agent_id in agent_ids:
            for kind in _UNSUCCESSFUL:
                newest = EventFilter(
                    agent_id=agent_id, event_type=kind, since=since, limit=_MAX_LOOK_BACK, order="desc"
                )
                for event in await self._mesh.log.query(newest):
                    self._note(event)

    async def stop(self) -> None:
        """Cancel no more. Idempotent."""
        for task in self._cancelling:
            task.cancel()
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    def _note(self, event: Event) -> None:
        if event.task_id is not None:
            work = self._cancel_all(event.task_id, event.tenant_id)
            task = asyncio.create_task(work, name=f"cancel elsewhere for {event.task_id}")
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    async def _cancel_all(self, task_id: str, tenant_id: str) -> None:
        try:
            open_tasks = await self._open_tasks(task_id, tenant_id)
        except MeshError as error:
            _logger.warning("Tasks elsewhere of task %s were not cancelled: %s", task_id, error)
            return
        await asyncio.gather(*(self._cancel_one(place, remote) for remote, place in open_tasks.items()))

    async def _open_tasks(self, task_id: str, tenant_id: str) -> dict[str, str]:
        """The places of the tasks that a task has begun and not seen end, by the ids of these."""
        record, task = await read_task(self._mesh.runtime, task_id, tenant_id)
        begun, ended = dict[str, str](), set[str]()
        for attempt in record.attempts:
            ref = ActorRef(attempt.agent_id, f"{tenant_id}:{task.thread_id}")
            steps = steps_stream(task_id, attempt.generation, attempt.attempt)
            records, _ = await read_steps(self._mesh.runtime, ref, steps, 1)
            for result in (record.value.get("result") for record in records):
                if not isinstance(result, dict) or (seen := self._read(attempt.agent_id, result)) is None:
                    continue
                if seen.place:
                    begun[seen.id] = seen.place
                if seen.has_ended:
                    ended.add(seen.id)
        return {remote: place for remote, place in begun.items() if remote not in ended}

    async def _cancel_one(self, place: str, remote: str) -> None:
        pauses = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        for _ in range(_MAX_TRIES):
            try:
                return await self._cancel(place, remote)
            except MeshError as error:
                _logger.debug("%s is away: %s", place, error)
                await asyncio.sleep(pauses.next())
        _logger.warning("Task %s of %s was not cancelled: it is away", remote, place)
