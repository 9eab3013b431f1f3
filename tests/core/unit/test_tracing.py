"""Spans of one task share a trace, and are handed on in batches when they have finished."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meshwright.core.errors import ToolFailed
from meshwright.core.otel import SdkSpans
from meshwright.core.tracing import MAX_BATCH, GenAI, NoTracing, Tracing, parse, valid_trace

OUTSIDE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = OUTSIDE[:-1] + "0"


class Taken:
    """A taker of spans: the batches that it was given, and their spans by name."""

    def __init__(self, tracing: Tracing, *, takes_all: bool = False) -> None:
        self.batches: list[tuple[str, list[Mapping[str, Any]]]] = []
        self.threads: set[int] = set()
        self.came = asyncio.Event()
        tracing.publish_to(self, takes_all=takes_all)

    def __call__(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        self.batches.append((trace_id, list(spans)))
        self.threads.add(threading.get_ident())
        self.came.set()

    @property
    def spans(self) -> dict[str, Mapping[str, Any]]:
        return {span["name"]: span for _, spans in self.batches for span in spans}


@pytest.fixture
async def tracing() -> Tracing:
    return Tracing()


@pytest.fixture
async def taken(tracing: Tracing) -> Taken:
    return Taken(tracing)


async def test_the_spans_of_a_road_are_one_trace_each_below_its_parent(
    tracing: Tracing, taken: Taken
) -> None:
    before = time.time_ns()
    with tracing.span("submit task", kind="producer") as root:
        pass
    with tracing.span("invoke_agent writer", parent=root.traceparent) as agent:  # noqa: SIM117 - parents differ
        with tracing.span("chat offline", parent=agent.traceparent, kind="client"):
            pass
    await tracing.flush()
    [(trace_id, spans)] = taken.batches
    assert [span["name"] for span in spans] == ["submit task", "chat offline", "invoke_agent writer"]
    submit, chat, invoke = spans
    assert {span["trace_id"] for span in spans} == {trace_id}
    assert len({span["span_id"] for span in spans}) == 3
    assert submit["parent_span_id"] is None
    assert invoke["parent_span_id"] == submit["span_id"]
    assert chat["parent_span_id"] == invoke["span_id"]
    assert [span["kind"] for span in spans] == ["producer", "client", "internal"]
    assert before <= invoke["start_time"] <= chat["start_time"] <= chat["end_time"] <= invoke["end_time"]
    assert root.traceparent == f"00-{trace_id}-{submit['span_id']}-03"


async def test_attributes_are_those_given_and_those_added(tracing: Tracing, taken: Taken) -> None:
    given = {GenAI.OPERATION_NAME: GenAI.CHAT}
    with tracing.span("chat offline", attributes=given) as span:
        span.set({GenAI.USAGE_INPUT_TOKENS: 5, GenAI.RESPONSE_FINISH_REASONS: ("stop",)})
    await tracing.flush()
    assert taken.spans["chat offline"]["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert given == {"gen_ai.operation.name": "chat"}


async def test_a_trace_from_outside_goes_on(tracing: Tracing, taken: Taken) -> None:
    with tracing.span("inside", parent=OUTSIDE) as span:
        pass
    await tracing.flush()
    assert taken.batches[0][0] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert taken.spans["inside"]["parent_span_id"] == "00f067aa0ba902b7"
    assert span.traceparent is not None
    assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{16}-01", span.traceparent)


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "a-b-c-d",
        OUTSIDE.upper(),
        OUTSIDE + "-00",
        OUTSIDE + "\n",
        "ff" + OUTSIDE[2:],
        "ff" + OUTSIDE[2:] + "-later",
        "cc" + OUTSIDE[2:] + "later",
        "cc" + OUTSIDE[2:] + "-" + "x" * 500,
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
async def test_a_malformed_parent_starts_a_new_trace(tracing: Tracing, taken: Taken, malformed: str) -> None:
    with tracing.span("inside", parent=malformed) as span:
        pass
    await tracing.flush()
    assert taken.spans["inside"]["parent_span_id"] is None
    assert span.traceparent is not None
    assert parse(span.traceparent) is not None
    assert parse(malformed) is None


async def test_what_is_not_sampled_is_for_those_who_take_all(tracing: Tracing, taken: Taken) -> None:
    own = Taken(tracing, takes_all=True)
    with tracing.span("inside", parent=UNSAMPLED) as span:
        span.fail("Timeout")
    with tracing.span("below", parent=span.traceparent):
        pass
    with tracing.span("another", parent=OUTSIDE):
        pass
    await tracing.flush()
    assert taken.spans.keys() == {"another"}
    assert own.spans["below"]["parent_span_id"] == own.spans["inside"]["span_id"]
    assert own.spans["inside"]["parent_span_id"] == "00f067aa0ba902b7"
    assert span.traceparent is not None and span.traceparent.endswith("-00")


@pytest.mark.parametrize(
    ("higher", "flags"),
    [
        ("cc" + OUTSIDE[2:], "01"),
        ("cc" + OUTSIDE[2:] + "-what-comes-later", "01"),
        ("01" + UNSAMPLED[2:], "00"),
    ],
)
async def test_a_higher_version_is_read_and_goes_on_as_ours(
    tracing: Tracing, higher: str, flags: str
) -> None:
    assert valid_trace(higher) == f"{OUTSIDE[:-2]}{flags}"
    with tracing.span("inside", parent=higher) as span:
        pass
    assert span.traceparent is not None
    assert re.fullmatch(rf"00-4bf92f3577b34da6a3ce929d0e0e4736-[0-9a-f]{{16}}-{flags}", span.traceparent)


async def test_flags_that_are_not_known_are_not_passed_on() -> None:
    assert (valid_trace(OUTSIDE[:-2] + "ff"), valid_trace("01" + OUTSIDE[2:-2] + "ff")) == (
        OUTSIDE[:-2] + "03",
        OUTSIDE,
    )


async def test_an_exception_fails_its_span_and_passes(tracing: Tracing, taken: Taken) -> None:
    with pytest.raises(ToolFailed), tracing.span("execute_tool search"):
        raise ToolFailed("there is no file notes.md")
    await tracing.flush()
    span = taken.spans["execute_tool search"]
    assert (span["status"], span["status_message"]) == ("error", "there is no file notes.md")
    assert span["attributes"][GenAI.ERROR_TYPE] == "ToolFailed"


async def test_what_a_foreign_error_says_is_not_recorded(tracing: Tracing, taken: Taken) -> None:
    with tracing.span("chat") as span:
        span.fail(ValueError("the prompt was: my password is 1234"))
    await tracing.flush()
    span_taken = taken.spans["chat"]
    assert (span_taken["status"], span_taken["status_message"]) == ("error", "")
    assert span_taken["attributes"] == {GenAI.ERROR_TYPE: "ValueError"}


async def test_a_key_in_an_error_is_not_recorded(tracing: Tracing, taken: Taken) -> None:
    with tracing.span("execute_tool search") as span:
        span.fail(ToolFailed("the server refused sk-proj-abcdefghijklmnop1234567890"))
    await tracing.flush()
    message = taken.spans["execute_tool search"]["status_message"]
    assert message == "the server refused [redacted]"


async def test_a_cancellation_is_no_failure(tracing: Tracing, taken: Taken) -> None:
    with pytest.raises(asyncio.CancelledError), tracing.span("chat"):
        raise asyncio.CancelledError
    await tracing.flush()
    assert taken.spans["chat"]["status"] == "unset"
    assert taken.spans["chat"]["attributes"] == {"meshwright.unwound_by": "CancelledError"}


async def test_spans_come_by_themselves_a_moment_after_the_first_has_ended(
    tracing: Tracing, taken: Taken
) -> None:
    with tracing.span("first") as first:
        pass
    with tracing.span("second", parent=first.traceparent), tracing.span("another trace"):
        pass
    assert taken.batches == []
    await taken.came.wait()
    assert [[span["name"] for span in spans] for _, spans in taken.batches] == [
        ["first", "second"],
        ["another trace"],
    ]


async def test_a_long_trace_comes_in_parts(tracing: Tracing, taken: Taken) -> None:
    for n in range(2 * MAX_BATCH + 1):
        with tracing.span(str(n), parent=OUTSIDE):
            pass
    assert [len(spans) for _, spans in taken.batches] == [MAX_BATCH, MAX_BATCH]
    await tracing.close()
    assert [len(spans) for _, spans in taken.batches] == [MAX_BATCH, MAX_BATCH, 1]


async def test_spans_that_end_in_another_thread_are_handed_on_in_the_loops(
    tracing: Tracing, taken: Taken
) -> None:
    def work() -> None:
        for n in range(MAX_BATCH):
            with tracing.span(f"in a thread {n}", parent=OUTSIDE):
                pass

    with tracing.span("in the loop", parent=OUTSIDE):
        pass
    await asyncio.to_thread(work)
    await taken.came.wait()
    await tracing.flush()
    assert taken.threads == {threading.get_ident()}
    assert len(taken.spans) == MAX_BATCH + 1


def test_without_a_loop_spans_wait_for_the_flush() -> None:
    async def make() -> tuple[Tracing, Taken]:
        tracing = Tracing()
        return tracing, Taken(tracing)

    tracing, taken = asyncio.run(make())
    with tracing.span("before"):
        pass
    asyncio.run(tracing.flush())
    assert taken.spans.keys() == {"before"}


async def test_nothing_is_handed_on_after_the_close(tracing: Tracing, taken: Taken) -> None:
    await tracing.close()
    with tracing.span("late"):
        pass
    await tracing.flush()
    assert taken.batches == []


async def test_later_traces_sort_later(tracing: Tracing) -> None:
    with tracing.span("one") as one:
        pass
    started = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == started:
        await asyncio.sleep(0)
    with tracing.span("two") as two:
        pass
    assert (one.traceparent or "") < (two.traceparent or "")


async def test_no_tracing_passes_a_trace_on_and_records_nothing() -> None:
    tracing = NoTracing()
    with tracing.span("inside", parent=OUTSIDE, attributes={"a": 1}, kind="client") as span:
        span.set({"b": 2})
        span.fail("Timeout")
    with tracing.span("root") as root:
        pass
    assert (span.traceparent, root.traceparent) == (OUTSIDE, None)
    assert (tracing.enabled, tracing.content) == (False, False)
    await tracing.close()


async def test_the_sdk_gets_spans_that_its_exporters_understand(tracing: Tracing) -> None:
    exporter = InMemorySpanExporter()
    tracing.publish_to(SdkSpans(SimpleSpanProcessor(exporter), service="mesh-1"))
    attributes = {GenAI.REQUEST_MODEL: "offline", GenAI.RESPONSE_FINISH_REASONS: ("stop",)}
    with tracing.span("chat offline", parent=OUTSIDE, attributes=attributes, kind="client") as span:
        span.fail(ToolFailed("no"))
    await tracing.close()
    [exported] = exporter.get_finished_spans()
    assert exported.name == "chat offline"
    assert exported.kind is SpanKind.CLIENT
    assert exported.attributes == {**attributes, "error.type": "ToolFailed"}
    assert (exported.status.status_code, exported.status.description) == (StatusCode.ERROR, "no")
    assert exported.parent is not None
    assert f"{exported.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert exported.resource.attributes["service.name"] == "mesh-1"
    assert '"name": "chat offline"' in exported.to_json()


async def test_the_sdk_reads_our_traceparent(tracing: Tracing) -> None:
    with tracing.span("root") as root:
        pass
    carrier = {"traceparent": root.traceparent or ""}
    written: dict[str, str] = {}
    propagator = TraceContextTextMapPropagator()
    propagator.inject(written, propagator.extract(carrier))
    assert written == carrier


def test_tracing_does_not_load_the_sdk() -> None:
    code = "import sys, meshwright.core.tracing; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
