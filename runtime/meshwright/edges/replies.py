"""Replies: the outcome of a task goes back to where the task came from, at least once, through a crash.

An edge registers a `Sender` for its scheme, and asks the courier to send the outcome of a task to an address.
The courier reads outcomes from the event log, behind the last one that a sender has dealt with. So none is
lost while the receiver is away or the process is down, and none waits in memory. An outcome that cannot be
sent now is kept with its address, and sent again with growing pauses. After a crash some arrive twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, Field

from meshwright.component import Actors, Component
from meshwright.core.clock import Backoff
from meshwright.core.encoding import encode
from meshwright.core.errors import HostError, MeshError, TooLarge
from meshwright.core.messages import Caller, Plain
from meshwright.core.topics import TASK_PROGRESS
from meshwright.events.filter import EventFilter
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.turns import ActorKind
from meshwright.mesh import FINAL, Mesh
from meshwright.roles import FRONT
from meshwright.work.protocol import TaskKey, tenant_scoped

_logger = logging.getLogger("meshwright.edges.replies")
_MAX_AGE = timedelta(days=1)  # of an outcome that is still sent
_MAX_REPLIES = 8  # of one client that a task's outcome is sent to, the last
MAX_CLIENTS = 32  # that a task's outcome is sent to
_MAX_FAILED = 1000  # replies of one scheme that wait for another try; above that the oldest is dropped
_MAX_PENDING = 64  # outcomes on their way to their receivers
_FIRST_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 600.0
_SAVE_SECONDS = 1.0  # between two notes of how far a sender is, while there are more
_ResultT = TypeVar("_ResultT")


class Address(Plain):
    """Where an outcome goes: what its scheme needs, and the client that asked for it."""

    client: str = Caller().requested_by


class Undeliverable(MeshError):
    """The receiver will never take a reply."""


class Sender(Protocol):
    """Sends outcomes to the addresses of one scheme. `scope` keeps those of two meshes at one place apart."""

    scheme: str
    scope: str

    def typed(self, address: Address) -> Address:
        """Returns a stored address as the scheme's own type."""
        ...

    def standing(self, task: TaskKey) -> Sequence[Address]:
        """Returns the addresses that get every outcome."""
        ...

    async def send(self, address: Address, document: bytes) -> None:
        """Returns when the receiver has an outcome, as JSON.

        Raises Undeliverable where it will never take it. Any other error is a reason to try again later; one
        that waits for its receiver instead holds up the outcomes behind it, and loses none.
        """
        ...


# What is stored


class ReplyAddresses(BaseModel):
    """Where the outcome of a task goes."""

    replies: list[Address] = Field(default_factory=list)


class TaskReplies(Actor[ReplyAddresses]):
    """Where the outcome of one task goes, for one scheme; its id is that of the task's actor."""

    @turn
    def ask(self, turn: Turn, address: Address) -> None:
        """Send the outcome there too: no client displaces another. Raises TooLarge for too many clients."""
        known = [reply for reply in self.state.replies if reply != address]
        own = [reply for reply in known if reply.client == address.client]
        others = [reply for reply in known if reply.client != address.client]
        if len({reply.client for reply in others}) >= MAX_CLIENTS:
            raise TooLarge(
                f"{MAX_CLIENTS} clients wait for the outcome of task {self.ref.id} already",
                remedy="Follow the task's events instead",
                field="reply",
            )
        self.state.replies = [*others, *own[1 - _MAX_REPLIES :], address]


class Position(BaseModel):
    """How far a sender is: it has dealt with all outcomes up to the event of this number."""

    seq: int = 0


class FailedReply(Plain):
    """An outcome that could not be sent, by the number of its event, and when it is tried again."""

    seq: int
    tenant_id: str
    task_id: str
    address: Address
    failures: int = 1
    retry_at: datetime

    @property
    def key(self) -> tuple[int, str]:
        """What stays the same after another try."""
        return self.seq, self.address.model_dump_json()


class Progress(Position):
    """How far a sender is, and what it has to try again."""

    failed: list[FailedReply] = Field(default_factory=list)


class SenderProgress(Actor[Progress]):
    """How far the sender of a scheme is; its id is the sender's scope."""

    @turn
    def reach(self, turn: Turn, position: Position) -> None:
        """Note that all up to there is dealt with."""
        self.state.seq = position.seq

    @turn
    def postpone(self, turn: Turn, failed: FailedReply) -> FailedReply | None:
        """Keep a reply for another try. Returns the one that is dropped for it, if there are too many."""
        kept = [*(reply for reply in self.state.failed if reply.key != failed.key), failed]
        self.state.failed = kept[-_MAX_FAILED:]
        return kept[0] if len(kept) > _MAX_FAILED else None

    @turn
    def settle(self, turn: Turn, done: FailedReply) -> None:
        """Forget a reply."""
        self.state.failed = [reply for reply in self.state.failed if reply.key != done.key]


# The courier


class Courier(Component):
    """Sends the outcomes of tasks to where they were asked for, over the schemes that edges register."""

    name = "replies"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._lanes: dict[str, _SenderLane] = {}

    def register(self, sender: Sender) -> None:
        """Take a sender, before the mesh starts."""
        self._lanes[sender.scheme] = _SenderLane(self.mesh, sender)

    def actors(self) -> Iterable[Actors]:
        """Its actors, two of each scheme."""
        for lane in self._lanes.values():
            yield Actors(ActorKind.of(TaskReplies, type=lane.replies_type), FRONT)
            yield Actors(ActorKind.of(SenderProgress, type=lane.here.type), FRONT)

    async def ask(self, scheme: str, task: TaskKey, address: Address) -> None:
        """Have the outcome of a task sent to an address too; durable when this returns.

        A task that has ended already may have been dealt with: look at its outcome after this.
        """
        await self.mesh.host.call(self._lanes[scheme].replies(task), "ask", _plain(address))

    async def start(self) -> None:
        """Go on where each sender has come to; the first time, behind all that has ended before."""
        for lane in self._lanes.values():
            await lane.start()

    async def stop(self) -> None:
        """Send no more, and note how far each sender has come. Idempotent."""
        for lane in self._lanes.values():
            await lane.stop()


class _SenderLane:
    """The outcomes on their way over one scheme."""

    def __init__(self, mesh: Mesh, sender: Sender) -> None:
        self._mesh = mesh
        self._sender = sender
        self.replies_type = f"{sender.scheme.title()}Replies"
        self.here = ActorRef(f"{sender.scheme.title()}Outcomes", sender.scope)
        self._position = 0
        self._pending: asyncio.Queue[tuple[int, list[asyncio.Task[None]]]] = asyncio.Queue(_MAX_PENDING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._retries: dict[tuple[int, str], asyncio.Task[None]] = {}

    def replies(self, task: TaskKey) -> ActorRef:
        return ActorRef(self.replies_type, tenant_scoped(*task))

    async def start(self) -> None:
        state = await self._mesh.host.read(self.here)
        if isinstance(state, Progress):
            self._position = state.seq
            for reply in state.failed:
                self._retry_later(reply)
        else:
            await self._call("reach", Position(seq=await self._mesh.log.last_seq()))
        self._begin(self._keep_on(self._follow))
        self._begin(self._keep_on(self._confirm))

    async def stop(self) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._mesh.host.call(self.here, "reach", Position(seq=self._position))
        except HostError:  # it says itself why it ended; some outcomes arrive twice then
            _logger.info("how far %s replies have come is not stored", self._sender.scheme)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
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
                _logger.exception("sending %s replies failed, and starts again", self._sender.scheme)
                await asyncio.sleep(backoff.next())

    async def _call(self, method: str, message: BaseModel) -> Any:
        return await until_answered(partial(self._mesh.host.call, self.here, method, message))

    async def _follow(self) -> None:
        """Start the delivery of each outcome, in order."""
        since = self._mesh.host.clock.now() - _MAX_AGE
        wanted = EventFilter(topic=TASK_PROGRESS, after_seq=self._position, since=since)
        async with aclosing(self._mesh.log.tail(wanted)) as events:
            async for event in events:
                if event.event_type in FINAL and event.task_id is not None:
                    await asyncio.sleep(0)  # so that views show the end first, where all is quiet
                    task = TaskKey(event.tenant_id, event.task_id)
                    asked = await until_answered(partial(self._mesh.host.read, self.replies(task)))
                    replies = asked.replies if isinstance(asked, ReplyAddresses) else []
                    addresses = (*self._sender.standing(task), *map(self._sender.typed, replies))
                    seq, document = event.seq or 0, encode(event.payload)
                    deliver = (self._deliver(seq, task, address, document) for address in addresses)
                    await self._pending.put((seq, [*map(self._begin, deliver)]))

    async def _confirm(self) -> None:
        """Wait for each delivery, in order, and note how far they are."""
        loop = asyncio.get_running_loop()
        saved_at = 0.0
        while True:
            seq, deliveries = await self._pending.get()
            await asyncio.gather(*deliveries)
            self._position = seq
            if self._pending.empty() or loop.time() - saved_at >= _SAVE_SECONDS:
                await self._call("reach", Position(seq=seq))
                saved_at = loop.time()

    async def _deliver(self, seq: int, task: TaskKey, address: Address, document: bytes) -> None:
        if failed := await self._send(seq, task, address, document):
            self._retry_later(failed)

    def _retry_later(self, reply: FailedReply) -> None:
        retry = self._retries[reply.key] = self._begin(self._keep_on(partial(self._retry, reply)))
        retry.add_done_callback(lambda _: self._retries.pop(reply.key, None))

    async def _retry(self, reply: FailedReply) -> None:
        """Send what failed before, when it is due, until it has arrived or is dropped."""
        task = TaskKey(reply.tenant_id, reply.task_id)
        wanted = EventFilter(topic=TASK_PROGRESS, after_seq=reply.seq - 1, before_seq=reply.seq + 1)
        failed: FailedReply | None = reply
        while failed is not None:
            pause = failed.retry_at - self._mesh.host.clock.now()
            await asyncio.sleep(max(0.0, pause.total_seconds()))
            events = await until_answered(partial(self._mesh.log.query, wanted))
            if not events or events[0].time < self._mesh.host.clock.now() - _MAX_AGE:
                self._drop(task, "it could not be sent in time")
                break
            address, document = self._sender.typed(reply.address), encode(events[0].payload)
            failed = await self._send(reply.seq, task, address, document, failed.failures)
        await self._call("settle", reply)

    async def _send(
        self, seq: int, task: TaskKey, address: Address, document: bytes, failures: int = 0
    ) -> FailedReply | None:
        """Send an outcome. Returns what is stored for another try where that fails."""
        try:
            await self._sender.send(address, document)
        except Undeliverable as error:
            self._drop(task, str(error))
        except Exception as error:  # noqa: BLE001 a sender's errors are its own: any is a reason to try again
            _logger.info("a reply of task %s cannot be sent now: %s", task.task_id, error)
            pause = Backoff(_FIRST_RETRY_SECONDS, _MAX_RETRY_SECONDS, failures=failures).next()
            failed = FailedReply(
                seq=seq,
                tenant_id=task.tenant_id,
                task_id=task.task_id,
                address=_plain(address),
                failures=failures + 1,
                retry_at=self._mesh.host.clock.now() + timedelta(seconds=pause),
            )
            dropped = await self._call("postpone", failed)
            if dropped is not None:
                if dropped.key in self._retries:
                    self._retries[dropped.key].cancel()
                self._drop(TaskKey(dropped.tenant_id, dropped.task_id), "too many replies wait")
            return failed
        return None

    def _drop(self, task: TaskKey, reason: str) -> None:
        known = {"scheme": self._sender.scheme, "reason": reason}
        self._mesh.tell("reply.dropped", known, tenant_id=task.tenant_id, task_id=task.task_id)


def _plain(address: Address) -> Address:
    """An address without its scheme's type, as it is stored: all of its fields survive."""
    return Address.model_validate(address.model_dump(mode="json"))


async def until_answered(
    ask: Callable[[], Awaitable[_ResultT]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> _ResultT:
    """Asks the host until it can answer."""
    backoff = Backoff(0.25, 30.0)
    while True:
        try:
            return await ask()
        except HostError:  # full, stopping, or its store is away: the host says so itself
            await sleep(backoff.next())
