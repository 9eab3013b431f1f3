"""The operations of A2A, for one caller at one address: that of the mesh, or of an agent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from meshwright import Event, MeshError, TaskRequest
from meshwright.component import Conflict, Forbidden, InvalidInput, NotFound, Operations, Tasks
from meshwright.core import topics
from meshwright.core.encoding import encode
from meshwright.edges.bodies import InvalidFields
from meshwright.engine.events.answers import parse_reply
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import TaskView
from meshwright.kit import Role, derived_id, has_role
from meshwright.mesh.identity.events import EventOperations
from meshwright.mesh.orchestration.tasks import Leaving
from meshwright.parts.a2a import wire
from meshwright.parts.a2a.cards import SKILL_ID, Directory
from meshwright.parts.a2a.errors import (
    PUSH_NOT_SUPPORTED,
    TASK_NOT_CANCELABLE,
    TASK_NOT_FOUND,
    UNSUPPORTED_OPERATION,
    ProtocolError,
    stopping,
)
from meshwright.parts.a2a.push import PushConfigs
from meshwright.parts.a2a.wire import Document

_LOOK_SECONDS = 1.0  # between two looks at a task that asks
_CANCEL_SECONDS = 10.0  # that an agent has to let go before the cancelled task is shown as it is
_MAX_COUNTED = 1_000
_TEXTS = {"run.progress": "text", "run.state": "state", "run.title": "title"}
_ENDED_WAIT = "wait.ended"
_ModelT = TypeVar("_ModelT", bound=BaseModel)


class A2aAddress(NamedTuple):
    """The address of a request, and how long its caller waits."""

    directory: Directory
    """The agents that A2A reaches."""
    agent_id: str
    """The agent of the address; "" for that of the mesh."""
    base_url: str
    """The address of the mesh, without a path."""
    wait_seconds: float
    """Seconds that a message waits for the end of its task."""
    traceparent: str | None
    """The trace of the client."""
    leaving: Leaving
    """Begins a wait, with futures of which one is done once it need not go on."""


class A2aService:
    """The operations. Each takes the parameters as JSON, and raises MeshErrors."""

    def __init__(self, operations: Operations, address: A2aAddress) -> None:
        self._operations, self._address = operations, address
        self._caller, self._log = operations.caller, operations.mesh.log
        self._events = EventOperations(operations.mesh, operations.caller)

    # Messages

    async def send_message(self, params: Any) -> Document:
        """Give an agent a task, or answer its question; wait until it ends or asks."""
        request = _read(wire.SendRequest, params)
        task_id = await self._accept(request)
        wait = 0.0 if request.configuration.return_immediately else self._address.wait_seconds
        view = await self._wait(task_id, wait)
        return {"task": self._write(view, request.configuration.history_length)}

    async def send_streaming_message(self, params: Any) -> AsyncGenerator[Document]:
        """The same, with updates until it ends or asks. Raises before it returns them."""
        request = _read(wire.SendRequest, params)
        seq = await self._log.last_seq()
        task_id = await self._accept(request)
        return self._updates(task_id, seq, request.configuration.history_length, ends_at_question=True)

    async def _accept(self, request: wire.SendRequest) -> str:
        """Make the task of a message, or answer: durable when this returns. A repeated one does neither."""
        message, push = request.message, request.configuration.task_push_notification_config
        configs = None if push is None else self._push()
        if message.task_id:
            if configs is not None and push is not None:
                await configs.set((await self._see(message.task_id)).task_id, push)
            return await self._answer(message)
        skill = message.metadata.get(SKILL_ID) or request.metadata.get(SKILL_ID) or ""
        if not isinstance(skill, str):
            raise InvalidInput(f"{SKILL_ID} is no text", field=SKILL_ID)
        target = self._address.directory.target(self._address.agent_id, skill)
        task = TaskRequest(**target, payload=message.payload(), thread_id=message.context_id or None)
        key, trace = self._key(message, *target.values()), self._address.traceparent
        if configs is None or push is None:
            return (await self._operations.submit(task, idempotency_key=key, traceparent=trace)).task_id
        # The URL is known before the task is, so that it misses nothing; the key says the task's id.
        task_id = derived_id(self._caller.tenant_id, self._caller.source, key)
        before = await configs.find_all(task_id)
        config_id = (await configs.set(task_id, push, is_new=True))["id"]
        try:
            return (await self._operations.submit(task, idempotency_key=key, traceparent=trace)).task_id
        except MeshError:
            if not before:
                await configs.delete(task_id, config_id)
            raise

    def _key(self, message: wire.UserMessage, *target: str) -> str:
        """The idempotency key of a message. Clients send one id with several contents: these are others."""
        content = [self._caller.requested_by, *target, message.model_dump(exclude={"metadata"})]
        return f"a2a:{hashlib.sha256(encode(content)).hexdigest()}"

    async def _answer(self, message: wire.UserMessage) -> str:
        view, key = await self._see(message.task_id), self._key(message)
        if message.context_id and message.context_id != view.thread_id:
            raise InvalidInput("contextId is not that of the task", field="message.contextId")
        message.check_types()
        ends = await self._log.newest_of_task(view.task_id, self._caller.tenant_id, [_ENDED_WAIT])
        if _ENDED_WAIT in ends and ends[_ENDED_WAIT].idempotency_key == key:
            return view.task_id  # its client has sent it again
        waits = wire.questions(view, self._caller)
        if not waits:
            state = "has ended" if view.outcome else "asks you nothing"
            raise ProtocolError(
                UNSUPPORTED_OPERATION,
                f"Task {view.task_id} {state}",
                remedy="Send a message with its contextId and without a taskId to go on",
                field="message.taskId",
            )
        for wait, value in _read_answers(message, view.task_id, waits):
            try:
                await self._operations.answer(view.task_id, wait.wait_id, value, idempotency_key=key)
            except (NotFound, Conflict) as error:
                raise ProtocolError(
                    UNSUPPORTED_OPERATION, error.message, remedy=error.remedy, field="message.taskId"
                ) from None
        return view.task_id

    async def _wait(self, task_id: str, seconds: float) -> TaskView:
        """A task once it has ended or asks the caller, at the latest after so many seconds."""
        loop, leaving = asyncio.get_running_loop(), self._address.leaving
        ends_at, tasks = loop.time() + seconds, self._operations.mesh.get(Tasks)
        if seconds:
            await tasks.wait(task_id, self._caller.tenant_id, seconds, leaving, is_new=True)
        view = await self._see(task_id)
        # It asks somebody else, or works beside its question: no event says when that is over.
        while view.outcome is None and not self._asked(view) and (left := ends_at - loop.time()) > 0:
            view = await self._operations.see(task_id, wait=min(left, _LOOK_SECONDS), leaving=leaving)
        return view

    # Tasks

    async def get_task(self, params: Any) -> Document:
        """Show a task."""
        request = _read(wire.TaskParams, params)
        return self._write(await self._see(request.id), request.history_length)

    async def list_tasks(self, params: Any) -> Document:
        """List the tasks that the caller may see, those that changed last first."""
        request = _read(wire.ListRequest, params)
        own = None if has_role(self._caller, Role.VIEWER) else self._caller.requested_by
        fields: dict[str, Any] = {
            **wire.STATE_FILTERS.get(request.status, {}),
            "tenant_id": self._caller.tenant_id,
            "agent_id": self._address.agent_id or None,
            "thread_id": request.context_id or None,
            "requested_by": own,
            "since": request.status_timestamp_after,
            "order": "changed",
        }
        try:
            page = await self._log.tasks(**fields, limit=request.page_size, cursor=request.page_token or None)
        except InvalidInput as error:
            raise InvalidInput(error.message, remedy=error.remedy, field="pageToken") from None
        total = len(page.items)
        if page.cursor or request.page_token:
            total = len((await self._log.tasks(**fields, limit=_MAX_COUNTED)).items)
        documents = list[Document]()
        for task in page.items:
            document = wire.write_summary(task)
            if task.status == "waiting" or request.include_artifacts or request.history_length:
                document = await self._write_listed(task.task_id, request) or document
            if request.status in ("TASK_STATE_UNSPECIFIED", document["status"]["state"]):
                documents.append(document)
        return {
            "tasks": documents,
            "nextPageToken": page.cursor or "",
            "pageSize": request.page_size,
            "totalSize": total,
        }

    async def _write_listed(self, task_id: str, request: wire.ListRequest) -> Document | None:
        try:
            view = await self._see(task_id)
        except ProtocolError:  # it was erased meanwhile
            return None
        return self._write(view, request.history_length or 0, artifacts=request.include_artifacts)

    async def cancel_task(self, params: Any) -> Document:
        """Cancel a task, and show it once its agent has let go."""
        view = await self._see(_read(wire.TaskParams, params).id)
        if view.outcome is not None:
            raise ProtocolError(
                TASK_NOT_CANCELABLE, f"Task {view.task_id} has already ended: {view.status}", field="id"
            )
        await self._operations.cancel(view.task_id)
        seconds = min(_CANCEL_SECONDS, self._address.wait_seconds)
        view = await self._operations.see(view.task_id, wait=seconds, leaving=self._address.leaving)
        return self._write(view, None)

    async def subscribe_to_task(self, params: Any) -> AsyncGenerator[Document]:
        """Follow a task until it ends. Raises before it returns the updates."""
        request = _read(wire.TaskParams, params)
        seq = await self._log.last_seq()
        view = await self._see(request.id)
        if view.outcome is not None:
            raise ProtocolError(
                UNSUPPORTED_OPERATION,
                f"Task {view.task_id} has ended, and there is nothing to follow",
                remedy="GetTask has its outcome",
                field="id",
            )
        return self._updates(view.task_id, seq, None, ends_at_question=False)

    async def get_extended_agent_card(self, params: Any) -> Document:
        """Show the card with the schemas of skills."""
        address = self._address
        return address.directory.card(address.base_url, address.agent_id, is_extended=True)

    async def create_push_config(self, params: Any) -> Document:
        """Name a URL that gets the updates of a task."""
        configs, request = self._push(), _read(wire.PushConfig, params)
        return await configs.set((await self._see(request.task_id)).task_id, request)

    async def get_push_config(self, params: Any) -> Document:
        """Show a URL of a task."""
        configs, request = self._push(), _read(wire.PushConfigParams, params)
        return await configs.get((await self._see(request.task_id)).task_id, request.id)

    async def list_push_configs(self, params: Any) -> Document:
        """List the URLs of a task; all of them, since they are few."""
        configs, request = self._push(), _read(wire.PushConfigParams, params)
        documents = await configs.find_all((await self._see(request.task_id)).task_id)
        return {"configs": documents, "nextPageToken": ""}

    async def delete_push_config(self, params: Any) -> Document:
        """Send no more to a URL of a task."""
        configs, request = self._push(), _read(wire.PushConfigParams, params)
        await configs.delete((await self._see(request.task_id)).task_id, request.id)
        return {}

    def _push(self) -> PushConfigs:
        """The URLs of the caller's tasks. Raises ProtocolError where the settings allow none."""
        settings = self._address.directory.settings
        if not settings.push:
            raise ProtocolError(
                PUSH_NOT_SUPPORTED,
                "Push notifications are not supported",
                remedy="Follow the task by SubscribeToTask, or set push = true in [a2a] of mesh.toml",
            )
        return PushConfigs(self._operations, settings, self._address.base_url)

    async def _see(self, task_id: str) -> TaskView:
        """A task that the caller may see. Those of others are as unknown as any."""
        try:
            return await self._operations.see(task_id)
        except (NotFound, Forbidden):
            raise ProtocolError(TASK_NOT_FOUND, f"There is no task {task_id!r}", field="id") from None

    def _write(self, view: TaskView, history_length: int | None, *, artifacts: bool = True) -> Document:
        return wire.write_task(
            view, self._caller, self._address.base_url, history_length=history_length, artifacts=artifacts
        )

    # Streams

    async def _updates(
        self, task_id: str, after_seq: int, history_length: int | None, *, ends_at_question: bool
    ) -> AsyncGenerator[Document]:
        """The task, then its updates until it ends, or with `ends_at_question` until it asks the caller."""
        feed = await self._events.follow(task_id, after_seq=after_seq)
        if feed is None:
            yield {"task": self._write(await self._see(task_id), history_length)}
            return
        # It is read from now on: a model writes piece by piece for those who read.
        reading = asyncio.ensure_future(anext(feed.batches, None))
        try:
            view = await self._see(task_id)
            yield {"task": self._write(view, history_length)}
            updates, shown, may_wait = _Updates(view), self._asked(view), True
            while view.outcome is None and not (ends_at_question and shown):
                if may_wait:
                    view = await self._see(task_id)
                    before, shown = shown, self._asked(view)
                    if shown - before:
                        yield self._status(view)
                        continue
                # Once the other legs of a run that asks wait too, no event says so.
                asks = bool(wire.questions(view, self._caller)) and not shown
                await asyncio.wait({reading}, timeout=_LOOK_SECONDS if asks else None)
                if not reading.done():
                    continue
                if (batch := reading.result()) is None:
                    raise stopping()
                reading = asyncio.ensure_future(anext(feed.batches, None))
                for event in batch:
                    for update in updates.read(event):
                        yield update
                if any(map(feed.is_last, batch)):
                    view = await self._see(task_id)
                    for artifact in wire.write_artifacts(view.outcome, self._address.base_url):
                        yield {"artifactUpdate": {**_ids(view), "artifact": artifact, "lastChunk": True}}
                    yield self._status(view)
                may_wait = asks or any(event.event_type == "task.waiting" for event in batch)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await feed.batches.aclose()

    def _asked(self, view: TaskView) -> set[str]:
        """The keys of the questions by which a task waits for the caller, with all that it does."""
        waits = wire.questions(view, self._caller) if view.status == "waiting" else []
        return {wait.wait_id for wait in waits}

    def _status(self, view: TaskView) -> Document:
        return {"statusUpdate": {**_ids(view), "status": wire.task_status(view, self._caller)}}


class _Updates:
    """Events of one task as updates: its progress, and the text of its model as it is written."""

    def __init__(self, view: TaskView) -> None:
        self._view = view
        self._is_working = view.status == "running"
        self._step = ""
        self._pieces = 0

    def read(self, event: Event) -> list[Document]:
        """Returns the updates for an event."""
        fields = event.fields
        if event.event_type == topics.MODEL_DELTA:
            return self._delta(f"{fields.get('attempt')}-{fields.get('step')}", fields)
        text = fields.get(_TEXTS.get(event.event_type, ""))
        begins = event.event_type in ("task.started", "task.resumed") and not self._is_working
        self._is_working = begins or (self._is_working and event.event_type != "task.waiting")
        if not text and not begins:
            return []
        status = wire.progress_status(self._view, str(text or ""), event.time)
        return [{"statusUpdate": {**_ids(self._view), "status": status}}]

    def _delta(self, step: str, fields: Any) -> list[Document]:
        text, number = fields.get("text"), fields.get("n")
        if number == 1:  # each message begins the artifact anew
            self._step, self._pieces = step, 0
        if not text or step != self._step or number != self._pieces + 1:
            return []  # who was not there from the beginning gets the answer as a whole
        self._pieces += 1
        artifact = {"artifactId": wire.ARTIFACT_ID, "parts": [{"text": text}]}
        update = {**_ids(self._view), "artifact": artifact, "append": self._pieces > 1}
        return [{"artifactUpdate": update}]


def _ids(view: TaskView) -> Document:
    return {"taskId": view.task_id, "contextId": view.thread_id}


def _read_answers(message: wire.UserMessage, task_id: str, waits: list[Wait]) -> list[tuple[Wait, Any]]:
    """The questions that a message answers: data may name them by their keys, all else is for the oldest."""
    by_key = {wait.wait_id: wait for wait in waits}
    oldest, answers = waits[0], list[tuple[Wait, Any]]()
    for data in message.data:
        named = [key for key in data if f"/{task_id}/" in key] if isinstance(data, dict) else []
        if unknown := [key for key in named if key not in by_key]:
            raise InvalidInput(f"The task does not ask you that, or not any more: {', '.join(unknown)}")
        answers += [(by_key[key], data[key]) for key in named] if named else [(oldest, data)]
    return answers or [(oldest, parse_reply(oldest.answer_schema, message.text))]


def _read(model: type[_ModelT], params: Any) -> _ModelT:
    """Reads parameters. Raises InvalidFields."""
    try:
        return model.model_validate(params)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise InvalidFields.from_problems(problems, model) from None


Method = Callable[[A2aService, Any], Any]
METHODS: dict[str, Method] = {
    "SendMessage": A2aService.send_message,
    "SendStreamingMessage": A2aService.send_streaming_message,
    "GetTask": A2aService.get_task,
    "ListTasks": A2aService.list_tasks,
    "CancelTask": A2aService.cancel_task,
    "SubscribeToTask": A2aService.subscribe_to_task,
    "GetExtendedAgentCard": A2aService.get_extended_agent_card,
    "CreateTaskPushNotificationConfig": A2aService.create_push_config,
    "GetTaskPushNotificationConfig": A2aService.get_push_config,
    "ListTaskPushNotificationConfigs": A2aService.list_push_configs,
    "DeleteTaskPushNotificationConfig": A2aService.delete_push_config,
}
"""The operations by their names in JSON-RPC."""
