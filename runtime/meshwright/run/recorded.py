"""Steps as their records and events have them: what each is, how it ended, its tokens, cost and times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from meshwright.core.messages import Event, Usage
from meshwright.kernel.envelope import Record
from meshwright.models.port import MODEL_CALLED
from meshwright.run.tool_calls import is_journaled, seconds_of

TOOL, _DELEGATE = "tool ", "delegate"


class RecordedStep(NamedTuple):
    """What is known of a step: its record, or the intent of one that never ended, and its events."""

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
        return "model" if any(event.event_type == MODEL_CALLED for event in self.events) else ""

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
        """What it gave, as the journal has it."""
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
    for path, known in by_path.items():
        steps.setdefault(path, RecordedStep(path, known[0].fields["step"], None, known))
    return steps


def kind_of(step: RecordedStep) -> tuple[str, str]:
    """What a step is, and its name; an author may call a step of the agent's own as ours are called."""
    kind, result = step.kind, step.result
    if kind.startswith(TOOL):
        return "tool", kind.removeprefix(TOOL)
    if kind == "model" and (step.record is None or _is_reply(result)):
        return "model", ""
    if kind == "context" and isinstance(result, dict) and "system" in result:
        return "context", ""
    if kind == _DELEGATE or (isinstance(result, dict) and "completed_at" in result and "agent_id" in result):
        return "delegate", str(result.get("agent_id", "")) if isinstance(result, dict) else ""
    return "step", kind


def _is_reply(result: Any) -> bool:
    return isinstance(result, dict) and ("failed" in result or "usage" in result)


def value_of(result: Any) -> Any:
    """What a tool gave, or its error."""
    if is_journaled(result):
        return result["value"] if result["error"] is None else {"error": result["error"]}
    return result


def error_of(step: RecordedStep) -> str | None:
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
        if kind_of(step)[0] == "delegate" and result.get("success") is False:
            error = result.get("error") or {}
            return f"{result.get('status', 'failed')}: {error.get('message', '')}"
    if step.has_ended:
        return None
    for event in reversed(step.events):
        fields = event.fields
        if event.event_type == "tool.called" and fields.get("error"):
            return str(fields["error"])
        if event.event_type == MODEL_CALLED and fields.get("outcome", "ok") != "ok":
            return f"{fields.get('error') or fields['outcome']}: {fields.get('reason') or ''}".rstrip(": ")
    return None


def was_answered(step: RecordedStep) -> bool:
    """Whether the last call of the model for it had an answer."""
    called = [event for event in step.events if event.event_type == MODEL_CALLED]
    return bool(called) and called[-1].fields.get("outcome") == "ok"


def figures_of(step: RecordedStep) -> dict[str, Any]:
    """Tokens, cost and times: of the events, else of the record."""
    events = [event for event in step.events if event.event_type == MODEL_CALLED]
    calls = [event.fields for event in events] or (step.record or {}).get("calls") or []
    usage, cost, known = Usage(), Decimal(0), bool(calls)
    for call in calls:
        with suppress(ValueError):
            usage = usage + Usage.model_validate(call.get("usage") or {})
        known = known and call.get("cost_usd") is not None
        cost += Decimal(str(call.get("cost_usd") or 0))
    durations = [event.fields.get("duration_ms") for event in step.events]
    measured = [duration for duration in durations if isinstance(duration, (int, float))]
    if not measured and step.kind.startswith(TOOL):
        measured = [1000 * seconds_of(step.result)]
    last = calls[-1] if calls else {}
    answered = (step.record or {}).get("answered_at")
    ended = step.events[-1].time if step.events else datetime.fromisoformat(answered) if answered else None
    return {
        "ended_at": ended,
        "duration_ms": round(sum(measured), 3) if measured else None,
        "calls": len(calls),
        "model": last.get("model"),
        "finish_reason": last.get("finish_reason"),
        "usage": usage,
        "cost_usd": cost if known else None,
    }
