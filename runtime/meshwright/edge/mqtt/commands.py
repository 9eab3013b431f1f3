"""What clients ask for: each message is carried out, answered, and only then acknowledged.

So a message of which nothing was said comes again, and is no second task: its sender's `idempotency-key` or
`task_id` names it, else the packet that it came in, which the broker repeats under the same number.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from meshwright.edge.mqtt.connection import Connection
from meshwright.edge.mqtt.faults import BrokerAway
from meshwright.edge.mqtt.notices import Notices
from meshwright.edge.mqtt.outcomes import Outcomes, ReplyTo
from meshwright.edge.mqtt.packets import PROBLEM, Delivery, Publication
from meshwright.edge.mqtt.pauses import patiently
from meshwright.edge.mqtt.topics import ANONYMOUS, Command, Topics
from meshwright.encoding import encode
from meshwright.errors import InvalidInput, MeshError, NotFound, TooLarge
from meshwright.mesh import Mesh
from meshwright.messages import Caller, TaskRequest, derived_id, new_id
from meshwright.tracing import parse
from meshwright.work.protocol import TaskKey

logger = logging.getLogger("meshwright.edge.mqtt")
ModelT = TypeVar("ModelT", bound=BaseModel)
MAX_TOPIC_CHARS = 512
MAX_CORRELATION_BYTES = 1024
REPLIES = ("receipt", "outcome")


class Front(Protocol):
    """How every front reads a request and tells an error."""

    async def read(self, body: bytes, model: type[ModelT]) -> ModelT:
        """Read a body into a model. Raises InvalidInput or TooLarge."""
        ...

    def problem(self, error: MeshError) -> BaseModel:
        """Describe an error, as RFC 9457 has it."""
        ...


class AnswerRequest(BaseModel):
    """A person's answer to what a task waits for, under the `key` of its `task.waiting` event."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=512)
    value: Any


class InternalError(MeshError):
    """A fault of ours."""


@dataclass(frozen=True, slots=True)
class Request:
    """A message that asks for something."""

    connection: Connection
    delivery: Delivery
    command: Command
    reply_to: ReplyTo | None


class Commands:
    """Carries out what is published to our topics."""

    def __init__(
        self, topics: Topics, front: Front, outcomes: Outcomes, notices: Notices, client_id: str
    ) -> None:
        self._topics = topics
        self._front = front
        self._outcomes = outcomes
        self._notices = notices
        self._client_id = client_id
        self._mesh: Mesh | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False
        self._verbs: dict[str, Callable[[Request], Awaitable[BaseModel | None]]] = {
            "submit": self._submit,
            "cancel": self._cancel,
            "answer": self._answer,
        }

    @property
    def mesh(self) -> Mesh:
        """The mesh that is asked."""
        assert self._mesh is not None, "attach it before the start"
        return self._mesh

    def attach(self, mesh: Mesh) -> None:
        """Ask this mesh."""
        self._mesh = mesh

    def take(self, connection: Connection, delivery: Delivery) -> None:
        """Carry a message out, beside others. Once closed it is left to the broker, for the next start."""
        if self._closed:
            connection.release()
            return
        task = asyncio.create_task(self._serve(connection, delivery), name="mqtt-command")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def close(self) -> None:
        """Take nothing new."""
        self._closed = True

    async def finished(self, seconds: float) -> None:
        """Wait until those under way have ended, some time at most."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=seconds)

    def abandon(self) -> None:
        """Wait no longer for those under way: unacknowledged as they are, they come again."""
        for task in self._under_way:
            task.cancel()

    async def _serve(self, connection: Connection, delivery: Delivery) -> None:
        try:
            reply = await self._reply(connection, delivery)
            if reply is not None and not reply.qos:
                connection.put(reply)
                await connection.written()
            connection.release()  # before the reply's turn, which may need something read first
            if reply is not None and reply.qos:
                self._notices.watch(reply, await connection.send(reply))
            connection.acknowledge(delivery)  # behind the reply: the broker has that if it has this
        except BrokerAway:
            return  # it gives the message to the next connection

    async def _reply(self, connection: Connection, delivery: Delivery) -> Publication | None:
        """Carry a message out, and make what tells its sender. Raises BrokerAway alone."""
        reply_to: ReplyTo | None = None
        try:
            reply_to = self._reply_to(delivery)
            command = self._topics.parse(delivery.topic)
            document = await self._verbs[command.verb](Request(connection, delivery, command, reply_to))
        except BrokerAway:
            raise
        except MeshError as error:
            return self._refusal(delivery, reply_to, error)
        except Exception as error:  # whatever it was, the sender hears of it and the next message is served
            logger.exception("a message to %r failed", delivery.topic[:MAX_TOPIC_CHARS])
            failure = InternalError(
                f"an unexpected {type(error).__name__}", remedy="the log of the mesh says more"
            )
            return self._refusal(delivery, reply_to, failure)
        if reply_to is None or document is None:
            return None
        return reply_to.publication(encode(document), qos=delivery.qos)

    def _refusal(self, delivery: Delivery, reply_to: ReplyTo | None, error: MeshError) -> Publication | None:
        problem = self._front.problem(error).model_dump(mode="json", exclude_none=True)
        self._notices.refused(problem, delivery.topic, answered=reply_to is not None)
        return reply_to.publication(encode(problem), PROBLEM, delivery.qos) if reply_to else None

    def _reply_to(self, delivery: Delivery) -> ReplyTo | None:
        """Where the answer goes. Raises InvalidInput where it may not go there, TooLarge."""
        topic, correlation = delivery.response_topic, delivery.correlation or b""
        if not topic:
            return None
        client = self._topics.client_of(delivery.topic)
        below = self._topics.replies_to(client)
        usable = len(topic) <= MAX_TOPIC_CHARS and {"#", "+", "\0"}.isdisjoint(topic)
        if not usable or not topic.startswith(below) or topic == below:
            raise InvalidInput(
                f"the response topic of client {client!r} has to be below {below}",
                remedy=f"name one like {below}1, without wildcards, of up to {MAX_TOPIC_CHARS} characters",
                field="response-topic",
            )
        if len(correlation) > MAX_CORRELATION_BYTES:
            raise TooLarge(
                "the correlation data is too long",
                remedy=f"send up to {MAX_CORRELATION_BYTES} bytes",
                field="correlation-data",
            )
        return ReplyTo.of(topic, correlation, client)

    # The verbs

    async def _submit(self, request: Request) -> BaseModel | None:
        """Take a task; the reply is its receipt or, where that is wished and still to come, nothing yet."""
        connection, delivery, reply_to = request.connection, request.delivery, request.reply_to
        wished = delivery.properties.get("reply", "receipt")
        if wished not in REPLIES:
            raise InvalidInput(
                f"there is no reply {wished[:40]!r}", remedy="known are receipt, outcome", field="reply"
            )
        task = await self._front.read(delivery.payload, TaskRequest)
        key = delivery.properties.get("idempotency-key")
        if key is None and task.task_id is None:
            task_id = await patiently(connection, lambda: self._task_id(delivery))
            task = task.model_copy(update={"task_id": task_id})
        traceparent = delivery.properties.get("traceparent")
        submit = partial(
            self.mesh.submit,
            task,
            Caller(tenant_id=self._topics.tenant, requested_by=request.command.client),
            idempotency_key=key,
            traceparent=traceparent if traceparent and parse(traceparent) else None,
        )
        receipt = await patiently(connection, submit)
        if reply_to is None or wished == "receipt":
            return receipt
        await patiently(connection, lambda: self._outcomes.ask(receipt.task_id, reply_to))
        view = await patiently(connection, lambda: self.mesh.task(receipt.task_id, self._topics.tenant))
        return view.outcome  # it may have ended before anybody asked for its outcome

    async def _cancel(self, request: Request) -> BaseModel:
        await self._check_owner(request)
        cancel = partial(self.mesh.cancel, request.command.task_id, self._topics.tenant)
        return await patiently(request.connection, cancel)

    async def _answer(self, request: Request) -> BaseModel:
        task_id = request.command.task_id
        await self._check_owner(request)
        given = await self._front.read(request.delivery.payload, AnswerRequest)
        answer = partial(self.mesh.answer, task_id, given.key, given.value, self._topics.tenant)
        await patiently(request.connection, answer)
        return await patiently(request.connection, partial(self.mesh.task, task_id, self._topics.tenant))

    async def _check_owner(self, request: Request) -> None:
        """Raise NotFound where a client that the topic names asks for the task of another."""
        _, task_id, client = request.command
        if client == ANONYMOUS:
            return  # the topics without a client are for those who may act on every task
        view = await patiently(request.connection, partial(self.mesh.task, task_id, self._topics.tenant))
        if view.requested_by != client:
            raise NotFound(f"client {client!r} has no task {task_id!r}", field="task_id")

    async def _task_id(self, delivery: Delivery) -> str:
        """The id of a task that its sender did not name: of a repeated packet the one that it got before.

        Packets that are alike in all, their number included, have the ids 0, 1, 2 of a row.
        """
        if not delivery.qos:
            return new_id()
        parts = ("mqtt", self._client_id, str(delivery.packet_id), delivery.digest())

        def nth(n: int) -> str:
            return derived_id(*parts, str(n))

        async def is_taken(n: int) -> bool:
            return await self.mesh.host.read(TaskKey(self._topics.tenant, nth(n)).ref) is not None

        free = await first_not(is_taken)
        return nth(free - 1 if delivery.repeated and free else free)


async def first_not(holds: Callable[[int], Awaitable[bool]]) -> int:
    """The first number, from 0, for which something that holds up to there does not; in few questions."""
    bound = 1
    while await holds(bound - 1):
        bound *= 2
    low, high = bound // 2, bound - 1
    while low < high:
        middle = (low + high) // 2
        if await holds(middle):
            low = middle + 1
        else:
            high = middle
    return low
