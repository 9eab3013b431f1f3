"""Hands finished spans to the OpenTelemetry SDK, and so to any exporter that was written for it.

tracing.publish_to(SdkSpans(BatchSpanProcessor(exporter)))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from meshwright.core.errors import ConfigError

_SERVICE_NAME = "service.name"
_FLAGS = TraceFlags(TraceFlags.SAMPLED)
_MAX_EXPORT_SECONDS = 2.0  # of one request: a collector that hangs must not hold up a stop


def otlp_spans(endpoint: str) -> SdkSpans:
    """A taker that sends spans over OTLP/HTTP to a full URL. Raises ConfigError without the extra."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            f"otlp_endpoint needs the OTLP exporter, which cannot be imported: {error}",
            remedy="In a checkout of Meshwright: pip install -e '.[otlp]'",
            field="otlp_endpoint",
        ) from error
    return SdkSpans(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_MAX_EXPORT_SECONDS)))


class SdkSpans:
    """A taker of spans for `Tracing.publish_to`; the processor decides when and where they go."""

    def __init__(self, processor: SpanProcessor, *, service: str = "meshwright") -> None:
        self._processor = processor
        self._resource = Resource({_SERVICE_NAME: service})
        self._scope = InstrumentationScope("meshwright")

    def __call__(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        """Take the finished spans of a trace."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Let the processor send what it holds, and end it; blocks meanwhile."""
        self._processor.shutdown()

    def _readable(self, span: Mapping[str, Any]) -> ReadableSpan:
        failed = span["status"] == "error"
        above = span["parent_span_id"]
        return ReadableSpan(
            name=span["name"],
            context=_context(span["trace_id"], span["span_id"]),
            parent=_context(span["trace_id"], above) if above else None,
            resource=self._resource,
            attributes=span["attributes"],
            kind=SpanKind[span["kind"].upper()],
            status=Status(StatusCode.ERROR, span["status_message"]) if failed else Status(StatusCode.UNSET),
            start_time=span["start_time"],
            end_time=span["end_time"],
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=_FLAGS)
