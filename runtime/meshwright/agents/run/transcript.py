"""Shows each step of a task: read from its journal, with the figures of its events.

The journal has the contents: messages and replies of the model, arguments and results of tools. The event
log has the facts: when, how long, how many tokens, what it cost. They are deleted apart, so either may be
missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from meshwright.agents.run.files import ATTACH, files_in, without_data
from meshwright.agents.run.recorded_steps import (
    APPROVE,
    TOOL,
    RecordedStep,
    hash_result,
    joined_steps,
    split_kind,
    step_error,
    step_figures,
    step_start,
    tool_value,
    was_answered,
)
from meshwright.agents.run.step_waits import StepEvents
from meshwright.agents.run.tool_calls import is_journaled, render_content, result_summary
from meshwright.agents.tools.approval import arguments_text
from meshwright.agents.tools.limited_work import cut
from meshwright.core.errors import Conflict, InvalidInput, NotFound
from meshwright.core.events import Event
from meshwright.core.messages import Task
from meshwright.core.model_events import ModelCalled
from meshwright.core.redaction import redact, redact_data
from meshwright.core.step_events import RunProgress, ToolCalled
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.earlier_records import path_named, read_forked, read_steps
from meshwright.engine.work.people import CHECK, asked_about
from meshwright.engine.work.protocol import Wait, hash_request, steps_stream
from meshwright.engine.work.record import StepStatus, StepSummary, StepView, StepWait, TaskRecord

_MAX_SUMMARY_CHARS = 200
_READ_CHARS = 4_000  # of a text, for its summary
_NOT_STORED = "What was said at this step is not stored: the step never ended, or its contents were deleted."


class _Messages(NamedTuple):
    """All messages of the model at a step, what is missing of them, and the settings of the call."""

    messages: list[dict[str, Any]]
    notes: tuple[str, ...]
    request: Mapping[str, Any]


_NO_MESSAGES = _Messages([], (), {})


class Transcript:
    """The steps of one attempt, in order."""

    def __init__(
        self,
        task_id: str,
        attempt: int,
        agent_id: str,
        records: Sequence[Record],
        events: Sequence[Event] = (),
        waits: Sequence[Wait] = (),
        copied: Sequence[Record] = (),
        step_waits: Mapping[str, tuple[StepWait, ...]] | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.agent_id = agent_id
        self._steps = joined_steps([*copied, *records], events)
        self._copied = {record.value["path"] for record in copied}
        self._step_waits = step_waits or {}
        self._waits = {asked_about(wait.step): wait for wait in waits if wait.step.path}
        for path, wait in self._waits.items():
            record = {**wait.step.model_dump(), "started_at": wait.since}
            self._steps.setdefault(path, RecordedStep(path, wait.step.number, record, ()))
        self._messages_at: dict[str, _Messages] = {}

    @property
    def paths(self) -> list[str]:
        """The paths of its steps, in the order of their numbers."""
        return sorted(self._steps, key=lambda path: self._steps[path].number)

    def summary(self, path: str) -> StepSummary:
        """A step in short. Raises NotFound."""
        return StepSummary(**self._fields(self._step(path)))

    def changes_nothing(self, path: str) -> bool:
        """Whether a step is a call of a tool that only reads, and has ended. Raises NotFound."""
        step = self._step(path)
        is_call = step.kind.startswith(TOOL) and is_journaled(step.result)
        return is_call and "changed" not in step.result

    def view(self, path: str, *, max_chars: int, whole: bool = True) -> StepView:
        """A step with what was said; a longer text is cut, and says so. Raises NotFound.

        Not `whole`: without the messages that an earlier step sent, which `request` names as `since`.
        """
        step = self._step(path)
        fields = self._fields(step) | self._contents(step, whole=whole)
        contents = {name: _shown(fields[name], max_chars) for name in _CONTENTS if name in fields}
        return StepView(task_id=self.task_id, **{**fields, **contents})

    def _step(self, path: str) -> RecordedStep:
        """A step by its path, or by its number."""
        path = path_named(path, {path: step.number for path, step in self._steps.items()})
        if path not in self._steps:
            paths = self.paths
            range_text = f"it has {paths[0]} to {paths[-1]}" if paths else "it has none yet"
            raise NotFound(
                f"Attempt {self.attempt} of task {self.task_id} has no step {path!r}; {range_text}",
                remedy=f"mesh task {self.task_id} --steps lists them",
                field="step",
            )
        return self._steps[path]

    # Facts

    def _fields(self, step: RecordedStep) -> dict[str, Any]:
        kind, name = split_kind(step)
        wait = self._waits.get(step.path) if not step.has_ended else None
        error = step_error(step)
        result = step.result if isinstance(step.result, dict) else {}
        fields: dict[str, Any] = {
            "path": step.path,
            "number": step.number,
            "attempt": self.attempt,
            "agent_id": self.agent_id,
            "kind": kind,
            "name": name,
            "status": self._status(step, wait, error),
            "error": None if error is None else redact(error),
            "has_contents": step.has_ended,
            "is_copied": step.path in self._copied,
            "waits": self._step_waits.get(step.path, ()),
            **step_figures(step, self._first_starts.get(step.path)),
        }
        if kind in ("context", "model"):
            fields["prompt"] = self._last_prompt(step, kind)
        if kind == "delegate":
            fields["child_task_id"] = wait.child_task_id if wait is not None else result.get("task_id")
        if kind == "model":
            fields["cache_hit"] = bool(result.get("cache_hit"))
            fields["name"] = fields["model"] or ""
        text = wait.reason if wait is not None else error or self._text(step, kind)
        fields["summary"] = _short(text)
        return fields

    @cached_property
    def _first_starts(self) -> dict[str, datetime]:
        """The start of each step that has steps within it: each run of it records its own, its waits stay."""
        first: dict[str, datetime] = {}
        for step in self._steps.values():
            parts, started = step.path.split("."), step_start(step)
            above = [".".join(parts[:n]) for n in range(1, len(parts))]
            for path in above if started is not None else ():
                own = step_start(self._steps[path]) if path in self._steps else None
                first[path] = min(filter(None, (started, own, first.get(path))))
        return first

    def _last_prompt(self, step: RecordedStep, kind: str) -> str | None:
        """The prompt of its last call, else that of the context before it."""
        calls = [call for event in step.events if (call := ModelCalled.read(event)) is not None]
        if kind == "model" and calls:
            return calls[-1].prompt
        before = [other for other in self._contexts if other.number <= step.number]
        return before[-1].result.get("prompt") if before else None

    @cached_property
    def _contexts(self) -> list[RecordedStep]:
        steps = map(self._step, self.paths)
        return [step for step in steps if split_kind(step)[0] == "context"]

    def _status(self, step: RecordedStep, wait: Wait | None, error: str | None) -> StepStatus:
        if wait is not None:
            return "waiting"
        if error is not None:
            return "failed"
        is_known = step.has_ended or any(event.event_type == "tool.called" for event in step.events)
        return "done" if is_known or was_answered(step) else "unfinished"

    def _text(self, step: RecordedStep, kind: str) -> str:
        result = step.result
        if kind == "model" and isinstance(result, dict):
            calls = [f"{call['name']}({_read(call['arguments'])})" for call in result.get("tool_calls", ())]
            texts = [result.get("content", "")[:_READ_CHARS], *map(str, files_in(result)), *calls]
            return " ".join(texts).strip()
        if kind == "tool":
            calls = [call for event in step.events if (call := ToolCalled.read(event)) is not None]
            call = calls[0] if calls else ToolCalled.from_payload({"arguments": ""})
            arguments = self._arguments.get(_call_key(step), call.arguments)
            value = call.result if result is None else result_summary(tool_value(result))
            return f"{_read(arguments)} -> {'' if value is None else value}"
        if kind == "context" and isinstance(result, dict):
            parts = [f"a prompt of {len(result['system']):,} characters"]
            parts += [f"{count} memories"] if (count := result.get("memories")) else []
            parts += [f"{len(texts)} messages of the thread"] if (texts := result.get("history")) else []
            return ", ".join(parts)
        if kind == "delegate" and isinstance(result, dict):
            inner = result.get("result") or {}
            return inner.get("text") or _json(inner)
        if result is None:
            lines = [line for event in step.events if (line := RunProgress.read(event)) is not None]
            return lines[0].text if lines else ""
        if step.kind.startswith(CHECK) and isinstance(result, dict):
            words = str(result.get("outcome", "")).replace("_", " ")
            return f"{words}: {result['evidence']}" if result.get("evidence") else words
        if step.kind == ATTACH and (files := files_in(result)):
            return str(files[0])
        if step.kind.startswith(APPROVE) and isinstance(result, dict):
            decision = "approved" if result.get("approve") else "denied"
            by = f" by {result['decided_by']}" if result.get("decided_by") else ""
            changed = result.get("arguments")
            into = "" if changed is None else f" with {_read(changed) or 'no arguments'}"
            reason = f": {result['reason']}" if result.get("reason") else ""
            return f"{decision}{by}{into}{reason}"
        shown = without_data(result)
        return _read(shown) if isinstance(shown, dict) else _json(shown)

    # Contents

    def _contents(self, step: RecordedStep, *, whole: bool) -> dict[str, Any]:
        kind, _ = split_kind(step)
        if not step.has_ended:
            return {} if step.has_failed else {"notes": (_NOT_STORED,)}
        if kind == "model":
            return self._dialogue(step, whole=whole)
        contents: dict[str, Any] = {"result": without_data(step.result)}
        if kind == "tool":
            contents["result"] = tool_value(step.result)
            contents["arguments"] = self._arguments.get(_call_key(step))
        return contents

    def _dialogue(self, step: RecordedStep, *, whole: bool) -> dict[str, Any]:
        assert step.record is not None
        sent, reply = step.record.get("sent"), step.result
        contents: dict[str, Any] = {"notes": ()}
        if isinstance(reply, dict) and "failed" not in reply:
            contents["reply"] = _said(reply)
        if sent is None:  # a step of the author's, called like ours
            return contents
        messages, notes, request = self._messages(step.path)
        same = sent.get("same", 0)
        contents["new_messages"] = len(messages) - same
        contents["messages"] = tuple(messages if whole else messages[same:])
        contents["request"] = dict(request)
        if not whole and same:
            contents["request"] |= {"since": sent["since"], "same": same}
        return {**contents, "notes": notes}

    def _messages(self, path: str) -> _Messages:
        chain = []
        while path not in self._messages_at:  # not by recursion: a run may have thousands of steps
            step = self._steps.get(path)
            sent = step.record.get("sent") if step is not None and step.record is not None else None
            if not isinstance(sent, dict):
                note = f"What was said before, at step {path}, is not stored."
                self._messages_at[path] = _Messages([], (note,), {})
                break
            chain.append((path, sent))
            if "since" not in sent:
                break
            path = sent["since"]
        for path, sent in reversed(chain):
            before, notes, request = self._messages_at.get(sent.get("since", ""), _NO_MESSAGES)
            messages = before[: sent.get("same", 0)]
            for message in sent.get("messages", ()):
                messages.append(self._message(message, sent.get("since", "")))
            self._messages_at[path] = _Messages(messages, notes, sent.get("request", request))
        return self._messages_at[chain[0][0] if chain else path]

    def _message(self, message: dict[str, Any], since: str) -> dict[str, Any]:
        if message.get("reply"):
            reply = self._steps[since].result if since in self._steps else None
            reply = reply if isinstance(reply, dict) else {}
            return {"role": "assistant", **_said(reply)}
        digest = message.get("result")
        if digest is None:
            return message
        content = self._results.get(digest, "[not stored]")
        return {"role": "tool", "tool_call_id": message.get("tool_call_id"), "content": content}

    @cached_property
    def _results(self) -> dict[str, str]:
        results = (step.result for step in self._steps.values() if step.kind.startswith(TOOL))
        return {hash_result(content): content for content in map(render_content, results)}

    @cached_property
    def _arguments(self) -> dict[tuple[str, str], str]:
        """The arguments of tools, by name and hash of the request: journals have the hash alone.

        They are those that models wrote, and those that people gave in their place.
        """
        steps = [step for step in self._steps.values() if isinstance(step.result, dict)]
        replies = (step.result for step in steps)
        calls = [call for reply in replies for call in reply.get("tool_calls") or () if _is_call(call)]
        calls_made = [(call["name"], call["arguments"]) for call in calls]
        calls_made += [
            (step.kind.removeprefix(APPROVE), arguments_text(step.result["arguments"]))
            for step in steps
            if step.kind.startswith(APPROVE) and step.result.get("arguments") is not None
        ]
        return {(name, hash_request({"arguments": text})): text for name, text in calls_made}


_CONTENTS = ("request", "messages", "reply", "arguments", "result")


async def transcripts(
    runtime: Runtime, log: EventLog, record: TaskRecord, task: Task, waits: Sequence[Wait]
) -> list[Transcript]:
    """The attempts of a task, with their steps."""
    events = await StepEvents.read(log, record, task)
    transcripts: list[Transcript] = []
    copied: list[Record] = []
    with suppress(Conflict, NotFound):  # the steps that it was forked from were deleted
        copied = await read_forked(runtime, task)
    for attempt in record.attempts:
        ref = ActorRef(attempt.agent_id, f"{task.tenant_id}:{task.thread_id}")
        stream = steps_stream(task.task_id, attempt.generation, attempt.attempt)
        records, answers = await read_steps(runtime, ref, stream, 1)  # the first claim may have left nothing
        own = [wait for wait in waits if wait.wait_id.startswith(f"{stream}/")]
        transcripts.append(
            Transcript(
                task.task_id,
                attempt.attempt,
                attempt.agent_id,
                [*records, *answers],
                events.for_attempt(attempt),
                own,
                copied,
                events.waits(task.task_id, attempt),
            )
        )
    return transcripts


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def _call_key(step: RecordedStep) -> tuple[str, str]:
    return step.kind.removeprefix(TOOL), str((step.record or {}).get("hash", ""))


def _said(reply: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: reply[name] for name in ("thinking", "tool_calls") if reply.get(name)}
    if files := files_in(reply):
        others["files"] = [file.facts for file in files]
    return {"content": reply.get("content", ""), **others}


def _shown(value: Any, max_chars: int) -> Any:
    return _cut(redact_data(list(value) if isinstance(value, tuple) else value), max_chars)


def _cut(value: Any, max_chars: int) -> Any:
    match value:
        case str():
            return cut(value, max_chars)
        case list():
            return [_cut(item, max_chars) for item in value]
        case dict():
            return {name: _cut(item, max_chars) for name, item in value.items()}
        case _:
            return value


def _short(text: str) -> str:
    line = " ".join(redact(text[:_READ_CHARS]).split())
    return line if len(line) <= _MAX_SUMMARY_CHARS else f"{line[: _MAX_SUMMARY_CHARS - 1]}…"


def _read(arguments: Any) -> str:
    text = arguments if isinstance(arguments, str) else _json(arguments)
    with suppress(ValueError, AttributeError):
        return ", ".join(f"{name}={_json(value)}" for name, value in json.loads(text).items())
    return text


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def select_attempt(transcripts: Sequence[Transcript], attempt: int | None) -> Transcript:
    """The transcript of an attempt, without a number of the last. Raises NotFound and InvalidInput."""
    if not transcripts:
        raise NotFound("The task has no attempt yet, hence no steps", field="attempt")
    if attempt is None:
        return transcripts[-1]
    if not 1 <= attempt <= len(transcripts):
        raise InvalidInput(
            f"The task has no attempt {attempt}", remedy=f"It has 1 to {len(transcripts)}", field="attempt"
        )
    return transcripts[attempt - 1]
