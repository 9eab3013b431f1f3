"""Tracing: spans of a task, one trace for each, handed on in batches once they have finished.

A span is handed its parent as a W3C traceparent, since the parts of a task meet only through messages. A
finished one is plain data:

    {trace_id, span_id, parent_span_id, name, kind, start_time, end_time, attributes, status, status_message}

with ids in hexadecimal, times in unix nanoseconds, and `status` "unset" or "error". A span of the
OpenTelemetry SDK costs its maker five times as much, and a task has a dozen; `meshwright.core.otel` makes SDK
spans of these, for exporters, while no task waits.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from meshwright.core.encoding import encode
from meshwright.core.errors import MeshError
from meshwright.core.redaction import foreign_words

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Record = dict[str, Any]
TENANT = "meshwright.tenant.id"
"""The attribute that says whose a span is: events with spans are of that tenant alone."""
Publish = Callable[[str, list[Record]], object]

MAX_BATCH = 64  # finished spans of one trace that wait to be published
_MAX_DELAY_SECONDS = 0.25  # and how long they do: about one event a trace, where each would cost a row
MAX_MESSAGE_CHARS = 500
SAMPLED, _RANDOM = 1, 2
_FLAGS = SAMPLED | _RANDOM
_SAMPLED_FLAGS = ("01", "03")
PROMPT = "meshwright.prompt.version"
TRACE_NAME = "langfuse.trace.name"
TASK_ID = "meshwright.task.id"
TASK_STATUS = "meshwright.task.status"
COST = "meshwright.cost_usd"
"""Ours: the conventions have no name for it."""
_NEW_TRACE_FLAGS = "03"  # sampled, and its id is random where the convention wants that
_VERSION, _MAX_TRACEPARENT_CHARS = "00", 512
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class GenAI:
    """The names of OpenTelemetry's GenAI conventions that we use, as of v0.1.0.

    The newer ones are in no Python package. Spans are named by operation and object:
    `invoke_agent {agent}`, `chat {model}`, `execute_tool {tool}`. The contents of messages, arguments and
    results are recorded only if settings allow it.
    """

    OPERATION_NAME = "gen_ai.operation.name"
    PROVIDER_NAME = "gen_ai.provider.name"
    PROMPT_NAME = "gen_ai.prompt.name"
    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    INVOKE_AGENT = "invoke_agent"
    EXECUTE_TOOL = "execute_tool"
    AGENT_NAME = "gen_ai.agent.name"
    CONVERSATION_ID = "gen_ai.conversation.id"
    REQUEST_MODEL = "gen_ai.request.model"
    REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
    REQUEST_TEMPERATURE = "gen_ai.request.temperature"
    RESPONSE_MODEL = "gen_ai.response.model"
    RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
    USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
    USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
    USAGE_CACHE_WRITE_TOKENS = "gen_ai.usage.cache_write.input_tokens"
    USAGE_REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
    TOOL_NAME = "gen_ai.tool.name"
    TOOL_TYPE = "gen_ai.tool.type"
    TOOL_DESCRIPTION = "gen_ai.tool.description"
    TOOL_CALL_ID = "gen_ai.tool.call.id"
    TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
    TOOL_CALL_RESULT = "gen_ai.tool.call.result"
    TOOL_DEFINITIONS = "gen_ai.tool.definitions"
    SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
    INPUT_MESSAGES = "gen_ai.input.messages"
    OUTPUT_MESSAGES = "gen_ai.output.messages"
    ERROR_TYPE = "error.type"  # of the general conventions


def text_messages(role: str, text: str) -> str:
    """One message of text, in the form of the conventions."""
    return encode([{"role": role, "parts": [{"type": "text", "content": text}]}]).decode()


class Context(NamedTuple):
    """The parts of a traceparent: the trace, the span in it, and the flags, each in hexadecimal."""

    trace_id: str
    span_id: str
    flags: str


@lru_cache(maxsize=512)
def parse(traceparent: str) -> Context | None:
    """Read a traceparent; None if it is malformed.

    One of a higher version may have more parts behind these. Only the flags that are known are kept.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if len(traceparent) <= _MAX_TRACEPARENT_CHARS else None
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == _VERSION and rest is not None:
        return None
    known = _FLAGS if version == _VERSION else SAMPLED
    return Context(trace_id, span_id, f"{int(flags, 16) & known:02x}")


def valid_trace(traceparent: str | None) -> str | None:
    """Returns a W3C traceparent, of version 00; a malformed one counts as none."""
    context = parse(traceparent) if traceparent else None
    return None if context is None else _traceparent(*context)


def _traceparent(trace_id: str, span_id: str, flags: str) -> str:
    return f"{_VERSION}-{trace_id}-{span_id}-{flags}"


class ReservedSpan(NamedTuple):
    """The ids of a span that is recorded when it has ended, perhaps by another process.

    `traceparent` is the parent of the spans below it. `above` is the id of the span above it, "" without one,
    and None where nothing is to be recorded.
    """

    traceparent: str | None
    above: str | None


def new_span(
    name: str,
    *,
    trace_id: str | None = None,
    span_id: str | None = None,
    above_id: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    kind: Kind = "internal",
    start_time: int | None = None,
) -> Record:
    """The record of a span below another of its trace; by default it starts now, in a new trace."""
    return {
        "trace_id": trace_id or _new_trace_id(),
        "span_id": span_id or _new_span_id(),
        "parent_span_id": above_id,
        "name": name,
        "kind": kind,
        "start_time": start_time or time.time_ns(),
        "end_time": 0,
        "attributes": dict(attributes) if attributes else {},
        "status": "unset",
        "status_message": "",
    }


class Span:
    """One span under way, ended by its `with` block. This kind records nothing, and passes its parent on."""

    __slots__ = ("_parent",)

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent

    @property
    def traceparent(self) -> str | None:
        """The parent of the spans below it."""
        return self._parent

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes: text, numbers, truths, or sequences of them."""

    def fail(self, error: BaseException | str) -> None:
        """Mark it as failed, with an error or the name of one.

        The text of our own errors is kept, without secrets that they quote. Others may quote a prompt or a
        key: only their type is kept.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, as failed where an Exception passes through."""


class _RecordedSpan(Span):
    """A span that is handed on when it has ended."""

    __slots__ = ("_end", "_record")

    def __init__(self, traceparent: str, record: Record, end: Callable[[Record], None]) -> None:
        self._parent = traceparent
        self._record = record
        self._end = end

    def set(self, attributes: Mapping[str, Any]) -> None:
        self._record["attributes"].update(attributes)

    def fail(self, error: BaseException | str) -> None:
        name, message = error if isinstance(error, str) else type(error).__name__, ""
        if isinstance(error, MeshError):
            name, message = error.code, foreign_words(str(error), max_chars=MAX_MESSAGE_CHARS)
        self._record["status"], self._record["status_message"] = "error", message
        self._record["attributes"][GenAI.ERROR_TYPE] = name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it. An exception that only unwinds a run (a cancellation, a wait) is no failure."""
        if isinstance(error, Exception):
            self.fail(error)
        elif error is not None:
            self._record["attributes"]["meshwright.unwound_by"] = getattr(
                error, "trace_name", type(error).__name__
            )
        self._record["end_time"] = time.time_ns()
        self._end(self._record)


class NoTracing:
    """Records nothing; a trace from outside still goes on through its spans."""

    enabled = False
    content = False

    def span(
        self,
        name: str,
        *,
        parent: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        kind: Kind = "internal",
    ) -> Span:
        """A span that records nothing."""
        return Span(parent)

    def reserve(self, parent: str | None = None) -> ReservedSpan:
        """A span that is not recorded; its parent is that of the spans below it."""
        return ReservedSpan(parent, None)

    def reserve_beside(self, span: ReservedSpan) -> ReservedSpan:
        """The same for a span at the place of another."""
        return ReservedSpan(span.traceparent, None)

    def record(self, span: Record, traceparent: str | None) -> None:
        """Record nothing."""

    async def flush(self) -> None:
        """Nothing waits."""

    async def close(self) -> None:
        """Nothing to give back."""


class Tracing:
    """Records spans. `content`: whether attributes may hold what messages say.

    Spans below a parent that is not sampled are recorded too, for those who take all.
    """

    enabled = True

    def __init__(self, *, content: bool = False) -> None:
        self.content = content
        self._sinks: list[tuple[Publish, bool]] = []
        self._closers: list[Callable[[], object]] = []
        self._batches: dict[tuple[str, bool], list[Record]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._timer: asyncio.TimerHandle | None = None

    def publish_to(
        self, publish: Callable[[str, Sequence[Mapping[str, Any]]], object], *, takes_all: bool = False
    ) -> None:
        """Hand finished spans to one more taker, on the event loop: a trace id, and spans of that trace.

        It gets the spans of a trace together, 64 at most, within 250 ms of the first one's end. Those below a
        parent that is not sampled are only for one that `takes_all`.
        """
        self._sinks.append((publish, takes_all))

    def on_close(self, close: Callable[[], object]) -> None:
        """Have this called when the last spans were handed on, in a thread: it may block."""
        self._closers.append(close)

    def span(
        self,
        name: str,
        *,
        parent: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        kind: Kind = "internal",
    ) -> Span:
        """Start a span below its parent, or a trace where that is None or malformed; end it by `with`."""
        above = parse(parent) if parent is not None else None
        if above is None:
            record, flags = new_span(name, attributes=attributes, kind=kind), _NEW_TRACE_FLAGS
        else:
            trace_id, above_id, flags = above
            record = new_span(name, trace_id=trace_id, above_id=above_id, attributes=attributes, kind=kind)
        traceparent = _traceparent(record["trace_id"], record["span_id"], flags)
        return _RecordedSpan(
            traceparent, record, self._ended if _is_sampled(flags) else self._ended_unsampled
        )

    def reserve(self, parent: str | None = None) -> ReservedSpan:
        """Ids for a span below a parent, or of a new trace, that `record` takes once it has ended."""
        above = parse(parent) if parent is not None else None
        if above is None:
            return ReservedSpan(_traceparent(_new_trace_id(), _new_span_id(), _NEW_TRACE_FLAGS), "")
        return ReservedSpan(_traceparent(above.trace_id, _new_span_id(), above.flags), above.span_id)

    def reserve_beside(self, span: ReservedSpan) -> ReservedSpan:
        """Ids for another span at the place of a reserved one."""
        context = parse(span.traceparent) if span.traceparent is not None else None
        if context is None or span.above is None:
            return span
        return ReservedSpan(_traceparent(context.trace_id, _new_span_id(), context.flags), span.above)

    def record(self, span: Record, traceparent: str | None) -> None:
        """Take the record of a reserved span that has ended, and its traceparent."""
        context = parse(traceparent) if traceparent is not None else None
        self._end(span, is_sampled=context is None or _is_sampled(context.flags))

    async def flush(self) -> None:
        """Hand on all that has finished."""
        if self._timer is not None:
            self._timer.cancel()
        self._publish_all()

    async def close(self) -> None:
        """Hand on all that has finished, take nothing more, and close the takers."""
        await self.flush()
        self._sinks.clear()
        while self._closers:
            await asyncio.to_thread(self._closers.pop())
        self._loop = None

    def _ended(self, record: Record) -> None:
        self._end(record, is_sampled=True)

    def _ended_unsampled(self, record: Record) -> None:
        self._end(record, is_sampled=False)

    def _end(self, record: Record, *, is_sampled: bool) -> None:
        if self._loop is None:
            self._loop, self._thread = _running_loop(), threading.get_ident()
        if self._loop is None or threading.get_ident() == self._thread:
            self._add(record, is_sampled)
        else:
            self._loop.call_soon_threadsafe(self._add, record, is_sampled)

    def _add(self, record: Record, is_sampled: bool) -> None:
        key = record["trace_id"], is_sampled
        batch = self._batches.setdefault(key, [])
        batch.append(record)
        if len(batch) == MAX_BATCH:
            self._publish(key)
        elif self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_MAX_DELAY_SECONDS, self._publish_all)

    def _publish_all(self) -> None:
        self._timer = None
        for key in list(self._batches):
            self._publish(key)

    def _publish(self, key: tuple[str, bool]) -> None:
        spans = self._batches.pop(key)
        trace_id, is_sampled = key
        for publish, takes_all in self._sinks:
            if is_sampled or takes_all:
                publish(trace_id, spans)


def _is_sampled(flags: str) -> bool:
    return flags in _SAMPLED_FLAGS


def _new_span_id() -> str:
    return f"{random.getrandbits(64):016x}"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None  # not in a loop: what ends here waits for `flush`


def _new_trace_id() -> str:
    """48 bits of milliseconds, then 80 random bits: later ids sort later, which spares the log's index."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"
