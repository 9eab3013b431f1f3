"""Steps as the journal stores them: the messages sent to the model, and how each step ended.

A conversation grows with every step, and most of what it grows by is in the journal already: replies of the
model, and results of tools. So a step keeps which earlier step it continues, and only what is new.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter, is_
from typing import Any, NamedTuple

from meshwright.agents.run.tool_calls import error_text, is_journaled, read_seconds
from meshwright.core.events import Event
from meshwright.core.messages import Usage
from meshwright.core.model_events import ModelCalled
from meshwright.core.step_events import ToolCalled
from meshwright.engine.kernel.envelope import Record
from meshwright.engine.work.protocol import TOOL
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest

APPROVE, _DELEGATE = "approve ", "delegate"


class RecordedStep(NamedTuple):
    """A step: its record, or the intent of one that never ended, and its events."""

    path: str
    number: int
    record: Mapping[str, Any] | None
    events: Sequence[Event]

    @property
    def kind(self) -> str:
        """As its record calls it, else as its events do."""
        if self.record is not None:
            return str(self.record.get("kind", ""))
        called = next((event for event in self.events if event.event_type == "tool.called"), None)
        if called is not None:
            return f"{TOOL}{called.fields.get('tool', '')}"
        return "model" if any(event.event_type == ModelCalled.event_type for event in self.events) else ""

    @property
    def has_ended(self) -> bool:
        """Whether it has a result."""
        return self.record is not None and ("result" in self.record or "expired" in self.record)

    @property
    def has_failed(self) -> bool:
        """Whether it raised an error, and so has no result."""
        return self.record is not None and "error" in self.record

    @property
    def result(self) -> Any:
        """Its result, as the journal has it."""
        return None if self.record is None else self.record.get("result")


def joined_steps(records: Iterable[Record], events: Iterable[Event]) -> dict[str, RecordedStep]:
    """Steps by path, from their records and events."""
    by_path: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_path[event.fields["path"]].append(event)
    steps: dict[str, RecordedStep] = {}
    for record in records:
        value = record.value
        value = {**value, **value.get("failed", {})}
        if "kind" not in value:
            continue
        number, path = value["number"], value["path"]
        before = steps.get(path)
        if number and (before is None or not before.has_ended):  # one that failed may have run again
            first = number if before is None else min(number, before.number)
            steps[path] = RecordedStep(path, first, value, by_path.get(path, ()))
    for path, attempt_steps in by_path.items():
        steps.setdefault(path, RecordedStep(path, attempt_steps[0].fields["step"], None, attempt_steps))
    return steps


def split_kind(step: RecordedStep) -> tuple[str, str]:
    """The kind of a step, and its name; an author may call a step of the agent's own as ours are called."""
    kind, result = step.kind, step.result
    if kind.startswith(TOOL):
        return "tool", kind.removeprefix(TOOL)
    is_reply = isinstance(result, dict) and ("failed" in result or "usage" in result)
    if kind == "model" and (step.record is None or is_reply):
        return "model", ""
    if kind == "context" and isinstance(result, dict) and "system" in result:
        return "context", ""
    if kind == _DELEGATE or (isinstance(result, dict) and "completed_at" in result and "agent_id" in result):
        return "delegate", str(result.get("agent_id", "")) if isinstance(result, dict) else ""
    return "step", kind


def tool_value(result: Any) -> Any:
    """The value that a tool returned, or its error."""
    if is_journaled(result):
        return result["value"] if result["error"] is None else {"error": result["error"]}
    return result


def step_error(step: RecordedStep) -> str | None:
    """Why a step failed, if it did."""
    result = step.result
    if step.record is not None and (step.has_failed or "expired" in step.record):
        error = f"{step.record.get('error')}: {step.record.get('message')}"
        return error if step.has_failed else "there was no answer in time"
    if isinstance(result, dict):
        if step.kind == "model" and "failed" in result:
            return f"{result['failed']}: {result.get('message', '')}"
        if step.kind.startswith(TOOL) and result.get("error") is not None:
            return str(result["error"])
        if split_kind(step)[0] == "delegate" and result.get("success") is False:
            error = result.get("error") or {}
            return f"{result.get('status', 'failed')}: {error.get('message', '')}"
    if step.has_ended:
        return None
    for event in reversed(step.events):
        if (tool := ToolCalled.read(event)) is not None and tool.error:
            return str(tool.error)
        if (call := ModelCalled.read(event)) is not None and call.outcome not in ("ok", ""):
            return f"{call.error or call.outcome}: {call.reason or ''}".rstrip(": ")
    return None


def was_answered(step: RecordedStep) -> bool:
    """Whether the last call of the model for it had an answer."""
    calls = [call for event in step.events if (call := ModelCalled.read(event)) is not None]
    return bool(calls) and calls[-1].outcome == "ok"


def step_figures(step: RecordedStep, first_start: datetime | None = None) -> dict[str, Any]:
    """Tokens, cost and times: of the events, else of the record.

    `first_start` is that of the step's first run, where a later one has ended it.
    """
    events = [event for event in step.events if event.event_type == ModelCalled.event_type]
    calls = [event.fields for event in events] or (step.record or {}).get("calls") or []
    usage, cost, is_known = Usage(), Decimal(0), bool(calls)
    for call in calls:
        with suppress(ValueError):
            usage = usage + Usage.model_validate(call.get("usage") or {})
        is_known = is_known and call.get("cost_usd") is not None
        cost += Decimal(str(call.get("cost_usd") or 0))
    durations = [event.fields.get("duration_ms") for event in step.events]
    measured = [duration for duration in durations if isinstance(duration, (int, float))]
    if not measured and step.kind.startswith(TOOL) and step_start(step) is None:
        measured = [1000 * read_seconds(step.result)]
    last = calls[-1] if calls else {}
    return {
        **_step_times(step, sum(measured) if measured else None, first_start),
        "calls": len(calls),
        "model": last.get("model"),
        "finish_reason": last.get("finish_reason"),
        "usage": usage,
        "cost_usd": cost if is_known else None,
    }


def step_start(step: RecordedStep) -> datetime | None:
    """When the claim began the step that ended it; None where an older record does not say."""
    return _time((step.record or {}).get("started_at"))


def _step_times(step: RecordedStep, measured: float | None, first_start: datetime | None) -> dict[str, Any]:
    record, started = step.record or {}, first_start or step_start(step)
    ended_at = _time(record.get("ended_at") or record.get("answered_at"))
    ended_at = ended_at or (step.events[-1].time if step.events else None)
    if started is None and ended_at is not None and measured is not None:
        started = ended_at - timedelta(milliseconds=measured)
    elif started is not None and ended_at is not None and (measured is None or started != step_start(step)):
        measured = max(0.0, (ended_at - started).total_seconds() * 1000)
    duration = None if measured is None else round(measured, 3)
    return {"started_at": started, "ended_at": ended_at, "duration_ms": duration}


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else text


_MAX_CONVERSATIONS = 8  # conversations of one run that go on side by side
_SHORT_CHARS = 200  # a result of a tool that is as short is kept whole
_MAX_DATA_CHARS = 1_000  # of a file in a message
_APART = ("messages", "context", "user", "timeout_seconds", "cache")
_SETTINGS = tuple(name for name in ModelRequest.__struct_fields__ if name not in _APART)
_settings = attrgetter(*_SETTINGS)
"""All of a request but its messages and what changes no answer."""


class _SentConversation(NamedTuple):
    path: str
    messages: tuple[ChatMessage, ...]
    settings: tuple[Any, ...]
    reply: ModelReply | None


class SentMessages:
    """The messages that a run has sent to the model so far; a step stores `max_chars` of them."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._conversations: list[_SentConversation] = []
        self._results: set[str] = set()

    def add_results(self, contents: Iterable[str]) -> None:
        """Note results of tools that steps have journaled, in the words that the model gets.

        Errors are kept whole, since calls of unknown tools are no steps.
        """
        self._results.update(
            content
            for content in contents
            if len(content) > _SHORT_CHARS and not content.startswith(error_text("")[:-2])
        )

    def record_request(self, request: ModelRequest) -> dict[str, Any]:
        """The record of a request.

        `since` is the path of the step that it continues, `same` how many of the messages are those that it
        had, `messages` are the others. Of those, `{"reply": true}` stands for the reply of that step, and
        `result` for the result of a tool, by a hash of its words. `request` is everything else, where it
        differs.
        """
        continued, same = None, 0
        for conversation in reversed(self._conversations):
            shared = _shared(conversation.messages, request.messages)
            if shared > same:
                continued, same = conversation, shared
        record: dict[str, Any] = {"since": continued.path, "same": same} if continued is not None else {}
        new = request.messages[same:]
        reply = continued.reply.message() if continued is not None and continued.reply is not None else None
        replied = bool(new) and new[0] == reply
        contents: list[ChatMessage | dict[str, Any]] = [{"reply": True}] if replied else []
        room = self._max_chars
        for message in new[replied:]:
            contents.append(self._kept(message, room))
            room = max(0, room - len(message.content))
        record["messages"] = contents
        settings = _settings(request)
        if continued is None or continued.settings != settings:
            record["request"] = dict(zip(_SETTINGS, settings, strict=True))
        return record

    def add(self, path: str, request: ModelRequest, reply: ModelReply | None) -> None:
        """Note what a step sent to the model, and its reply, also of a step that was journaled before."""
        for index, conversation in enumerate(self._conversations):
            if len(conversation.messages) <= _shared(conversation.messages, request.messages):
                del self._conversations[index]
                break
        self._conversations.append(_SentConversation(path, request.messages, _settings(request), reply))
        del self._conversations[:-_MAX_CONVERSATIONS]

    def _kept(self, message: ChatMessage, max_chars: int) -> ChatMessage | dict[str, Any]:
        content = message.content
        if message.role == "tool" and content in self._results:
            return {"role": "tool", "tool_call_id": message.tool_call_id, "result": hash_result(content)}
        if len(content) <= max_chars and not message.parts:
            return message
        fields = message.model_dump()
        return {**fields, "content": _slim(content, max_chars), **_slim_parts(fields, max_chars)}


def hash_result(content: str) -> str:
    """The hash by which a result of a tool is found again."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _shared(before: Sequence[ChatMessage], now: Sequence[ChatMessage]) -> int:
    """With how many of the same messages both begin."""
    if all(map(is_, before, now)):  # the usual case, at a fifth of the cost
        return min(len(before), len(now))
    same = 0
    for one, other in zip(before, now, strict=False):
        if one is not other and one != other:
            break
        same += 1
    return same


def _slim_parts(fields: dict[str, Any], max_chars: int) -> dict[str, Any]:
    return {"parts": _slim(fields["parts"], max_chars)} if fields.get("parts") else {}


def _slim(value: Any, max_chars: int) -> Any:
    """Contents of a message without what is too large to keep: a file becomes its kind and its size."""
    if isinstance(value, dict):
        return {name: _slim(item, max_chars) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_slim(item, max_chars) for item in value]
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_DATA_CHARS and not any(character.isspace() for character in value):
        kind = value[:100].partition(",")[0] if value.startswith("data:") else "data"
        return f"[{kind}, {len(value):,} characters, sha256 {hash_result(value)}]"
    if len(value) > max_chars:
        return f"{value[:max_chars]}\n[not kept: {len(value) - max_chars:,} more characters]"
    return value
