"""Langfuse: scores of the traces that it gets over OTLP.

A score has the id of its event, by which Langfuse writes it once: https://api.reference.langfuse.com
"""

from __future__ import annotations

from collections.abc import Collection

from meshwright.core.ids import derived_id
from meshwright.core.messages import Event
from meshwright.core.redaction import redact
from meshwright.services.sinks.port import SCORED, Refused, SinkServer, score_of


class LangfuseSink:
    """Gives the trace of a task the task's scores."""

    event_types: Collection[str] = (SCORED,)
    parallel = 1

    def __init__(self, server: SinkServer, *, contents: bool) -> None:
        self._server = server
        self._contents = contents

    async def take(self, event: Event) -> None:
        """Write a score. Raises Refused, TryLater."""
        if event.trace_id is None:
            raise Refused("the task has no trace: [tracing] enabled = false")
        if (score := score_of(event)) is None:
            return
        body = {
            "id": derived_id(event.id),
            "traceId": event.trace_id,
            "name": score.name,
            "value": score.value,
            "dataType": "NUMERIC",
            "timestamp": event.time.isoformat(),
            "metadata": {"task_id": event.task_id, "tenant": event.tenant_id, "by": score.by},
        }
        if self._contents and score.comment:
            body["comment"] = redact(score.comment)
        await self._server.ask("POST", "/api/public/scores", json=body)

    async def check(self) -> str:
        """Returns the name of the project of the key. Raises TryLater, Refused."""
        answer = await self._server.ask("GET", "/api/public/projects")
        names = ", ".join(project["name"] for project in answer.get("data", ()))
        return f"{self._server.shown} takes scores of {names or 'no project'}"
