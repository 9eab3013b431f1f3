"""A2A 1.0 in JSON: the requests of clients, and tasks of the mesh as tasks of the protocol."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.alias_generators import to_camel

from meshwright import ToolFailed
from meshwright.component import Caller
from meshwright.core.encoding import with_integers
from meshwright.core.messages import Outcome
from meshwright.edges.outgoing_requests import usable_url
from meshwright.engine.events.tasks import TaskSummary
from meshwright.engine.work.protocol import APPROVED_BY, Wait
from meshwright.engine.work.record import TaskView
from meshwright.kit import ID_PATTERN
from meshwright.mesh.identity.rules import answerable
from meshwright.parts.a2a.errors import CONTENT_TYPE_NOT_SUPPORTED, ProtocolError

Document = dict[str, Any]
ARTIFACT_ID = "answer"
"""The artifact of a task. While a model writes, it has the text so far."""
ASKS, WORKS = "TASK_STATE_INPUT_REQUIRED", "TASK_STATE_WORKING"
_STATES = {
    "accepted": "TASK_STATE_SUBMITTED",
    "dispatched": "TASK_STATE_SUBMITTED",
    "running": WORKS,
    "waiting": WORKS,
    "succeeded": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "cancelled": "TASK_STATE_CANCELED",
    "timed_out": "TASK_STATE_FAILED",
}
COST = "urn:meshwright:a2a:cost-usd"
"""The key in the metadata of a task that has ended with its cost in US dollars, as a text."""
_REJECTED = "TASK_STATE_REJECTED"
State = Literal[
    "TASK_STATE_UNSPECIFIED",
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
]
STATE_FILTERS: Mapping[str, Mapping[str, Any]] = {
    "TASK_STATE_SUBMITTED": {"open": True},
    WORKS: {"open": True},
    "TASK_STATE_COMPLETED": {"status": "succeeded"},
    "TASK_STATE_FAILED": {"dead": True},
    "TASK_STATE_CANCELED": {"status": "cancelled"},
    ASKS: {"waits_for": "person"},
    _REJECTED: {"status": "failed", "error": ToolFailed.__name__},
}
"""Filters of tasks among which are those of a state."""
_MAX_SECRET_CHARS = 4_096  # of a token or of credentials
_HEADER_TEXT = r"^[\x20-\x7e]*$"
_MODES = ("text/", "image/", "audio/", "application/json", "application/pdf")


# Requests


class _ProtoJson(BaseModel):
    """Base of requests: unknown fields are ignored, and null is the default, as ProtoJSON has it."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if field is not None or name == "data"}


_HistoryLength = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Metadata = dict[str, Any]


class MessagePart(_ProtoJson):
    """A part of a message."""

    text: str | None = None
    """A text."""
    raw: str | None = None
    """The bytes of a file, in base64."""
    url: str | None = None
    """The address of a file."""
    data: Annotated[Any, AfterValidator(with_integers)] = None
    """Any JSON."""
    filename: str = ""
    """The name of the file."""
    media_type: str = ""
    """The media type."""

    @model_validator(mode="after")
    def _has_content(self) -> MessagePart:
        if len(self.model_fields_set & {"text", "raw", "url", "data"}) != 1:
            raise ValueError("has to have one of text, raw, url and data")
        return self

    def file(self) -> Document:
        """Returns the file as a payload has it. Raises ProtocolError for bytes that are no base64."""
        fields = {"name": self.filename or "file", "media_type": self.media_type}
        fields = {name: value for name, value in fields.items() if value}
        if self.raw is None:
            return {**fields, "url": self.url}
        try:
            data = base64.b64decode(self.raw.translate({45: "+", 95: "/"}) + "==")  # of both alphabets
        except (binascii.Error, ValueError):
            raise ProtocolError(
                CONTENT_TYPE_NOT_SUPPORTED, "A part has bytes that are no base64", field="message.parts.raw"
            ) from None
        return {**fields, "data": base64.b64encode(data).decode()}


class UserMessage(_ProtoJson):
    """A message of a client."""

    message_id: Annotated[str, Field(min_length=1, max_length=256)]
    """The id that the client has made. The same message again is the same task."""
    role: Literal["ROLE_USER"]
    """The speaker."""
    parts: Annotated[list[MessagePart], Field(min_length=1, max_length=100)]
    """The content."""
    context_id: Annotated[str, Field(pattern=rf"^$|{ID_PATTERN}")] = ""
    """The thread of the task."""
    task_id: Annotated[str, Field(max_length=256)] = ""
    """The task whose question it answers."""
    metadata: _Metadata = {}
    """`skillId` names the skill."""

    @property
    def text(self) -> str:
        """The parts that are text, in lines."""
        return "\n".join(part.text for part in self.parts if part.text is not None)

    @property
    def data(self) -> list[Any]:
        """The parts that are data."""
        return [part.data for part in self.parts if "data" in part.model_fields_set]

    def payload(self) -> Document:
        """Returns the payload of a task: the fields of data, `text`, and `files`. Raises ProtocolError."""
        self.check_types()
        fields: Document = {}
        for data in self.data:
            fields |= data if isinstance(data, dict) else {"data": data}
        if self.text:
            fields["text"] = self.text
        if files := [part.file() for part in self.parts if part.raw is not None or part.url is not None]:
            fields["files"] = files
        return fields

    def check_types(self) -> None:
        """Raises ProtocolError for a media type that no agent takes."""
        for part in self.parts:
            if part.media_type and not part.media_type.lower().startswith(_MODES):
                raise ProtocolError(
                    CONTENT_TYPE_NOT_SUPPORTED,
                    f"Content of the type {part.media_type[:100]} is not supported",
                    remedy="Send text, JSON, images, audio or PDF",
                    field="message.parts.mediaType",
                )


class _Authentication(_ProtoJson):
    scheme: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")]
    credentials: Annotated[str, Field(max_length=_MAX_SECRET_CHARS, pattern=_HEADER_TEXT)] = ""


class PushConfig(_ProtoJson):
    """A URL that gets the updates of a task, and how it knows them."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~-]{0,128}$")] = ""
    """The id, by which it is changed and deleted. "": the mesh makes one of the URL."""
    task_id: Annotated[str, Field(max_length=256)] = ""
    """The task."""
    url: Annotated[str, Field(min_length=1, max_length=2_000), AfterValidator(usable_url)]
    """The URL."""
    token: Annotated[str, Field(max_length=_MAX_SECRET_CHARS, pattern=_HEADER_TEXT)] = ""
    """A text that is sent in the header `X-A2A-Notification-Token`."""
    authentication: _Authentication | None = None
    """The scheme and credentials of the header `Authorization`."""


class PushConfigParams(_ProtoJson):
    """The parameters of operations on a configuration of push notifications, or on those of a task."""

    task_id: Annotated[str, Field(min_length=1, max_length=256)]
    """The task."""
    id: Annotated[str, Field(max_length=128)] = ""
    """The configuration."""


class _Configuration(_ProtoJson):
    history_length: _HistoryLength | None = None
    return_immediately: bool = False
    task_push_notification_config: PushConfig | None = None


class SendRequest(_ProtoJson):
    """The parameters of `SendMessage` and `SendStreamingMessage`."""

    message: UserMessage
    """The message."""
    configuration: _Configuration = _Configuration()
    """How it is answered."""
    metadata: _Metadata = {}
    """`skillId` names the skill."""


class TaskParams(_ProtoJson):
    """The parameters of operations on one task."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    """The task."""
    history_length: _HistoryLength | None = None
    """How many messages its history may have."""


class ListRequest(_ProtoJson):
    """The parameters of `ListTasks`."""

    context_id: Annotated[str, Field(max_length=256)] = ""
    """The thread of the tasks."""
    status: State = "TASK_STATE_UNSPECIFIED"
    """Their state."""
    page_size: Annotated[int, Field(ge=1, le=100)] = 50
    """How many a page may have."""
    page_token: Annotated[str, Field(max_length=100)] = ""
    """The `nextPageToken` of the page before."""
    history_length: _HistoryLength | None = None
    """How many messages their history may have."""
    status_timestamp_after: Annotated[AwareDatetime | None, BeforeValidator(lambda value: value or None)] = (
        None
    )
    """Tasks that changed then or later."""
    include_artifacts: bool = False
    """Whether they have their artifacts."""


# Tasks


def questions(view: TaskView, caller: Caller) -> list[Wait]:
    """Returns the open questions that the caller may answer, and has not answered before others."""
    if view.outcome is not None:
        return []
    waits = answerable(view, caller)
    return [wait for wait in waits if caller.requested_by not in wait.subject.get(APPROVED_BY, ())]


def outcome_state(status: str, error: str | None) -> str:
    """Returns the state of a task with a status, and the type of its error."""
    return _REJECTED if status == "failed" and error == ToolFailed.__name__ else _STATES[status]


def task_status(view: TaskView, caller: Caller) -> Document:
    """Returns the status of a task, with its question, the reason of its failure, or what it does."""
    outcome, waits = view.outcome, questions(view, caller)
    times = [view.created_at, *(attempt.started_at for attempt in view.attempts)]
    times += [wait.since for wait in view.waits if wait.since is not None]
    times = [outcome.completed_at] if outcome else times
    status: Document = {"state": _STATES[view.status], "timestamp": timestamp(max(times))}
    if outcome is not None:
        status["state"] = outcome_state(outcome.status, outcome.error.type if outcome.error else None)
        if outcome.error is not None and outcome.error.message:
            status["message"] = _agent_message(view, "outcome", [{"text": outcome.error.message}])
    elif waits and view.status == "waiting":
        texts = [{"text": wait.reason} for wait in waits]
        parts = [*texts, {"data": {"questions": [_question(wait) for wait in waits]}}]
        status |= {"state": ASKS, "message": _agent_message(view, "question", parts)}
    elif text := view.state or view.title:
        status["message"] = _agent_message(view, "state", [{"text": text}])
    return status


def _question(wait: Wait) -> Document:
    return {
        "key": wait.wait_id,
        "message": wait.reason,
        "subject": wait.subject,
        **({"schema": wait.answer_schema} if wait.answer_schema else {}),
        **({"expiresAt": timestamp(wait.expires_at)} if wait.expires_at else {}),
    }


def _agent_message(view: TaskView, name: str, parts: Sequence[Document]) -> Document:
    ids = {"taskId": view.task_id, "contextId": view.thread_id}
    return {"messageId": f"{view.task_id}-{name}", "role": "ROLE_AGENT", **ids, "parts": parts}


def progress_status(view: TaskView, text: str, time: datetime) -> Document:
    """Returns the status of a task that works, with what it does."""
    status: Document = {"state": WORKS, "timestamp": timestamp(time)}
    return {**status, "message": _agent_message(view, "state", [{"text": text}])} if text else status


def write_task(
    view: TaskView, caller: Caller, base_url: str, *, history_length: int | None, artifacts: bool = True
) -> Document:
    """Returns a task as the protocol has it. Paths of files become addresses below `base_url`."""
    document: Document = {
        "id": view.task_id,
        "contextId": view.thread_id,
        "status": task_status(view, caller),
    }
    if artifacts and view.outcome is not None:
        document["artifacts"] = write_artifacts(view.outcome, base_url)
    if view.outcome is not None and view.outcome.cost_usd is not None:
        document["metadata"] = {COST: format(view.outcome.cost_usd, "f")}
    if history_length != 0 and (parts := _content(view.payload, base_url)):
        ids = {"messageId": f"{view.task_id}-request", "contextId": view.thread_id, "taskId": view.task_id}
        document["history"] = [{**ids, "role": "ROLE_USER", "parts": parts}]
    return document


def write_summary(task: TaskSummary) -> Document:
    """Returns a task of a list that waits for no person."""
    return {
        "id": task.task_id,
        "contextId": task.thread_id or task.task_id,
        "status": {
            "state": outcome_state(task.status, task.error),
            "timestamp": timestamp(task.completed_at or task.updated_at),
        },
    }


def write_artifacts(outcome: Outcome | None, base_url: str) -> list[Document]:
    """Returns the answer of a task as its artifact; none where it is empty, or not there yet."""
    if outcome is None:
        return []
    files = [{"name": file.name, "media_type": file.media_type, "url": file.url} for file in outcome.files]
    parts = _content({**(outcome.result or {}), **({"files": files} if files else {})}, base_url)
    return [{"artifactId": ARTIFACT_ID, "parts": parts}] if parts else []


def _content(fields: Mapping[str, Any], base_url: str) -> list[Document]:
    """The parts for a payload or a result."""
    rest, parts = dict(fields), list[Document]()
    if isinstance(rest.get("text"), str) and rest["text"]:
        parts.append({"text": rest.pop("text")})
    files = rest.get("files")
    if isinstance(files, list) and files and all(map(_is_file, files)):
        parts += [_file_part(file, base_url) for file in rest.pop("files")]
    return [*parts, {"data": rest}] if rest else parts


def _is_file(file: Any) -> bool:
    return isinstance(file, Mapping) and any(isinstance(file.get(name), str) for name in ("data", "url"))


def _file_part(file: Mapping[str, Any], base_url: str) -> Document:
    names = {"filename": file.get("name"), "mediaType": file.get("media_type")}
    content = {"raw": file["data"]} if isinstance(file.get("data"), str) else {"url": file["url"]}
    if content.get("url", "").startswith("/"):
        content["url"] = base_url + content["url"]
    return {**content, **{name: value for name, value in names.items() if isinstance(value, str)}}


def timestamp(time: datetime) -> str:
    """Returns a time as ProtoJSON has it, in UTC with milliseconds."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
