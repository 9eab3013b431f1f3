"""Hands finished spans to the OpenTelemetry SDK, and so to any exporter that was written for it.

tracing.publish_to(SdkSpans(BatchSpanProcessor(exporter)))
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from meshwright.core.errors import HostError, in_one_line
from meshwright.core.plugins import missing_package
from meshwright.core.tracing import COST, PROMPT, TRACE_NAME, GenAI, new_span

try:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
except ImportError as error:
    need = "Sending spans needs the OpenTelemetry SDK"
    raise missing_package("otlp", need, error, field="otlp_endpoint") from error

_SERVICE_NAME, _SERVICE = "service.name", "meshwright"
_CHECK_NAME = "mesh doctor"
"""The name of the span by which a collector is checked."""
_FLAGS = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("meshwright")
_logger = logging.getLogger("meshwright.tracing")
_QUIET_SECONDS = 60.0
_MAX_REASON = 80
_REMEDY = "Start the collector, or correct or unset tracing.otlp_endpoint (MESH_TRACING__OTLP_ENDPOINT)"
_LANGFUSE_PATH = "/api/public/otel/"
_LANGFUSE_HEADERS = {"x-langfuse-ingestion-version": "4"}  # without it spans are shown minutes later
_REGISTERED = re.compile(r"(?P<name>[^@ ]+)@\S+ registry:v(?P<version>\d+)")
"""The version of a registered prompt, as Langfuse names its own: by name and number."""
_DELAY_VARIABLE = "OTEL_BSP_SCHEDULE_DELAY"
_MAX_DELAY_MILLISECONDS = 1_000  # not the SDK's five seconds: a killed process loses what it has not sent
_MAX_EXPORT_SECONDS = 2.0  # of one request: a collector that hangs must not hold up a stop


class CollectorUnavailable(HostError):
    """The collector refuses spans."""


def otlp_spans(endpoint: str) -> SdkSpans:
    """A taker that sends spans over OTLP/HTTP to a full URL. Raises ConfigError without the extra."""
    delay = None if _DELAY_VARIABLE in os.environ else _MAX_DELAY_MILLISECONDS
    return SdkSpans(BatchSpanProcessor(otlp_exporter(endpoint), schedule_delay_millis=delay))


def check_collector(endpoint: str) -> str:
    """Send one span to a collector. Returns a sentence. Raises CollectorUnavailable; blocks meanwhile."""
    exporter = otlp_exporter(endpoint)
    try:
        return exporter.check()
    finally:
        exporter.shutdown()


def otlp_exporter(endpoint: str) -> _ReportingExporter:
    """An exporter of spans over OTLP/HTTP to a full URL. Raises ConfigError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from requests import Session
    except ImportError as error:
        need = "otlp_endpoint needs the OTLP exporter"
        raise missing_package("otlp", need, error, field="otlp_endpoint") from error
    session = None
    if _LANGFUSE_PATH in endpoint:
        session = Session()
        session.headers.update(_LANGFUSE_HEADERS)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_MAX_EXPORT_SECONDS, session=session)
    return _ReportingExporter(exporter, endpoint)


class _ReportingExporter(SpanExporter):
    """An exporter whose failures are one line a minute, in place of the lines that it logs itself."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._exporter = exporter
        self._sender: int | None = None  # the thread that exports now: the lines of others are not ours
        self._reason = ""
        self._quiet_until = float("-inf")
        self._logger = logging.getLogger(type(exporter).__module__)
        self._logger.addFilter(self._keep_reason)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; what fails is logged."""
        result = self._send(spans)
        now = time.monotonic()
        if result is not SpanExportResult.SUCCESS and now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            _logger.warning(in_one_line(self._problem(), _REMEDY))
        return result

    def check(self) -> str:
        """Send one span. Returns a sentence. Raises CollectorUnavailable."""
        span = new_span(_CHECK_NAME)
        span["end_time"] = span["start_time"]
        # Not an empty request, which MLflow refuses.
        if self._send([_readable(span, _resource())]) is not SpanExportResult.SUCCESS:
            raise CollectorUnavailable(self._problem(), remedy=_REMEDY)
        return f"{self._shown} accepts spans"

    def shutdown(self) -> None:
        """Close the connections."""
        self._exporter.shutdown()
        self._logger.removeFilter(self._keep_reason)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter holds."""
        return self._exporter.force_flush(timeout_millis)

    def _send(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._sender, self._reason = threading.get_ident(), ""
        try:
            return self._exporter.export(spans)
        finally:
            self._sender = None

    def _problem(self) -> str:
        return f"Spans cannot be sent to {self._shown} ({self._reason or 'no answer in time'})"

    def _keep_reason(self, record: logging.LogRecord) -> bool:
        """Take the reason out of a line of the exporter, and hold the line back."""
        if threading.get_ident() != self._sender:
            return True
        self._reason = self._reason or _failure_reason(record)
        return False


def _failure_reason(record: logging.LogRecord) -> str:
    """The reason of a failure in few words, from a line of the exporter; "" where it gives none."""
    for value in record.args if isinstance(record.args, tuple) else ():
        if isinstance(value, int):
            return f"it answers {value}"
        if isinstance(value, BaseException):
            causes = [*_causes(value)]
            system = (cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror)
            return next(system, type(value).__name__)
        if isinstance(value, str) and value != "spans":  # the reason of an answer, such as Bad Gateway
            return value[:_MAX_REASON]
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_LANGFUSE_TYPES = {
    GenAI.INVOKE_AGENT: "agent",
    GenAI.CHAT: "generation",
    GenAI.EMBEDDINGS: "embedding",
    GenAI.EXECUTE_TOOL: "tool",
}

_MODEL_NAMES = {GenAI.CHAT: "llm.model_name", GenAI.EMBEDDINGS: "embedding.model_name"}


def _for_viewers(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that follow from the stored ones, most of them names of Langfuse, MLflow and Phoenix."""
    cost, prompt = attributes.get(COST), attributes.get(PROMPT)
    operation = attributes.get(GenAI.OPERATION_NAME, "")
    registered = _REGISTERED.fullmatch(prompt or "") if operation == GenAI.CHAT else None
    derived = {
        **_for_openinference(attributes, operation),
        GenAI.PROMPT_NAME: None if prompt is None else prompt.partition("@")[0],
        "session.id": attributes.get(GenAI.CONVERSATION_ID),
        "langfuse.observation.type": _LANGFUSE_TYPES.get(operation),
        "langfuse.observation.usage_details": _usage_details(attributes),
        "langfuse.observation.cost_details": None if cost is None else json.dumps({"total": cost}),
        "langfuse.observation.prompt.name": None if registered is None else registered["name"],
        "langfuse.observation.prompt.version": None if registered is None else int(registered["version"]),
        "mlflow.llm.cost": None if cost is None else json.dumps({"total_cost": cost}),
    }
    return {name: value for name, value in derived.items() if value is not None}


def _for_openinference(attributes: Mapping[str, Any], operation: str) -> dict[str, Any]:
    """Names of OpenInference, which Phoenix reads: without them it takes the group asked for as the model."""
    if TRACE_NAME in attributes:
        return {
            "openinference.span.kind": "CHAIN",
            "input.value": _first_text(attributes.get(GenAI.INPUT_MESSAGES)),
            "output.value": _first_text(attributes.get(GenAI.OUTPUT_MESSAGES)),
        }
    name = _MODEL_NAMES.get(operation)
    return {
        **({} if name is None else {name: attributes.get(GenAI.RESPONSE_MODEL)}),
        "llm.token_count.prompt_details.cache_write": attributes.get(GenAI.USAGE_CACHE_WRITE_TOKENS),
    }


def _first_text(messages: str | None) -> str | None:
    return None if messages is None else json.loads(messages)[0]["parts"][0]["content"]


def _usage_details(attributes: Mapping[str, Any]) -> str | None:
    """The tokens by kind, each counted once, as JSON; None where there are only input and output."""
    cached = attributes.get(GenAI.USAGE_CACHED_TOKENS)
    if cached is None:
        return None
    input_tokens, output_tokens = attributes[GenAI.USAGE_INPUT_TOKENS], attributes[GenAI.USAGE_OUTPUT_TOKENS]
    reasoning = attributes[GenAI.USAGE_REASONING_TOKENS]
    by_kind = {
        "input": max(0, input_tokens - cached),
        "input_cached_tokens": cached,
        "output": max(0, output_tokens - reasoning),
        "output_reasoning_tokens": reasoning,
        "total": input_tokens + output_tokens,
    }
    return json.dumps(by_kind)


class SdkSpans:
    """A taker of spans for `Tracing.publish_to`; the processor decides when and where they go.

    Langfuse, MLflow and Phoenix get attributes of their own, derived from the attributes of a span.
    """

    def __init__(self, processor: SpanProcessor, *, service: str = _SERVICE) -> None:
        self._processor = processor
        self._resource = _resource(service)

    def __call__(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        """Take the finished spans of a trace."""
        for span in spans:
            self._processor.on_end(_readable(span, self._resource))

    def close(self) -> None:
        """Let the processor send what it holds, and end it; blocks meanwhile."""
        self._processor.shutdown()


def _resource(service: str = _SERVICE) -> Resource:
    return Resource({_SERVICE_NAME: service})


def _readable(span: Mapping[str, Any], resource: Resource) -> ReadableSpan:
    failed = span["status"] == "error"
    above = span["parent_span_id"]
    return ReadableSpan(
        name=span["name"],
        context=_context(span["trace_id"], span["span_id"]),
        parent=_context(span["trace_id"], above) if above else None,
        resource=resource,
        attributes=span["attributes"] | _for_viewers(span["attributes"]),
        kind=SpanKind[span["kind"].upper()],
        status=Status(StatusCode.ERROR, span["status_message"]) if failed else Status(StatusCode.UNSET),
        start_time=span["start_time"],
        end_time=span["end_time"],
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_FLAGS)
