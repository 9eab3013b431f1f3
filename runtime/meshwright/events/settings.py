"""[audit] and [tracing]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshwright.settings.forms import Table, http_url


class AuditSettings(Table):
    """[audit]: how often the mesh signs how far its event log has come."""

    head_rows: int = Field(default=10_000, ge=1)
    """After how many events a head is signed."""
    head_seconds: float = Field(default=60.0, gt=0)
    """After how many seconds, where there are new events."""


class TracingSettings(Table):
    """[tracing]: spans."""

    enabled: bool = True
    """Whether spans are recorded and kept in the event log."""
    content: bool = False
    """Whether spans hold the text of messages. Off: only names, counts and times."""
    turns: bool = False
    """Whether each turn of an actor has its own span, in addition to those of runs, models and tools."""
    otlp_endpoint: Annotated[str | None, http_url("http://127.0.0.1:4318/v1/traces")] = None
    """Full URL of an OpenTelemetry collector that gets the spans too, by OTLP/HTTP: see extra `otlp`."""
