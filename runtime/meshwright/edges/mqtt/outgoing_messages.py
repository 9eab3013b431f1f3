"""The publications of the edge itself: events, presence, outcomes, and notices of trouble.

Events and progress are a view, not a record: they wait in memory for a broker that is slow or away, the
newest of them only. Presence is retained: the broker keeps who is in the mesh, and says by itself when the
mesh is gone. Outcomes are sent by the courier until the broker has them.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from meshwright.core import __version__
from meshwright.core.capability import AgentInfo
from meshwright.core.encoding import encode
from meshwright.core.events import Event
from meshwright.core.messages import Caller
from meshwright.core.payloads import Payload
from meshwright.core.task_events import TaskWaiting, WaitEnded
from meshwright.core.topics import AGENTS, TASK_PROGRESS
from meshwright.edges.broker.connection import (
    JSON,
    QUOTA_EXCEEDED,
    TOO_LARGE,
    BrokerAway,
    BrokerConnection,
    Publication,
)
from meshwright.edges.broker.topics import ANONYMOUS, Topics
from meshwright.edges.cloud_events import CONTENT_TYPE, envelope
from meshwright.edges.event_types import EdgeDropped, EdgeRefused
from meshwright.edges.replies.courier import Address, Sender
from meshwright.engine.events.inbox import Inbox
from meshwright.engine.events.inbox_sources import WholeInbox
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.identity.rules import event_facts
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.acceptance import FINAL
from meshwright.mesh.orchestration.presence import Presence
from meshwright.mesh.orchestration.registry import Registry
from meshwright.mesh.orchestration.settings import PresenceSettings

_MAX_WAITING = 4096  # events; more, and the oldest are dropped
_MAX_WAITING_BYTES = 16 * 1024 * 1024  # of them, encoded
_BATCH = 16  # events between two looks at what else the loop has to do
_QUOTA_SECONDS = 1.0  # before a broker that is full is asked again
REFUSED, DROPPED = "edge.refused", "edge.dropped"
_SECONDS = {REFUSED: 1.0, DROPPED: 10.0}  # between two reports of a kind
_MAX_CHARS = 256  # of a topic, or of a field of a problem
_MAX_QUESTIONS = 100  # in the document of an inbox
_GATHER_SECONDS = 0.1  # in which changes of an inbox become one message
_CHANGES_OF_INBOX = ("question.claimed", "question.released", "deployment.refused", "deployment.recovered")


class Notices:
    """Reports trouble as events of the mesh, at a bounded rate: at once, then with a count of those since."""

    def __init__(self, emit: Callable[[Payload], object]) -> None:
        self._emit = emit
        self._waiting: dict[tuple[str, bool], tuple[int, dict[str, Any]]] = {}
        self._timers: dict[tuple[str, bool], asyncio.TimerHandle] = {}

    def refused(self, problem: dict[str, Any], topic: str, *, answered: bool) -> None:
        """Report a refused message; `answered` says whether its sender can get a reply.

        Of what the sender wrote only the beginning is reported.
        """
        short = {
            name: value[:_MAX_CHARS] if isinstance(value, str) else value
            for name, value in problem.items()
            if name != "errors"
        }
        self._add((REFUSED, answered), topic=topic[:_MAX_CHARS], answered=answered, problem=short)

    def dropped(self, **details: Any) -> None:
        """Report a message of ours that cannot be delivered."""
        self._add((DROPPED, False), **details)

    async def publish(self, connection: BrokerConnection, publication: Publication) -> asyncio.Future[str]:
        """Publish at qos 1, and report if the broker does not take it; not if the connection ends first."""

        def look(answer: asyncio.Future[str]) -> None:
            if not answer.cancelled() and answer.exception() is None and answer.result():
                self.dropped(topic=publication.topic, reason=answer.result())

        answer = await connection.send(publication)
        answer.add_done_callback(look)
        return answer

    def close(self) -> None:
        """Report what is left."""
        for kind, timer in [*self._timers.items()]:
            timer.cancel()
            self._report(kind)

    def _add(self, kind: tuple[str, bool], **details: Any) -> None:
        count, _ = self._waiting.get(kind, (0, {}))
        self._waiting[kind] = (count + 1, details)
        if kind not in self._timers:
            self._report(kind)

    def _report(self, kind: tuple[str, bool]) -> None:
        self._timers.pop(kind, None)
        if kind in self._waiting:
            count, details = self._waiting.pop(kind)
            loop = asyncio.get_running_loop()
            self._timers[kind] = loop.call_later(_SECONDS[kind[0]], self._report, kind)
            payload = EdgeRefused if kind[0] == REFUSED else EdgeDropped
            self._emit(payload(**details, count=count))


class Views:
    """Shows events at the broker, as the HTTP API streams them. `idle` is set while none waits.

    With the `kinds` of payloads, each event is shown without its contents too.
    """

    def __init__(self, topics: Topics, notices: Notices, kinds: Mapping[str, type[Payload]] | None) -> None:
        self._topics = topics
        self._notices = notices
        self._kinds = kinds
        self._waiting: deque[tuple[Publication, ...]] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    def add(self, event: Event) -> None:
        """Take an event of the bus. It is encoded at once, so that what waits is known to the byte."""
        publications = tuple(self._publications(event))
        self._waiting.append(publications)
        self._waiting_bytes += len(publications[0].payload)
        while len(self._waiting) > _MAX_WAITING or self._waiting_bytes > _MAX_WAITING_BYTES:
            self._take()
            self._notices.dropped(what="events", reason="more happens than the broker takes")
        if self._waiting:
            self._news.set()
            self.idle.clear()

    def _take(self) -> tuple[Publication, ...]:
        publications = self._waiting.popleft()
        self._waiting_bytes -= len(publications[0].payload)
        return publications

    async def show(self, connection: BrokerConnection) -> None:
        """Publish what waits, and what comes. Raises BrokerAway."""
        while True:
            await self._news.wait()
            for _ in range(min(_BATCH, len(self._waiting))):
                for publication in self._waiting[0]:
                    if not connection.put(publication):
                        self._notices.dropped(topic=publication.topic, reason=TOO_LARGE)
                self._take()
            await connection.written()
            if not self._waiting:
                self._news.clear()
                self.idle.set()
            await asyncio.sleep(0)

    def _publications(self, event: Event) -> Iterator[Publication]:
        payload = memoryview(
            encode(event)
        ).tobytes()  # a copy: an encoder's bytes hold up to half as many more
        yield Publication(self._topics.event(event), payload, qos=0)
        facts = None if self._kinds is None else event_facts(event, self._kinds)
        if facts is not None:
            yield Publication(self._topics.event(event, "facts"), encode(facts), qos=0)
        if event.topic == TASK_PROGRESS and event.task_id is not None:
            yield Publication(self._topics.task_topic(event.tenant_id, event.task_id, "progress"), payload, 0)
        if (refusal := EdgeRefused.read(event)) is not None and not refusal.answered:
            yield Publication(self._topics.errors, encode(event.payload), qos=0)


def will(topics: Topics) -> Publication:
    """Returns the message that the broker publishes when the connection ends without a goodbye."""
    return Publication(topics.status, encode({"status": "offline", "reason": "connection lost"}), retain=True)


class RetainedPresence:
    """Keeps the retained documents of the agents and of the mesh true."""

    def __init__(self, mesh: Mesh, topics: Topics, notices: Notices) -> None:
        self._mesh = mesh
        self._topics = topics
        self._notices = notices
        self._own = frozenset(registration.agent_id for registration in mesh.get(Presence).registrations)
        self._changed: set[str] = set()
        self._news = asyncio.Event()

    def note(self, event: Event) -> None:
        """Take an event of the bus; those of agents change what is shown."""
        if event.topic == AGENTS and event.agent_id is not None:
            self._changed.add(event.agent_id)
            self._news.set()

    async def show(self, connection: BrokerConnection) -> None:
        """Publish who is there, then each change. Raises BrokerAway."""
        await self._notices.publish(connection, self._status("online"))
        expiry_seconds = math.ceil(self._mesh.settings[PresenceSettings].offline_after_seconds)
        self._changed = {info.agent_id for info in self._mesh.get(Registry).agents()}
        while True:
            changed, self._changed = self._changed, set()
            self._news.clear()
            for info in self._mesh.get(Registry).agents():
                if info.agent_id in changed:
                    await self._notices.publish(connection, self._document(info, expiry_seconds))
            await self._news.wait()

    async def leave(self, connection: BrokerConnection) -> None:
        """Publish that the agents of this process and the mesh are gone. Raises BrokerAway.

        The broker has it all when this returns.
        """
        agents = [info for info in self._mesh.get(Registry).agents() if info.agent_id in self._own]
        documents = [self._document(info.model_copy(update={"status": "offline"})) for info in agents]
        documents.append(self._status("offline", reason="stopped"))
        await asyncio.gather(*[await self._notices.publish(connection, document) for document in documents])

    def _document(self, info: AgentInfo, expiry_seconds: int | None = None) -> Publication:
        topic = self._topics.agent(info.agent_id)
        return Publication(topic, encode(info), 1, True, JSON, expiry_seconds=expiry_seconds)

    def _status(self, status: str, **more: str) -> Publication:
        now = self._mesh.runtime.clock.now()
        document = {"status": status, **more, "time": now, "version": __version__}
        return Publication(self._topics.status, encode(document), 1, True, JSON)


class RetainedInbox:
    """Keeps the retained document of each tenant's inbox true: what waits for people."""

    def __init__(self, mesh: Mesh, topics: Topics, notices: Notices) -> None:
        self._mesh = mesh
        self._topics = topics
        self._notices = notices
        self._of_others = {*_CHANGES_OF_INBOX}
        self._shown: dict[str, set[str]] = {}
        self._published: dict[str, bytes] = {}
        self._changed: set[str] = set()
        self._news = asyncio.Event()

    def note(self, event: Event) -> None:
        """Take an event of the bus; those of questions change what is shown, and so does a task's end."""
        wait = TaskWaiting.read(event) or WaitEnded.read(event)
        is_ours = wait is not None and wait.kind == "person"
        is_ours = is_ours or event.event_type in self._of_others
        has_ended = event.event_type in FINAL and event.task_id in self._shown.get(event.tenant_id, ())
        if is_ours or has_ended:
            self._changed.add(event.tenant_id)
            self._news.set()

    async def show(self, connection: BrokerConnection) -> None:
        """Publish what waits, then each change. Raises BrokerAway."""
        self._published.clear()
        self._of_others |= {*self._mesh.get(WholeInbox).event_types}
        self._changed |= {Caller().tenant_id, *await self._mesh.get(Inbox).tenants()}
        while True:
            changed, self._changed = self._changed, set()
            self._news.clear()
            for tenant_id in sorted(changed):
                page = await self._mesh.get(WholeInbox).page(tenant_id, limit=_MAX_QUESTIONS)
                self._shown[tenant_id] = {question.task_id for question in page.items}
                document = encode({"items": page.items, "more": page.cursor is not None})
                if document == self._published.get(tenant_id):
                    continue
                topic = self._topics.inbox(tenant_id)
                await self._notices.publish(connection, Publication(topic, document, 1, True, JSON))
                self._published[tenant_id] = document
            await self._news.wait()
            await asyncio.sleep(_GATHER_SECONDS)


class MqttAddress(Address, kw_only=True):
    """A client's response topic, and its correlation data in base 64; `attributes` are of a CloudEvent."""

    topic: str
    correlation: str | None = None
    attributes: dict[str, str] | None = None

    @classmethod
    def from_properties(
        cls,
        topic: str,
        correlation: bytes | None,
        client: str = ANONYMOUS,
        attributes: dict[str, str] | None = None,
    ) -> MqttAddress:
        """Takes the properties of a request."""
        encoded = base64.b64encode(correlation).decode() if correlation else None
        return cls(topic=topic, correlation=encoded, client=client, attributes=attributes)

    def publication(self, document: bytes, content_type: str = JSON, qos: int = 1) -> Publication:
        """Returns the answer as a message."""
        correlation = base64.b64decode(self.correlation) if self.correlation else None
        if self.attributes is not None:
            document, content_type = envelope(self.attributes, document), CONTENT_TYPE
        return Publication(self.topic, document, qos, content_type=content_type, correlation=correlation)


class OutcomeSender(Sender[MqttAddress]):
    """Publishes outcomes, each to its task's topic and to those that asked for it.

    While the broker is away it waits, and the courier with it.
    """

    scheme = "mqtt"
    kind = MqttAddress

    def __init__(self, topics: Topics, notices: Notices) -> None:
        self.scope = topics.prefix
        self._topics = topics
        self._notices = notices
        self._connected = asyncio.Event()
        self._connection: BrokerConnection | None = None

    def use(self, connection: BrokerConnection) -> None:
        """Publish over a connection from now on."""
        self._connection = connection
        self._connected.set()

    def standing(self, task: TaskKey) -> Sequence[MqttAddress]:
        """Returns the task's own topic."""
        return [MqttAddress(topic=self._topics.task_topic(*task, "outcome"))]

    async def send(self, address: MqttAddress, document: bytes) -> None:
        """Publish an outcome until the broker has it. One that it will never take is reported."""
        publication = address.publication(document)
        while True:
            await self._connected.wait()
            connection = self._connection
            assert connection is not None
            try:
                reason = await (await connection.send(publication))
                if reason != QUOTA_EXCEEDED:
                    break
                await connection.sleep(_QUOTA_SECONDS)
            except BrokerAway:
                if self._connection is connection:
                    self._connected.clear()
        if reason:
            self._notices.dropped(topic=publication.topic, reason=reason)
