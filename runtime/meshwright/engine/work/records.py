"""The records that a claim writes to its journal, each with the events that commit with it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from msgspec.structs import asdict, replace

from meshwright.core import topics
from meshwright.core.encoding import own_json
from meshwright.core.errors import HostError, TooLarge
from meshwright.core.events import Event, parse_trace_id
from meshwright.core.payloads import StepPayload
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.protocol import StepKey, Work

logger = logging.getLogger("meshwright.work")
_MAX_ERROR_CHARS = 2_000


class ProgressEvent(NamedTuple):
    """An event of a step. Without an `id` it is known by its number in the step."""

    event_type: str
    payload: StepPayload
    id: str | None = None

    @classmethod
    def from_payload(cls, payload: StepPayload, id: str | None = None) -> ProgressEvent:
        """The event of a payload that has one type."""
        return cls(payload.event_type, payload, id)


class ClaimRecords:
    """The stream of records that one claim writes."""

    def __init__(
        self,
        runtime: Runtime,
        ref: ActorRef,
        work: Work,
        last: int,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.is_costly = False
        """Whether records that are not known durable yet would cost something if they were lost."""
        self.has_steps = False
        """Whether this claim has journaled a step that would cost something if it were lost."""
        self._runtime = runtime
        self._ref, self._name = ref, str(ref)
        self._work, self._stream = work, work.stream
        self._trace_id = parse_trace_id(work.task.traceparent)
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
        outlives_lease: bool = False,
    ) -> None:
        """Queue the record of a step with its events."""
        data = own_json(self._ref, {**asdict(key), **value})
        published = [self._event(key, n, event) for n, event in enumerate(events, start=1)]
        self._append(data, published, outlives_lease=outlives_lease)
        self.has_steps = self.has_steps or costly
        self.is_costly = self.is_costly or costly
        if "result" in value:
            self._on_step()

    def write_cut(self, key: StepKey, count: int) -> None:
        """Queue how many calls of a step were cut off and are recorded nowhere, before it makes another."""
        self._append({"cut": (key.path, count)}, [])
        self.is_costly = True

    def write_order(self, order: dict[str, Any]) -> None:
        """Queue what is new of the order in which results reached the code."""
        self._append({"order": order}, [])
        self.is_costly = True

    def write_calls(
        self,
        key: StepKey,
        calls: Sequence[dict[str, Any]],
        events: Sequence[ProgressEvent],
        error: BaseException | None = None,
        cut: int = 0,
        started_at: datetime | None = None,
        *,
        changed: bool = False,
        has_intent: bool = False,
    ) -> None:
        """Queue what calls have cost in a step that has no result, with their events, and why it failed.

        A resumed run runs that step again; `cut` of its calls are still to be recorded. Of a step that
        `has_intent` it says that it has ended, to a worker that has taken the work over.
        """
        value: dict[str, Any] = {"calls": calls} if calls else {}
        if calls and key.path:
            value["cut"] = (key.path, cut)
        if isinstance(error, Exception) and not isinstance(error, HostError):
            message = str(error)[:_MAX_ERROR_CHARS].encode(errors="replace").decode()
            times = {"started_at": started_at, "ended_at": self._runtime.clock.now()}
            times |= {"changed": True} if changed else {}
            value["failed"] = {**key.model_dump(), "error": type(error).__name__, "message": message, **times}
        if has_intent and self._runtime.process:
            value["ended"] = key.path
        if not value:
            return
        published = [self._event(key, n, event) for n, event in enumerate(events, start=1) if event.id]
        try:
            self._append(value, published, outlives_lease=has_intent)
        except HostError as lost:  # the work is another's by now, or is over: the error itself matters more
            logger.warning("Task %s does not pay for a call broken off: %s", self._work.task.task_id, lost)

    def tell(self, key: StepKey, event: ProgressEvent) -> None:
        """Publish an event of a step that is under way, beside its records."""
        try:
            self._runtime.emit([self._event(key, 0, event)])
        except (HostError, TooLarge) as error:  # it is only shown
            logger.debug("%s is not recorded: %s", event.event_type, error)

    async def confirm(self) -> None:
        """Return once every record so far is durable."""
        queued = self._queued
        if queued is not None:
            await queued
        if self._queued is queued:  # steps that start side by side wait for it, all of them
            self._queued, self.is_costly = None, False

    def _append(self, value: Any, events: Sequence[Event], *, outlives_lease: bool = False) -> None:
        self._last += 1
        record = Record(self._ref, self._stream, self._last, value)
        self._queued = self._runtime.append(record, events, outlives_lease=outlives_lease)

    def _event(self, key: StepKey, n: int, event: ProgressEvent) -> Event:
        task, attempt = self._work.task, self._work.dispatch.attempt
        payload = replace(event.payload, step=key.number, path=key.path, attempt=attempt)
        return Event(
            id=f"{self._name}/{event.id or f'{self._work.steps}/{key.path}.{n}'}",
            event_type=event.event_type,
            topic=topics.TASK_PROGRESS,
            time=self._runtime.clock.now(),
            tenant_id=task.tenant_id,
            task_id=task.task_id,
            agent_id=self._work.dispatch.agent_id,
            trace_id=self._trace_id,
            traceparent=task.traceparent,
            aggregate_id=self._name,
            payload=own_json(self._name, payload),
        )
