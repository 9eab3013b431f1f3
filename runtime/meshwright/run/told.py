"""What the steps of a run tell the mesh: the progress events of its context, models and tools."""

from __future__ import annotations

import time
from typing import Any

from meshwright.envelope import Record
from meshwright.ledger.calls import CALLED, Call, call_id_of, called
from meshwright.messages import Outcome
from meshwright.models.port import ModelReply, ModelRequest, ToolCall
from meshwright.redaction import redact
from meshwright.run.failure import Ended, Failure
from meshwright.run.setting import Setting
from meshwright.work.journal import Told

MAX_SUMMARY_CHARS = 120  # of a tool's arguments, and of its result, in an event


def tell_context(setting: Setting) -> list[Told]:
    """What was recalled, how the context was made, and the call of the model that shortened it.

    A call that ended without a reply is told by whoever made it.
    """
    compressed = {
        "method": setting.method,
        "input_tokens": setting.input_tokens,
        "output_tokens": setting.output_tokens,
        "validation_passed": setting.validation_passed,
        "error": setting.error,
    }
    events: list[Told] = [("context.compressed", compressed)]
    if setting.memory_error is not None:
        events.insert(0, ("memory.unavailable", {"error": setting.memory_error}))
    if setting.memories:
        events.insert(0, ("memory.recalled", {"count": setting.memories, "tokens": setting.memory_tokens}))
    if setting.compression is not None and setting.compression.outcome == "ok":
        events.append((CALLED, setting.compression.model_dump(mode="json", exclude_none=True)))
    return events


def model_called(request: ModelRequest, reply: ModelReply, started: float) -> list[Told]:
    """What a model was called with, and what it cost; `started` is a time of `perf_counter`."""
    call_id = call_id_of(request)
    return [(CALLED, called(request, call_id=call_id, reply=reply, latency_ms=since(started)))]


def call_of(record: Record) -> ModelReply | Call | Outcome | None:
    """The call of a model, or the delegated task, that a step's record tells of, if it does."""
    match record.value:
        case {"kind": "model", "result": result}:
            ended = Ended.model_validate(result).root
            return ended.call if isinstance(ended, Failure) else ended
        case {"kind": "context", "result": result}:
            return Setting.model_validate(result).compression
        case {"kind": "delegate", "result": {"task_id": _, "status": _, "completed_at": _} as result}:
            return Outcome.model_validate(result)
        case _:
            return None


def tool_events(call: ToolCall, result: dict[str, Any], started: float | None) -> list[Told]:
    """Which tool was called, and what came of it.

    `started` is a time of `perf_counter`, or None where the tool waited: it began in an earlier run.
    """
    called = {
        "tool": call.name,
        "arguments": redact(call.arguments)[:MAX_SUMMARY_CHARS],
        "ok": result["error"] is None,
        "error": result["error"],
        "result": summary_of(result["value"]),
        "duration_ms": None if started is None else since(started),
    }
    events = [("tool.called", called)]
    if call.name == "remember" and result["error"] is None:
        events.append(("memory.stored", {"text_chars": len(call.arguments)}))
    return events


def summary_of(value: Any) -> str | None:
    """What a tool gave, without its content: how much of what. A single line of text is given, cut short."""
    match value:
        case None:
            return None
        case str():
            return f"lines: {_lines(value)}" if _lines(value) > 1 else value.strip()[:MAX_SUMMARY_CHARS]
        case list():
            return f"items: {len(value)}"
        case dict():
            sizes = {name: _size(each) for name, each in value.items()}
            told = ", ".join(f"{name}: {size}" for name, size in sizes.items() if size is not None)
            return (told or f"fields: {len(value)}")[:MAX_SUMMARY_CHARS]
        case _:
            return str(value)


def _size(value: Any) -> int | str | None:
    """How large a field is that holds a list or a longer text."""
    if isinstance(value, list):
        return len(value)
    return f"{_lines(value)} lines" if isinstance(value, str) and _lines(value) > 1 else None


def _lines(text: str) -> int:
    return len(text.strip().splitlines())


def since(started: float) -> float:
    """Milliseconds since a time of `perf_counter`."""
    return round((time.perf_counter() - started) * 1000, 3)
