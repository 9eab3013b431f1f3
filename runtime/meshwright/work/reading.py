"""Tasks as their actors have them now."""

from __future__ import annotations

from meshwright.core.errors import NotFound
from meshwright.core.messages import ENDED, Task
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import TaskKey
from meshwright.work.record import Entry, TaskRecord
from meshwright.work.thread import ThreadState


def unknown_task(task_id: str) -> NotFound:
    """The error for a task that the mesh does not have."""
    return NotFound(
        f"There is no task {task_id!r}", remedy="mesh tasks lists those there are", field="task_id"
    )


async def read_task(host: Runtime, task_id: str, tenant_id: str) -> tuple[TaskRecord, Task]:
    """The record of a tenant's task. Raises NotFound."""
    record = await host.read(TaskKey(tenant_id, task_id).ref)
    if not isinstance(record, TaskRecord) or record.task is None or record.task.tenant_id != tenant_id:
        raise unknown_task(task_id)
    return record, record.task


async def read_entry(host: Runtime, record: TaskRecord, task: Task) -> Entry | None:
    """The task in its agent's thread, which knows best between dispatch and outcome."""
    thread = thread_ref(record, task)
    try:
        state = await host.read(thread) if thread and record.status not in ENDED else None
    except NotFound:  # no agent of that id is known here
        return None
    inbox = state.inbox if isinstance(state, ThreadState) else ()
    return next((entry for entry in inbox if entry.task_id == task.task_id), None)


def thread_ref(record: TaskRecord, task: Task) -> ActorRef | None:
    """The thread of the last attempt; None before the first."""
    if not record.attempts:
        return None
    return ActorRef(record.attempts[-1].agent_id, f"{task.tenant_id}:{task.thread_id}")
