"""What clients ask for: each message is carried out, answered, and only then acknowledged.

So the broker delivers a message without an answer again, and that makes no second task: its sender's
`idempotency-key` or `task_id` names it, else the number of its packet, which stays the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pydantic import BaseModel

from meshwright.backoff import Backoff
from meshwright.edges.auth import Authenticator, Credentials
from meshwright.edges.bodies import PROBLEM_TYPE, AnswerRequest, problem_of, read_model
from meshwright.edges.mqtt.connection import BrokerConnection
from meshwright.edges.mqtt.outgoing import MqttAddress, Notices
from meshwright.edges.mqtt.packets import BrokerAway, MqttMessage, Publication
from meshwright.edges.mqtt.topics import ANONYMOUS, Command, Topics
from meshwright.edges.replies import Courier
from meshwright.encoding import encode
from meshwright.errors import HostError, InvalidInput, MeshError, NotFound, TooLarge
from meshwright.mesh import Mesh, TaskView
from meshwright.messages import Caller, TaskRequest, derived_id, new_id
from meshwright.tracing import parse
from meshwright.work.protocol import TaskKey

_logger = logging.getLogger("meshwright.edges.mqtt")
_ResultT = TypeVar("_ResultT")
_MAX_TOPIC_CHARS = 512
_MAX_CORRELATION_BYTES = 1024
_REPLIES = ("receipt", "outcome")


class InternalError(MeshError):
    """A fault of ours."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A message that asks for something."""

    connection: BrokerConnection
    delivery: MqttMessage
    command: Command
    caller: Caller
    reply_to: MqttAddress | None


class Commands:
    """Carries out what is published to our topics."""

    def __init__(
        self, mesh: Mesh, topics: Topics, notices: Notices, client_id: str, authenticator: Authenticator
    ) -> None:
        self._mesh = mesh
        self._courier = mesh.component(Courier)
        self._topics = topics
        self._notices = notices
        self._client_id = client_id
        self._authenticator = authenticator
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False
        self._verbs: dict[str, Callable[[_Request], Awaitable[BaseModel | None]]] = {
            "submit": self._submit,
            "cancel": self._cancel,
            "answer": self._answer,
        }

    def take(self, connection: BrokerConnection, delivery: MqttMessage) -> None:
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

    async def _serve(self, connection: BrokerConnection, delivery: MqttMessage) -> None:
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

    async def _reply(self, connection: BrokerConnection, delivery: MqttMessage) -> Publication | None:
        """Carry a message out, and make the answer to its sender. Raises BrokerAway alone."""
        reply_to: MqttAddress | None = None
        try:
            reply_to = self._reply_to(delivery)
            client = self._topics.client_of(delivery.topic)
            authenticate = partial(self._authenticator.authenticate, Credentials(client=client))
            caller = await _patiently(connection, authenticate)
            command = self._topics.parse(delivery.topic, caller.tenant_id)
            request = _Request(connection, delivery, command, caller, reply_to)
            document = await self._verbs[command.verb](request)
        except BrokerAway:
            raise
        except MeshError as error:
            return self._refusal(delivery, reply_to, error)
        except Exception as error:  # whatever it was, the sender hears of it and the next message is served
            _logger.exception("a message to %r failed", delivery.topic[:_MAX_TOPIC_CHARS])
            failure = InternalError(
                f"an unexpected {type(error).__name__}", remedy="the log of the mesh says more"
            )
            return self._refusal(delivery, reply_to, failure)
        if reply_to is None or document is None:
            return None
        return reply_to.publication(encode(document), qos=delivery.qos)

    def _refusal(
        self, delivery: MqttMessage, reply_to: MqttAddress | None, error: MeshError
    ) -> Publication | None:
        problem = problem_of(error).model_dump(mode="json", exclude_none=True)
        self._notices.refused(problem, delivery.topic, answered=reply_to is not None)
        return reply_to.publication(encode(problem), PROBLEM_TYPE, delivery.qos) if reply_to else None

    def _reply_to(self, delivery: MqttMessage) -> MqttAddress | None:
        """Where the answer goes. Raises InvalidInput where it may not go there, TooLarge."""
        topic, correlation = delivery.response_topic, delivery.correlation or b""
        if not topic:
            return None
        client = self._topics.client_of(delivery.topic)
        below = self._topics.replies_to(client)
        usable = len(topic) <= _MAX_TOPIC_CHARS and {"#", "+", "\0"}.isdisjoint(topic)
        if not usable or not topic.startswith(below) or topic == below:
            raise InvalidInput(
                f"the response topic of client {client!r} has to be below {below}",
                remedy=f"name one like {below}1, without wildcards, of up to {_MAX_TOPIC_CHARS} characters",
                field="response-topic",
            )
        if len(correlation) > _MAX_CORRELATION_BYTES:
            raise TooLarge(
                "the correlation data is too long",
                remedy=f"send up to {_MAX_CORRELATION_BYTES} bytes",
                field="correlation-data",
            )
        return MqttAddress.of(topic, correlation, client)

    # The verbs

    async def _submit(self, request: _Request) -> BaseModel | None:
        """Take a task; the reply is its receipt, or its outcome if that is wanted and there already."""
        connection, delivery, reply_to = request.connection, request.delivery, request.reply_to
        wanted = delivery.properties.get("reply", "receipt")
        if wanted not in _REPLIES:
            raise InvalidInput(
                f"there is no reply {wanted[:40]!r}", remedy="known are receipt, outcome", field="reply"
            )
        task = read_model(delivery.payload, TaskRequest, self._mesh.settings)
        key = delivery.properties.get("idempotency-key")
        if key is None and task.task_id is None:
            task_id = await _patiently(connection, partial(self._task_id, delivery, request.caller.tenant_id))
            task = task.model_copy(update={"task_id": task_id})
        traceparent = delivery.properties.get("traceparent")
        submit = partial(
            self._mesh.submit,
            task,
            request.caller,
            idempotency_key=key,
            traceparent=traceparent if traceparent and parse(traceparent) else None,
        )
        receipt = await _patiently(connection, submit)
        if reply_to is None or wanted == "receipt":
            return receipt
        key_of_task = TaskKey(request.caller.tenant_id, receipt.task_id)
        await _patiently(connection, partial(self._courier.ask, "mqtt", key_of_task, reply_to))
        view = await _patiently(connection, partial(self._mesh.task, receipt.task_id, key_of_task.tenant_id))
        return view.outcome  # it may have ended before anybody asked for its outcome

    async def _cancel(self, request: _Request) -> BaseModel:
        await self._check_owner(request)
        cancel = partial(self._mesh.cancel, request.command.task_id, request.caller.tenant_id)
        return await _patiently(request.connection, cancel)

    async def _answer(self, request: _Request) -> BaseModel:
        task_id = request.command.task_id
        await self._check_owner(request)
        given = read_model(request.delivery.payload, AnswerRequest, self._mesh.settings)
        answer = partial(self._mesh.answer, task_id, given.key, given.value, request.caller.tenant_id)
        await _patiently(request.connection, answer)
        return await self._task(request)

    async def _task(self, request: _Request) -> TaskView:
        show = partial(self._mesh.task, request.command.task_id, request.caller.tenant_id)
        return await _patiently(request.connection, show)

    async def _check_owner(self, request: _Request) -> None:
        """Raise NotFound where a client that the topic names asks for the task of another."""
        _, task_id, client = request.command
        if client == ANONYMOUS:
            return  # the topics without a client are for those who may act on every task
        if (await self._task(request)).requested_by != request.caller.requested_by:
            raise NotFound(f"client {client!r} has no task {task_id!r}", field="task_id")

    async def _task_id(self, delivery: MqttMessage, tenant_id: str) -> str:
        """The id of a task that its sender did not name: of a repeated packet the one that it got before.

        Packets that are alike in all, their number included, have the ids 0, 1, 2 of a row.
        """
        if not delivery.qos:
            return new_id()
        parts = ("mqtt", self._client_id, str(delivery.packet_id), delivery.digest())

        def nth(n: int) -> str:
            return derived_id(*parts, str(n))

        async def is_taken(n: int) -> bool:
            return await self._mesh.host.read(TaskKey(tenant_id, nth(n)).ref) is not None

        free = await _first_not(is_taken)
        return nth(free - 1 if delivery.repeated and free else free)


async def _first_not(holds: Callable[[int], Awaitable[bool]]) -> int:
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


async def _patiently(connection: BrokerConnection, ask: Callable[[], Awaitable[_ResultT]]) -> _ResultT:
    """Ask the host until it can answer. Raises BrokerAway when the connection ends meanwhile."""
    backoff = Backoff(0.25, 30.0)
    while True:
        try:
            return await ask()
        except BrokerAway:
            raise
        except HostError:  # full, stopping, or its store is away: the host says so itself
            await connection.sleep(backoff.next())
