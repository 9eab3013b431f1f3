"""Erases the contents of tasks that are pruned, many at a time; threads go that are theirs alone."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from meshwright.core.errors import Conflict, NotFound
from meshwright.events.log import EventLog
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.run.erasure import step_streams
from meshwright.sql.database import Database, Session, marks
from meshwright.work.conversation import MESSAGES, ConversationState, conversation_of
from meshwright.work.protocol import TaskKey
from meshwright.work.record import TaskRecord, ThreadState


async def erase_tasks(runtime: Runtime, database: Database, keys: Sequence[TaskKey]) -> set[ActorRef]:
    """Erase the contents of tasks that have ended, but for their events. Safe to repeat.

    Tasks that are gone, or have begun once more, stay as they are. Returns the threads and conversations that
    are still there, since other tasks have them as well.
    """
    found = await asyncio.gather(*(_erase(runtime, key) for key in keys))
    records = [record for record in found if record is not None]
    streams: dict[ActorRef, list[str]] = {}
    for of_task in await asyncio.gather(*(step_streams(runtime, record) for record in records)):
        for ref, names in of_task.items():
            streams.setdefault(ref, []).extend(names)
    actors = _actors_of(records)
    states = await asyncio.gather(*(_read(runtime, actor) for actor in actors))
    known = {actor: state for actor, state in zip(actors, states, strict=True) if state is not None}
    # Nothing reads the messages of a conversation, but for the latest.
    streams |= {actor: [MESSAGES] for actor, state in known.items() if isinstance(state, ConversationState)}
    shared = await database.read(_shared_threads, _tasks_of_threads(records))
    done = {
        actor
        for actor, state in known.items()
        if actor.id not in shared and _remembered(state) <= actors[actor]
    }
    left = known.keys() - await runtime.delete_actors(done)
    forgetting = [runtime.call(actor, "forget", task_id) for actor in left for task_id in actors[actor]]
    await asyncio.gather(runtime.delete_records(streams), *forgetting)
    return left


async def delete_empty(runtime: Runtime, log: EventLog, actors: Collection[ActorRef]) -> None:
    """Delete those of some threads and conversations that have nothing in them, and no listed task."""
    if not actors:
        return
    counts = {(tenant_id, name): 0 for tenant_id, _, name in (actor.id.partition(":") for actor in actors)}
    shared = await log.view(_shared_threads, counts)
    unshared = [actor for actor in actors if actor.id not in shared]
    states = await asyncio.gather(*(_read(runtime, actor) for actor in unshared))
    found = zip(unshared, states, strict=True)
    await runtime.delete_actors(
        [actor for actor, state in found if state is not None and not _remembered(state)]
    )


async def _erase(runtime: Runtime, key: TaskKey) -> TaskRecord | None:
    """Erase request and result of a task; returns its record as it was, None where it stays as it is."""
    record = await runtime.read(key.ref)
    if not isinstance(record, TaskRecord) or record.task is None or record.is_open:
        return None
    with suppress(Conflict):
        await runtime.call(key.ref, "erase")
        return record
    return None


def _actors_of(records: Iterable[TaskRecord]) -> dict[ActorRef, set[str]]:
    """The threads and conversations of tasks, each with its tasks."""
    found: defaultdict[ActorRef, set[str]] = defaultdict(set)
    for record in records:
        if (task := record.task) is None:
            continue
        for attempt in record.attempts:
            thread = ActorRef(attempt.agent_id, f"{task.tenant_id}:{task.thread_id}")
            found[thread].add(task.task_id)
            found[conversation_of(thread)].add(task.task_id)
    return found


async def _read(runtime: Runtime, actor: ActorRef) -> ThreadState | ConversationState | None:
    with suppress(NotFound):  # the mesh has this agent no more
        state = await runtime.read(actor)
        return state if isinstance(state, ThreadState | ConversationState) else None
    return None


def _remembered(state: ThreadState | ConversationState) -> set[str]:
    """The tasks of which a thread or a conversation knows something."""
    if isinstance(state, ConversationState):
        return {message.task_id for message in state.recent}
    return {entry.task_id for entry in state.inbox} | {outcome.task_id for outcome in state.ends}


def _tasks_of_threads(records: Iterable[TaskRecord]) -> Counter[tuple[str, str]]:
    """How many of some tasks each thread has, by tenant and thread."""
    return Counter((record.task.tenant_id, record.task.thread_id) for record in records if record.task)


def _shared_threads(session: Session, counts: Mapping[tuple[str, str], int]) -> set[str]:
    """The threads that have more listed tasks than these, each with its tenant as in the ids of actors."""
    listed: Counter[tuple[str, str]] = Counter()
    if not counts:
        return set()
    names = [session.bindable(thread_id) for thread_id in {thread_id for _, thread_id in counts}]
    of_threads = f"IN ({marks(len(names))}) GROUP BY"
    for query in (
        f"SELECT tenant_id, thread_id, count(*) FROM tasks WHERE thread_id <> task_id "  # noqa: S608 code
        f"AND thread_id {of_threads} tenant_id, thread_id",
        f"SELECT tenant_id, task_id, count(*) FROM tasks WHERE task_id {of_threads} tenant_id, task_id",  # noqa: S608
    ):
        for tenant_id, thread_id, count in session.execute(query, names).fetchall():
            listed[tenant_id, thread_id] += count
    return {
        f"{tenant}:{thread}" for (tenant, thread), count in counts.items() if listed[tenant, thread] > count
    }
