"""The work of a peer on one task: a message, then looks at its task until that has ended.

The id of a message is in the journal before it is sent, and the id of the peer's task as soon as the peer
has said it: a run that is resumed sends the same message again, or asks for that task. A peer that does not
promise to take a message once is looked at first, and then a person is asked.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel, RootModel
from pydantic_core import to_json

from meshwright import File, ToolContext, ToolFailed, WaitExpired
from meshwright.agents.run.files import payload_files
from meshwright.agents.tools.limited_work import head_and_tail
from meshwright.core.checks import CheckResult
from meshwright.core.ids import derived_id
from meshwright.core.money import is_amount
from meshwright.core.schema_checks import safe_schema
from meshwright.kit import Backoff, InvalidInput
from meshwright.parts.remote.client import INVALID_PARAMS, UNSUPPORTED, PeerFailed
from meshwright.parts.remote.peer import Peer
from meshwright.parts.remote.wire import (
    ASKS,
    ENDED,
    Document,
    PeerContent,
    PeerMessage,
    PeerTask,
    is_of_origin,
    read_content,
)

SKILL_ID = "skillId"
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, _PAUSE_FACTOR = 1.0, 300.0, 1.3
_MAX_AWAY_SECONDS = 60.0  # between two messages
_MAX_SENDS = 40
_LOOKUPS = 3  # for a message that may have arrived
_MAX_STALE = 5  # looks at a task that still shows a question which was answered
_MAX_TEXT_CHARS, _MAX_DATA_BYTES = 200_000, 100_000
_MAX_SCHEMA_CHARS = 16_384
_MAX_QUESTIONS = 20
_HISTORY = 50
_AWAY = "away"


class RemoteWork:
    """The work of a peer on one task of the mesh."""

    def __init__(self, peer: Peer, context: ToolContext) -> None:
        self._peer, self._context = peer, context
        self._name, self._client = peer.name, peer.client
        self._ended: PeerTask | None = None
        self._shown = ""
        self._complaint = ""

    async def finish(self, text: str) -> Document:
        """Send the task, and follow it to its end: its `result`, or the `state` and `words` of a failure.

        Raises ToolFailed where the peer does not take it, or loses it.
        """
        state = await self._send(await self._request_parts(text), {})
        answered: Any = None
        stale, pause = 0, _MIN_PAUSE_SECONDS
        while "message" not in state and state["state"] not in ENDED:
            question = [state.get("words"), state.get("questions"), state.get("at")]
            if state["state"] in ASKS and (question != answered or stale >= _MAX_STALE):
                answer = await self._ask(state)
                answered, stale, pause = question, 0, _MIN_PAUSE_SECONDS
                if answer is None:  # nobody answered in time: the peer decides how it goes on
                    stale = -1_000_000
                else:
                    reply = await self._send([answer], state)
                    self._complaint = reply.get("refused", "")
                    if not self._complaint:
                        state = reply
                        continue
                    answered = None
            stale += state["state"] in ASKS
            await self._context.sleep(pause)
            pause = min(pause * _PAUSE_FACTOR, _MAX_PAUSE_SECONDS)
            state = await self._look(state)
        if "message" in state:
            return {
                "result": await self._result(read_content(PeerMessage.model_validate(state["message"]).parts))
            }
        return await self._end(state)

    # Messages

    async def _request_parts(self, text: str) -> list[Document]:
        """The payload of the task as parts of a message."""
        payload = dict(self._context.task.payload)
        payload.pop("text", None)
        parts: list[Document] = [{"text": text}] if text else []
        if payload_files(payload):
            for fields in payload.pop("files"):
                if not isinstance(fields, Mapping):
                    raise InvalidInput("payload.files has an entry that is no file", field="payload.files")
                file = await self._context.read_file(_read_file(fields))
                facts = {"filename": file.name, "mediaType": file.media_type}
                content = {"url": file.url} if file.url else {"raw": base64.b64encode(file.data).decode()}
                parts.append({**facts, **content})
        return [*parts, {"data": payload}] if payload or not parts else parts

    async def _send(self, parts: Sequence[Document], state: Document) -> Document:
        """Send a message, of an answer to the task of a `state`: the task's state, or why it is `refused`."""
        pauses = Backoff(_MIN_PAUSE_SECONDS, _MAX_AWAY_SECONDS, jitter=0)
        step = self._context.step
        while "id" not in (ids := await step(f"{self._name} message", self._name_message)):
            self._report(ids[_AWAY])
            await self._context.sleep(pauses.next())
        message = {
            "messageId": ids["id"],
            "role": "ROLE_USER",
            "parts": parts,
            "contextId": state.get("context") or ids["context"],
            **({"taskId": state["id"]} if state else {}),
            **({"metadata": {SKILL_ID: ids["skill"]}} if ids["skill"] and not state else {}),
        }
        is_safe = ids["is_safe"]

        async def post() -> Document:
            return await self._post(message, state, is_safe=is_safe)

        async def check(step_id: str) -> CheckResult:
            return await self._check(message)

        for _ in range(_MAX_SENDS):
            reply = await step(f"{self._name} send", post, check=None if is_safe else check)
            if not isinstance(reply, dict):  # a person said that it happened, and what came of it
                return {"message": {"parts": [{"text": str(reply or "")}]}}
            if _AWAY not in reply:
                return reply
            self._report(reply[_AWAY])
            await self._context.sleep(pauses.next())
        raise ToolFailed(f"{self._name} took no message in {_MAX_SENDS} tries: {reply[_AWAY]}")

    async def _name_message(self) -> Document:
        """The ids of a message, with which it is sent as often as it takes."""
        try:
            await self._peer.interface()
        except PeerFailed as error:
            if not error.is_away:
                raise
            return {_AWAY: str(error)}
        task = self._context.task
        skill = task.capability if task.capability in self._peer.skills else ""
        context = derived_id(task.tenant_id, task.thread_id, f"remote.{self._name}")
        ids = {"id": self._context.step_id, "context": context}
        return {**ids, "skill": skill, "is_safe": self._peer.is_idempotent}

    async def _post(self, message: Document, state: Document, *, is_safe: bool) -> Document:
        params = {"message": message, "configuration": {"returnImmediately": True}}
        try:
            reply = await self._client.call(await self._peer.interface(), "SendMessage", params)
            if isinstance(reply.get("message"), dict):
                parsed = self._client.parse(PeerMessage, reply["message"], "a message")
                return {"message": parsed.model_dump(mode="json", by_alias=True, exclude_none=True)}
            return self._describe(self._client.parse(PeerTask, reply.get("task"), "a task"))
        except PeerFailed as error:
            if error.is_in_doubt and not is_safe:
                if (task := await self._find_patiently(message)) is not None:
                    return self._describe(task)
                remedy = f"It may have taken effect: look there for message {message['messageId']}"
                raise ToolFailed(str(error), remedy=f"{remedy} before you send it again") from error
            if error.is_away:
                return {_AWAY: str(error)}
            if state and error.rpc_code in (UNSUPPORTED, INVALID_PARAMS):
                return {"refused": str(error)}
            raise

    async def _check(self, message: Document) -> CheckResult:
        """Whether a message has arrived that was cut off."""
        if (task := await self._find(message)) is not None:
            return CheckResult.happened(self._describe(task), f"{self._name} has it as task {task.id}")
        evidence = f"{self._name} shows no task with message {message['messageId']}"
        return CheckResult.unknown(f"{evidence}: it did not arrive, or the peer does not show it")

    async def _find_patiently(self, message: Document) -> PeerTask | None:
        for number in range(_LOOKUPS):
            try:
                if (task := await self._find(message)) is not None:
                    return task
            except PeerFailed:
                pass  # it is away, or has no list: the failure of the message counts
            if number < _LOOKUPS - 1:
                await asyncio.sleep(2.0**number)
        return None

    async def _find(self, message: Document) -> PeerTask | None:
        """The task that has a message in its history. Raises PeerFailed."""
        interface = await self._peer.interface()
        if "taskId" in message:
            tasks = [await self._get(message["taskId"])]
        else:
            params = {"contextId": message["contextId"], "pageSize": _HISTORY, "historyLength": _HISTORY}
            page = await self._client.call(interface, "ListTasks", params)
            listed = page.get("tasks")
            tasks = [self._client.parse(PeerTask, task, "a task") for task in listed or ()]
        own = (task for task in tasks for one in task.history if one.message_id == message["messageId"])
        if (task := next(own, None)) is None or "taskId" in message:
            return task
        return await self._get(task.id)  # lists have no artifacts

    # The task of the peer

    async def _get(self, task_id: str) -> PeerTask:
        params = {"id": task_id, "historyLength": _HISTORY}
        document = await self._client.call(await self._peer.interface(), "GetTask", params)
        return self._client.parse(PeerTask, document, "a task")

    async def _look(self, state: Document) -> Document:
        """The state of the task now; that of one whose peer is away is `away`."""

        async def look() -> Document:
            try:
                return self._describe(await self._get(state["id"]))
            except PeerFailed as error:
                if error.is_away:
                    return {**state, "state": _AWAY, "words": str(error)}
                raise ToolFailed(f"The task {state['id']} is lost: {error}") from error

        seen: Document = await self._context.step(f"{self._name} task", look)
        self._report(seen["words"])
        return seen

    def _describe(self, task: PeerTask) -> Document:
        """The state of a task for the journal; the content of one that has ended stays at the peer."""
        state: Document = {
            "remote": self._name,
            "id": task.id,
            "context": task.context_id,
            "state": task.state,
            "words": self._client.words(task.status.message.text),
        }
        if task.state in ENDED:
            self._ended = task
        elif task.state in ASKS:
            questions = task.questions[:_MAX_QUESTIONS]
            is_small = len(to_json(questions)) <= _MAX_DATA_BYTES
            state |= {"at": task.status.timestamp, "questions": questions if is_small else ()}
        return state

    def _report(self, words: str) -> None:
        if words and words != self._shown:
            self._shown = words
            self._context.progress_reporter()(words)

    async def _ask(self, state: Document) -> Document | None:
        """The part of a message with a person's answer to the oldest question; None without one in time."""
        question: Document = next(iter(state["questions"]), Document())
        words = self._client.words(str(question.get("message") or state["words"])) or "It does not say what"
        needs_key = state["state"] == "TASK_STATE_AUTH_REQUIRED"
        text = f"{self._name} {'needs a sign-in or a permission' if needs_key else 'asks'}: {words}"
        text += " Do what it says there, then answer; write no password or key here." if needs_key else ""
        text += f" (The last answer was not accepted: {self._complaint})" if self._complaint else ""
        schema = _usable_schema(question.get("schema"))
        options: dict[str, Any] = {"about": {"remote": self._name, "remote_task": state["id"]}}
        if (expires := _read_time(question.get("expiresAt"))) is not None:
            options["expires"] = expires
        try:
            if schema is None:
                return {"text": await self._context.ask_person(text, **options)}
            answer = await self._context.ask_person(text, shape=_answer_shape(schema), **options)
        except WaitExpired:
            return None
        value = answer.model_dump(mode="json")
        return {"data": {question["key"]: value}}

    async def _end(self, state: Document) -> Document:
        pauses = Backoff(_MIN_PAUSE_SECONDS, _MAX_AWAY_SECONDS, jitter=0)
        while (task := self._ended) is None:  # the journal has the end, not the content
            try:
                self._describe(await self._get(state["id"]))
            except PeerFailed as error:
                if not error.is_away:
                    raise
                await asyncio.sleep(pauses.next())
        if cost := _read_cost(task.metadata.get(self._peer.settings.cost)):
            await self._context.charge(cost, self._name, is_spent=True)
        if task.state != "TASK_STATE_COMPLETED":
            return {"state": task.state, "words": state["words"] or "it does not say why"}
        return {"result": await self._result(read_content(task.content))}

    async def _result(self, content: PeerContent) -> Document:
        """The content as a result, bounded; files are attached to the outcome."""
        for file in content.files:
            await self._context.attach(await self._fetched(file))
        text, data = content.text, content.data
        if len(to_json(data)) > _MAX_DATA_BYTES:
            text = f"{text}\n[data of over {_MAX_DATA_BYTES:,} bytes is left out]".lstrip()
            data = list[Any]()
        fields = {name: value for part in data if isinstance(part, dict) for name, value in part.items()}
        if rest := [part for part in data if not isinstance(part, dict)]:
            fields["data"] = rest[0] if len(rest) == 1 else rest
        if text or not fields:
            fields["text"] = head_and_tail(text, _MAX_TEXT_CHARS)
        return fields

    async def _fetched(self, file: File) -> File:
        """The file with its bytes where the peer itself has them, which may take its key."""
        if not file.url or not is_of_origin(file.url, self._peer.settings.a2a):
            return file
        try:
            data = await self._client.fetch(file.url)
            return File(name=file.name, media_type=file.media_type, data=data)
        except (PeerFailed, InvalidInput):
            return file


def _read_file(fields: Mapping[str, Any]) -> File:
    name, media_type = str(fields.get("name") or "file"), str(fields.get("media_type") or "")
    if isinstance(data := fields.get("data"), str):
        try:
            content = base64.b64decode(data, validate=True)
        except ValueError:
            raise InvalidInput(f"File {name!r} has bytes that are no base64", field="payload.files") from None
        return File(name=name, media_type=media_type, data=content)
    return File(name=name, media_type=media_type, url=str(fields.get("url") or ""))


def _usable_schema(schema: Any) -> Document | None:
    """The schema of a peer's question, if it is one of an object that answers can be checked with."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    try:
        return safe_schema(schema)
    except (ValueError, RecursionError):
        return None


def _answer_shape(schema: Document) -> type[BaseModel]:
    """The shape of an answer that has a schema."""

    class _PeerAnswer(RootModel[Any]):
        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> Document:
            return schema

    return _PeerAnswer


def _read_time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo is not None and time > datetime.now(UTC) else None


def _read_cost(value: Any) -> Decimal | None:
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if is_amount(cost) and cost > 0 else None
