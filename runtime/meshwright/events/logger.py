"""The event-logger: what writes the log where the bus is outside of the process."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.events.log import EventLog
from meshwright.messages import Event
from meshwright.topics import AGENTS, MESH, TASK_PROGRESS, TASK_RESULTS, TRACES, tasks


class EventLogger:
    """A consumer of the bus that appends what it is given. A repeat is dropped by its id.

    The embedded host needs none: its turns write their events into the log themselves.
    """

    agent_id = "event-logger"
    patterns = (TASK_RESULTS, TASK_PROGRESS, TRACES, MESH, AGENTS, tasks("#"))

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def take(self, events: Sequence[Event]) -> list[Event]:
        """Keep events, and return those that were new; durable then, so only then acknowledge them."""
        return await self._log.append(events)
