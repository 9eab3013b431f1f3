"""Forks: tasks that go on from a finished step of another's journal, which stays as it is.

The steps up to there are read where they are. They are replies that were given before: none is made, or paid
for, again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshwright.core.errors import Conflict, NotFound
from meshwright.core.messages import ForkedFrom, Task
from meshwright.kernel.envelope import ActorRef, Record
from meshwright.kernel.runtime import Runtime
from meshwright.work.earlier import is_approval, is_used, read_continued, read_steps
from meshwright.work.people import RESTART
from meshwright.work.protocol import TaskKey
from meshwright.work.record import NO_TASK, DispatchedTask, journals_of, unknown_task

_SHOWN = 5  # steps, where one is not there


async def read_forked(runtime: Runtime, task: Task) -> list[Record]:
    """The records that a fork begins with; none for any other task. Raises what `read_origin` raises."""
    if task.forked_from is None:
        return []
    return await read_origin(runtime, task.tenant_id, task.forked_from)


async def read_origin(runtime: Runtime, tenant_id: str, origin: ForkedFrom) -> list[Record]:
    """The records of an attempt's finished steps up to one, without what their calls cost.

    Those are the steps that began no later than that one, and those within it; a step around it begins again.
    Raises NotFound for a task, an attempt or a step that is not there, Conflict for a step that failed.
    """
    stored = await runtime.read(TaskKey(tenant_id, origin.task_id).ref, DispatchedTask)
    if stored is None or stored.task_json == NO_TASK:
        raise unknown_task(origin.task_id)
    task = Task.model_validate_json(stored.task_json)
    if not 1 <= origin.attempt <= len(stored.attempts):
        raise NotFound(
            f"Task {origin.task_id} has no attempt {origin.attempt}; it has {len(stored.attempts)}",
            remedy=f"mesh task {origin.task_id} shows them",
            field="attempt",
        )
    ref = ActorRef(stored.attempts[origin.attempt - 1].agent_id, f"{tenant_id}:{task.thread_id}")
    records = await read_forked(runtime, task)
    *before, last = journals_of(origin.task_id, stored.attempts, origin.attempt)
    for steps in before:
        records += await read_continued(runtime, ref, steps)
    own, answers = await read_steps(runtime, ref, last, 1)  # the first claim may have left nothing
    return _up_to(origin, [*records, *own, *answers])


def _up_to(origin: ForkedFrom, records: Sequence[Record]) -> list[Record]:
    steps = [record for record in records if "kind" in record.value and record.value["kind"] != RESTART]
    results = {record.value["path"]: record.value for record in steps if "result" in record.value}
    failed = {record.value["path"] for record in steps if "expired" in record.value}
    last = results.get(origin.step)
    if last is None and origin.step not in failed:
        finished = sorted(results.values(), key=lambda value: value["number"])
        paths = ", ".join(value["path"] for value in finished[-_SHOWN:])
        raise NotFound(
            f"Attempt {origin.attempt} of task {origin.task_id} has no finished step {origin.step!r}",
            remedy=f"The last are {paths}" if paths else "It has none, or they were deleted",
            field="step",
        )
    if last is None or last.get("is_error"):
        raise Conflict(
            f"Step {origin.step} of task {origin.task_id} failed, and nothing goes on from there",
            remedy=f"Fork from a step before it: mesh task {origin.task_id} --steps lists them",
            field="step",
        )
    return _without_open_decisions(
        [_copied(record) for record in steps if _belongs(record.value, origin.step, last["number"])]
    )


def _without_open_decisions(records: list[Record]) -> list[Record]:
    """The records without decisions on calls that the fork has not: it makes its own, and asks for them."""
    calls = [record.value for record in records if not is_approval(record) and "result" in record.value]
    return [record for record in records if not is_approval(record) or is_used(record.value["path"], calls)]


def _belongs(value: dict[str, Any], step: str, number: int) -> bool:
    path = value["path"]
    is_around = step.startswith(f"{path}.") and "intent" not in value
    return not is_around and (value["number"] <= number or path.startswith(f"{step}."))


def _copied(record: Record) -> Record:
    """A record as the fork has it: nothing in it is paid for, or counted, again."""
    value = {name: part for name, part in record.value.items() if name != "calls"}
    value["kept"] = f"{record.stream}/{record.n}"
    return Record(record.ref, record.stream, record.n, value)
