"""Replies: the outcome of a task goes back to the source of the task, at least once, through a crash.

An edge registers a `Sender` for its scheme, and asks the courier to send the outcome of a task to an address.
The courier reads outcomes from the event log, behind the last one that a sender has finished. So none is
lost while the receiver is away or the process is down, and none waits in memory. An outcome that cannot be
sent now is stored with its address, and sent again with growing pauses. After a crash some arrive twice.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar

from meshwright.core.clock import Backoff
from meshwright.core.encoding import encode
from meshwright.core.errors import HostError, MeshError, NotFound
from meshwright.core.events import Event
from meshwright.core.messages import ENDED
from meshwright.core.topics import TASK_PROGRESS
from meshwright.edges.event_types import ReplyUnsent
from meshwright.edges.replies import table
from meshwright.edges.replies.table import Address, Lines, Progress, SenderKey, StoredAddress, UnsentReply
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.work.protocol import TaskKey
from meshwright.engine.work.record import read_task
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.acceptance import FINAL
from meshwright.mesh.orchestration.tasks import Tasks

__all__ = ["Address", "Courier", "LineSender", "Sender", "Undeliverable", "takes_over", "until_answered"]

_logger = logging.getLogger("meshwright.edges.replies")
_MAX_AGE = timedelta(days=1)  # of an outcome that may still be sent
_MAX_PENDING = 64  # outcomes on their way to their receivers
_SLOW_SECONDS = 2.0  # that an outcome on its way holds up those behind it
_FIRST_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 600.0
_MAX_AFTER_END = 50  # events of a task that may follow the one that ends it
_LOG_LOOKS, _LOG_SECONDS = 50, 0.1  # for the end of a task that the log is about to have
_LOOK_SECONDS = 2.0  # between two looks at which process sends
_SAVE_SECONDS = 1.0  # between two notes of how far a sender is, while there are more
AddressT = TypeVar("AddressT", bound=Address)
_ResultT = TypeVar("_ResultT")


class Undeliverable(MeshError):
    """The receiver will never take a reply."""


class Sender(ABC, Generic[AddressT]):
    """Sends outcomes to the addresses of one scheme."""

    scheme: str
    """The name of the scheme, such as `page`."""
    scope: str
    """Keeps the addresses of two meshes at one place apart. "" if that cannot be."""
    kind: type[AddressT]
    """The type of its addresses."""

    def standing(self, task: TaskKey) -> Sequence[AddressT]:
        """Returns the addresses that get every outcome: none."""
        return ()

    @abstractmethod
    async def send(self, address: AddressT, document: bytes) -> None:
        """Returns when the receiver has an outcome, as JSON.

        Raises Undeliverable if it will never take it. Any other error is a reason to retry later; a sender
        that waits for its receiver instead holds up the outcomes behind it, and loses none.
        """


class LineSender(Sender[AddressT]):
    """Sends other events of its tasks too, and of tasks that they delegate, in order within each line."""

    @abstractmethod
    def wants(self, event: Event) -> bool:
        """Whether an event is one of those."""

    def others(self, event: Event) -> Sequence[AddressT]:
        """Returns the addresses that get such an event beside those of its task: none."""
        return ()

    @abstractmethod
    def line(self, address: AddressT) -> str:
        """Returns the line that an address stands in, such as a conversation."""

    @abstractmethod
    async def tell(self, address: AddressT, event: Event) -> None:
        """Returns when the receiver knows of an event; errors are those of `send`."""


class Courier:
    """Sends the outcomes of tasks to the addresses that asked for them, over the schemes of the edges."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._lanes: dict[str, _SenderLane] = {}

    def register(self, sender: Sender[Any], *, everywhere: bool = False) -> None:
        """Add a sender, before the mesh starts.

        Of several processes on one database one sends, and another takes over when it is gone. A sender that
        only one of them connects works `everywhere`, and waits for its connection.
        """
        self._lanes[sender.scheme] = _SenderLane(self._mesh, sender, everywhere=everywhere)

    async def ask(
        self,
        scheme: str,
        task: TaskKey,
        address: Address,
        *,
        may_have_ended: bool = False,
        replaces: bool = False,
    ) -> None:
        """Have the outcome of a task sent to an address too; durable when this returns.

        The outcome of a task that ended before may be sent already: read it after this, or say that the task
        `may_have_ended`; then its outcome is sent to this address all the same. An address that `replaces`
        is in the place of its client's others. Raises TooLarge where too many clients wait.
        """
        add = table.replace_address if replaces else table.add_address
        await self._mesh.database.write(add, scheme, task, _stored(address))
        if may_have_ended:
            await self._lanes[scheme].catch_up(task, address)

    async def forget(self, scheme: str, task: TaskKey, client: str) -> None:
        """Have the outcome of a task no longer sent to a client. Idempotent."""
        await self._mesh.database.write(table.remove_addresses, scheme, task, client)

    async def asked(self, scheme: str, task: TaskKey) -> Sequence[Address]:
        """Returns the addresses that were asked for, of one task."""
        return await self._lanes[scheme].asked(task)

    async def start(self) -> None:
        """Note the position of each sender: the first time, behind all earlier outcomes."""
        for lane in self._lanes.values():
            await lane.progress()

    async def begin(self) -> None:
        """Go on at the position of each sender."""
        for lane in self._lanes.values():
            await lane.start()

    async def stop(self) -> None:
        """Send no more, and store the position of each sender. Idempotent."""
        for lane in self._lanes.values():
            await lane.stop()


class _SenderLane:
    def __init__(self, mesh: Mesh, sender: Sender[Any], *, everywhere: bool) -> None:
        self._mesh = mesh
        self._sender = sender
        self._everywhere = everywhere
        self._key = SenderKey(sender.scheme, sender.scope)
        self._position = 0
        self._followed = 0
        self._pending: asyncio.Queue[tuple[int, list[asyncio.Task[None]]]] = asyncio.Queue(_MAX_PENDING)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sending: list[asyncio.Task[None]] = []
        self._retries: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._lines = Lines()
        self._ordered = sender if isinstance(sender, LineSender) else None

    async def start(self) -> None:
        if self._tasks:
            return
        if self._everywhere:
            await self._open()
        else:
            await self._look()
            self._begin(self._keep_on(self._watch))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        """Send while no other process does."""
        if not await takes_over(self._mesh, self._key, await self.progress()):
            await self._close()
        elif not self._sending:
            await self._open()
        else:
            await self._retry_unsent()  # another process may have left one to this

    async def progress(self) -> Progress:
        stored = await self._read(table.progress, self._key)
        return stored or await self._write(table.begin, await self._mesh.log.last_seq())

    async def _open(self) -> None:
        self._position = self._followed = (await self.progress()).seq
        await self._retry_unsent()
        self._sending = [*map(self._begin, map(self._keep_on, (self._follow, self._confirm)))]

    async def _retry_unsent(self) -> None:
        under_way = {*self._retries}  # one of them may arrive while the rows are read
        for reply in await self._read(table.unsent, self._key):
            if reply.key not in under_way and reply.key not in self._retries:
                self._retry_later(reply)

    async def _close(self) -> None:
        """Leave the outcomes to the process that sends now."""
        for task in (*self._sending, *self._retries.values()):
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        self._sending = []
        self._pending = asyncio.Queue(_MAX_PENDING)

    async def stop(self) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._sending:
                await self._mesh.database.write(table.reach, self._key, self._position)
        except HostError:  # the runtime reports its end itself; some outcomes arrive twice then
            _logger.info("The position of %s replies is not stored", self._sender.scheme)

    async def asked(self, task: TaskKey) -> list[Address]:
        return [*map(self._typed, await self._read(table.addresses, self._key.scheme, task))]

    def _typed(self, stored: StoredAddress) -> Address:
        return self._sender.kind.model_validate(stored)

    async def catch_up(self, task: TaskKey, address: Address) -> None:
        """Send the outcome of a task that ended before the address was known."""
        end = await self._end_event(task)
        if end is not None and ((end.seq or 0) <= self._followed or not self._sending):
            late = self._unsent(end, task, address)
            await self._postpone(late)
            if self._sending:
                self._retry_later(late)

    async def _end_event(self, task: TaskKey) -> Event | None:
        """The event that ended a task, None for one that goes on; the log may have it a moment later."""
        newest = await self._mesh.log.task_filter(
            task.task_id, task.tenant_id, topic=TASK_PROGRESS, order="desc", limit=_MAX_AFTER_END
        )
        for _ in range(_LOG_LOOKS):
            events = await self._mesh.log.query(newest)
            if end := next((event for event in events if event.event_type in FINAL), None):
                return end
            if (await self._mesh.get(Tasks).task(task.task_id, task.tenant_id)).status not in ENDED:
                return None
            await asyncio.sleep(_LOG_SECONDS)
        return None  # it ended long ago: the log has it no more

    def _begin(self, work: Coroutine[Any, Any, _ResultT]) -> asyncio.Task[_ResultT]:
        task = asyncio.create_task(work, name=f"replies-{self._sender.scheme}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_on(self, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(0.25, 30.0)
        while True:
            try:
                return await work()
            except Exception:  # whatever it is, the outcomes behind it must still be sent
                _logger.exception("Sending %s replies failed, restarting", self._sender.scheme)
                await asyncio.sleep(backoff.next())

    async def _read(self, function: Callable[..., _ResultT], *values: Any) -> _ResultT:
        return await until_answered(partial(self._mesh.database.read, function, *values))

    async def _write(self, function: Callable[..., _ResultT], value: Any, *values: Any) -> _ResultT:
        return await until_answered(partial(self._mesh.database.write, function, self._key, value, *values))

    async def _follow(self) -> None:
        """Start the delivery of each outcome, in order."""
        since = self._mesh.runtime.clock.now() - _MAX_AGE
        newer = EventFilter(topic=TASK_PROGRESS, after_seq=self._position, since=since)
        async with aclosing(self._mesh.log.tail(newer)) as events:
            async for event in events:
                if event.task_id is not None and self._is_wanted(event):
                    seq = self._followed = event.seq or 0
                    await asyncio.sleep(0)  # so that views of an idle mesh show the end first
                    task = TaskKey(event.tenant_id, event.task_id)
                    addresses = [*self._sender.standing(task), *await self.asked(task)]
                    if event.event_type not in FINAL and not addresses:
                        addresses = [*await until_answered(partial(self._asked_above, task))]
                    if self._ordered is not None:
                        lines = {self._ordered.line(address) for address in addresses}
                        others = self._ordered.others(event)
                        addresses += [one for one in others if self._ordered.line(one) not in lines]
                        addresses = [address for address in addresses if self._joins(seq, address)]
                    deliver = (self._deliver(event, task, address) for address in addresses)
                    await self._pending.put((seq, [*map(self._begin, deliver)]))

    def _is_wanted(self, event: Event) -> bool:
        return event.event_type in FINAL or (self._ordered is not None and self._ordered.wants(event))

    async def _asked_above(self, task: TaskKey) -> list[Address]:
        """The addresses of the task that delegated a task, or of one further up."""
        addresses: list[Address] = []
        with suppress(NotFound):  # one that is too old
            while not addresses:
                _, record = await read_task(self._mesh.runtime, task.task_id, task.tenant_id)
                if record.parent is None:
                    break
                task = TaskKey(task.tenant_id, record.parent.task_id)
                addresses = await self.asked(task)
        return addresses

    def _joins(self, seq: int, address: Address) -> bool:
        """Put a reply into its line; False for one that waits for another try since before a crash."""
        if table.reply_key(seq, _stored(address)) in self._retries:
            return False
        self._lines.join(self._line(address), seq)
        return True

    def _line(self, address: Address) -> str:
        return "" if self._ordered is None else self._ordered.line(address)

    async def _confirm(self) -> None:
        """Wait for the deliveries in order, and store the position."""
        loop = asyncio.get_running_loop()
        saved_at = 0.0
        while True:
            seq, deliveries = await self._pending.get()
            await asyncio.gather(*deliveries)
            self._position = seq
            if self._pending.empty() or loop.time() - saved_at >= _SAVE_SECONDS:
                await self._write(table.reach, seq)
                saved_at = loop.time()

    async def _deliver(self, event: Event, task: TaskKey, address: Address) -> None:
        seq, line = event.seq or 0, self._line(address)
        attempt = None
        if await self._lines.comes_first(line, seq):
            attempt = self._begin(self._send(event, task, address))
            await asyncio.wait({attempt}, timeout=None if self._everywhere else _SLOW_SECONDS)
            if attempt.done():
                if (again := attempt.result()) is not None:
                    self._retry_later(again)
                else:
                    self._lines.leave(line, seq)
                return
        # It is still on its way, or an earlier one of its line waits for another try.
        late = self._unsent(event, task, address)
        await self._postpone(late)
        self._retry_later(late, attempt)

    def _retry_later(
        self, reply: UnsentReply, attempt: asyncio.Task[UnsentReply | None] | None = None
    ) -> None:
        line = self._line(self._typed(reply.address))
        if self._ordered is not None:
            self._lines.join(line, reply.seq, waits=True)
        work = self._keep_on(partial(self._retry, reply, attempt))
        retry = self._retries[reply.key] = self._begin(work)

        def ended(_: asyncio.Task[None]) -> None:
            self._retries.pop(reply.key, None)
            self._lines.leave(line, reply.seq)

        retry.add_done_callback(ended)

    async def _retry(self, reply: UnsentReply, attempt: asyncio.Task[UnsentReply | None] | None) -> None:
        """Send a reply whenever it is due, until it has arrived or is dropped; an `attempt` is on its way."""
        failed: UnsentReply | None = reply
        if attempt is None:
            await self._lines.comes_first(self._line(self._typed(reply.address)), reply.seq, patient=True)
        else:
            failed = await attempt
        task = TaskKey(reply.tenant_id, reply.task_id)
        at_seq = EventFilter(topic=TASK_PROGRESS, after_seq=reply.seq - 1, before_seq=reply.seq + 1)
        while failed is not None:
            pause = failed.retry_at - self._mesh.runtime.clock.now()
            await asyncio.sleep(max(0.0, pause.total_seconds()))
            if reply.seq > await self._mesh.log.last_seq():  # another process has read more of the log
                await asyncio.sleep(_LOG_SECONDS)
                continue
            events = await until_answered(partial(self._mesh.log.query, at_seq))
            if not events or events[0].time < self._mesh.runtime.clock.now() - _MAX_AGE:
                self._drop(task, "it could not be sent in time")
                break
            failed = await self._send(events[0], task, self._typed(reply.address), failed.failures)
        await self._write(table.settle, reply)

    async def _send(
        self, event: Event, task: TaskKey, address: Address, failures: int = 0
    ) -> UnsentReply | None:
        """Send an outcome. If that fails, returns the reply that is stored for another try."""
        try:
            if self._ordered is not None and event.event_type not in FINAL:
                await self._ordered.tell(address, event)
            else:
                await self._sender.send(address, encode(event.payload))
        except Undeliverable as error:
            self._drop(task, str(error))
        except Exception as error:  # noqa: BLE001 a sender's errors are its own: any is a reason to try again
            _logger.info("A reply of task %s cannot be sent now: %s", task.task_id, error)
            pause = Backoff(_FIRST_RETRY_SECONDS, _MAX_RETRY_SECONDS, failures=failures).next()
            least = getattr(error, "retry_after_seconds", None) or 0.0  # the receiver's own demand
            failed = self._unsent(event, task, address, failures + 1, max(pause, least))
            await self._postpone(failed)
            if not failures:
                self._tell("reply.delayed", task, str(error), failed.retry_at)
            return failed
        return None

    def _unsent(
        self, event: Event, task: TaskKey, address: Address, failures: int = 0, pause: float = 0.0
    ) -> UnsentReply:
        retry_at = self._mesh.runtime.clock.now() + timedelta(seconds=pause)
        fields = {"address": _stored(address), "failures": failures, "retry_at": retry_at}
        return UnsentReply(seq=event.seq or 0, **task._asdict(), **fields)

    async def _postpone(self, failed: UnsentReply) -> None:
        """Store a reply for another try, in place of the oldest if there are too many."""
        dropped = await self._write(table.postpone, failed)
        if dropped is not None:
            if dropped.key in self._retries:
                self._retries[dropped.key].cancel()
            self._drop(TaskKey(dropped.tenant_id, dropped.task_id), "too many replies wait")

    def _drop(self, task: TaskKey, reason: str) -> None:
        self._tell("reply.dropped", task, reason)

    def _tell(self, event_type: str, task: TaskKey, reason: str, retry_at: datetime | None = None) -> None:
        payload = ReplyUnsent(scheme=self._sender.scheme, reason=reason, retry_at=retry_at)
        self._mesh.tell(event_type, payload, **task._asdict())


def _stored(address: Address) -> StoredAddress:
    return address.model_dump(mode="json")


async def takes_over(mesh: Mesh, key: SenderKey, progress: Progress) -> bool:
    """Whether this process sends for a sender: it does already, or none that is there does."""
    runtime, owner = mesh.runtime, progress.owner
    if owner == runtime.incarnation:
        return True
    if owner and not await runtime.has_expired(owner):
        return False
    own = partial(mesh.database.write, table.own, key, runtime.incarnation, owner)
    return await until_answered(own)


async def until_answered(
    ask: Callable[[], Awaitable[_ResultT]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> _ResultT:
    """Asks the runtime until it can answer."""
    backoff = Backoff(0.25, 30.0)
    while True:
        try:
            return await ask()
        except HostError:  # full, stopping, or its store is away: the runtime says so itself
            await sleep(backoff.next())
