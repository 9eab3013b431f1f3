"""The progress events of a run's context and tools; those of its models are in `calls`."""

from __future__ import annotations

import time
from typing import Any

from meshwright.models.port import ToolCall
from meshwright.redaction import redact
from meshwright.run.setting import Setting
from meshwright.work.journal import ProgressEvent

MAX_SUMMARY_CHARS = 120  # of a tool's arguments, and of its result, in an event


def context_events(setting: Setting) -> list[ProgressEvent]:
    """What was recalled, and how the context was made."""
    compressed = {
        "method": setting.method,
        "input_tokens": setting.input_tokens,
        "output_tokens": setting.output_tokens,
        "validation_passed": setting.validation_passed,
        "error": setting.error,
    }
    events: list[ProgressEvent] = []
    if setting.memories:
        recalled = {"count": setting.memories, "tokens": setting.memory_tokens}
        events.append(ProgressEvent("memory.recalled", recalled))
    if setting.memory_error is not None:
        events.append(ProgressEvent("memory.unavailable", {"error": setting.memory_error}))
    return [*events, ProgressEvent("context.compressed", compressed)]


def tool_events(call: ToolCall, result: dict[str, Any], started: float | None) -> list[ProgressEvent]:
    """Which tool was called, and what came of it.

    `started` is a time of `perf_counter`, or None where the tool waited: it began in an earlier run.
    """
    called = {
        "tool": call.name,
        "arguments": redact(call.arguments)[:MAX_SUMMARY_CHARS],
        "ok": result["error"] is None,
        "error": result["error"],
        "result": summary_of(result["value"]),
        "duration_ms": None if started is None else _ms_since(started),
    }
    events = [ProgressEvent("tool.called", called)]
    if call.name == "remember" and result["error"] is None:
        events.append(ProgressEvent("memory.stored", {"text_chars": len(call.arguments)}))
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
            sizes = {name: _size(field) for name, field in value.items()}
            sized = ", ".join(f"{name}: {size}" for name, size in sizes.items() if size is not None)
            return (sized or f"fields: {len(value)}")[:MAX_SUMMARY_CHARS]
        case _:
            return str(value)


def _size(value: Any) -> int | str | None:
    """How large a field is that holds a list or a longer text."""
    if isinstance(value, list):
        return len(value)
    return f"{_lines(value)} lines" if isinstance(value, str) and _lines(value) > 1 else None


def _lines(text: str) -> int:
    return len(text.strip().splitlines())


def _ms_since(started: float) -> float:
    """Milliseconds since a time of `perf_counter`."""
    return round((time.perf_counter() - started) * 1000, 3)
