"""Tasks and questions as MCP has them: results of calls, tasks of the extension, forms for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from mcp import types
from mcp.shared.exceptions import MCPError

from meshwright import MeshError, ToolFailed
from meshwright.component import Caller, InvalidInput
from meshwright.core.messages import Outcome
from meshwright.engine.work.forms import Form
from meshwright.engine.work.people import APPROVAL
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import TaskView
from meshwright.mesh.identity.rules import answerable

_POLL_MS = 1_000
_STATUS = {"succeeded": "completed", "cancelled": "cancelled", "failed": "failed", "timed_out": "failed"}
TASK_URI, FILE_URI = "mesh://tasks/{task_id}", "mesh://tasks/{task_id}/files/{number}"


def input_requests(waits: Collection[Wait]) -> dict[str, Any]:
    """The questions as requests that a client has its user answer, by their `wait_id`."""
    return {
        wait.wait_id: {
            "method": "elicitation/create",
            "params": {
                "mode": "form",
                "message": wait.reason,
                "requestedSchema": Form.from_schema(wait.answer_schema).schema,
            },
        }
        for wait in waits
    }


def read_answer(wait: Wait, response: Any) -> tuple[bool, Any]:
    """Whether a response of a client's user answers a question, and the answer.

    A declined approval is denied; any other question stays open when it is declined or put away.
    """
    if not isinstance(response, Mapping):
        return False, None
    action = response.get("action")
    if action == "decline" and wait.subject.get("kind") == APPROVAL:
        return True, {"approve": False, "reason": "Declined"}
    content = response.get("content")
    if action != "accept" or not isinstance(content, Mapping):
        return False, None
    try:
        return True, Form.from_schema(wait.answer_schema).answer(content)
    except InvalidInput as error:
        raise MCPError(types.INVALID_PARAMS, error.message) from None


def task_fields(view: TaskView, keep_days: float | None) -> dict[str, Any]:
    """The fields of a task that every form of it has."""
    times = [view.created_at, *(attempt.started_at for attempt in view.attempts)]
    times += [wait.since for wait in view.waits]
    times += [view.outcome.completed_at] if view.outcome else []
    return {
        "taskId": view.task_id,
        "status": "working",
        "createdAt": _timestamp(view.created_at),
        "lastUpdatedAt": _timestamp(max(time for time in times if time is not None)),
        "ttlMs": None if keep_days is None else int(keep_days * 86_400_000),
        "pollIntervalMs": _POLL_MS,
    }


def detailed_task(view: TaskView, caller: Caller, keep_days: float | None) -> dict[str, Any]:
    """A task with its result, its error or its questions."""
    fields = task_fields(view, keep_days)
    if view.outcome is not None:
        fields["status"] = _STATUS[view.outcome.status]
        error = protocol_error(view.outcome)
        if error is not None:
            return {**fields, "statusMessage": error.message, "error": error.model_dump(exclude_none=True)}
        if view.outcome.status != "cancelled":
            fields["status"], fields["result"] = "completed", call_result(view.outcome)
        return fields
    if waits := answerable(view, caller):
        return {**fields, "status": "input_required", "inputRequests": input_requests(waits)}
    return {**fields, "statusMessage": status_text(view)}


def status_text(view: TaskView) -> str:
    """The present work of a task, as a sentence."""
    if reason := next((wait.reason for wait in view.waits if wait.reason), ""):
        return f"It waits: {reason}"
    return view.title or view.state or f"It is {view.status}"


def protocol_error(outcome: Outcome) -> types.ErrorData | None:
    """The error of a call that broke; None where its agent has answered, or said why it does not."""
    error = outcome.error
    if error is None or outcome.status == "cancelled" or error.type == ToolFailed.__name__:
        return None
    return types.ErrorData(
        code=types.INTERNAL_ERROR, message=error.message or error.type, data={"type": error.type}
    )


def call_result(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the result of a call."""
    if outcome.status != "succeeded":
        return failed_result(outcome.error.message if outcome.error else f"The task was {outcome.status}")
    result = outcome.result or {}
    text = result.get("text")
    is_text = isinstance(text, str)
    content: list[dict[str, Any]] = [
        {"type": "text", "text": text if is_text else json.dumps(result, ensure_ascii=False)}
    ]
    content += [
        {
            "type": "resource_link",
            "uri": FILE_URI.format(task_id=outcome.task_id, number=number),
            "name": file.name,
            "mimeType": file.media_type,
        }
        for number, file in enumerate(outcome.files, start=1)
    ]
    is_plain = result.keys() <= {"text"}
    return {"content": content, "isError": False, **({} if is_plain else {"structuredContent": result})}


def failed_result(text: str) -> dict[str, Any]:
    """The result of a call that failed, in words for a model."""
    return {"content": [{"type": "text", "text": text}], "isError": True}


def refused_result(error: MeshError) -> dict[str, Any]:
    """The result of a call that the mesh has refused, with the remedy."""
    return failed_result(str(error))


def _timestamp(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
