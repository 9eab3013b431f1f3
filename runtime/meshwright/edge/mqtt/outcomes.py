"""Outcomes: each is sent to its task's topic, and to whoever asked for it, until the broker has it.

They are read from the event log, behind the last one that the broker took. So none is lost while the broker
is away or the process down, and none waits in memory. After a crash some may come twice.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from meshwright.actor import Actor, Turn, turn
from meshwright.edge.mqtt.connection import QUOTA_EXCEEDED, Connection
from meshwright.edge.mqtt.notices import Notices
from meshwright.edge.mqtt.packets import JSON, Publication
from meshwright.edge.mqtt.pauses import patiently
from meshwright.edge.mqtt.topics import ANONYMOUS, Topics
from meshwright.encoding import encode
from meshwright.envelope import ActorRef
from meshwright.errors import TooLarge
from meshwright.events.filter import EventFilter
from meshwright.events.log import EventLog
from meshwright.host import Host
from meshwright.mesh import FINAL
from meshwright.messages import Event, Plain
from meshwright.topics import TASK_PROGRESS
from meshwright.turns import ActorKind
from meshwright.work.protocol import TaskKey, tenant_scoped

MAX_AGE = timedelta(days=1)  # of an outcome that is still sent
MAX_REPLIES = 8  # of one client that a task's outcome is sent to, the last
MAX_CLIENTS = 32  # that a task's outcome is sent to
MAX_PENDING = 64  # outcomes on their way to the broker
SAVE_SECONDS = 1.0  # between two notes of how far the broker has them, while there are more
QUOTA_SECONDS = 1.0  # before a broker that is full is asked again


class ReplyTo(Plain):
    """Where the answer to a client goes: the response topic, and the correlation data in base 64."""

    topic: str
    correlation: str | None = None
    client: str = ANONYMOUS

    @classmethod
    def of(cls, topic: str, correlation: bytes | None, client: str) -> ReplyTo:
        """The properties of a request as they are kept."""
        encoded = base64.b64encode(correlation).decode() if correlation else None
        return cls(topic=topic, correlation=encoded, client=client)

    def publication(self, document: bytes, content_type: str = JSON, qos: int = 1) -> Publication:
        """The answer as a message."""
        correlation = base64.b64decode(self.correlation) if self.correlation else None
        return Publication(self.topic, document, qos, content_type=content_type, correlation=correlation)


class Asked(BaseModel):
    """Who wants the outcome of a task."""

    replies: list[ReplyTo] = Field(default_factory=list)


class MqttReplies(Actor[Asked]):
    """Who wants the outcome of one task; its id is that of the task's actor."""

    @turn
    def ask(self, turn: Turn, reply_to: ReplyTo) -> None:
        """Send the outcome there too: no client displaces another. Raises TooLarge for too many clients."""
        asked = [known for known in self.state.replies if known != reply_to]
        mine = [known for known in asked if known.client == reply_to.client]
        others = [known for known in asked if known.client != reply_to.client]
        if len({known.client for known in others}) >= MAX_CLIENTS:
            raise TooLarge(
                f"{MAX_CLIENTS} clients wait for the outcome of task {self.ref.id} already",
                remedy="subscribe to the task's outcome topic",
                field="reply",
            )
        self.state.replies = [*others, *mine[1 - MAX_REPLIES :], reply_to]


class Position(BaseModel):
    """How far the broker has the outcomes of the log: all up to the event of this number."""

    seq: int = 0


class MqttOutcomes(Actor[Position]):
    """What the broker has; its id is the prefix of the topics."""

    @turn
    def reach(self, turn: Turn, position: Position) -> None:
        """The broker has all up to there."""
        self.state.seq = position.seq


class Sending(NamedTuple):
    """A message on its way."""

    publication: Publication
    answer: asyncio.Future[str]


Pending = asyncio.Queue[tuple[int, list[Sending]]]


class Outcomes:
    """Sends the outcomes of tasks, and keeps who asked for them."""

    def __init__(self, topics: Topics, host: Host, log: EventLog, notices: Notices) -> None:
        self._topics = topics
        self._host = host
        self._log = log
        self._notices = notices
        self._here = ActorRef(MqttOutcomes.__name__, topics.prefix)
        self._position = 0
        host.register(ActorKind.of(MqttReplies))
        host.register(ActorKind.of(MqttOutcomes))

    async def start(self) -> None:
        """Find where to go on; the first time, behind all that has ended before."""
        state = await self._host.read(self._here)
        if isinstance(state, Position):
            self._position = state.seq
        else:
            await self._reach(await self._log.last_seq())

    async def ask(self, task_id: str, reply_to: ReplyTo) -> None:
        """Have the outcome of a task sent there too; kept, for whenever it ends, when this returns."""
        await self._host.call(_replies(TaskKey(self._topics.tenant, task_id)), "ask", reply_to)

    def works(self, connection: Connection) -> tuple[Coroutine[Any, Any, None], ...]:
        """What sends those that the broker does not have, and those to come. Raise BrokerAway."""
        pending: Pending = asyncio.Queue(MAX_PENDING)
        return self._send(connection, pending), self._settle(connection, pending)

    async def stop(self) -> None:
        """Note how far the broker has them."""
        await self._reach(self._position)

    async def _send(self, connection: Connection, pending: Pending) -> None:
        since = self._host.clock.now() - MAX_AGE
        wanted = EventFilter(topic=TASK_PROGRESS, after_seq=self._position, since=since)
        async with aclosing(self._log.tail(wanted)) as events:
            async for event in events:
                if event.event_type in FINAL and event.task_id is not None:
                    task = TaskKey(event.tenant_id, event.task_id)
                    await asyncio.sleep(
                        0
                    )  # so that the end is seen among the events first, where all is quiet
                    publications = await self._publications(connection, task, event)
                    sendings = [Sending(each, await connection.send(each)) for each in publications]
                    await pending.put((event.seq or 0, sendings))

    async def _publications(self, connection: Connection, task: TaskKey, event: Event) -> list[Publication]:
        document = encode(event.payload)
        asked = await patiently(connection, lambda: self._host.read(_replies(task)))
        replies = asked.replies if isinstance(asked, Asked) else []
        topic = self._topics.outcome(*task)
        return [
            Publication(topic, document, content_type=JSON),
            *(reply_to.publication(document) for reply_to in replies),
        ]

    async def _settle(self, connection: Connection, pending: Pending) -> None:
        """Wait for the broker's word on each, in order, and note how far it has them."""
        loop = asyncio.get_running_loop()
        saved_at = 0.0
        while True:
            seq, sendings = await pending.get()
            for sending in sendings:
                await self._taken(connection, sending)
            self._position = seq
            if pending.empty() or loop.time() - saved_at >= SAVE_SECONDS:
                await patiently(connection, partial(self._reach, seq))
                saved_at = loop.time()

    async def _taken(self, connection: Connection, sending: Sending) -> None:
        """Wait until the broker has it; one that it will never take is told, and passed by."""
        reason = await sending.answer
        while reason == QUOTA_EXCEEDED:
            await connection.sleep(QUOTA_SECONDS)
            reason = await (await connection.send(sending.publication))
        if reason:
            self._notices.dropped(topic=sending.publication.topic, reason=reason)

    async def _reach(self, seq: int) -> None:
        self._position = seq
        await self._host.call(self._here, "reach", Position(seq=seq))


def _replies(task: TaskKey) -> ActorRef:
    return ActorRef(MqttReplies.__name__, tenant_scoped(*task))
