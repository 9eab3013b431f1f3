"""Compares the list of tasks with the records of the tasks, on a store that cannot list its actors.

The ids come from the list, which `verify_store` holds to the events. The mesh runs meanwhile, and the events
of a turn reach the log after its record: a deviation counts once it has stayed for some seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from meshwright.core.errors import HostError, NotFound
from meshwright.core.logs import MESH_LOGGER
from meshwright.core.messages import ENDED
from meshwright.core.task_events import TaskStarted
from meshwright.events.filter import EventFilter
from meshwright.ledger.account import Account
from meshwright.ledger.balance import OPENED
from meshwright.mesh import Mesh
from meshwright.orchestration.again import ERASED_HASH
from meshwright.services.maintenance.verify import CLAIMS, MAX_FAULTS, StoreVerified
from meshwright.sql.database import Session
from meshwright.work.protocol import TaskKey
from meshwright.work.record import TaskRecord, ThreadState, thread_ref

_logger = logging.getLogger(MESH_LOGGER)

_PAGE = 500  # tasks that are read side by side
_LOOKS = 20  # at a task that deviates: a worker that was killed leaves its events to another, 15 s later
_PAUSE_SECONDS = 1.0
_TOLD_SECONDS = 5.0
_SELECT = "SELECT seq, tenant_id, task_id, status, generation, attempts, cost_usd FROM tasks WHERE seq"


class _ListedTask(NamedTuple):
    """A task as the list has it."""

    seq: int
    tenant_id: str
    task_id: str
    status: str
    generation: int
    attempts: int
    cost_usd: str | None


class _CheckedTask(NamedTuple):
    """A task that was compared. `fault` is empty where its record agrees."""

    listed: _ListedTask
    is_open: bool
    fault: str


async def verify_records(mesh: Mesh, report: StoreVerified) -> None:
    """Add to the findings what tasks, threads and accounts of budgets are not as the log says.

    Tasks are read some hundred at a time. Raises StoreUnavailable while the store does not answer.
    """
    reached, last, oldest = 0, await mesh.log.last_seq(), await mesh.database.read(_oldest_seq)
    suspects: list[_CheckedTask] = []
    told_at = time.monotonic()
    while len(suspects) < MAX_FAULTS and (rows := await mesh.log.view(_page, reached, last)):
        looked = await _look_at(mesh, rows)
        report.tasks += len(looked)
        report.open_tasks += sum(task.is_open for task in looked)
        suspects += [task for task in looked if task.fault]
        reached = rows[-1].seq
        if time.monotonic() - told_at > _TOLD_SECONDS:
            told_at = time.monotonic()
            _logger.info("verified %s tasks, to event %s of %s", report.tasks, reached, last)
    for _ in range(_LOOKS):
        if not suspects:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
        rows = await mesh.log.view(_again, [task.listed.seq for task in suspects])
        suspects = [task for task in await _look_at(mesh, rows) if task.fault]
    report.faults += [_line(task) for task in suspects]
    report.faults += await _lost_accounts(mesh)
    if oldest > 1:
        text = f"Events before {oldest:,} were deleted by age: tasks that had ended by then are not compared"
        report.notes.append(text)


def _line(task: _CheckedTask) -> str:
    return f"Task {task.listed.task_id} of tenant {task.listed.tenant_id}: {task.fault}"


def _oldest_seq(session: Session) -> int:
    return session.execute("SELECT coalesce(min(seq), 1) FROM events").fetchone()[0]


def _page(session: Session, after: int, last: int) -> list[_ListedTask]:
    rows = session.execute(f"{_SELECT} > ? AND seq <= ? ORDER BY seq LIMIT {_PAGE}", (after, last)).fetchall()
    return [_ListedTask(*row) for row in rows]


def _again(session: Session, numbers: Sequence[int]) -> list[_ListedTask]:
    return sorted(_ListedTask(*row) for row in session.select_in(_SELECT, numbers))


async def _look_at(mesh: Mesh, rows: Iterable[_ListedTask]) -> list[_CheckedTask]:
    """Compare tasks side by side. A record that cannot be read deviates; a store that is away is an error."""
    rows = list(rows)
    looked = await asyncio.gather(*(_look(mesh, row) for row in rows), return_exceptions=True)
    checked: list[_CheckedTask] = []
    errors = [error for error in looked if isinstance(error, BaseException)]
    if errors and len(errors) == len(rows) and isinstance(errors[0], HostError):
        raise errors[0]
    for row, task in zip(rows, looked, strict=True):
        if isinstance(task, BaseException):
            task = _CheckedTask(row, False, f"its record cannot be read: {type(task).__name__}: {task}")
        checked.append(task)
    return checked


async def _look(mesh: Mesh, row: _ListedTask) -> _CheckedTask:
    record = await mesh.runtime.read(TaskKey(row.tenant_id, row.task_id).ref)
    if not isinstance(record, TaskRecord) or record.task is None:
        return _CheckedTask(row, False, "it was accepted, and has no record")
    fault = "" if record.request_hash == ERASED_HASH else _deviation(row, record)
    if not fault and record.is_open:
        fault = await _deviation_of_thread(mesh, row, record)
    return _CheckedTask(row, record.is_open, fault)


def _deviation(row: _ListedTask, record: TaskRecord) -> str:
    assert record.task is not None
    recorded = record.status, record.task.generation, max(1, len(record.attempts))
    listed = row.status, row.generation, row.attempts
    if (record.status in ENDED or row.status in ENDED) and recorded != listed:
        return f"its record says {_progress(*recorded)}, its events {_progress(*listed)}"
    if record.outcome is None or record.status not in ENDED:
        return ""
    cost = None if row.cost_usd is None else Decimal(row.cost_usd)
    if record.outcome.cost_usd != cost:
        return f"its record says that it cost ${record.outcome.cost_usd}, its events ${cost}"
    return ""


def _progress(status: str, generation: int, attempt: int) -> str:
    return f"{status} in attempt {attempt}" + (f" of generation {generation}" if generation > 1 else "")


async def _deviation_of_thread(mesh: Mesh, row: _ListedTask, record: TaskRecord) -> str:
    """The thread of an open attempt has it, and knows each fence under which it was claimed."""
    thread = thread_ref(record, record.task) if record.task and record.open_attempt else None
    if thread is None:
        return ""  # it waits for the task before it, or its outcome is on its way
    try:
        state = await mesh.runtime.read(thread)
    except NotFound:
        return f"it is open, and the mesh has no agent {thread.type}"
    inbox = state.inbox if isinstance(state, ThreadState) else []
    if not any(entry.task_id == row.task_id for entry in inbox):
        return f"it is open, and its thread {thread} does not have it"
    claims = EventFilter(task_id=row.task_id, tenant_id=row.tenant_id, order="desc", limit=1)
    for claim in CLAIMS:
        for event in await mesh.log.query(claims.model_copy(update={"event_type": claim})):
            fence = TaskStarted.from_payload(event.payload).fence
            if fence is not None and event.aggregate_id == str(thread) and fence > state.fence:
                return f"it was claimed under fence {fence}, and its thread {thread} knows {state.fence}"
    return ""


async def _lost_accounts(mesh: Mesh) -> list[str]:
    """The budgets that calls were charged to, and of which nothing is left."""
    missing: dict[str, None] = {}
    async for event in mesh.log.replay(EventFilter(event_type=OPENED)):
        try:
            account = Account.model_validate(event.payload)
        except (ValueError, ArithmeticError):
            continue  # it is none
        if await mesh.runtime.read(account.ref) is None:
            missing[f"Budget {account.budget} of {account.scope} {account.key}: its account is not there"] = (
                None
            )
    return list(missing)
