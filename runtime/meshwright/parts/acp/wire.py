"""Version 1 of the protocol in JSON: prompts as payloads, and events of a task as updates of a session."""

from __future__ import annotations

import base64
import binascii
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from meshwright import Event, ToolFailed
from meshwright.core import topics
from meshwright.core.display import as_text, result_text
from meshwright.core.messages import Outcome
from meshwright.core.task_events import arguments_line
from meshwright.engine.work.people import APPROVAL
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import TaskView
from meshwright.parts.acp.peer import INVALID_PARAMS, RpcError

Update = dict[str, Any]
VERSION = 1
"""The version of the protocol that is spoken here."""
PERMISSIONS = (
    {"optionId": "allow", "name": "Allow", "kind": "allow_once"},
    {"optionId": "reject", "name": "Reject", "kind": "reject_once"},
)
"""The answers that an editor offers to an approval."""
_KINDS = {
    "read": ("read", "cat", "view", "show", "get", "list"),
    "edit": ("edit", "write", "patch", "replace", "insert", "create", "update"),
    "delete": ("delete", "remove"),
    "move": ("move", "rename"),
    "search": ("search", "find", "grep", "glob"),
    "execute": ("run", "execute", "bash", "shell", "exec", "python"),
    "fetch": ("fetch", "http", "browse", "download"),
    "think": ("think", "plan"),
}
"""Words in the names of tools, by the kind that editors show."""
_OUTSIDE = ("provider", "money", "program")
"""The kinds of waits that an editor can only name."""
_PROGRESS = (topics.MODEL_DELTA, "tool.called", "approval.requested")
_MAX_BLOCKS = 100
_STOPS = {"max_steps": "max_turn_requests", "max_tokens": "max_tokens"}


# Prompts


def text_field(params: Mapping[str, Any], name: str) -> str:
    """Returns a parameter that has to be a text. Raises RpcError."""
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise _invalid(f"{name} has to be a text", name)
    return value


def read_prompt(blocks: Any) -> dict[str, Any]:
    """Returns the payload for the content of a prompt: `text`, and `files`. Raises RpcError."""
    if not isinstance(blocks, list) or not 0 < len(blocks) <= _MAX_BLOCKS:
        raise _invalid(f"prompt has to be a list of 1 to {_MAX_BLOCKS} blocks", "prompt")
    texts, files = list[str](), list[dict[str, str]]()
    for number, block in enumerate(blocks):
        place = f"prompt[{number}]"
        if not isinstance(block, dict):
            raise _invalid(f"{place} has to be an object", place)
        match block.get("type"):
            case "text":
                texts.append(_text(block, "text", place))
            case "resource_link":
                uri = _text(block, "uri", place)
                name = block.get("name")
                texts.append(f"[{name if isinstance(name, str) else uri}]({uri})")
            case "resource":
                _read_resource(block.get("resource"), f"{place}.resource", texts, files)
            case "image" | "audio" as kind:
                uri = block.get("uri")
                name = _file_name(uri if isinstance(uri, str) else "") or f"{kind}-{len(files) + 1}"
                files.append(_file(name, _text(block, "mimeType", place), block.get("data"), f"{place}.data"))
            case other:
                raise _invalid(f"{place} has the type {str(other)[:50]!r}, which no prompt has", place)
    payload: dict[str, Any] = {"text": "\n".join(texts)}
    return {**payload, "files": files} if files else payload


def _read_resource(resource: Any, place: str, texts: list[str], files: list[dict[str, str]]) -> None:
    if not isinstance(resource, dict):
        raise _invalid(f"{place} has to be an object", place)
    uri, text = _text(resource, "uri", place), resource.get("text")
    if isinstance(text, str):
        longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        texts.append(f"{uri}\n{fence}\n{text}\n{fence}")
        return
    media_type = resource.get("mimeType")
    kind = media_type if isinstance(media_type, str) else "application/octet-stream"
    files.append(_file(_file_name(uri) or "file", kind, resource.get("blob"), f"{place}.blob"))


def _file(name: str, media_type: str, data: Any, place: str) -> dict[str, str]:
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _invalid(f"{place} has to be base64", place) from None
    return {"name": name, "media_type": media_type, "data": data}


def _file_name(uri: str) -> str:
    try:
        return posixpath.basename(urlsplit(uri).path)
    except ValueError:
        return ""


def _text(fields: Mapping[str, Any], name: str, place: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _invalid(f"{place}.{name} has to be a text", f"{place}.{name}")
    return value


def _invalid(problem: str, field: str) -> RpcError:
    return RpcError(INVALID_PARAMS, problem, field=field)


# Updates


def message(text: str, kind: str = "agent_message_chunk", message_id: str = "") -> Update:
    """Returns a piece of a message."""
    chunk = {"sessionUpdate": kind, "content": {"type": "text", "text": text}}
    return {**chunk, "messageId": message_id} if message_id else chunk


def user_messages(view: TaskView) -> Iterator[Update]:
    """Returns the request of a task as its user has written it."""
    ids = {"messageId": f"{view.task_id}-request"}
    yield {**message(result_text(view.payload), "user_message_chunk"), **ids}
    files = view.payload.get("files")
    for file in files if isinstance(files, list) else ():
        if isinstance(file, dict) and isinstance(file.get("name"), str):
            yield {**message(f"\n{file['name']}", "user_message_chunk"), **ids}


def read_permission(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the decision of a reply to a permission request; None for one that was put away."""
    outcome = result.get("outcome")
    if not isinstance(outcome, dict) or outcome.get("outcome") != "selected":
        return None
    if outcome.get("optionId") == "allow":
        return {"approve": True}
    return {"approve": False, "reason": "Rejected in the editor"}


def stop_reason(outcome: Outcome) -> str:
    """Returns the reason why the turn of a task has ended; "" for one that failed otherwise."""
    if outcome.status == "cancelled":
        return "cancelled"
    if outcome.status != "succeeded":
        error = outcome.error.type if outcome.error else ""
        if error == ToolFailed.__name__:
            return "refusal"
        return _STOPS.get(outcome.limit or "", "") if error.endswith("LimitReached") else ""
    return "max_tokens" if outcome.finish_reason == "length" else _STOPS.get(outcome.limit or "", "end_turn")


def error_text(outcome: Outcome) -> str:
    """Returns why a task has failed."""
    error = outcome.error.message if outcome.error else ""
    return error or f"The task has {outcome.status.replace('_', ' ')}"


class _ApprovalCall:
    """The call of a tool that waits for a decision, or has one and no result yet."""

    def __init__(self, call_id: str, fields: Mapping[str, Any]) -> None:
        self.call_id = call_id
        self.tool, self.arguments = str(fields.get("tool")), _arguments(fields)


class TaskTranslation:
    """Events of one task as updates of its session. Files of its answer have addresses below `base_url`."""

    def __init__(self, task_id: str, base_url: str) -> None:
        self._task_id, self._base_url = task_id, base_url
        self._approvals: dict[str, _ApprovalCall] = {}
        self._open: dict[str, tuple[str, int, str]] = {}  # by step: the message, its pieces, its text
        self._messages = 0
        self._last_text = ""
        self._is_waiting = False
        self._is_writing = False

    def updates(self, event: Event) -> Iterator[Update]:
        """Returns the updates for an event."""
        fields = event.fields
        if event.event_type in _PROGRESS:
            self._is_waiting = False
        match event.event_type:
            case topics.MODEL_DELTA:
                yield from self._delta(f"{fields.get('attempt')}-{fields.get('step')}", fields)
            case "model.called" | "model.failed":
                self._close(f"{fields.get('attempt')}-{fields.get('step')}")
            case "tool.called":
                self._is_writing = False
                yield self._result(fields)
            case "approval.requested":
                self._is_writing = False
                yield {"sessionUpdate": "tool_call", **self._pending(str(fields.get("key")), fields)}
            case "task.waiting" if fields.get("kind") in _OUTSIDE:
                if not self._is_waiting:  # it looks again and again
                    self._is_waiting = True
                    yield message(f"{fields.get('asked')}\n", "agent_thought_chunk")
            case "run.progress":
                yield message(f"{fields.get('text')}\n", "agent_thought_chunk")
            case "run.title":
                yield {"sessionUpdate": "session_info_update", "title": str(fields.get("title"))}

    def pending_call(self, wait: Wait) -> Update:
        """Returns the call of a tool that waits for an approval."""
        return self._pending(wait.wait_id, wait.subject)

    def decided_call(self, key: str, text: str, decision: Any = None) -> Update | None:
        """Returns the update of a call about whose approval there is news; None for another question."""
        if (approval := self._approvals.get(key)) is None:
            return None
        status = {"approved": "in_progress", "denied": "failed"}.get(str(decision), "pending")
        update = {"sessionUpdate": "tool_call_update", "toolCallId": approval.call_id, "status": status}
        return {**update, "content": [_content(text)]}

    def end(self, outcome: Outcome) -> Iterator[Update]:
        """Returns the answer, where it was not the last message that was streamed, and its files."""
        for step in [*self._open]:
            self._close(step)
        text = "" if outcome.result is None else result_text(outcome.result)
        if outcome.status not in ("succeeded", "cancelled"):
            text = error_text(outcome)
        ids = {"messageId": f"{self._task_id}-answer"}
        if text and text != self._last_text:
            yield {**message(self._begin(text)), **ids}
        for number, file in enumerate(outcome.files, start=1):
            uri = file.url if urlsplit(file.url or "").scheme else None
            link = {
                "type": "resource_link",
                "uri": uri or f"{self._base_url}/tasks/{self._task_id}/files/{number}",
                "name": file.name,
                "mimeType": file.media_type,
            }
            yield {"sessionUpdate": "agent_message_chunk", "content": link, **ids}

    def _delta(self, step: str, fields: Mapping[str, Any]) -> Iterator[Update]:
        text, number = fields.get("text"), fields.get("n")
        if fields.get("restart") or number == 1:
            self._close(step)
        if not text:
            return
        message_id, pieces, before = self._open.get(step, ("", 0, ""))
        if number == 1:
            self._messages += 1
            message_id = f"{self._task_id}-{step}-{self._messages}"
        # A message whose beginning was missed comes whole, as the answer.
        if not message_id or number != pieces + 1:
            return
        self._open[step] = message_id, pieces + 1, before + text
        yield message(self._begin(text) if number == 1 else text, message_id=message_id)

    def _begin(self, text: str) -> str:
        """The beginning of a message, apart from one that directly precedes it: not all editors read ids."""
        text = f"\n\n{text}" if self._is_writing else text
        self._is_writing = True
        return text

    def _close(self, step: str) -> None:
        if step in self._open:
            self._last_text = self._open.pop(step)[2]

    def _pending(self, key: str, fields: Mapping[str, Any]) -> Update:
        approval = self._approvals.get(key)
        if approval is None:
            path = key.rpartition("/")[2]
            approval = self._approvals[key] = _ApprovalCall(f"{self._task_id}-call-{path}", fields)
        return {**_call(approval.call_id, approval.tool, approval.arguments), "status": "pending"}

    def _result(self, fields: Mapping[str, Any]) -> Update:
        tool, arguments, is_done = str(fields.get("tool")), _arguments(fields), fields.get("ok")
        output = fields.get("result") if is_done else fields.get("error")
        keys = [key for key, approval in self._approvals.items() if approval.tool == tool]
        key = next((key for key in keys if self._approvals[key].arguments == arguments), next(iter(keys), ""))
        approval = self._approvals.pop(key, None)
        call_id = approval.call_id if approval else f"{self._task_id}-call-{fields.get('path')}"
        return {
            "sessionUpdate": "tool_call_update" if approval else "tool_call",
            **_call(call_id, tool, arguments),
            "status": "completed" if is_done else "failed",
            "rawOutput": output,
            "content": [_content(as_text(output))],
        }


def _call(call_id: str, tool: str, arguments: Any) -> Update:
    words = re.split(r"[^a-z]+", tool.lower())
    kind = next((kind for kind, names in _KINDS.items() if not {*names}.isdisjoint(words)), "other")
    title = f"{tool} {arguments_line(arguments)}".rstrip()
    return {"toolCallId": call_id, "title": title, "kind": kind, "rawInput": arguments}


def _arguments(fields: Mapping[str, Any]) -> Any:
    """The arguments of a call, which some events have as text."""
    arguments = fields.get("arguments")
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def _content(text: str) -> dict[str, Any]:
    return {"type": "content", "content": {"type": "text", "text": text}}


def is_approval(wait: Wait) -> bool:
    """Whether a question is for an approval of a tool's call."""
    return wait.subject.get("kind") == APPROVAL
