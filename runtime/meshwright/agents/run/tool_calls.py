"""The results of tool calls: their events, and what the model gets. Of a long one it gets head and tail.

The tool `output` gives the model the whole of it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from meshwright.agents.run.masks import redacted_arguments
from meshwright.agents.tools.limited_work import cut, head_and_tail
from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.step_events import CallsRefused, ToolCalled
from meshwright.engine.work import Journal
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.port import ToolCall, ToolSpec

_MAX_SUMMARY_CHARS = 120  # of a tool's arguments, and of its result, in an event
_MAX_CHANGED_CHARS = 4_000  # of arguments that a person has changed, for the model
_BESIDE = {"seconds", "files", "masks", "output", "shown", "changed", "edited", "uncertain", "changed_call"}
"""Fields that the journal may have of a tool's result, beside its value and its error."""


class FailedCall(NamedTuple):
    """A call that failed: its tool, why, and what to do where the model repeats it."""

    tool: str
    error: str
    remedy: str


FindTool = Callable[[str], Awaitable[Tool | None]]
_TOOLS = "tools"  # the step that records which tools a run has


class _MissingTool(Tool):
    """A tool that a run had when it began, and that is not there now. A call that has begun waits for it."""

    def __init__(self, spec: ToolSpec, journal: Journal, find: FindTool) -> None:
        self.name, self.description, self.parameters = spec.name, spec.description, dict(spec.parameters)
        self.idempotent, self.effect, self.timeout = True, "read", math.inf
        self._journal, self._find = journal, find

    async def call(self, arguments: str, context: ToolContext) -> Any:
        has_begun = self._journal.upcoming() is not None
        if has_begun and (tool := await self._find(self.name)) is not None:
            return await tool.call(arguments, context)
        raise ToolFailed(f"{self.name} is not there any more", remedy="Go on without it")


async def same_tools(journal: Journal, tools: Mapping[str, Tool], find: FindTool) -> Mapping[str, Tool]:
    """The tools that a run had when it began, as they are now; the journal has their descriptions.

    One that is missing now fails when it is called, and those that came later are left out. A call that an
    earlier claim began gets its tool by `find`, which waits for toolsets that are not ready.
    """
    if journal.upcoming() not in (None, "", _TOOLS):  # it began before tools were recorded
        return tools

    async def describe() -> list[dict[str, Any]]:
        return [tool.spec.model_dump(mode="json") for tool in tools.values()]

    specs = map(ToolSpec.model_validate, await journal.step(_TOOLS, {}, describe, costly=False))
    return {spec.name: tools.get(spec.name) or _MissingTool(spec, journal, find) for spec in specs}


def render_content(result: Any) -> str:
    """The result of a tool as text for the model."""
    if not is_journaled(result):
        result = {"value": result, "error": None}  # what a person says came of it
    if result["error"] is not None:
        content = error_text(str(result["error"]))
    elif "output" in result:
        content = head_and_tail(result["value"], result["shown"], result["output"])
    else:
        value = result["value"]
        content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if (changed := result.get("changed_call")) is None:
        return content
    return f"({changed['by']} changed the arguments of this call to {changed['arguments']})\n{content}"


def is_journaled(result: Any) -> bool:
    """Whether it is the result of a tool as the journal has it, rather than what a person says came of it."""
    return isinstance(result, dict) and result.keys() - _BESIDE == {"value", "error"}


def read_value(result: Any, tool: Tool) -> Any:
    """The value of a tool's result, for code. Raises ToolFailed where the call failed."""
    if not is_journaled(result):  # what a person says came of it
        return result
    if result["error"] is not None:
        error = ToolFailed(str(result["error"]))
        error.was_begun = "changed" in result or not tool.may_change
        raise error
    return result["value"]


def changed_call(arguments: str, changed_by: str) -> dict[str, Any]:
    """The field of a result that tells the model which arguments a person gave the call, if one did."""
    if not changed_by:
        return {}
    return {"changed_call": {"by": changed_by, "arguments": cut(arguments, _MAX_CHANGED_CHARS)}}


def failed_call(
    calls: Sequence[ToolCall], results: Sequence[Any], tools: Mapping[str, Tool]
) -> FailedCall | None:
    """The first of a reply's calls that failed, if any did."""
    for call, result in zip(calls, results, strict=True):
        if is_journaled(result) and result["error"] is not None:
            error = str(result["error"]).rstrip(".")
            return FailedCall(call.name, error, _remedy(call, tools.get(call.name)))
    return None


def _remedy(call: ToolCall, tool: Tool | None) -> str:
    if tool is None:
        return "Say in its prompt which tools there are, or name another model"
    try:
        tool.validated(call.arguments)
    except InvalidInput:
        return f"Say in the description of {tool.name} which arguments it takes, or name another model"
    return f"Repair {tool.name}, or say in its prompt what to do where it fails"


def refused_call(requested: int, executed: int) -> dict[str, Any]:
    """The result of a call that does not run, since its reply has too many."""
    problem = f"not run: the reply had {requested:,} calls, and the first {executed:,} ran"
    return {"value": None, "error": f"{problem}. Call the rest in your next reply, or do without them"}


def too_many_calls(most: int | None, refused: int) -> ProgressEvent:
    """The event that a reply had more calls than may run."""
    setting = "max_calls_per_reply in [agents] of mesh.toml"
    return ProgressEvent.from_payload(CallsRefused(calls=refused, most=most, setting=setting))


def read_seconds(result: Any) -> float:
    """How long a tool took, as its result in the journal says."""
    seconds = result.get("seconds") if isinstance(result, dict) else None
    return seconds if isinstance(seconds, float) else 0.0


def error_text(message: str) -> str:
    """An error as a model gets it."""
    return json.dumps({"error": message}, ensure_ascii=False)


def tool_events(
    tool: str, arguments: str, result: dict[str, Any], started: float | None
) -> list[ProgressEvent]:
    """Which tool was called, and its result.

    `started` is a time of `perf_counter`, or None where the tool waited: it began in an earlier run.
    """
    called = ToolCalled(
        tool=tool,
        arguments=redacted_arguments(arguments, _MAX_SUMMARY_CHARS),
        ok=result["error"] is None,
        error=result["error"],
        result=result_summary(result["value"]),
        duration_ms=None if started is None else round((time.perf_counter() - started) * 1000, 3),
        changed_by=result.get("changed_call", {}).get("by", ""),
    )
    return [ProgressEvent.from_payload(called)]


def result_summary(value: Any) -> str | None:
    """A result without its content: how much of it there is. A single line of text is given, cut short."""
    match value:
        case None:
            return None
        case str():
            return f"lines: {_lines(value)}" if _lines(value) > 1 else value.strip()[:_MAX_SUMMARY_CHARS]
        case list():
            return f"items: {len(value)}"
        case dict():
            sizes = [f"{name}: {size}" for name, field in value.items() if (size := _size(field)) is not None]
            return (", ".join(sizes) or f"fields: {len(value)}")[:_MAX_SUMMARY_CHARS]
        case _:
            return str(value)


def _size(value: Any) -> int | str | None:
    if isinstance(value, list):
        return len(value)
    return f"{_lines(value)} lines" if isinstance(value, str) and _lines(value) > 1 else None


def _lines(text: str) -> int:
    return len(text.strip().splitlines())


_MAX_BYTES = 1_000_000  # of one, and at most a quarter of a record
_RECORD_SHARE = 4
_MAX_KEPT_CHARS = 8_000_000  # of a run
_PAGE_CHARS = 16_000
NAME = "output"


class Outputs:
    """The long results of one run, by id: the journal has each once, whole, in the step of its call."""

    def __init__(self, max_record_bytes: int) -> None:
        self._max_bytes = min(_MAX_BYTES, max_record_bytes // _RECORD_SHARE)
        self._texts: dict[str, str] = {}
        self.tool: Tool = _OutputTool(self._texts)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def keep(self, tool: Tool, result: dict[str, Any], step: int, *, is_offered: bool) -> None:
        """Keep a result whole if it is too long for the model; one too many is cut for good.

        So is each where the tool for them is not offered.
        """
        value = result["value"]
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if len(text) <= tool.max_chars:
            return
        if not is_offered or sum(map(len, self._texts.values())) >= _MAX_KEPT_CHARS:
            result["value"] = head_and_tail(text, tool.max_chars)
            return
        result |= {"value": self._fitting(text), "output": f"o{step}", "shown": tool.max_chars}

    def learn(self, result: Any) -> None:
        """Take a result of the journal."""
        if isinstance(result, dict) and "output" in result:
            self._texts[result["output"]] = result["value"]

    def _fitting(self, text: str) -> str:
        """The text, or its head and tail where a record cannot hold it."""
        size = len(to_json(text))
        while size > self._max_bytes:
            text = head_and_tail(text, int(len(text) * self._max_bytes / size * 0.9))
            size = len(to_json(text))
        return text


class _OutputTool(Tool):
    """Shows a part of a long result."""

    name = NAME
    description = "Show a part of a long result of a tool, of which you got the head and the tail."
    parameters = {  # noqa: RUF012 that is never changed
        "type": "object",
        "properties": {
            "id": {"type": "string", "description": "the id that the shortened result names, like o7"},
            "start": {"type": "integer", "minimum": 0, "default": 0, "description": "the first character"},
        },
        "required": ["id"],
        "additionalProperties": False,
    }
    idempotent = True
    timeout = 60.0
    effect = "read"

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    async def call(self, arguments: str, context: ToolContext) -> str:
        """Show a page of it."""
        values = self.validated(arguments)
        text, start = self._texts.get(values["id"]), values["start"]
        if text is None:
            ids = ", ".join(self._texts) or "none"
            raise InvalidInput(f"There is no output {values['id']!r}; there are {ids}", field="id")
        if start >= len(text):
            raise InvalidInput(f"{values['id']} has {len(text):,} characters", field="start")
        end = min(start + _PAGE_CHARS, len(text))
        rest = f"; {NAME}({values['id']!r}, {end}) goes on" if end < len(text) else ""
        return f"{text[start:end]}\n[characters {start:,} to {end:,} of {len(text):,}{rest}]"
