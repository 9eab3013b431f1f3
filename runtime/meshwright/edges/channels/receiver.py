"""Takes messages: proves who sent them, makes their tasks or gives their answers, durably."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any

from msgspec.structs import replace
from pydantic import BaseModel
from pydantic_core import from_json

from meshwright.core.errors import Conflict, Forbidden, IdempotencyConflict, InvalidInput, NotFound
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.schema import takes_approval
from meshwright.core.task_events import WaitEnded
from meshwright.edges.channels.chats import (
    SCHEME,
    ChannelAddress,
    ChannelMessage,
    ChatChannel,
    requester_of,
    task_of,
    thread_of,
)
from meshwright.edges.channels.sender import Typing
from meshwright.edges.deliveries import Gate, Proof
from meshwright.edges.replies.courier import Courier
from meshwright.events.filter import EventFilter
from meshwright.events.inbox import Inbox, Question
from meshwright.identity.operations import Operations
from meshwright.mesh import Mesh
from meshwright.work.protocol import TaskKey
from meshwright.work.record import read_task

_ANSWERED = "wait.ended"
_APPROVE = frozenset({"approve", "approved", "yes", "ok", "okay"})
_DENY = frozenset({"deny", "denied", "no", "reject"})
_MAX_TRIES = 20  # for a message to answer a question before another does
_LOG_SECONDS = 5.0  # for the log to have that a question was answered


class Accepted(BaseModel):
    """The result of a message: its task, or the task whose question it answered."""

    id: str
    task_id: str
    thread_id: str


class ChannelReceiver:
    """Turns the messages of channels into tasks of a mesh, and into answers to what those ask."""

    def __init__(self, mesh: Mesh, channels: Mapping[str, ChatChannel], typing: Typing) -> None:
        self._mesh = mesh
        self._channels = channels
        self._typing = typing
        self.gate = Gate(mesh, "channel", "channels")

    def channel(self, name: str, address: str) -> ChatChannel:
        """Returns a channel by its name. Raises Unauthenticated, as for a wrong signature."""
        if name not in self._channels:
            raise self.gate.refused(name, address, f"there is no active channel {name!r} in [channels]")
        return self._channels[name]

    def authenticate(
        self, channel: ChatChannel, headers: Mapping[str, str], body: bytes, address: str
    ) -> None:
        """Raises Unauthenticated for a delivery that is not signed with a secret of the channel."""
        proofs = [Proof(channel.chat.signed, secret) for secret in channel.settings.secrets]
        self.gate.check(channel.name, proofs, headers, body, address)

    async def accept(self, channel: ChatChannel, messages: Iterable[ChannelMessage]) -> list[Accepted]:
        """Make the tasks of messages, in order; all is durable then. One that came before is the same task.

        Raises InvalidInput for another tenant's, and what `Operations.submit` raises.
        """
        return [await self._accept(channel, message) for message in messages]

    async def _accept(self, channel: ChatChannel, message: ChannelMessage) -> Accepted:
        name, settings = channel.name, channel.settings
        if message.tenant_id not in ("", settings.tenant):
            raise InvalidInput(
                f"Channel {name!r} is not of the tenant {message.tenant_id}",
                remedy="Leave tenant_id out: the channel says whose messages they are",
                field="tenant_id",
            )
        by = f"channel:{name}"
        caller = Caller(
            tenant_id=settings.tenant,
            requested_by=requester_of(name, message.sender),
            source=by,
            roles=frozenset({"submitter"}),
        )
        thread_id = thread_of(settings.tenant, name, message.thread_id)
        task_id = task_of(settings.tenant, name, message.id)
        answered = await self._answer(channel, message, thread_id, caller)
        if answered is not None:
            return Accepted(id=message.id, task_id=answered, thread_id=thread_id)
        address = ChannelAddress(
            client=by,
            channel=name,
            thread_id=message.thread_id,
            message_id=message.id,
            metadata=message.channel_metadata,
        )
        payload: dict[str, Any] = {"text": message.content, "sender": message.sender}
        request = TaskRequest(
            task_id=task_id,
            agent_id=settings.agent_id(name),
            payload=payload | ({"context": message.context} if message.context else {}),
            thread_id=thread_id,
            timeout=settings.timeout,
            deadline=settings.deadline,
            budget_usd=settings.budget_usd,
        )
        await self._mesh.get(Courier).ask(SCHEME, TaskKey(settings.tenant, task_id), address)
        with suppress(IdempotencyConflict):  # the same message, in other words since it was edited
            await Operations(self._mesh, caller).submit(request)
        self._typing.begin(channel, message, task_id)
        return Accepted(id=message.id, task_id=task_id, thread_id=thread_id)

    async def _answer(
        self, channel: ChatChannel, message: ChannelMessage, thread_id: str, caller: Caller
    ) -> str | None:
        """Give a message to the task of its thread that asks something. None where it is no answer.

        Answer and message are recorded in one commit: one that is delivered again is no answer to another
        question, and one that became a task is none either.
        """
        if message.sender not in channel.settings.answer_by:
            return None
        tenant_id, key = channel.settings.tenant, f"channel:{channel.name}:{message.id}"
        earlier = EventFilter(tenant_id=tenant_id, event_type=_ANSWERED, idempotency_key=key, limit=1)
        with suppress(NotFound):
            await read_task(self._mesh.runtime, task_of(tenant_id, channel.name, message.id), tenant_id)
            return None
        answering = Operations(self._mesh, replace(caller, roles=frozenset({"approver"})))
        for _ in range(_MAX_TRIES):
            question = await self._mesh.get(Inbox).next_of(tenant_id, thread_id)
            if came_before := await self._mesh.log.query(earlier):  # after the inbox, which knows no more
                return came_before[0].task_id
            value = None if question is None else answer_of(question, message.content)
            if question is None or value is None:
                return None
            try:
                await answering.answer(question.task_id, question.wait_id, value, idempotency_key=key)
            except (Forbidden, InvalidInput):
                return None
            except (NotFound, Conflict):  # it was answered a moment ago, maybe with this very message
                if not await self._has_ended(question, tenant_id):
                    return None
            else:
                return question.task_id
        return None

    async def _has_ended(self, question: Question, tenant_id: str) -> bool:
        """Wait until the log has the end of a question. False where it has none in time."""
        ends = EventFilter(
            tenant_id=tenant_id, task_id=question.task_id, event_type=_ANSWERED, after_seq=question.seq
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOG_SECONDS), aclosing(self._mesh.log.tail(ends)) as events:
                async for event in events:
                    if WaitEnded.from_payload(event.payload).key == question.wait_id:
                        return True
        return False


def answer_of(question: Question, text: str) -> Any:
    """Returns what a message says to a question; None where it is no answer to that."""
    text = text.strip()
    if takes_approval(question.answer_schema):
        word, _, reason = text.partition(" ")
        word = word.strip(".,:;!").casefold()
        if word not in _APPROVE | _DENY:
            return None
        return {"approve": word in _APPROVE, "reason": reason.strip()}
    if question.answer_schema is None or question.answer_schema.get("type") == "string":
        return text
    try:
        return from_json(text)
    except ValueError:
        return None
