"""The events of the steps of runs: tools, limits, and what runs say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from meshwright.core.display import Document, fault, file_line, seconds, short
from meshwright.core.payloads import Fact, Payload, StepPayload, declared
from meshwright.core.task_events import arguments_line


class ToolCalled(
    StepPayload,
    type="tool.called",
    word="tool",
    listed="tool, arguments, changed_by, ok, error, result, duration_ms",
):
    tool: Fact[str]
    arguments: Any
    ok: Fact[bool | None]
    error: Any
    result: str | None
    duration_ms: Fact[float | None]
    changed_by: Fact[str] = ""

    def event_line(self, event: Document) -> Sequence[object]:
        return (
            self.tool or "?",
            arguments_line(self.arguments),
            self.changed_by and f"(changed by {self.changed_by})",
            self.duration_ms is not None and seconds(self.duration_ms),
            self.ok is False and f"failed: {fault(self.error)}",
            self.result and f"-> {short(self.result)}",
        )


class CallsRefused(StepPayload, type="calls.refused", word="limit"):
    """Of one reply, which had too many."""

    calls: Fact[int]
    most: Fact[int | None]
    setting: Fact[str]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"{self.calls} calls are refused: {self.most} of one reply run",)


class ReachedLimit(
    StepPayload, type="limit.steps limit.no_progress limit.tokens limit.money limit.time", word="limit"
):
    limit: Fact[str]
    most: Fact[Any]
    """its value"""
    setting: Fact[str]
    ends: Literal["tools", "calls"]
    """tools or calls"""

    def event_line(self, event: Document) -> Sequence[object]:
        then = "is not called again" if self.ends == "calls" else "has to answer without more tools"
        most = "?" if self.most is None else self.most
        return (f"{self.limit or '?'} ({most}) is reached: the model {then}",)


class CutOffReply(StepPayload, type="reply.cut_off", word="model"):
    """It ended at max_tokens."""

    text: str
    tool_calls: list[dict[str, Any]]

    def event_line(self, event: Document) -> Sequence[object]:
        tools = ", ".join(str(call.get("tool")) for call in self.tool_calls)
        return "cut off", tools and f"in a call of {tools}, which was not run", short(self.text)


class InvalidAnswer(StepPayload, type="structure.invalid", word="model"):
    shape: str
    error: str
    raw: str
    """the answer"""

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"does not fit {self.shape or '?'}: {short(self.error)}",)


class StepFinished(StepPayload, type="step.finished", word="step"):
    name: Fact[str]
    duration_ms: Fact[float]

    def event_line(self, event: Document) -> Sequence[object]:
        return self.name or "?", seconds(self.duration_ms)


class StepChecked(StepPayload, type="step.checked", word="check"):
    """A check looked whether a step that was interrupted, or got no reply, has happened."""

    name: Fact[str]
    outcome: Fact[Literal["happened", "did_not_happen", "unknown"]]
    evidence: str
    """what the check saw, or why it failed"""
    duration_ms: Fact[float]

    def event_line(self, event: Document) -> Sequence[object]:
        outcome = str(self.outcome).replace("_", " ")
        return f"{self.name or '?'} {outcome}", seconds(self.duration_ms), short(self.evidence)


class RunProgress(StepPayload, type="run.progress", word="progress"):
    text: str

    def event_line(self, event: Document) -> Sequence[object]:
        return (short(self.text),)


class RunStateChanged(StepPayload, type="run.state", word="state"):
    state: str
    reason: str

    def event_line(self, event: Document) -> Sequence[object]:
        return self.state or "?", short(self.reason)


class RunTitled(StepPayload, type="run.title", word="title"):
    title: str

    def event_line(self, event: Document) -> Sequence[object]:
        return (short(self.title),)


class FileAttached(StepPayload, type="file.attached", word="file"):
    name: str
    media_type: Fact[str]
    size: Fact[int | None]

    def event_line(self, event: Document) -> Sequence[object]:
        return (file_line(self.model_dump()),)


class AnswerKept(StepPayload, type="answer.kept", word="kept"):
    """A restarted run takes the former answer."""

    asked: str
    answered_by: Fact[str | None]

    def event_line(self, event: Document) -> Sequence[object]:
        return (f"the answer to {self.asked or None}, from before the restart",)


class ContentsPruned(
    Payload,
    type="contents.pruned",
    listed="tasks, ended_before, last: what was said at their steps was deleted",
):
    tasks: Fact[int]
    ended_before: Fact[str]
    last: Any


EVENTS = declared(__name__)
