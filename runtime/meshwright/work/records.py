"""Writes the records of a claim, each with its events."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import asdict

from meshwright.core import topics
from meshwright.core.encoding import own_json
from meshwright.core.errors import HostError
from meshwright.core.messages import Event, trace_id_of
from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.runtime import Runtime
from meshwright.work.paths import ProgressEvent
from meshwright.work.protocol import StepKey, Work

logger = logging.getLogger("meshwright.work")
_MAX_ERROR_CHARS = 2_000


class Records:
    """The stream of records that one claim writes."""

    def __init__(
        self, host: Runtime, ref: ActorRef, work: Work, last: int, on_step: Callable[[], None] = lambda: None
    ) -> None:
        self.is_costly = False
        """Whether it would cost something to lose what is not known durable yet."""
        self.has_steps = False
        """Whether this claim has journaled a step."""
        self._host = host
        self._ref, self._name = ref, str(ref)
        self._work, self._stream = work, work.stream
        self._trace_id = trace_id_of(work.task.traceparent)
        self._last = last
        self._on_step = on_step
        self._queued: Awaitable[None] | None = None

    def write(
        self,
        key: StepKey,
        value: dict[str, Any],
        events: Sequence[ProgressEvent] = (),
        *,
        costly: bool = True,
    ) -> None:
        """Queue the record of a step with its events."""
        data = own_json(self._ref, {**asdict(key), **value})
        self._append(data, [self._event(key, n, event) for n, event in enumerate(events, start=1)])
        self.has_steps = True
        self.is_costly = self.is_costly or costly
        if "result" in value:
            self._on_step()

    def write_cut(self, key: StepKey, count: int) -> None:
        """Queue how many calls of a step were cut off and are recorded nowhere, before it makes another."""
        self._append({"cut": (key.path, count)}, [])
        self.is_costly = True

    def write_calls(
        self,
        key: StepKey,
        calls: Sequence[dict[str, Any]],
        events: Sequence[ProgressEvent],
        error: BaseException | None = None,
        cut: int = 0,
    ) -> None:
        """Queue what calls have cost in a step that has no result, with their events, and why it failed.

        A resumed run runs that step again; `cut` of its calls are still to be recorded.
        """
        value: dict[str, Any] = {"calls": calls} if calls else {}
        if calls and key.path:
            value["cut"] = (key.path, cut)
        if isinstance(error, Exception) and not isinstance(error, HostError):
            message = str(error)[:_MAX_ERROR_CHARS].encode(errors="replace").decode()
            value["failed"] = {**asdict(key), "error": type(error).__name__, "message": message}
        if not value:
            return
        published = [self._event(key, n, event) for n, event in enumerate(events, start=1) if event.id]
        try:
            self._append(value, published)
        except HostError as lost:  # the work is another's by now, or is over: the error itself matters more
            logger.warning("Task %s does not pay for a call broken off: %s", self._work.task.task_id, lost)

    async def confirm(self) -> None:
        """Return once every record so far is durable."""
        queued = self._queued
        if queued is not None:
            await queued
        if self._queued is queued:  # steps that start side by side wait for it, all of them
            self._queued, self.is_costly = None, False

    def _append(self, value: Any, events: Sequence[Event]) -> None:
        self._last += 1
        self._queued = self._host.append(Record(self._ref, self._stream, self._last, value), events)

    def _event(self, key: StepKey, n: int, event: ProgressEvent) -> Event:
        task = self._work.task
        place = {"step": key.number, "path": key.path, "attempt": self._work.dispatch.attempt}
        return Event(
            id=f"{self._name}/{event.id or f'{self._work.steps}/{key.path}.{n}'}",
            event_type=event.event_type,
            topic=topics.TASK_PROGRESS,
            time=self._host.clock.now(),
            tenant_id=task.tenant_id,
            task_id=task.task_id,
            agent_id=self._work.dispatch.agent_id,
            trace_id=self._trace_id,
            traceparent=task.traceparent,
            aggregate_id=self._name,
            payload=own_json(self._name, {**place, **event.payload}),
        )
