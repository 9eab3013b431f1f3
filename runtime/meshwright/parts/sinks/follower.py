"""The follower of the event log that feeds one sink, in order and at least once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

from meshwright import Event
from meshwright.component import Mesh
from meshwright.core.encoding import Json
from meshwright.edges.outgoing_requests import HttpPool
from meshwright.edges.replies import table
from meshwright.edges.replies.table import SenderKey
from meshwright.engine.events.rows import read_row, unfolded
from meshwright.kit import Backoff, Duty, HostError, Session
from meshwright.parts.sinks.event_types import SinkDelayed
from meshwright.parts.sinks.port import Refused, Sink
from meshwright.parts.sinks.settings import SinkSettings

_logger = logging.getLogger("meshwright.sinks")

_SCHEME = "sink"

_LOOK_SECONDS = 0.5

_AT_ONCE = 50  # events that are read, and whose position is stored together

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.5, 300.0


class Follower:
    """Gives a sink the events that it wants, each at least once. A part of a component.

    They are sent in their order; to a sink that takes several in `parallel`, those of each task are.

    It begins behind the newest event when it is started for the first time. Of several processes on one
    database one sends. While the sink is away the position stays, and nothing is held in memory.
    """

    def __init__(self, mesh: Mesh, name: str, settings: SinkSettings, sink: Sink, http: HttpPool) -> None:
        self.sink = sink
        self._mesh = mesh
        self._name = name
        self._settings = settings
        self._http = http
        self._key = SenderKey(_SCHEME, name)
        self._position = self._newest = 0
        self._pauses = Backoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        self._retry_at = mesh.runtime.clock.now()
        self._looking = Duty(mesh.runtime.clock, _LOOK_SECONDS, self._look, f"sink {name}")

    @property
    def behind(self) -> int:
        """How many events of the log it has not looked at, or could not send."""
        return max(0, self._newest - self._position)

    @property
    def is_down(self) -> bool:
        """Whether the last try failed."""
        return self._pauses.failures > 0

    async def start(self) -> None:
        """Note where it begins."""
        await self._http.start()
        self._newest = await self._mesh.log.last_seq()
        state = await self._mesh.database.write(table.begin, self._key, self._newest)
        self._position = state.seq

    async def begin(self) -> None:
        """Go on behind the position. Idempotent."""
        await self._looking.start()

    async def stop(self) -> None:
        """Send no more. Idempotent."""
        await self._looking.stop()
        await self._http.stop()

    async def _look(self) -> None:
        """Send what is new, while no other process does."""
        self._newest = await self._mesh.log.last_seq()
        while await self._owns() and self.behind and self._mesh.runtime.clock.now() >= self._retry_at:
            await self._send_next()
            self._newest = await self._mesh.log.last_seq()

    async def _owns(self) -> bool:
        database, runtime = self._mesh.database, self._mesh.runtime
        progress = await database.read(table.progress, self._key)
        assert progress is not None
        self._position = progress.seq
        if progress.owner == runtime.incarnation:
            return True
        if progress.owner and not await runtime.has_expired(progress.owner):
            return False
        return await database.write(table.own, self._key, runtime.incarnation, progress.owner)

    async def _send_next(self) -> None:
        newest = self._newest
        events = await self._mesh.database.read(
            _events_behind, self._position, newest, self.sink.event_types, _AT_ONCE
        )
        sent: set[int | None] = set()
        failures: dict[int | None, Exception] = {}
        limit = asyncio.Semaphore(self.sink.parallel)

        async def send(chain: Sequence[Event]) -> None:
            async with limit:
                for event in chain:
                    if failures:
                        return
                    if (error := await self._delivery_error(event)) is not None:
                        failures[event.seq] = error
                        return
                    sent.add(event.seq)

        try:
            await asyncio.gather(*map(send, self._chains(events)))
        finally:
            await self._reach(events, sent, newest)
        if sent:
            self._pauses.reset()
        for event in events:
            if event.seq in failures:
                return self._put_off(event, failures[event.seq])

    def _chains(self, events: Sequence[Event]) -> Iterable[list[Event]]:
        """Events in the order in which they are sent: those of each task, or all together."""
        chains: dict[str, list[Event]] = {}
        for event in events:
            key = event.task_id or event.id if self.sink.parallel > 1 else ""
            chains.setdefault(key, []).append(event)
        return chains.values()

    async def _reach(self, events: Sequence[Event], sent: Collection[int | None], newest: int) -> None:
        """Store the position behind the last event before which all are sent."""
        reached = self._position if len(events) == _AT_ONCE or len(sent) < len(events) else newest
        for event in events:
            if event.seq not in sent:
                break
            reached = max(reached, event.seq or 0)
        if reached != self._position:
            self._position = reached
            with suppress(HostError):  # the runtime reports it itself; some events arrive twice then
                await self._mesh.database.write(table.reach, self._key, reached)

    async def _delivery_error(self, event: Event) -> Exception | None:
        """Why the sink could not take an event now; None where it has it, never will, or does not want it."""
        agents = self._settings.agents if event.task_id is not None else ()
        if event.tenant_id != self._settings.tenant or (agents and event.agent_id not in agents):
            return None
        try:
            await self.sink.take(event)
        except Refused as error:
            self._tell("sink.refused", event, str(error))
        except Exception as error:  # noqa: BLE001 a sink's errors are its own: any is a reason to try again
            return error
        return None

    def _put_off(self, event: Event, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        if not self.is_down:
            self._tell("sink.delayed", event, reason)
        requested = getattr(error, "retry_after_seconds", None) or 0.0
        pause = max(self._pauses.next(), requested)
        self._retry_at = self._mesh.runtime.clock.now() + timedelta(seconds=pause)
        _logger.info("Sink %s gets nothing now, next try in %.1f s: %s", self._name, pause, reason)

    def _tell(self, event_type: str, event: Event, reason: str) -> None:
        payload = SinkDelayed(sink=self._name, seq=event.seq, reason=reason)
        self._mesh.tell(event_type, payload, tenant_id=event.tenant_id)


def _events_behind(session: Session, seq: int, last: int, types: Collection[str], limit: int) -> list[Event]:
    return [read_row(row, Json) for row in unfolded(session, seq, last, types, limit)]
