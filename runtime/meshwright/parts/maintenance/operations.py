"""Operations on a mesh as a whole: hold and release its work, let it drain, verify its store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field

from meshwright.component import Actor, ActorRef, Audit, Caller, Mesh, TaskKey, Turn, turn
from meshwright.core.logs import MESH_LOGGER
from meshwright.core.task_events import TaskStarted
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.sql.meta import HELD, delete_note, read_note
from meshwright.engine.work.entry import ThreadState
from meshwright.engine.work.record import TaskRecord, thread_ref
from meshwright.kit import ENDED, HostError, NotFound, Role, Rule, Session, Struct, Worker, operation
from meshwright.mesh.orchestration.reruns import ERASED_HASH
from meshwright.money.account import Account
from meshwright.money.balance import OPENED
from meshwright.parts.maintenance.verify import (
    CLAIMS,
    MAX_FAULTS,
    StoreVerification,
    keeps_actors,
    verify_store,
)

_NO_OPERATOR = {403: "The caller is no operator of all tenants."}
_MESH = "mesh"


class MeshWork(BaseModel):
    """Whether this process begins work (`working`, `held` or `draining`), and its tasks.

    `running` are worked on, `waiting` wait for a slot here; the mesh may have others that wait for people,
    time or money.
    """

    state: Literal["working", "held", "draining"]
    running: int
    waiting: int


class Maintenance:
    """The operations. All are safe to repeat; a verification raises StoreUnavailable while a store that keeps
    the tasks elsewhere does not answer."""

    def __init__(self, mesh: Mesh, hold: ProcessHold) -> None:
        self._mesh, self._hold = mesh, hold

    @operation(
        Rule("drains the mesh", (Role.OPERATOR,), all_tenants=True),
        "POST /drain?wait",
        "Begin no more work",
        errors=_NO_OPERATOR,
    )
    async def drain(self, caller: Caller, *, wait: Annotated[float, Field(ge=0, le=600)] = 0.0) -> MeshWork:
        """Let this process begin no more work and answer 503 at `/readyz`, and wait until nothing runs any more.

        Running work goes on, and tasks are still accepted: they run elsewhere, or at the next start. `/release`
        ends it.
        """  # noqa: E501 as the API documents it
        mesh, worker = self._mesh, self._mesh.get(Worker)
        if mesh.state != "draining":
            await mesh.get(Audit).record(caller, "mesh.drained", _MESH)
            worker.hold()
            mesh.state = "draining"
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await worker.until_idle()
        return self.work()

    @operation(
        Rule("holds the mesh", (Role.OPERATOR,), all_tenants=True),
        "POST /hold",
        "Hold all work",
        errors=_NO_OPERATOR,
    )
    async def hold(self, caller: Caller) -> MeshWork:
        """Let no process of the mesh begin work before a release, also after a restart.

        Running work goes on, and tasks are still accepted. Other processes follow within seconds.
        """
        mesh = self._mesh
        async with mesh.get(Audit).change(caller, "mesh.held", _MESH):
            await self._hold.change(is_held=True)
        return self.work()

    @operation(
        Rule("releases the mesh", (Role.OPERATOR,), all_tenants=True),
        "POST /release",
        "Begin held work",
        errors=_NO_OPERATOR,
    )
    async def release(self, caller: Caller) -> MeshWork:
        """Begin the work of a mesh that is held, in all of its processes, or of this process if it drains."""
        mesh = self._mesh
        note = await mesh.database.read(read_note, HELD)
        async with mesh.get(Audit).change(caller, "mesh.released", _MESH, note):
            await mesh.database.write(delete_note, HELD)
            await self._hold.change(is_held=False)
            if mesh.state == "draining":
                await mesh.begin()
        return self.work()

    @operation(
        Rule("verifies the store", (Role.ADMIN,), all_tenants=True),
        "GET /store/verify",
        "Verify the store",
        name="verify_store",
        errors={403: "The caller is no administrator."},
    )
    async def verify(self, caller: Caller) -> StoreVerification:
        """Rebuild the lists from the events and compare them, and hold the tasks to what is promised of them.

        It writes nothing, and takes minutes for a million tasks.
        """
        mesh = self._mesh
        await mesh.log.flush()
        has_actors = keeps_actors(mesh.settings.store)
        arguments = mesh.database, mesh.log.projections, mesh.database.migrations
        report = await asyncio.to_thread(verify_store, *arguments, has_actors=has_actors)
        if not has_actors:
            await verify_records(mesh, report)
        return report

    def work(self) -> MeshWork:
        """The state of this process."""
        worker = self._mesh.get(Worker)
        return MeshWork(state=self._mesh.state, running=worker.running, waiting=worker.waiting)


class _State(Struct, frozen=False, omit_defaults=True):
    is_held: bool = False


class MeshHold(Actor[_State]):
    """Whether the work of a mesh is held: one actor for all of its processes, which outlives them."""

    @turn
    def hold(self, turn: Turn) -> None:
        """Let no process begin work."""
        self.state.is_held = True

    @turn
    def release(self, turn: Turn) -> None:
        """Let them begin again."""
        self.state.is_held = False


_HOLD = ActorRef(MeshHold.__name__, "mesh")


class ProcessHold:
    """The hold as one process of the mesh knows it."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._following = asyncio.Lock()

    async def is_set(self) -> bool:
        """Whether the mesh is held."""
        state = await self._mesh.runtime.read(_HOLD)
        return isinstance(state, _State) and state.is_held

    async def change(self, *, is_held: bool) -> None:
        """Hold the work of all processes, or release it; this process follows at once. Durable on return."""
        await self._mesh.runtime.call(_HOLD, "hold" if is_held else "release")
        await self.follow()

    async def follow(self) -> bool:
        """Bring this process in line with the hold, but for one that drains; returns whether it is set."""
        mesh = self._mesh
        async with self._following:
            is_held = await self.is_set()
            if is_held and mesh.state != "draining":
                mesh.get(Worker).hold()  # again where it is held: a start may just have begun work
                mesh.state = "held"
            elif not is_held and mesh.state == "held":
                await mesh.begin()
            return is_held


# Compares the list of tasks with the records of the tasks, on a store that cannot list its actors. The ids
# come from the list, which `verify_store` holds to the events. The mesh runs meanwhile, and the events of a
# turn reach the log after its record: a deviation counts once it has stayed for some seconds.

_logger = logging.getLogger(MESH_LOGGER)
_PAGE = 500  # tasks that are read side by side
_LOOKS = 20  # at a task that deviates: a worker that was killed leaves its events to another, 15 s later
_PAUSE_SECONDS = 1.0
_TOLD_SECONDS = 5.0
_SELECT = "SELECT seq, tenant_id, task_id, status, generation, attempts, cost_usd FROM tasks WHERE seq"


class _ListedTask(NamedTuple):
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


async def verify_records(mesh: Mesh, report: StoreVerification) -> None:
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
    for task in suspects:
        report.faults.append(f"Task {task.listed.task_id} of tenant {task.listed.tenant_id}: {task.fault}")
    report.faults += await _lost_accounts(mesh)
    if oldest > 1:
        text = f"Events before {oldest:,} were deleted by age: tasks that had ended by then are not compared"
        report.notes.append(text)


def _oldest_seq(session: Session) -> int:
    return session.execute("SELECT coalesce(min(seq), 1) FROM events").fetchone()[0]


def _page(session: Session, after: int, last: int) -> list[_ListedTask]:
    rows = session.execute(f"{_SELECT} > ? AND seq <= ? ORDER BY seq LIMIT {_PAGE}", (after, last)).fetchall()
    return [_ListedTask(*row) for row in rows]


def _again(session: Session, numbers: Sequence[int]) -> list[_ListedTask]:
    return sorted(_ListedTask(*row) for row in session.select_in(_SELECT, numbers))


async def _look_at(mesh: Mesh, rows: Sequence[_ListedTask]) -> list[_CheckedTask]:
    """Compare tasks side by side. A record that cannot be read deviates; a store that is away is an error."""
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
            place = f"Budget {account.budget} of {account.scope} {account.key}"
            missing[f"{place}: its account is not there"] = None
    return list(missing)
