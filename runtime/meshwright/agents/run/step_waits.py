"""The events of a task's steps, and the times at which each step waited, by attempt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from meshwright.core.events import Event
from meshwright.core.messages import Task
from meshwright.core.task_events import TaskWaiting, WaitEnded
from meshwright.engine.events.log import EventLog
from meshwright.engine.work.people import QUESTIONS, is_doubt
from meshwright.engine.work.protocol import steps_stream
from meshwright.engine.work.record import Attempt, StepWait, TaskRecord

_WAIT_EVENTS = ("task.waiting", "wait.ended")


class StepEvents:
    """The events of a task that belong to steps, in order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._by_attempt: defaultdict[int, list[Event]] = defaultdict(list)
        self._waits: dict[str, list[StepWait]] = {}
        for event in events:
            self._add(event)

    @classmethod
    async def read(cls, log: EventLog, record: TaskRecord, task: Task) -> StepEvents:
        """Read the events of a task."""
        event_filter = await log.task_filter(task.task_id, task.tenant_id)
        return cls([event async for event in log.replay(event_filter) if _is_of_step(event)])

    def _add(self, event: Event) -> None:
        if event.event_type not in _WAIT_EVENTS:
            self._by_attempt[event.fields["attempt"]].append(event)
        elif (waiting := TaskWaiting.read(event)) is not None:
            spans = self._waits.setdefault(waiting.key, [])
            if not spans or spans[-1].ended_at is not None:  # one that is repeated began before
                spans.append(StepWait(kind=waiting.kind, since=event.time))
        elif (end := WaitEnded.read(event)) is not None and (spans := self._waits.get(end.key)):
            spans[-1] = replace(spans[-1], ended_at=event.time)

    def for_attempt(self, attempt: Attempt) -> Sequence[Event]:
        """The events of the steps of an attempt."""
        return self._by_attempt.get(attempt.attempt, ())

    def waits(self, task_id: str, attempt: Attempt) -> Mapping[str, tuple[StepWait, ...]]:
        """The waits of an attempt by the path of the step that waited."""
        stream = f"{steps_stream(task_id, attempt.generation, attempt.attempt)}/"
        by_path: defaultdict[str, tuple[StepWait, ...]] = defaultdict(tuple)
        for key, spans in self._waits.items():
            if key.startswith(stream):
                by_path[_step_path(key)] += tuple(spans)
        return by_path


def _is_of_step(event: Event) -> bool:
    if event.event_type in _WAIT_EVENTS:
        return True
    return isinstance(event.fields.get("path"), str) and isinstance(event.fields.get("attempt"), int)


def _step_path(wait_id: str) -> str:
    path = wait_id.rpartition("/")[2]
    return path.removeprefix(f"{QUESTIONS}.").rpartition(".")[0] if is_doubt(wait_id) else path
