"""Spans go to an OpenTelemetry collector where the settings name one."""

import re
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from meshwright import Agent, Capability, Run
from meshwright.core.errors import ConfigError
from meshwright.core.messages import TaskRequest
from meshwright.core.otel import CollectorUnavailable, check_collector, otlp_exporter
from meshwright.core.plugins import install_command
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.settings import load_settings


class Greeter(Agent):
    """Greets."""

    agent_id = "greeter"
    capabilities = (Capability("greet"),)

    async def run(self, run: Run) -> str:
        return "Hello"


class Collector:
    """A collector of OTLP over HTTP on a real socket: the paths, headers and bodies that it was sent.

    It refuses a request without spans, as MLflow does.
    """

    def __init__(self) -> None:
        received: list[tuple[str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        collector = self
        self.status = 200

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append((self.path, body))
                self.send_response(collector.status if body or collector.status != 200 else 400)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}/v1/traces"


def spans_of(collector: Collector) -> list[Span]:
    """The spans that a collector was sent."""
    requests = [ExportTraceServiceRequest.FromString(body) for _, body in collector.received]
    scopes = [scope for request in requests for each in request.resource_spans for scope in each.scope_spans]
    return [span for scope in scopes for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = Thread(target=collector.server.serve_forever, args=(0.01,))
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


async def test_the_spans_of_a_task_have_reached_the_collector_when_the_mesh_has_stopped(
    collector: Collector, tmp_path: Path
) -> None:
    settings = load_settings(tmp_path, store="memory", model="offline", otlp_endpoint=collector.endpoint)
    async with build_mesh(settings, project=tmp_path, agents=[Greeter]) as mesh:
        await mesh.get(Tasks).ask("greeter", "Hello")
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    requests = [ExportTraceServiceRequest.FromString(body) for _, body in collector.received]
    [resource] = [each for request in requests for each in request.resource_spans]
    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {
        "service.name": "meshwright"
    }
    names = {span.name for scope in resource.scope_spans for span in scope.spans}
    assert {"submit task", "invoke_agent greeter"} <= names


async def test_spans_below_an_unsampled_caller_stay_in_the_mesh(collector: Collector, tmp_path: Path) -> None:
    settings = load_settings(tmp_path, store="memory", model="offline", otlp_endpoint=collector.endpoint)
    request = TaskRequest(agent_id="greeter", payload={"text": "Hello"})
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with build_mesh(settings, project=tmp_path, agents=[Greeter]) as mesh:
        traceparent = f"00-{trace_id}-00f067aa0ba902b7-00"
        receipt = await mesh.get(Tasks).submit(request, traceparent=traceparent)
        await mesh.get(Tasks).outcome(receipt.task_id)
        await mesh.tracing.flush()
        await mesh.runtime.emit([])
        events = await mesh.log.query(EventFilter(trace_id=trace_id, event_type="trace.spans"))
    spans = {span["name"]: span for event in events for span in event.fields["spans"]}
    assert spans.keys() == {"submit task", "invoke_agent greeter"}
    assert spans["submit task"]["parent_span_id"] == "00f067aa0ba902b7"
    assert collector.received == []


def test_a_collector_is_checked_by_one_span(collector: Collector) -> None:
    assert check_collector(collector.endpoint) == f"{collector.endpoint} accepts spans"
    assert [span.name for span in spans_of(collector)] == ["mesh doctor"]


@pytest.mark.parametrize(("path", "version"), [("/api/public/otel/v1/traces", "4"), ("/v1/traces", None)])
def test_langfuse_is_told_the_version_of_its_ingestion(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, path: str, version: str | None
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20cGs6c2s=")
    check_collector(collector.endpoint.replace("/v1/traces", path))
    [headers] = collector.headers
    assert (headers["authorization"], headers.get("x-langfuse-ingestion-version")) == (
        "Basic cGs6c2s=",
        version,
    )


@pytest.mark.parametrize("missing", ["exporter.otlp.proto.http.trace_exporter", "sdk.trace.export"])
def test_a_collector_without_the_exporter_installed_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delitem(sys.modules, "meshwright.core.otel")
    monkeypatch.setitem(sys.modules, f"opentelemetry.{missing}", None)
    settings = load_settings(tmp_path, store="memory", otlp_endpoint="http://127.0.0.1:4318/v1/traces")
    with pytest.raises(ConfigError, match=re.escape(install_command("otlp"))):
        build_mesh(settings, project=tmp_path, agents=[Greeter])


async def test_a_collector_that_is_away_is_one_line_with_a_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = "http://mesh:hidden@127.0.0.1:1/v1/traces"
    settings = load_settings(tmp_path, store="memory", model="offline", otlp_endpoint=endpoint)
    async with build_mesh(settings, project=tmp_path, agents=[Greeter]) as mesh:
        await mesh.get(Tasks).ask("greeter", "Hello")
    [line] = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert line == (
        "Spans cannot be sent to http://127.0.0.1:1/v1/traces (Connection refused); start the collector, or "
        "correct or unset tracing.otlp_endpoint (MESH_TRACING__OTLP_ENDPOINT)"
    )


def test_a_collector_that_refuses_is_reported_once_a_minute(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 403
    with pytest.raises(CollectorUnavailable, match="it answers 403"):
        check_collector(collector.endpoint)
    exporter = otlp_exporter(collector.endpoint)
    assert [exporter.export([]).name for _ in range(3)] == ["FAILURE"] * 3
    exporter.shutdown()
    [record] = caplog.records
    assert "it answers 403" in record.getMessage()
