"""Calls of the three APIs as requests of tasks: the last message is the request, the others its context."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from meshwright import TaskRequest
from meshwright.engine.work.record import TaskView
from meshwright.kit import InvalidInput
from meshwright.models.port import ChatMessage
from meshwright.models.wire.chat import ChatCall, ChatRequest
from meshwright.models.wire.errors import UnknownPreviousResponse, UnsupportedParameter, invalid_body
from meshwright.models.wire.messages import MessageCall, MessagesRequest
from meshwright.models.wire.port import WireCall
from meshwright.models.wire.responses import ResponseCall, ResponsesRequest

PREFIX = "agent/"
THREAD_HEADER = "Mesh-Thread"
"""The header that names the thread, for clients that can send a header alone."""
_RESPONSE_ID = re.compile(r"resp_([A-Za-z0-9_-]{1,64})")
"""The id of a response: that of its task behind a prefix."""
_MAX_CONTEXT_CHARS = 30_000
_STORED = ("previous_response_id", "conversation", "background", "store")


class AgentCall(NamedTuple):
    """A call as its client sent it."""

    wire: WireCall
    """Writes the answer."""
    task: TaskRequest
    """The task that the call makes, if it answers no question."""
    is_background: bool = False
    """Whether the client asks for the outcome later."""
    previous_id: str = ""
    """The task whose conversation goes on, as its response is named. "" for none."""
    last_answer: str = ""
    """The last answer in the messages, where these are the conversation."""
    shows_thinking: bool = True
    """Whether the client takes the work in progress as thinking."""


def read_call(
    body: ChatRequest | ResponsesRequest | MessagesRequest, headers: Mapping[str, str]
) -> AgentCall:
    """Reads a call. Raises InvalidInput with the field that is wrong."""
    thread_id = headers.get(THREAD_HEADER) or None
    if isinstance(body, ChatRequest):
        thread_id = thread_id or (body.metadata.thread_id if body.metadata else None)
        return _make_call(ChatCall(body), thread_id)
    if isinstance(body, MessagesRequest):
        thread_id = thread_id or (body.metadata or {}).get("thread_id")
        thinks = (body.thinking or {}).get("type") in ("enabled", "adaptive")
        return _make_call(MessageCall(body, headers), thread_id, shows_thinking=thinks)
    return _read_response(body, thread_id)


def stored_response(model: str, view: TaskView) -> ResponseCall:
    """Returns the response that a task is, for a client that has its id alone."""
    thread_id = view.thread_id if view.thread_id != view.task_id else None
    call = ResponseCall(ResponsesRequest(model=model, input="-"), stored=_stored_fields({}, thread_id))
    call.name(view.task_id, int(view.created_at.timestamp()))
    return call


def _read_response(body: ResponsesRequest, thread_id: str | None) -> AgentCall:
    others = body.model_extra or {}
    previous, conversation = others.get("previous_response_id"), others.get("conversation")
    if isinstance(conversation, Mapping):
        conversation = conversation.get("id")
    if previous and conversation:
        problem = "previous_response_id and conversation cannot be used together"
        raise InvalidInput(problem, remedy="Send one of them", field="previous_response_id")
    match = _RESPONSE_ID.fullmatch(previous) if isinstance(previous, str) else None
    if previous and match is None:
        raise unknown_previous(previous)
    previous_id = match[1] if match else ""
    metadata = others.get("metadata")
    of_metadata = metadata.get("thread_id") if isinstance(metadata, Mapping) else None
    fields = body.model_dump(exclude_unset=True)
    plain = ResponsesRequest.model_validate({name: fields[name] for name in fields if name not in _STORED})
    wire = ResponseCall(plain, stored=_stored_fields(others, conversation))
    call = _make_call(
        wire,
        conversation or thread_id or of_metadata,
        has_thread=bool(previous_id),
        shows_thinking=bool((body.reasoning or {}).get("summary")),
    )
    return call._replace(is_background=bool(others.get("background")), previous_id=previous_id)


def _stored_fields(others: Mapping[str, Any], conversation: Any) -> dict[str, Any]:
    return {
        "store": True,  # each task is stored, whatever a client asks for
        "background": bool(others.get("background")),
        "previous_response_id": others.get("previous_response_id"),
        "conversation": {"id": conversation} if conversation else None,
    }


def unknown_previous(response_id: Any) -> UnknownPreviousResponse:
    """The error for a response to go on from that is not there, or is another tenant's."""
    problem = f"Previous response with id {str(response_id)[:80]!r} not found"
    return UnknownPreviousResponse(problem, field="previous_response_id")


def _make_call(
    wire: WireCall, thread_id: Any, *, has_thread: bool = False, shows_thinking: bool = True
) -> AgentCall:
    request = wire.request
    if request.tools and request.tool_choice != "none":
        raise UnsupportedParameter(
            "tools: an agent calls its own tools, none of its client", remedy="Leave it out", field="tools"
        )
    before, payload = request.messages[:-1], _read_last(request.messages[-1:])
    if instructions := "\n\n".join(message.content for message in before if message.role == "system"):
        payload["instructions"] = instructions
    said = [message for message in before if message.role in ("user", "assistant") and message.content]
    has_thread = has_thread or thread_id is not None
    if said and not has_thread:
        payload["conversation"] = _render(said)
    is_last = bool(said) and said[-1].role == "assistant"
    try:
        task = TaskRequest(
            agent_id=request.model.removeprefix(PREFIX),
            payload=payload,
            thread_id=thread_id,
            shape=request.response_schema,
        )
    except ValidationError as error:
        raise invalid_body(error) from None
    return AgentCall(
        wire,
        task,
        last_answer=said[-1].content if is_last and not has_thread else "",
        shows_thinking=shows_thinking,
    )


def _read_last(messages: Sequence[ChatMessage]) -> dict[str, Any]:
    message = messages[0] if messages else ChatMessage(role="user")
    texts = [message.content, *(str(part.get("text")) for part in message.parts if part["type"] == "text")]
    text = "\n".join(filter(None, texts))
    files = [part for part in message.parts if part["type"] != "text"]
    is_whole = all(isinstance(part.get(part["type"]), Mapping) for part in files)
    if message.role != "user" or not (text.strip() or files) or not is_whole:
        raise InvalidInput(
            "The last message has to be the user's, with text or a file: it is the request of the task",
            field="messages",
        )
    return {"text": text, **({"files": files} if files else {})}


def _render(messages: Sequence[ChatMessage]) -> str:
    """The latest messages that fit, the oldest of them first."""
    lines: list[str] = []
    left = _MAX_CONTEXT_CHARS
    for message in reversed(messages):
        line = f"{message.role}: {message.content}"
        if (left := left - len(line)) < 0:
            lines.append("[earlier messages are left out here]")
            break
        lines.append(line)
    return "\n\n".join(reversed(lines))
