"""Erases the contents of tasks: what was asked, said and answered. That they ran, when, at what cost stays.

Rows of the event log are redacted, not deleted: each has a commitment to its payload in the hash chain
(`events.chain`), so that the payload can be taken away and the chain still verifies. That needs no key for
each person, which would have to be found for each read and kept as safe as the contents.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from meshwright.core import topics
from meshwright.core.encoding import decode
from meshwright.core.errors import Conflict, NotFound
from meshwright.core.events import Event, parse_trace_id
from meshwright.core.ids import new_id
from meshwright.core.messages import Caller, Task
from meshwright.core.tracing import NoTracing, Tracing
from meshwright.engine.events import table
from meshwright.engine.events.audit import Audit
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.rows import ERASED, ERASED_EVENT
from meshwright.engine.events.task_lists import (
    EndedTask,
    SubjectTask,
    TaskSubject,
    ended_tasks,
    erase_task_rows,
    subject_tasks,
)
from meshwright.engine.events.text_index import erase_texts, purge_words
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.timers import Duty
from meshwright.engine.sql.database import Database, Row, Session
from meshwright.engine.sql.folder import LAST_ERROR
from meshwright.engine.work.conversation import MESSAGES, ConversationState, conversation_ref
from meshwright.engine.work.earlier_records import step_streams
from meshwright.engine.work.entry import ThreadState
from meshwright.engine.work.protocol import TaskKey, steps_stream
from meshwright.engine.work.record import TaskRecord, read_task

_PRUNED = "contents.pruned"
"""The event of contents that were deleted: of how many tasks, up to which end (`ended_before`, `last`)."""
_TASKS_AT_ONCE = 5_000
_PAUSE_SECONDS = 3600.0


class Contents(Duty):
    """Deletes the journals of tasks once they have ended so many days ago, hourly."""

    def __init__(
        self,
        runtime: Runtime,
        log: EventLog,
        tell: Callable[[str, dict[str, Any]], None],
        *,
        keep_days: float,
    ) -> None:
        self._runtime = runtime
        self._log = log
        self._tell = tell
        self._keep = timedelta(days=keep_days)
        super().__init__(runtime.clock, _PAUSE_SECONDS, self.prune)
        self._lock = asyncio.Lock()
        log.before_prune = self.prune  # the list of tasks, by which they are found, goes with the events

    async def prune(self) -> None:
        """Delete the contents that are old enough, of some tasks at a time."""
        async with self._lock:
            before = self._runtime.clock.now() - self._keep
            last, deleted = await self._last_pruned(), 0
            while tasks := await self._log.view_apart(ended_tasks, last, before.timestamp(), _TASKS_AT_ONCE):
                for _, tenant_id, task_id in tasks:
                    record = await self._runtime.read(TaskKey(tenant_id, task_id).ref)
                    await _delete_steps(self._runtime, record)
                last = tasks[-1]
                deleted += len(tasks)
                await asyncio.sleep(0)
            if deleted:
                ended_before = datetime.fromtimestamp(last.completed_at, UTC).isoformat()
                task = {"tenant_id": last.tenant_id, "task_id": last.task_id}
                self._tell(_PRUNED, {"tasks": deleted, "ended_before": ended_before, "last": task})

    async def _last_pruned(self) -> EndedTask:
        newest = EventFilter(event_type=_PRUNED, order="desc", limit=1)
        with suppress(LookupError, TypeError, ValueError):
            fields = (await self._log.query(newest))[0].fields
            ended_at, last = datetime.fromisoformat(fields["ended_before"]).timestamp(), fields["last"]
            return EndedTask(ended_at, last["tenant_id"], last["task_id"])
        return EndedTask(0.0, "", "")


async def _step_streams(runtime: Runtime, record: object) -> dict[ActorRef, list[str]]:
    streams: dict[ActorRef, list[str]] = {}
    if not isinstance(record, TaskRecord) or record.task is None or record.is_open:
        return streams
    for attempt, thread in zip(record.attempts, _task_threads(record), strict=True):
        steps = steps_stream(record.task.task_id, attempt.generation, attempt.attempt)
        streams.setdefault(thread, []).extend(await step_streams(runtime, thread, steps))
    return streams


def _task_threads(record: TaskRecord) -> list[ActorRef]:
    if (task := record.task) is None:
        return []
    return [ActorRef(attempt.agent_id, f"{task.tenant_id}:{task.thread_id}") for attempt in record.attempts]


async def _delete_steps(runtime: Runtime, record: object) -> None:
    await runtime.delete_records(await _step_streams(runtime, record))


Memory = ThreadState | ConversationState
OnlyTheirs = Callable[[Mapping[ActorRef, Memory], Mapping[ActorRef, set[str]]], Awaitable[set[ActorRef]]]


async def forget_tasks(
    runtime: Runtime, records: Sequence[TaskRecord], only_theirs: OnlyTheirs | None = None
) -> set[ActorRef]:
    """Erase steps of tasks and what is remembered of them; returns the threads and conversations left."""
    streams: dict[ActorRef, list[str]] = {}
    for of_task in await asyncio.gather(*(_step_streams(runtime, record) for record in records)):
        for thread, names in of_task.items():
            streams.setdefault(thread, []).extend(names)
    tasks: defaultdict[ActorRef, set[str]] = defaultdict(set)
    for record, task in [(record, record.task) for record in records if record.task is not None]:
        for thread in _task_threads(record):
            for actor in (thread, conversation_ref(thread)):
                tasks[actor].add(task.task_id)
    memories = await load_memories(runtime, tasks)
    for actor, state in memories.items():
        if isinstance(state, ConversationState):
            streams[actor] = [MESSAGES]  # nothing reads them, but for the latest
    remaining = set(memories)
    if only_theirs is not None:
        remaining -= await runtime.delete_actors(await only_theirs(memories, tasks))
    forgetting = [runtime.call(actor, "forget", name) for actor in remaining for name in tasks[actor]]
    await asyncio.gather(runtime.delete_records(streams), *forgetting)
    return remaining


async def load_memories(runtime: Runtime, actors: Collection[ActorRef]) -> dict[ActorRef, Memory]:
    """The states of those of some threads and conversations that have one."""

    async def read(actor: ActorRef) -> object:
        with suppress(NotFound):  # the mesh has this agent no more
            return await runtime.read(actor)
        return None

    states = zip(actors, await asyncio.gather(*map(read, actors)), strict=True)
    return {actor: state for actor, state in states if isinstance(state, Memory)}


_FACTS = frozenset({"task.accepted", "task.started", "task.resumed", "model.called"})
"""The types of a task's events that hold no contents."""
_NAMED = 3
_ERASED = decode(ERASED)


class ErasureReport(NamedTuple):
    """Of how many tasks the contents were erased, and of how many of their events."""

    tasks: int
    events: int


class Eraser:
    """Erases the contents of tasks everywhere; `hooks` returns what erases those that components have."""

    def __init__(
        self,
        runtime: Runtime,
        log: EventLog,
        database: Database,
        audit: Audit,
        tracing: Tracing | NoTracing,
        hooks: Callable[[], Iterable[Callable[[str, Sequence[str]], Awaitable[None]]]],
    ) -> None:
        self._hooks = hooks
        self._runtime = runtime
        self._log = log
        self._database = database
        self._audit = audit
        self._tracing = tracing

    async def erase(self, caller: Caller, subject: TaskSubject) -> ErasureReport:
        """Erase the contents of tasks of the caller's tenant, with all that they delegated, for good.

        In other tasks of these threads only the recorded model conversations are erased, because they quote
        the thread.

        Raises NotFound where there is none, Conflict where one is still open.
        """
        tenant_id = caller.tenant_id
        tasks = await _find_tasks(self._log, tenant_id, subject)
        task_ids = [task.task_id for task in tasks if not task.is_witness]
        details = {"tasks": len(task_ids)}
        async with self._audit.change(caller, "contents.erased", f"tasks of {subject}", details):
            await self._tracing.flush()  # a span that comes later would hold contents again
            await self._runtime.emit([])
            events = 0
            for task in tasks:
                erase_one = _erase_copies if task.is_witness else _erase_task
                key = TaskKey(tenant_id, task.task_id)
                events += await erase_one(self._runtime, self._log, self._database, key)
            for erase in self._hooks():
                await erase(tenant_id, task_ids)
            await self._database.write(purge_words)
            (self._database.folder / LAST_ERROR).unlink(missing_ok=True)
            await self._database.compact()
        return ErasureReport(len(task_ids), events)


async def _find_tasks(log: EventLog, tenant_id: str, subject: TaskSubject) -> list[SubjectTask]:
    """A tenant's tasks of a subject, with all that they delegated, and the others of their threads."""
    tasks = await log.view(subject_tasks, tenant_id, subject)
    if not tasks:
        raise NotFound(f"There is no task of {subject}", remedy="mesh tasks lists those there are")
    if still_open := [task.task_id for task in tasks if not task.has_ended]:
        first_ids = ", ".join(still_open[:_NAMED])
        raise Conflict(
            f"{len(still_open)} tasks of {subject}, or of the same threads, are still open: {first_ids}",
            remedy="Wait for their end, or cancel them: mesh cancel ID",
        )
    return tasks


async def _erase_task(runtime: Runtime, log: EventLog, database: Database, key: TaskKey) -> int:
    """Erase the contents of a task that has ended; returns of how many events. Safe to repeat."""
    record, task = await read_task(runtime, key.task_id, key.tenant_id)
    await runtime.call(key.ref, "erase")
    await forget_tasks(runtime, [record])
    filters = [
        EventFilter(task_id=key.task_id, tenant_id=key.tenant_id),
        *_spans(task),
        *(
            EventFilter(aggregate_id=str(actor), event_type="message.dead_lettered")
            for actor in {key.ref, *_task_threads(record)}
        ),
    ]
    await database.write(erase_task_rows, *key)
    events = await _erase_rows(runtime, log, database, key, filters)
    await database.write(erase_texts, *key)  # last, so that nothing is indexed once more
    return events


async def _erase_copies(runtime: Runtime, log: EventLog, database: Database, key: TaskKey) -> int:
    """Erase what a task got of the conversation of its thread; what was asked and answered stays."""
    record, task = await read_task(runtime, key.task_id, key.tenant_id)
    await _delete_steps(runtime, record)
    return await _erase_rows(runtime, log, database, key, _spans(task))


def _spans(task: Task) -> list[EventFilter]:
    trace_id = parse_trace_id(task.traceparent)
    return [EventFilter(trace_id=trace_id, event_type="trace.spans")] if trace_id else []


async def _erase_rows(
    runtime: Runtime, log: EventLog, database: Database, key: TaskKey, filters: Sequence[EventFilter]
) -> int:
    """Erase the payloads of events, and record that in the same transaction."""
    events = [event for one in filters async for event in log.replay(one)]
    facts = (*_FACTS, ERASED_EVENT)
    seqs = sorted(
        {event.seq or 0 for event in events if event.event_type not in facts and event.payload != _ERASED}
    )
    erased = Event(
        id=new_id(),
        event_type=ERASED_EVENT,
        topic=topics.MESH,
        time=runtime.clock.now(),
        tenant_id=key.tenant_id,
        task_id=key.task_id,
        payload={"ranges": _ranges(seqs)},
    )
    numbers = await database.write(_erase, seqs, *log.rows([erased]))
    log.tell([erased], numbers)
    return len(seqs)


def _ranges(seqs: Sequence[int]) -> list[tuple[int, int]]:
    if not seqs:
        return []
    cuts = [(one, other) for one, other in pairwise(seqs) if other > one + 1]
    firsts, lasts = [seqs[0], *(other for _, other in cuts)], [*(one for one, _ in cuts), seqs[-1]]
    return list(zip(firsts, lasts, strict=True))


def _erase(session: Session, seqs: Sequence[int], rows: Sequence[Row], now: float) -> table.Written:
    numbers = table.insert(session, rows, now)  # first: it locks the log, as every writer does first
    for seq in seqs:
        table.erase_payload(session, seq)
    return numbers
