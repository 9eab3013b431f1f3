"""AG-UI 1.0: the requests of clients, and events of the mesh as events of the protocol."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from meshwright import Event, MeshError
from meshwright.component import InvalidInput
from meshwright.core import topics
from meshwright.core.display import as_text, result_text
from meshwright.core.messages import Outcome
from meshwright.engine.work.people import APPROVAL, asked_about
from meshwright.engine.work.protocol import Wait
from meshwright.engine.work.record import TaskView

Frame = dict[str, Any]
_Id = Annotated[str, Field(min_length=1, max_length=256)]
_SILENT_ROLES = ("system", "developer", "activity", "reasoning")


class _Input(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")


class ResumeEntry(_Input):
    """The answer to an interrupt."""

    interrupt_id: Annotated[str, Field(min_length=1, max_length=1_000)]
    """The interrupt."""
    status: Literal["resolved", "cancelled"]
    """Whether it is answered, or given up."""
    payload: Any = None
    """The answer, which fits the `responseSchema` of the interrupt."""
    metadata: dict[str, Any] = {}
    """With `anyway` the answer counts although another caller has claimed the question."""


class ContextItem(_Input):
    """A fact about the user interface that the agent reads."""

    description: str = ""
    """The name of the fact."""
    value: Any = None
    """The fact, as a text or any JSON."""


class RunAgentInput(_Input):
    """A run: a new message, answers to interrupts, or neither, to see how the thread stands."""

    thread_id: _Id
    """The thread of the tasks."""
    run_id: _Id
    """The run. A run that is sent again is followed, and not begun again."""
    messages: Annotated[list[dict[str, Any]], Field(max_length=10_000)] = []
    """The messages that the client shows. The last one, if it is of a user, is the request."""
    tools: list[Any] = []
    """Tools of the client, which the agents of a mesh do not call."""
    context: list[ContextItem] = []
    """Facts that the agent reads."""
    forwarded_props: Any = None
    """Further fields of the payload, where it is an object."""
    resume: Annotated[list[ResumeEntry], Field(max_length=1_000)] = []
    """Answers to all open interrupts of the thread."""

    def payload(self) -> dict[str, Any] | None:
        """Returns the payload of a task for the last message; None where that is none of a user.

        Raises InvalidInput for a message with other parts than text.
        """
        spoken = [message for message in self.messages if message.get("role") not in _SILENT_ROLES]
        if not spoken or spoken[-1].get("role") != "user":
            return None
        fields = dict(self.forwarded_props) if isinstance(self.forwarded_props, dict) else {}
        if self.context:
            fields["context"] = [item.model_dump() for item in self.context]
        return {**fields, "text": _read_text(spoken[-1].get("content"))}

    def knows(self, task_id: str) -> bool:
        """Whether the client shows messages or calls of tools that were streamed for a task."""
        ids = [message.get("id") for message in self.messages]
        return any(isinstance(name, str) and name.startswith(f"{task_id}-") for name in ids)

    @property
    def tool_call_ids(self) -> set[str]:
        """The calls of tools that the client shows."""
        calls = [call for message in self.messages for call in message.get("toolCalls") or ()]
        return {str(call["id"]) for call in calls if isinstance(call, dict) and "id" in call}


def _read_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts = [
        part["text"]
        for part in (content if isinstance(content, list) else [None])
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    if not isinstance(content, list) or len(texts) < len(content):
        raise InvalidInput(
            "The last message has parts that are no text",
            remedy="Send content as a text, or as parts of the type text",
            field="messages",
        )
    return "\n".join(texts)


class TaskWait(NamedTuple):
    """A question, and the task that asks it."""

    task_id: str
    wait: Wait

    @property
    def tool_call_id(self) -> str | None:
        """The call of a tool that is to be approved; None for any other question."""
        if self.wait.subject.get("kind") != APPROVAL:
            return None
        return _call_id(self.task_id, asked_about(self.wait.step))


def interrupts(waits: Iterable[TaskWait]) -> list[Frame]:
    """Returns questions to people as interrupts."""
    return [
        {
            "id": wait.wait_id,
            "reason": "input_required" if call_id is None else "tool_call",
            "message": wait.reason,
            "metadata": {"subject": wait.subject},
            **({} if call_id is None else {"toolCallId": call_id}),
            **({"responseSchema": wait.answer_schema} if wait.answer_schema else {}),
            **({"expiresAt": _timestamp(wait.expires_at)} if wait.expires_at else {}),
        }
        for wait, call_id in ((question.wait, question.tool_call_id) for question in waits)
    ]


def read_answer(wait: Wait, entry: ResumeEntry) -> Any:
    """Returns the answer to a question.

    An approval that is given up is denied; `approved` and `editedArgs` may stand for its fields.
    """
    if wait.subject.get("kind") != APPROVAL:
        return entry.payload
    if entry.status == "cancelled":
        return {"approve": False, "reason": "Cancelled"}
    if isinstance(entry.payload, dict) and "approved" in entry.payload:
        names = {"approved": "approve", "editedArgs": "arguments"}
        return {names.get(name, name): value for name, value in entry.payload.items()}
    return entry.payload


def run_error(error: MeshError) -> Frame:
    """Returns an error of the mesh as the end of a run."""
    return {"type": "RUN_ERROR", "message": str(error), "code": error.code}


def task_error(outcome: Outcome) -> Frame:
    """Returns the end of the run of a task that failed."""
    error = outcome.error
    message = (error.message if error else "") or f"The task has {outcome.status.replace('_', ' ')}"
    return {"type": "RUN_ERROR", "message": message, "code": error.type if error else outcome.status}


def state_snapshot(view: TaskView) -> Frame:
    """Returns the state of a task as that of its run."""
    state = {"task_id": view.task_id, "status": view.status, "state": view.state, "title": view.title}
    return {"type": "STATE_SNAPSHOT", "snapshot": state}


def thread_messages(views: Sequence[TaskView]) -> list[Frame]:
    """Returns the requests and answers of tasks, the oldest first, without the answer of the last.

    That follows as events.
    """
    messages: list[Frame] = []
    for view in views:
        messages.append(
            {"id": f"{view.task_id}-request", "role": "user", "content": result_text(view.payload)}
        )
        if view is not views[-1] and view.outcome is not None and view.outcome.result is not None:
            content = result_text(view.outcome.result)
            messages.append({"id": _answer_id(view.task_id), "role": "assistant", "content": content})
    return messages


def _answer_id(task_id: str) -> str:
    return f"{task_id}-answer"


def _call_id(task_id: str, path: str) -> str:
    return f"{task_id}-call-{path}"


class _Message:
    """A message that is streamed; one that a client saw the beginning of is whole."""

    def __init__(self, message_id: str) -> None:
        self.id = message_id
        self.text = ""
        self.pieces = 0


class _ApprovedCall(NamedTuple):
    """A call of a tool for which an approval was asked, until it has a result."""

    call_id: str
    tool: Any
    arguments: Any


class Translation:
    """Events of one task as events of its run: text as models write it, tools, progress, state.

    `shown_calls` are calls of tools that the client shows already, `answered` the questions of the task that
    were answered just now.
    """

    def __init__(
        self, task_id: str, shown_calls: Collection[str] = (), answered: Iterable[TaskWait] = ()
    ) -> None:
        self._task_id = task_id
        self._shown_calls = {*shown_calls}
        self._approvals: list[_ApprovedCall] = []
        for question in answered:
            if (call_id := question.tool_call_id) is not None:
                self._note_approval(call_id, question.wait.subject)
        self._open: dict[str, _Message] = {}
        self._count = 0
        self._last_text = ""

    def frames(self, event: Event) -> Iterator[Frame]:
        """Returns the events of the run for one of the task."""
        fields = event.fields
        step = f"{fields.get('attempt')}-{fields.get('step')}"
        match event.event_type:
            case topics.MODEL_DELTA:
                yield from self._delta(step, fields)
            case "model.called" | "model.failed":
                yield from self._close(step)
            case "tool.called":
                yield from self._tool(fields)
            case "approval.requested":
                path = str(fields.get("key")).rpartition("/")[2]
                self._note_approval(_call_id(self._task_id, path), fields)
            case "task.started" | "task.resumed":  # another attempt, or the same after a kill
                yield from self.end_text()
            case "run.progress":
                yield {"type": "CUSTOM", "name": "progress", "value": fields.get("text")}
            case "run.state":
                yield {"type": "STATE_DELTA", "delta": [_replace("state", fields.get("state"))]}
            case "run.title":
                yield {"type": "STATE_DELTA", "delta": [_replace("title", fields.get("title"))]}

    def _delta(self, step: str, fields: Mapping[str, Any]) -> Iterator[Frame]:
        text, number = fields.get("text"), fields.get("n")
        if fields.get("restart") or number == 1:
            yield from self._close(step)
        if not text:
            return
        message = self._open.get(step)
        if number == 1:
            self._count += 1
            message = self._open[step] = _Message(f"{self._task_id}-{step}-{self._count}")
            yield {"type": "TEXT_MESSAGE_START", "messageId": message.id, "role": "assistant"}
        # Who was not there from the beginning gets the answer as a whole.
        if message is None or number != message.pieces + 1:
            return
        message.pieces, message.text = message.pieces + 1, message.text + text
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": message.id, "delta": text}

    def _close(self, step: str) -> Iterator[Frame]:
        if (message := self._open.pop(step, None)) is not None:
            self._last_text = message.text
            yield {"type": "TEXT_MESSAGE_END", "messageId": message.id}

    def end_text(self) -> Iterator[Frame]:
        """End the messages that are open."""
        for step in [*self._open]:
            yield from self._close(step)

    def _note_approval(self, call_id: str, fields: Mapping[str, Any]) -> None:
        self._approvals.append(_ApprovedCall(call_id, fields.get("tool"), fields.get("arguments")))

    def _find_call(self, fields: Mapping[str, Any]) -> str:
        """The id of a call: the approval of one was asked for under another path than that of the call."""
        tool, arguments = fields.get("tool"), fields.get("arguments")
        calls = [call for call in self._approvals if call.tool == tool]
        if not calls:
            return _call_id(self._task_id, str(fields.get("path")))
        call = next((call for call in calls if call.arguments == arguments), calls[0])
        self._approvals.remove(call)
        return call.call_id

    def _tool(self, fields: Mapping[str, Any]) -> Iterator[Frame]:
        call_id = self._find_call(fields)
        yield from self._call(call_id, fields)
        result = fields.get("result") if fields.get("ok") else fields.get("error")
        yield {
            "type": "TOOL_CALL_RESULT",
            "messageId": f"{call_id}-result",
            "toolCallId": call_id,
            "role": "tool",
            "content": as_text(result),
        }

    def _call(self, call_id: str, fields: Mapping[str, Any]) -> Iterator[Frame]:
        if call_id in self._shown_calls:
            return
        self._shown_calls.add(call_id)
        yield {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": str(fields.get("tool"))}
        arguments = as_text(fields.get("arguments"))
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": arguments}
        yield {"type": "TOOL_CALL_END", "toolCallId": call_id}

    def interrupted(self, waits: Iterable[TaskWait]) -> Iterator[Frame]:
        """Returns the calls of tools that wait for an approval."""
        yield from self.end_text()
        for question in waits:
            if (call_id := question.tool_call_id) is not None:
                yield from self._call(call_id, question.wait.subject)

    def answer(self, outcome: Outcome) -> Iterator[Frame]:
        """Returns the answer, where it was not the last message that was streamed."""
        yield from self.end_text()
        text = "" if outcome.result is None else result_text(outcome.result)
        if text and text != self._last_text:
            message_id = _answer_id(self._task_id)
            yield {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"}
            yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text}
            yield {"type": "TEXT_MESSAGE_END", "messageId": message_id}


def _replace(name: str, value: Any) -> Frame:
    return {"op": "add", "path": f"/{name}", "value": value}


def _timestamp(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
