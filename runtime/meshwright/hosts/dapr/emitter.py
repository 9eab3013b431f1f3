"""The emitter: events that no turn asked for, queued at once and seen to until the broker has them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from meshwright.errors import MailboxFull
from meshwright.hosts.dapr.documents import Entry
from meshwright.hosts.dapr.futures import ENDED, settle
from meshwright.hosts.dapr.keeping import Keeper
from meshwright.hosts.dapr.relay import MAX_RETRY_SECONDS, RETRY_SECONDS, Publisher
from meshwright.messages import Event

logger = logging.getLogger("meshwright.dapr")

MAX_WAITING = 20_000


class Emitter:
    """Publishes events of this process. What the broker does not have when it is closed is lost with it."""

    def __init__(self, publisher: Publisher, keeper: Keeper) -> None:
        self._publisher = publisher
        self._keeper = keeper
        self._is_open = True
        self.waiting = 0

    def check_room(self, count: int) -> None:
        """Raise MailboxFull where too many events wait already."""
        if self.waiting + count > MAX_WAITING:
            raise MailboxFull(f"{self.waiting} events wait for the broker", remedy="see that it is up")

    def emit(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """Queue events; the result comes when the broker has them, or the log where it is this process's."""
        return self.emit_entries([Entry(event) for event in events])

    def emit_entries(
        self, entries: Sequence[Entry], kept: Callable[[Entry], None] | None = None
    ) -> asyncio.Future[None]:
        """Queue events likewise; `kept` is called for each once the log has it."""
        self.waiting += len(entries)
        emitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._try(entries, kept, emitted, RETRY_SECONDS)
        return emitted

    def open(self) -> None:
        """Begin, again after `close`."""
        self._is_open = True

    def close(self) -> None:
        """Try nothing again."""
        self._is_open = False

    def _try(
        self,
        entries: Sequence[Entry],
        kept: Callable[[Entry], None] | None,
        emitted: asyncio.Future[None],
        pause: float,
    ) -> None:
        if not self._is_open:
            settle(emitted, None, ENDED)
            return
        futures = [self._offer(entry, kept) for entry in entries]
        for entry in entries:
            if isinstance(entry.item, Event) and self._publisher.is_taken(entry.item.topic):
                futures.append(self._publisher.publish(entry.item.topic, entry))

        def ended(results: asyncio.Future[list[BaseException | None]]) -> None:
            failed = None if results.cancelled() else next(filter(None, results.result()), None)
            if failed is None:
                self.waiting -= len(entries)
                settle(emitted, None, ENDED if results.cancelled() else None)
                return
            logger.warning("%d events are tried again in %.1f s: %s", len(entries), pause, failed)
            again = min(2 * pause, MAX_RETRY_SECONDS)
            asyncio.get_running_loop().call_later(pause, self._try, entries, kept, emitted, again)

        asyncio.gather(*futures, return_exceptions=True).add_done_callback(ended)

    def _offer(self, entry: Entry, kept: Callable[[Entry], None] | None) -> asyncio.Future[None]:
        keeping = self._keeper.keep(entry)

        def is_kept(done: asyncio.Future[None]) -> None:
            if kept is not None and not done.cancelled() and done.exception() is None:
                kept(entry)

        keeping.kept.add_done_callback(is_kept)
        return keeping.offered
