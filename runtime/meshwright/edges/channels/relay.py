"""Relays between chats and tasks, both ways.

Messages become tasks or answers, durably, once it is proven who sent them. Into chats go replies, questions
of tasks that no model answers, and that an agent is at work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace
from pydantic import BaseModel

from meshwright.core.display import duration, visible
from meshwright.core.errors import Conflict, Forbidden, IdempotencyConflict, InvalidInput, MeshError, NotFound
from meshwright.core.events import Event
from meshwright.core.ids import derived_id
from meshwright.core.messages import ENDED, Caller, Outcome, TaskRequest
from meshwright.core.redaction import Marks, redact
from meshwright.core.schema import takes_approval
from meshwright.core.step_events import RunProgress
from meshwright.core.task_events import QuestionReached, QuestionReminded, TaskWaiting, WaitEnded
from meshwright.edges.channels.chats import (
    MAX_CONTENT_CHARS,
    SCHEME,
    ChannelAddress,
    ChannelMessage,
    ChatChannel,
    chat_requester,
    chat_thread,
    conversation,
    message_task_id,
)
from meshwright.edges.deliveries import Gate, Proof
from meshwright.edges.outgoing_requests import Receivers, TryLater
from meshwright.edges.replies.courier import Courier, LineSender, Undeliverable
from meshwright.engine.events.answers import parse_decision, parse_reply
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.inbox import Inbox, Question
from meshwright.engine.work.protocol import EVERYBODY, TaskKey
from meshwright.engine.work.record import TaskView, read_task
from meshwright.mesh.identity.operations import Operations
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks

_ANSWERED = "wait.ended"
_MAX_TRIES = 20  # for a message to answer a question before another does
_REDELIVERED = timedelta(days=7)  # at the latest: no service tries longer
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
            requested_by=chat_requester(name, message.sender),
            source=by,
            roles=frozenset({"submitter"}),
        )
        thread_id = chat_thread(settings.tenant, name, message.thread_id)
        task_id = message_task_id(settings.tenant, name, message.id)
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

        Records the answer and its message in one commit. A redelivered message therefore answers no second
        question, and a message that started a task is never taken for an answer.
        """
        if message.sender not in channel.settings.answer_by:
            return None
        tenant_id, key = channel.settings.tenant, f"channel:{channel.name}:{message.id}"
        since = self._mesh.runtime.clock.now() - _REDELIVERED
        earlier = EventFilter(
            tenant_id=tenant_id, event_type=_ANSWERED, idempotency_key=key, since=since, limit=1
        )
        with suppress(NotFound):
            await read_task(
                self._mesh.runtime, message_task_id(tenant_id, channel.name, message.id), tenant_id
            )
            return None
        answering = Operations(self._mesh, replace(caller, roles=frozenset({"approver"})))
        for _ in range(_MAX_TRIES):
            question = await self._mesh.get(Inbox).next_question(tenant_id, thread_id)
            if came_before := await self._mesh.log.query(earlier):  # after the inbox, which knows no more
                return came_before[0].task_id
            if question is None:
                return None
            content, anyway = self._read_claimed(question, message.content, caller)
            if (value := parse_answer(question, content)) is None:
                return None
            try:
                await answering.answer(
                    question.task_id, question.wait_id, value, anyway=anyway, idempotency_key=key
                )
            except (Forbidden, InvalidInput):
                return None
            except (
                NotFound,
                Conflict,
            ) as error:  # it was answered a moment ago, maybe with this very message
                if error.field == "anyway":
                    await self._say_claimed(channel, message, error)
                    return question.task_id
                if not await self._has_ended(question, tenant_id):
                    return None
            else:
                return question.task_id
        return None

    def _read_claimed(self, question: Question, text: str, caller: Caller) -> tuple[str, bool]:
        """A text without its first word, and true, where that says to answer what another has claimed."""
        claimed_by = question.at(self._mesh.runtime.clock.now()).claimed_by
        word, _, rest = text.strip().partition(" ")
        if claimed_by in (None, caller.requested_by) or word.strip(".,:;!").casefold() != _ANYWAY:
            return text, False
        return rest, True

    async def _say_claimed(self, channel: ChatChannel, message: ChannelMessage, refused: MeshError) -> None:
        """Post that an answer does not count, since another caller is looking at the question."""
        settings = channel.settings
        reply = ChannelMessage(
            id=derived_id(settings.tenant, channel.name, message.id, "claimed"),
            tenant_id=settings.tenant,
            channel=settings.kind,
            channel_metadata=message.channel_metadata,
            sender=settings.persona.name if settings.persona else settings.agent_id(channel.name),
            content=f"{refused.message}. {_TO_ANSWER_ANYWAY}",
            thread_id=message.thread_id,
            reply_to=message.id,
            context={"kind": "claimed"},
        )
        try:
            await channel.chat.post(reply, again=False)
        except (Undeliverable, TryLater) as error:  # the question stays open
            _logger.warning("channel %s cannot say that a question is claimed: %s", channel.name, error)

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


def parse_answer(question: Question, text: str) -> Any:
    """Returns what a message says to a question; None where it is no answer to that."""
    if takes_approval(question.answer_schema):
        return parse_decision(text)
    return parse_reply(question.answer_schema, text.strip())


_logger = logging.getLogger("meshwright.edges.channels")

_WAITING, _PERSON, _PROVIDER = "task.waiting", "person", "provider"
_AT_ONCE = timedelta(seconds=0.5)  # within which the process that posts first does so
_CUT = " [cut]"
_TO_APPROVE = "Reply approve or deny, and why if you like."
_TO_ANSWER = "Reply here to answer."
_ANYWAY = "anyway"
_TO_ANSWER_ANYWAY = f"To answer all the same, begin your reply with the word {_ANYWAY}."
_SHOW_SECONDS = 1.0  # between two looks at a task; a reply that comes sooner is not announced
_MAX_SECONDS = 900.0  # that it is shown for one message
_MAX_SHOWN = 50  # messages of a channel that it is shown for at a time
_MAX_STATUS_CHARS = 100
_STATUS = "is typing..."
_NOT_NEXT = " The first reply is to the question before this one, which is still open."


class ChannelSender(LineSender[ChannelAddress]):
    """Posts into the chats of channels, in order in each conversation."""

    scheme = SCHEME
    kind = ChannelAddress
    scope = "channels"

    def __init__(self, mesh: Mesh, channels: Mapping[str, ChatChannel], page_url: str) -> None:
        self._mesh = mesh
        self._channels = channels
        self._page_url = page_url
        self._receivers = Receivers()
        self._began: datetime | None = None  # to send; until then another process may have done so
        self._tried: set[str] = set()

    def wants(self, event: Event) -> bool:
        """Whether a task asks a person, nobody has answered for a while, or it waits for a model."""
        waiting = TaskWaiting.read(event)
        if waiting is None:
            return QuestionReminded.read(event) is not None
        return waiting.kind in (_PERSON, _PROVIDER)

    def others(self, event: Event) -> Sequence[ChannelAddress]:
        """The conversations that get the reminders of a tenant."""
        if QuestionReminded.read(event) is None:
            return ()
        return [
            ChannelAddress(
                channel=name, thread_id=to, message_id="", metadata=conversation(channel.settings.kind, to)
            )
            for name, channel in self._channels.items()
            if channel.settings.tenant == event.tenant_id and (to := channel.settings.reminders)
        ]

    def line(self, address: ChannelAddress) -> str:
        """A conversation."""
        return f"{address.channel} {address.thread_id}"

    async def send(self, address: ChannelAddress, document: bytes) -> None:
        """Post the reply. Raises Undeliverable, TryLater."""
        outcome = Outcome.model_validate_json(document)
        channel = self._channel(address)
        message_id = derived_id(channel.settings.tenant, outcome.task_id, str(outcome.generation))
        text = redact(outcome.answer) if outcome.success else channel.settings.apology
        message = self._message(channel, address, message_id, text, "reply")
        message.timestamp = outcome.completed_at
        await self._post(channel, message)

    async def tell(self, address: ChannelAddress, event: Event) -> None:
        """Post the question of a task, or that no model answers. Raises Undeliverable, TryLater."""
        channel = self._channel(address)
        if (reminded := QuestionReminded.read(event)) is not None:
            await self._remind(channel, address, event, reminded)
            return
        waiting = TaskWaiting.from_payload(event.payload)
        if waiting.kind == _PERSON:
            text = "" if waiting.repeated else await self._question(channel, address, event, waiting)
            kind = "question"
        else:
            is_time = await self._is_time(event, channel.settings.fallback_after)
            kind, text = "fallback", channel.settings.fallback if is_time else ""
        if text:
            message = self._message(channel, address, derived_id(event.tenant_id, event.id), text, kind)
            message.timestamp = event.time
            await self._post(channel, message)
        if text and kind == "question" and self._answerers(channel, waiting.may_answer):
            self._tell_reached(channel, event, waiting.key)

    async def _remind(
        self, channel: ChatChannel, address: ChannelAddress, event: Event, reminded: QuestionReminded
    ) -> None:
        """Post a question again that nobody has answered, if somebody in the chat may answer it.

        A conversation for reminders gets it always, with the place where it is answered.
        """
        question = await self._mesh.get(Inbox).find(event.tenant_id, reminded.key)
        if question is None or question.status != "open":
            return
        is_own = bool(address.message_id)
        if is_own and not self._answerers(channel, reminded.may_answer):
            return
        waited = f"Nobody has answered for {duration(event.time - reminded.since)}"
        names = ["everybody" if name == EVERYBODY else name for name in reminded.escalated_to]
        asked = f", so {', '.join(names)} may answer as well" if names else ""
        if is_own:
            is_approval = takes_approval(question.answer_schema)
            text = await self._asked(channel, address, question.seq, question.question, is_approval)
        else:
            link = f"\n{self._page_url}/#/inbox?item={question.id}" if self._page_url else ""
            text = f"{visible(redact(question.question, Marks()))}\n\nmesh inbox {question.id}{link}"
        message_id = derived_id(event.tenant_id, event.id)
        message = self._message(channel, address, message_id, f"{waited}{asked}:\n\n{text}", "reminder")
        message.timestamp = event.time
        await self._post(channel, message)
        self._tell_reached(channel, event, reminded.key)

    def _tell_reached(self, channel: ChatChannel, event: Event, key: str) -> None:
        payload = QuestionReached(key=key, by=f"channel {channel.name}")
        self._mesh.tell(payload, tenant_id=event.tenant_id, task_id=event.task_id)

    def _channel(self, address: ChannelAddress) -> ChatChannel:
        if address.channel not in self._channels:
            raise Undeliverable(f"the settings have no active channel {address.channel!r} any more")
        return self._channels[address.channel]

    async def _is_time(self, event: Event, after: float) -> bool:
        """Whether with this event it is first certain that no model answers within `after` seconds.

        A wait for a model has an end, before which there is no answer; those of delegated tasks count too.
        """
        root_id = await self._root_task(TaskKey(event.tenant_id, event.task_id or ""))
        of_tree = await self._mesh.log.task_filter(
            root_id, event.tenant_id, event_type=_WAITING, before_seq=event.seq, limit=1000
        )
        if event.trace_id:  # those of all its tasks, which are younger than the root
            of_tree = of_tree.model_copy(update={"task_id": None, "trace_id": event.trace_id})
        earlier = await self._mesh.log.query(of_tree)
        waits = [past for past in earlier if TaskWaiting.from_payload(past.payload).kind == _PROVIDER]
        since = (waits or [event])[0].time
        return _next_try(event) - since >= timedelta(seconds=after) and not any(
            _next_try(waited) - since >= timedelta(seconds=after) for waited in waits
        )

    async def _root_task(self, task: TaskKey) -> str:
        """The task at the top of a task's tree."""
        while True:
            _, record = await read_task(self._mesh.runtime, task.task_id, task.tenant_id)
            if record.parent is None:
                return task.task_id
            task = TaskKey(task.tenant_id, record.parent.task_id)

    async def _question(
        self, channel: ChatChannel, where: ChannelAddress, event: Event, waiting: TaskWaiting
    ) -> str:
        if not self._answerers(channel, waiting.may_answer):
            return channel.settings.asked
        is_approval = takes_approval(waiting.answer_schema)
        return await self._asked(channel, where, event.seq or 0, waiting.asked, is_approval)

    async def _asked(
        self, channel: ChatChannel, where: ChannelAddress, seq: int, asked: str, is_approval: bool
    ) -> str:
        how = _TO_APPROVE if is_approval else _TO_ANSWER
        how += "" if await self._is_next(channel, where, seq) else _NOT_NEXT
        return f"{visible(redact(asked, Marks()))}\n\n{how}"

    def _answerers(self, channel: ChatChannel, may_answer: Collection[str]) -> set[str]:
        """The callers of a channel that may answer a question."""
        callers = {chat_requester(channel.name, sender) for sender in channel.settings.answer_by}
        return callers & {*(may_answer or callers)}

    async def _is_next(self, channel: ChatChannel, where: ChannelAddress, seq: int) -> bool:
        """Whether a question is the one that the next message of the conversation answers."""
        tenant_id, inbox = channel.settings.tenant, self._mesh.get(Inbox)
        first = await inbox.next_question(tenant_id, chat_thread(tenant_id, channel.name, where.thread_id))
        return first is None or first.seq >= seq

    def _message(
        self, channel: ChatChannel, where: ChannelAddress, message_id: str, text: str, kind: str
    ) -> ChannelMessage:
        settings = channel.settings
        text = text.strip() or "Done."
        if len(text) > MAX_CONTENT_CHARS:
            text = text[: MAX_CONTENT_CHARS - len(_CUT)] + _CUT
        return ChannelMessage(
            id=message_id,
            tenant_id=settings.tenant,
            channel=settings.kind,
            channel_metadata=where.metadata,
            sender=settings.persona.name if settings.persona else settings.agent_id(channel.name),
            content=text,
            thread_id=where.thread_id,
            reply_to=where.message_id or None,
            context={
                "kind": kind,
                "task_id": message_task_id(settings.tenant, channel.name, where.message_id),
                "thread": chat_thread(settings.tenant, channel.name, where.thread_id),
            },
        )

    def _may_be_there(self, message: ChannelMessage) -> bool:
        """Whether an earlier try, of this process or of one that is gone, may have posted a message."""
        now = self._mesh.runtime.clock.now()
        self._began = self._began or now
        is_late = now - message.timestamp > _AT_ONCE
        return is_late or message.timestamp < self._began or message.id in self._tried

    async def _post(self, channel: ChatChannel, message: ChannelMessage) -> None:
        receivers, name = self._receivers, channel.name
        with receivers.sending(name), receivers.bounded(f"channel {name}"):
            again = self._may_be_there(message)
            self._tried.add(message.id)
            try:
                await channel.chat.post(message, again=again)
            except Undeliverable:
                self._tried.discard(message.id)
                raise
        self._tried.discard(message.id)


class Typing:
    """Shows that an agent is at work on a message, and its progress, in the process that took it.

    It is never repeated after a crash, and no reply waits for it or fails with it.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._receivers = Receivers()
        self._shown: dict[str, dict[str, asyncio.Task[None]]] = {}

    async def start(self) -> None:
        """Nothing is shown before a message is taken."""

    async def stop(self) -> None:
        """Show no more. Idempotent."""
        tasks = [task for tasks_by_id in self._shown.values() for task in tasks_by_id.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, channel: ChatChannel, message: ChannelMessage, task_id: str) -> None:
        """Show that until the task of a message has ended; does not wait for it."""
        tasks = self._shown.setdefault(channel.name, {})
        if channel.settings.typing and task_id not in tasks and len(tasks) < _MAX_SHOWN:
            tasks[task_id] = asyncio.create_task(self._show(channel, message, task_id))
            tasks[task_id].add_done_callback(lambda _: tasks.pop(task_id, None))

    async def _show(self, channel: ChatChannel, message: ChannelMessage, task_id: str) -> None:
        loop, chat, last = asyncio.get_running_loop(), channel.chat, ("", float("-inf"))
        try:
            async with asyncio.timeout(_MAX_SECONDS):
                while True:
                    await asyncio.sleep(_SHOW_SECONDS)
                    task = await self._mesh.get(Tasks).task(task_id, channel.settings.tenant)
                    if task.status in ENDED:
                        return
                    status = await self._status(task)
                    is_due = loop.time() - last[1] >= chat.typing_seconds
                    if not status or not (is_due or (chat.has_status and status != last[0])):
                        continue
                    last = status, loop.time()
                    with suppress(TryLater), self._receivers.sending(channel.name):
                        await chat.show_typing(message, status)
        except (MeshError, TimeoutError) as error:  # the chat does not allow it, or the mesh is stopping
            _logger.info("channel %s shows no typing: %s", channel.name, error)

    async def _status(self, task: TaskView) -> str:
        """Returns the progress of an agent; nothing while a person, a model or a time is waited for."""
        if any(wait.kind != "task" for wait in task.waits):
            return ""
        if await self._mesh.get(Inbox).next_question(task.tenant_id, task.thread_id) is not None:
            return ""
        progress = await self._mesh.log.task_filter(
            task.task_id, task.tenant_id, event_type="run.progress", order="desc", limit=1
        )
        if task.trace_id:  # that of the tasks that it delegates, too, which are younger
            progress = progress.model_copy(update={"task_id": None, "trace_id": task.trace_id})
        events = await self._mesh.log.query(progress)
        lines = [line for event in events if (line := RunProgress.read(event)) is not None]
        text = " ".join(redact(lines[0].text).split()) if lines else ""
        return text[:_MAX_STATUS_CHARS] or _STATUS


def _next_try(waited: Event) -> datetime:
    """Returns when a task that waits for a model tries again."""
    return TaskWaiting.from_payload(waited.payload).due_at or waited.time
