"""Wakes: actors that are owed something are looked at, woken, and let go of when they are owed nothing."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from meshwright.clock import Clock
from meshwright.envelope import ActorRef, Message
from meshwright.errors import HostError
from meshwright.hosts.dapr.alarms import Alarms
from meshwright.hosts.dapr.cells import Cell, Cells
from meshwright.hosts.dapr.deliveries import Deliveries
from meshwright.hosts.dapr.documents import incarnation_of
from meshwright.hosts.dapr.executor import Executor
from meshwright.hosts.dapr.futures import looked_at
from meshwright.hosts.dapr.loader import Loader
from meshwright.hosts.dapr.relay import Relay
from meshwright.messages import new_id

logger = logging.getLogger("meshwright.dapr")


class Wakes:
    """What the watch list's names are for. `incarnation` names the present run of this worker.

    `settled_seconds` is how long after a commit it is known whether its worker lived on: longer than a lease.
    """

    def __init__(
        self,
        cells: Cells,
        loader: Loader,
        executor: Executor,
        deliveries: Deliveries,
        relay: Relay,
        clock: Clock,
        *,
        incarnation: Callable[[], str],
        is_gone: Callable[[str], Awaitable[bool]],
        settled_seconds: float,
    ) -> None:
        self._cells = cells
        self._loader = loader
        self._executor = executor
        self._deliveries = deliveries
        self._relay = relay
        self._alarms = Alarms(clock, self._ring)
        self._incarnation = incarnation
        self._is_gone = is_gone
        self._settled_seconds = settled_seconds
        self._seen_at: dict[ActorRef, tuple[int, float]] = {}
        self._id = new_id()
        self._numbers = itertools.count(1)

    # After a commit

    def set_alarm(self, ref: ActorRef, when: datetime | None) -> None:
        """Set an actor's one alarm, or clear it."""
        self._alarms.set(ref, when)

    def clear_alarms(self) -> None:
        """Ring for nobody; the heads know the times."""
        self._alarms.clear()

    def send(self, cell: Cell) -> None:
        """Send what a cell has to send, and let go of it where it has nothing."""
        if cell.outbox:
            self._relay.start(cell)
        else:
            self.settled(cell)

    def settled(self, cell: Cell) -> None:
        """All that a cell had to send is taken."""
        if cell.outbox or cell.carried or cell.working or cell.document is None:
            return
        if not cell.head.has_pending_work and cell.head.wake_at is None:
            self._disarm(cell.ref)

    # For the watch list

    async def recover(self, ref: ActorRef) -> None:
        """Wake an actor that a worker left behind: send what it sent, and ask again for what it waits for."""
        cell = await self._owed(ref, take_over=True)
        if cell is None:
            return
        self._relay.start(cell)
        self._alarms.set(ref, cell.head.wake_at)
        if cell.head.has_pending_work:
            await self._ask_again(cell, recover=True)

    async def review(self, ref: ActorRef) -> None:
        """Look at an open actor of this worker's list: strike it off, or ask again for what it waits for.

        One in the hands of another is let go once that one has lived on after its commit, and so watches it.
        """
        cell = self._cells.active(ref)
        if cell is not None and cell.is_busy:
            return
        if cell is not None and cell.only_carries:
            await self._review_carried(cell)
            return
        cell = await self._owed(ref)
        document = cell.document if cell is not None else None
        if cell is None or document is None:
            return
        writer = incarnation_of(document.by[0]) if document.by else ""
        is_ours = writer == self._incarnation()
        if not is_ours and not cell.outbox and not await self._is_gone(writer):
            if self._is_settled(ref, document.head.revision):
                self._let_go(ref)
            return
        self._relay.start(cell)
        self._alarms.set(ref, document.head.wake_at)
        if document.head.has_pending_work:
            await self._ask_again(cell, recover=not is_ours)

    async def _review_carried(self, cell: Cell) -> None:
        """See whether who has to send what this cell carries is alive, and by now certain to watch it."""
        if any([await self._is_gone(entry.by) for entry in cell.carried]):
            await self._loader.refresh(cell)
            self._relay.start(cell)
        elif asyncio.get_running_loop().time() - cell.used_at > self._settled_seconds:
            self._let_go(cell.ref)

    def _is_settled(self, ref: ActorRef, revision: int) -> bool:
        """Whether an actor has stood at a revision for longer than anybody's lease lasts after it."""
        now = asyncio.get_running_loop().time()
        known, since = self._seen_at.get(ref, (0, now))
        if known != revision:
            self._seen_at[ref] = (revision, now)
        return known == revision and now - since > self._settled_seconds

    async def _owed(self, ref: ActorRef, *, take_over: bool = False) -> Cell | None:
        """The actor's cell as the store has it, if it is owed anything; else it is let go."""
        if ref.type not in self._cells.kinds:
            logger.warning("%s is open, and no such actor lives here", ref)
            return None
        cell = self._cells.find(ref, asyncio.get_running_loop().time())
        await self._loader.refresh(cell, take_over=take_over)
        if cell.document is None:  # a turn of it is under way, and sees to it
            return None
        if cell.head.has_pending_work or cell.head.wake_at is not None or cell.outbox or cell.carried:
            return cell
        self._let_go(ref)
        return None

    async def _ask_again(self, cell: Cell, *, recover: bool) -> None:
        turns = [*(["recover"] * (recover and cell.kind.recovers)), *(["redrive"] * cell.kind.redrives)]
        for turn in turns:
            await self._deliveries.put(self._message(turn, cell.ref))

    def _let_go(self, ref: ActorRef) -> None:
        self._disarm(ref)
        self._alarms.set(ref, None)
        self._cells.drop(ref)

    def _disarm(self, ref: ActorRef) -> None:
        self._seen_at.pop(ref, None)
        if self._executor.watch is not None:
            self._executor.watch.disarm(ref)

    def _ring(self, ref: ActorRef) -> None:
        try:
            self._deliveries.put(self._message("wake", ref), alarm=True).add_done_callback(looked_at)
        except HostError as error:  # it is rung for again with the next look at what is open
            logger.warning("the alarm of %s is late: %s", ref, error)

    def _message(self, turn: str, ref: ActorRef) -> Message:
        return Message(f"{turn}/{self._id}/{next(self._numbers)}", ref, turn)
