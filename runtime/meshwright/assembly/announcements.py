"""What a process does beside its actors: tell what happens to it, and see to things now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from meshwright import topics
from meshwright.clock import Clock
from meshwright.errors import HostError, ModelError, TooLarge
from meshwright.host import Host
from meshwright.messages import Event, new_id
from meshwright.models.port import ModelRequest
from meshwright.orchestration.presence import every
from meshwright.tools.threads import Overrun

logger = logging.getLogger("meshwright.assembly")


class Announcements:
    """What the parts of this process that are no actors have to tell the mesh."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def tell(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Something happened."""
        self._emit(event_type, topics.MESH, dict(payload))

    def publish_spans(self, trace_id: str, spans: Sequence[Mapping[str, Any]]) -> None:
        """Spans of a trace have finished."""
        self._emit("trace.spans", topics.TRACES, {"spans": list(spans)}, trace_id=trace_id)

    def retried(self, request: ModelRequest, error: ModelError, delay_seconds: float) -> None:
        """A model's call failed and will be made again."""
        fault = {"type": error.code, "message": str(error)}
        self._emit(
            "model.retried",
            topics.TASK_PROGRESS,
            {"error": fault, "delay_seconds": round(delay_seconds, 3), "step": request.context.step},
            task_id=request.context.task_id,
            agent_id=request.user,
            tenant_id=request.context.tenant_id,
        )

    def overran(self, overrun: Overrun) -> None:
        """The thread of a tool has gone on after its call was given up, or has ended at last."""
        self._emit(
            "tool.overran",
            topics.TASK_PROGRESS,
            {"tool": overrun.tool, "seconds": overrun.seconds, "ended": overrun.ended},
            task_id=overrun.task.task_id,
            agent_id=overrun.agent_id,
            tenant_id=overrun.task.tenant_id,
        )

    def _emit(self, event_type: str, topic: str, payload: dict[str, Any], **known: Any) -> None:
        aggregate = f"mesh/{self._host.incarnation}"
        event = Event(
            id=f"{aggregate}/{new_id()}",
            event_type=event_type,
            topic=topic,
            time=self._host.clock.now(),
            aggregate_id=aggregate,
            payload=payload,
            **known,
        )
        try:
            self._host.emit([event])
        except (HostError, TooLarge) as error:  # told from callbacks that nobody awaits
            logger.warning("%s is not recorded: %s", event_type, error)


class Every:
    """Does something every so many seconds while the mesh runs."""

    def __init__(self, clock: Clock, seconds: float, work: Callable[[], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._work = work
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""

        async def work() -> None:
            self._work()

        self._task = asyncio.create_task(every(self._clock, self._seconds, work))

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
