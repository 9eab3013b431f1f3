"""Commands of clients: each message is carried out, answered, and only then acknowledged.

So the broker delivers a message without an answer again, and that makes no second task: its sender's
`idempotency-key` or `task_id` names it, else `Redeliveries` knows it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from meshwright.core.encoding import encode
from meshwright.core.errors import InvalidInput, MeshError, TooLarge
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.operations import get_operation
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import PROBLEM_TYPE, InternalError, describe_problem, read_model
from meshwright.edges.broker.connection import JSON, BrokerAway, BrokerConnection, MqttMessage, Publication
from meshwright.edges.broker.topics import ANONYMOUS, Topics
from meshwright.edges.cloud_events import CONTENT_TYPE, TaskEvent, accept, refusal
from meshwright.edges.mqtt.outgoing_messages import MqttAddress, Notices
from meshwright.edges.mqtt.redeliveries import Redeliveries
from meshwright.edges.replies.courier import Courier, until_answered
from meshwright.engine.work.protocol import TaskKey
from meshwright.mesh.identity.auth import Authenticators, Credentials, Unauthenticated, parse_bearer
from meshwright.mesh.identity.operations import AnswerRequest, Operations, record_refusal
from meshwright.mesh.mesh import Mesh

_logger = logging.getLogger("meshwright.edges.mqtt")
_ResultT = TypeVar("_ResultT")
_Attempt = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
_MAX_TOPIC_CHARS = 512
_MAX_CORRELATION_BYTES = 1024
_REPLIES = ("receipt", "outcome")
_RECEIPTS, _RESULTS = "task-receipts", "task-results"


class Commands:
    """Carries out what is published to our topics."""

    def __init__(self, mesh: Mesh, topics: Topics, notices: Notices, redeliveries: Redeliveries) -> None:
        self._mesh = mesh
        self._courier = mesh.get(Courier)
        self._topics = topics
        self._notices = notices
        self._redeliveries = redeliveries
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self, connection: BrokerConnection, delivery: MqttMessage) -> None:
        """Carry a message out, beside others. Once closed it is left to the broker, for the next start."""
        if self._closed:
            connection.release()
            return
        self._redeliveries.receive(delivery)
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
                await self._notices.publish(connection, reply)
            # Behind the reply: the broker has that if it has this.
            connection.acknowledge(delivery, self._redeliveries.release(delivery, is_accepted=True))
        except BrokerAway:
            return  # it gives the message to the next connection
        finally:
            self._redeliveries.release(delivery, is_accepted=False)

    async def _reply(self, connection: BrokerConnection, delivery: MqttMessage) -> Publication | None:
        """Carry a message out, and make the answer to its sender. Raises BrokerAway alone."""
        reply_to: MqttAddress | None = None
        is_event = self._topics.takes_events(delivery.topic)
        content_type = CONTENT_TYPE if is_event else JSON
        try:
            reply_to = self._reply_to(delivery)
            document = await self._carry_out(connection, delivery, reply_to)
        except BrokerAway:
            raise
        except Exception as error:  # the sender gets every error, and the next message is served
            if not isinstance(error, MeshError):
                _logger.exception("a message to %r failed", delivery.topic[:_MAX_TOPIC_CHARS])
            problem = InternalError.from_exception(error)
            document = describe_problem(problem).model_dump(mode="json", exclude_none=True)
            self._notices.refused(document, delivery.topic, answered=reply_to is not None)
            if is_event:
                tenant_id = self._topics.topic_tenant(delivery.topic) or Caller().tenant_id
                document = refusal(delivery.payload, problem, tenant_id)
            else:
                content_type = PROBLEM_TYPE
        if reply_to is None or document is None:
            return None
        answer = document if isinstance(document, bytes) else encode(document)
        return reply_to.publication(answer, content_type, delivery.qos)

    def _reply_to(self, delivery: MqttMessage) -> MqttAddress | None:
        """Returns the address of the answer. Raises InvalidInput for one that it may not go to, TooLarge."""
        topic, correlation = delivery.response_topic, delivery.correlation or b""
        client = self._topics.topic_client(delivery.topic)
        below = self._topics.replies_to(delivery.topic)
        if not topic and self._topics.takes_events(delivery.topic):
            topic = f"{below}{_RECEIPTS}"
        if not topic:
            return None
        usable = len(topic) <= _MAX_TOPIC_CHARS and {"#", "+", "\0"}.isdisjoint(topic)
        if not usable or not topic.startswith(below) or topic == below:
            raise InvalidInput(
                f"The response topic of client {client!r} has to be below {below}",
                remedy=f"Name one like {below}1, without wildcards, of up to {_MAX_TOPIC_CHARS} characters",
                field="response-topic",
            )
        if len(correlation) > _MAX_CORRELATION_BYTES:
            raise TooLarge(
                "The correlation data is too long",
                remedy=f"Send up to {_MAX_CORRELATION_BYTES} bytes",
                field="correlation-data",
            )
        return MqttAddress.from_properties(topic, correlation, client)

    async def _carry_out(
        self, connection: BrokerConnection, delivery: MqttMessage, reply_to: MqttAddress | None
    ) -> Any:
        """Do what a message asks for, and return the document of the answer; None if that comes later.

        The runtime is asked again until it can answer, or the connection ends.
        """

        def attempt(ask: Callable[[], Awaitable[_ResultT]]) -> Awaitable[_ResultT]:
            return until_answered(ask, connection.sleep)

        mesh, credentials = self._mesh, self._credentials(delivery)
        try:
            caller = await attempt(lambda: mesh.get(Authenticators).authenticate(credentials))
        except Unauthenticated as error:
            if credentials.token or credentials.client != ANONYMOUS:
                record_refusal(mesh, error, caller=None, edge="mqtt")
            raise
        if caller.all_tenants:  # it acts for the one that the topic names
            tenant_id = self._topics.topic_tenant(delivery.topic) or caller.tenant_id
            caller = replace(caller, tenant_id=tenant_id, all_tenants=False)
        edge_caller = replace(caller, source="mqtt")
        try:
            return await self._obey(attempt, delivery, caller, edge_caller, reply_to)
        except MeshError as error:
            record_refusal(mesh, error, caller=edge_caller, request=delivery.topic[:_MAX_TOPIC_CHARS])
            raise

    async def _obey(
        self,
        attempt: _Attempt,
        delivery: MqttMessage,
        caller: Caller,
        edge_caller: Caller,
        reply_to: MqttAddress | None,
    ) -> Any:
        """Do what a message asks for on behalf of its caller, whom the audit trail has as `edge_caller`."""
        operations = Operations(self._mesh, edge_caller)
        verb, task_id = self._topics.parse(delivery.topic, caller.tenant_id)
        if verb == "tasks":
            event = TaskEvent.read(delivery.payload, self._mesh.settings)
            assert reply_to is not None
            topic = delivery.response_topic or f"{self._topics.replies_to(delivery.topic)}{_RESULTS}"
            outcome_to = partial(reply_to.from_properties, topic, delivery.correlation, reply_to.client)
            get_operation(Operations.submit).rule.check(edge_caller)
            by_key = Operations(self._mesh, caller)
            return await accept(by_key, event, "mqtt", outcome_to, attempt)
        if verb == "submit":
            get_operation(Operations.submit).rule.check(edge_caller)
            by_key = Operations(self._mesh, caller)  # a key is the same task at every edge
            return await self._submit(attempt, delivery, by_key, reply_to)
        if verb == "cancel":
            return await attempt(lambda: operations.cancel(task_id))
        answer = read_model(delivery.payload, AnswerRequest, self._mesh.settings)
        return await attempt(
            lambda: operations.answer(
                task_id, answer.key, answer.value, digest=answer.digest, anyway=answer.anyway
            )
        )

    def _credentials(self, delivery: MqttMessage) -> Credentials:
        """Returns the credentials of a sender: the user in the topic, or a token. Raises InvalidInput."""
        client = self._topics.topic_client(delivery.topic)
        header = delivery.properties.get("authorization")
        if header is None:
            return Credentials(client=client)
        if not (token := parse_bearer(header)):
            raise InvalidInput(
                "The user property authorization has to be Bearer, a space, and a key or token",
                remedy="Send it so, or leave it out",
                field="authorization",
            )
        return Credentials(client=client, token=token)

    async def _submit(
        self, attempt: _Attempt, delivery: MqttMessage, operations: Operations, reply_to: MqttAddress | None
    ) -> Any:
        """Take a task; the answer is its receipt, or its outcome if that is wanted and there already."""
        tenant_id = operations.caller.tenant_id
        reply = delivery.properties.get("reply", "receipt")
        if reply not in _REPLIES:
            raise InvalidInput(
                f"There is no reply {reply[:40]!r}", remedy="Known are receipt, outcome", field="reply"
            )
        request = read_model(delivery.payload, TaskRequest, self._mesh.settings)
        key, trace = delivery.properties.get("idempotency-key"), delivery.properties.get("traceparent")
        if key is None and request.task_id is None:
            task_id = await attempt(lambda: self._redeliveries.task_id(delivery, tenant_id))
            request = request.model_copy(update={"task_id": task_id})
        receipt = await attempt(
            lambda: operations.submit(request, idempotency_key=key, traceparent=valid_trace(trace))
        )
        if reply_to is None or reply == "receipt":
            return receipt
        task_id = receipt.task_id
        await attempt(lambda: operations.outcome(task_id))  # raises where the caller may not have it sent
        await attempt(lambda: self._courier.ask("mqtt", TaskKey(tenant_id, task_id), reply_to))
        # It may have ended before its outcome was asked for.
        return await attempt(lambda: operations.outcome(task_id))
