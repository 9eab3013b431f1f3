"""Where this process books with one account: entries that come while a turn is under way share the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pydantic import TypeAdapter

from meshwright.errors import HostError, MailboxFull, StoreUnavailable
from meshwright.host import Host
from meshwright.ledger.account import Account, LedgerBatch, LedgerEntry, ReservationResult

logger = logging.getLogger("meshwright.budgets")
MAX_ENTRIES = 500  # of one turn
PAUSES_SECONDS = (0.1, 0.4, 1.6)  # before an account that cannot be reached is asked again
_RESULTS = TypeAdapter(list[ReservationResult])
_Waiting = tuple[LedgerEntry, asyncio.Future[ReservationResult] | None]


class AccountClient:
    """Books with one account, in the order of asking; `on_idle` is called when nothing is left to book."""

    def __init__(self, host: Host, account: Account, on_idle: Callable[[AccountClient], None]) -> None:
        self.account = account
        self._host = host
        self._on_idle = on_idle
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None

    async def reserve(self, entry: LedgerEntry) -> ReservationResult:
        """Reserve, and return the result, which is durable. Raises HostError where it is not known."""
        result: asyncio.Future[ReservationResult] = asyncio.get_running_loop().create_future()
        self._put((entry, result))
        return await result

    def settle(self, entry: LedgerEntry) -> None:
        """Settle soon; nobody has to wait. What cannot be booked counts as spent when its time is over."""
        self._put((entry, None))

    async def settled(self) -> None:
        """Return once everything is booked."""
        if self._work is not None:
            await asyncio.shield(self._work)

    def _put(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if self._work is None:
            self._work = asyncio.create_task(self._book_all(), name=f"budget {self.account.id}")

    async def _book_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_ENTRIES], self._waiting[MAX_ENTRIES:]
            try:
                results = await self._book(tuple(entry for entry, _ in batch))
            except Exception as error:  # noqa: BLE001 whoever waits for a result gets it, whatever it is
                self._fail(batch, error)
            else:
                waiters = [waiter for _, waiter in batch if waiter is not None]
                for waiter, result in zip(waiters, results, strict=True):
                    if not waiter.done():
                        waiter.set_result(result)
        self._work = None
        self._on_idle(self)

    async def _book(self, entries: tuple[LedgerEntry, ...]) -> list[ReservationResult]:
        """Make the turn, again where it may not have been made: a repeat changes nothing."""
        batch = LedgerBatch(account=self.account, entries=entries)
        for pause in PAUSES_SECONDS:
            try:
                return _RESULTS.validate_python(await self._host.call(self.account.ref, "book", batch))
            except (StoreUnavailable, MailboxFull):
                await asyncio.sleep(pause)
        return _RESULTS.validate_python(await self._host.call(self.account.ref, "book", batch))

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for _, waiter in batch:
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        lost = sum(waiter is None for _, waiter in batch)
        if lost:
            level = logging.WARNING if isinstance(error, HostError) else logging.ERROR
            logger.log(level, "%d calls stay reserved in %s: %s", lost, self.account.id, error)
