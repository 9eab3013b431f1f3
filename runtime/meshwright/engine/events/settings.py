"""[audit] and [tracing]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshwright.core.settings.forms import Table, http_url


class AuditSettings(Table):
    """[audit]: how often the mesh signs how far its event log has come."""

    head_rows: int = Field(default=10_000, ge=1)
    """Events until the mesh signs its log."""
    head_seconds: float = Field(default=60.0, gt=0)
    """Seconds until then, if there are new events."""


class TracingSettings(Table):
    """[tracing]: spans."""

    enabled: bool = True
    """Keep spans in the event log."""
    content: bool = False
    """Spans have the text of messages."""
    turns: bool = False
    """Each turn of an actor has a span."""
    otlp_endpoint: Annotated[str | None, http_url("http://127.0.0.1:4318/v1/traces")] = None
    """Full URL of an OpenTelemetry collector; needs the extra `otlp`."""


class PeopleSettings(Table):
    """[people]: tasks that wait for people."""

    patience_days: float = Field(default=7.0, gt=0, le=3_650)
    """Days that a task waits for an answer."""
    remind_seconds: float = Field(default=0.0, ge=0, le=31_536_000)
    """Seconds after which a question that nobody has answered is reminded of. 0: never."""
    then: tuple[str, ...] = ()
    """Callers who are asked as well after as many seconds more, named as the `approvers` of a rule; `*`:
    everybody who may answer."""
