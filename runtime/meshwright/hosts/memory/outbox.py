"""Events on their way out: from the store into the log, then to the listeners, in the order of commits."""

from __future__ import annotations

import asyncio

from meshwright.events.log import EventLog
from meshwright.events.logger import EventLogger
from meshwright.hosts.memory.store import Store
from meshwright.messages import Event
from meshwright.sql.database import Database


class Outbox:
    """What was committed and not yet told. Opens the log's database with the host, if it is given."""

    def __init__(self, store: Store, log: EventLog | None, database: Database | None) -> None:
        self._store = store
        self._log = log
        self._database = database
        self._is_open = False
        self._telling = asyncio.Lock()

    async def open(self) -> None:
        """Open the database, unless a crash left it open."""
        if self._database is not None and self._log is not None and not self._is_open:
            await self._database.open()
            await self._log.start()
            self._is_open = True

    async def close(self) -> None:
        """Close the database."""
        if self._database is not None and self._log is not None and self._is_open:
            self._is_open = False
            self._log.close()
            await self._database.close()

    async def tell(self) -> None:
        """Return when every event committed so far is in the log and was shown to the listeners."""
        async with self._telling:
            events = [Event.model_validate_json(data) for data in self._store.unlogged()]
            new = await EventLogger(self._log).take(events) if self._log is not None and events else events
            self._store.mark_logged(event.id for event in events)
            for event in new:
                self.show(event)

    def show(self, event: Event) -> None:
        """Show an event to the listeners of every host on the store."""
        for bus in list(self._store.running.values()):
            bus.tell(event)
