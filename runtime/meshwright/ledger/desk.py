"""Where this process books with one account: entries that come while a turn is under way share the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import TypeAdapter

from meshwright.errors import HostError, MailboxFull, StoreUnavailable
from meshwright.host import Host
from meshwright.ledger.account import Account, Book, Entry, Verdict

logger = logging.getLogger("meshwright.budgets")
MAX_ENTRIES = 500  # of one turn
PAUSES_SECONDS = (0.1, 0.4, 1.6)  # before an account that cannot be reached is asked again
VERDICTS = TypeAdapter(list[Verdict])


class Waiting(NamedTuple):
    """An entry, and who waits for its verdict."""

    entry: Entry
    answer: asyncio.Future[Verdict] | None


class Desk:
    """Books with one account, in the order of asking; `on_idle` is told when nothing is left to book."""

    def __init__(self, host: Host, account: Account, on_idle: Callable[[Desk], None]) -> None:
        self.account = account
        self._host = host
        self._on_idle = on_idle
        self._waiting: list[Waiting] = []
        self._work: asyncio.Task[None] | None = None

    async def reserve(self, entry: Entry) -> Verdict:
        """Book, and return what came of it, which is durable. Raises HostError where it is not known."""
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._put(Waiting(entry, answer))
        return await answer

    def settle(self, entry: Entry) -> None:
        """Book soon; nobody has to wait. What cannot be booked counts as spent when its time is over."""
        self._put(Waiting(entry, None))

    async def settled(self) -> None:
        """Return once everything is booked."""
        if self._work is not None:
            await asyncio.shield(self._work)

    def _put(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        if self._work is None:
            self._work = asyncio.create_task(self._book_all(), name=f"budget {self.account.id}")

    async def _book_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_ENTRIES], self._waiting[MAX_ENTRIES:]
            try:
                verdicts = await self._book(tuple(each.entry for each in batch))
            except Exception as error:  # noqa: BLE001 whoever waits for a verdict is told, whatever it is
                self._fail(batch, error)
            else:
                waiters = [each.answer for each in batch if each.answer is not None]
                for answer, verdict in zip(waiters, verdicts, strict=True):
                    if not answer.done():
                        answer.set_result(verdict)
        self._work = None
        self._on_idle(self)

    async def _book(self, entries: tuple[Entry, ...]) -> list[Verdict]:
        """Make the turn, again where it may not have been made: a repeat changes nothing."""
        book = Book(account=self.account, entries=entries)
        for pause in PAUSES_SECONDS:
            try:
                return VERDICTS.validate_python(await self._host.call(self.account.ref, "book", book))
            except (StoreUnavailable, MailboxFull):
                await asyncio.sleep(pause)
        return VERDICTS.validate_python(await self._host.call(self.account.ref, "book", book))

    def _fail(self, batch: Sequence[Waiting], error: Exception) -> None:
        for each in batch:
            if each.answer is not None and not each.answer.done():
                each.answer.set_exception(error)
        lost = sum(each.answer is None for each in batch)
        if lost:
            level = logging.WARNING if isinstance(error, HostError) else logging.ERROR
            logger.log(level, "%d calls stay reserved in %s: %s", lost, self.account.id, error)
