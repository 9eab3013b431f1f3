"""What happens, as it happens: the log's tail, and with it the pieces of answers, which no log keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from meshwright import topics
from meshwright.events.filter import EventFilter, Matcher
from meshwright.events.log import EventLog
from meshwright.host import Host
from meshwright.messages import Event

MODEL_DELTA = "model.delta"
MAX_WAITING = 256  # events for one reader; above that pieces are dropped, and the log has to wait
MAX_AHEAD = 16  # of the log, which may be large


class Reader:
    """One reader, and what waits for it; None is the end."""

    def __init__(self, wanted: EventFilter) -> None:
        self.waiting: asyncio.Queue[Event | None] = asyncio.Queue(MAX_WAITING)
        self.room = asyncio.Semaphore(MAX_AHEAD)
        self._matches = Matcher(wanted)

    def offer(self, piece: Event) -> None:
        """Take a piece, if it is wanted and there is room."""
        if not self.waiting.full() and self._matches(piece):
            self.waiting.put_nowait(piece)

    async def read(self, kept: AsyncGenerator[Event]) -> None:
        """Take the events of the log to their end. Raises what keeps it from being read."""
        try:
            async with aclosing(kept) as events:
                async for event in events:
                    await self.room.acquire()
                    await self.waiting.put(event)
        except Exception:  # whatever it is: the reader must not wait for more
            await self.waiting.put(None)
            raise
        await self.waiting.put(None)


class Live:
    """Follows the log, and what is shown between its events. One listener serves all readers."""

    def __init__(self, host: Host, log: EventLog) -> None:
        self._log = log
        self._readers: dict[str | None, set[Reader]] = {}
        host.listen(topics.TASK_PROGRESS, self._hear, (MODEL_DELTA,))

    async def follow(self, wanted: EventFilter) -> AsyncGenerator[Event]:
        """The log's tail, and the pieces of answers (`model.delta`) as models write them.

        Of the log's events none is left out. A piece has no `seq`, and comes before the event of its call; a
        reader that is slow, or comes late, does without.
        """
        reader = Reader(wanted)
        readers = self._readers.setdefault(wanted.task_id, set())
        readers.add(reader)
        reading = asyncio.create_task(reader.read(self._log.tail(wanted)))
        try:
            while (event := await reader.waiting.get()) is not None:
                yield event
                if event.seq is not None:
                    reader.room.release()
        finally:
            readers.discard(reader)
            if not readers and self._readers.get(wanted.task_id) is readers:
                del self._readers[wanted.task_id]
            reading.cancel()
            await asyncio.wait([reading])
        await reading

    def _hear(self, event: Event) -> None:
        for task_id in {event.task_id, None}:
            for reader in self._readers.get(task_id, ()):
                reader.offer(event)
