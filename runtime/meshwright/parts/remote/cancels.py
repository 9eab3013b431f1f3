"""Cancels tasks at peers whose callers have ended without them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from meshwright import Event, MeshError
from meshwright.component import ActorRef, Mesh
from meshwright.core import topics
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work.earlier_records import read_steps
from meshwright.engine.work.protocol import steps_stream
from meshwright.engine.work.record import read_task
from meshwright.kit import Backoff
from meshwright.parts.remote.client import PeerFailed
from meshwright.parts.remote.peer import Peer
from meshwright.parts.remote.wire import ENDED

_UNSUCCESSFUL = frozenset({"task.failed", "task.cancelled", "task.timed_out"})
_LOOK_BACK, _MAX_LOOK_BACK = timedelta(days=1), 100
_MAX_TRIES = 40
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 1.0, 60.0
_logger = logging.getLogger("meshwright.remote")


class RemoteCancels:
    """Cancels the open tasks of peers whose task of the mesh has ended without success."""

    def __init__(self, mesh: Mesh, peers: Mapping[str, Peer]) -> None:
        self._mesh, self._peers = mesh, peers
        self._cancelling: set[asyncio.Task[None]] = set()
        mesh.runtime.listen(topics.TASK_PROGRESS, self._note, _UNSUCCESSFUL, sealed=True)

    async def start(self) -> None:
        """Cancel too what ended within the last day: peers may not have been told before the mesh stopped."""
        since = datetime.now(UTC) - _LOOK_BACK
        for agent_id in self._peers:
            for kind in sorted(_UNSUCCESSFUL):
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
            work = self._cancel(event.task_id, event.tenant_id)
            task = asyncio.create_task(work, name=f"cancel at peers for {event.task_id}")
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, task_id: str, tenant_id: str) -> None:
        try:
            open_tasks = await self._open_tasks(task_id, tenant_id)
            await asyncio.gather(*(self._cancel_one(peer, remote) for remote, peer in open_tasks.items()))
        except MeshError as error:
            _logger.warning("Tasks of peers for task %s were not cancelled: %s", task_id, error)

    async def _open_tasks(self, task_id: str, tenant_id: str) -> dict[str, Peer]:
        """The peers of the tasks that a task has begun and not seen end, by the ids of these."""
        record, task = await read_task(self._mesh.runtime, task_id, tenant_id)
        begun, ended = dict[str, Peer](), set[str]()
        for attempt in record.attempts:
            if (peer := self._peers.get(attempt.agent_id)) is None:
                continue
            ref = ActorRef(attempt.agent_id, f"{tenant_id}:{task.thread_id}")
            steps = steps_stream(task_id, attempt.generation, attempt.attempt)
            records, _ = await read_steps(self._mesh.runtime, ref, steps, 1)
            for state in (record.value.get("result") for record in records):
                if isinstance(state, dict) and state.get("remote") == peer.name and "id" in state:
                    begun[state["id"]] = peer
                    if state.get("state") in ENDED:
                        ended.add(state["id"])
        return {remote: peer for remote, peer in begun.items() if remote not in ended}

    async def _cancel_one(self, peer: Peer, remote: str) -> None:
        pauses = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        for _ in range(_MAX_TRIES):
            try:
                await peer.client.call(await peer.interface(), "CancelTask", {"id": remote})
                return
            except PeerFailed as error:
                if not error.is_away:
                    return _logger.info("Task %s of %s was not cancelled: %s", remote, peer.name, error)
                await asyncio.sleep(pauses.next())
        _logger.warning("Task %s of %s was not cancelled: the peer is away", remote, peer.name)
