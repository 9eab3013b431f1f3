"""The actor of a schedule: decides at each due time which tasks start, and records their results.

It submits nothing itself. A run is pending until its task is submitted and reported to the actor; after a
crash it is submitted again under the same idempotency key, which is the same task.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from meshwright.core import topics
from meshwright.core.errors import Conflict, NotFound
from meshwright.core.messages import derived_id
from meshwright.core.money import Budget
from meshwright.core.schedule import ScheduleSpec, fires_at, last_due, next_due
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef

SCHEDULE = "Schedule"
"""The type of the actors that are schedules."""
SOURCE = "schedule"
"""The source of the idempotency keys of schedules, and how they begin."""
DELETED = "schedule.deleted"
CHANGES = (
    *("schedule.created", "schedule.changed", "schedule.paused", "schedule.resumed", DELETED),
    *("schedule.started", "schedule.failed", "schedule.skipped", "schedule.missed", "schedule.queued"),
)
"""The events of a schedule; their payload has the schedule as it is then."""
GRACE = timedelta(seconds=60)  # by which a run may be late without having been missed
_MAX_HISTORY = 20
_MAX_PENDING = 100  # runs that wait for the one before them
_MAX_OPEN = 100  # tasks that are remembered as open

RunStatus = Literal["started", "failed", "skipped", "missed", "queued"]


class ScheduleKey(NamedTuple):
    """The name of a schedule: ids are unique within a tenant."""

    tenant_id: str
    schedule_id: str

    @property
    def ref(self) -> ActorRef:
        """The schedule's actor."""
        return ActorRef(SCHEDULE, f"{self.tenant_id}:{self.schedule_id}")

    @classmethod
    def of(cls, ref: ActorRef) -> ScheduleKey:
        """The key of a schedule's actor."""
        tenant_id, _, schedule_id = ref.id.partition(":")
        return cls(tenant_id, schedule_id)


class PendingRun(BaseModel):
    """A run whose task is not known to be submitted. Once it is decided that it `starts`, it cancels others;
    it is `queued` while another is open. `by` is the caller who requested it; None for one that is due.
    """

    due_at: datetime
    idempotency_key: str
    task_id: str
    by: str | None = None
    starts: bool = False
    queued: bool = False
    cancels: list[str] = []


class RunRecord(BaseModel):
    """The result of a due time; of several that were missed in a row (`count`, at least) of the last.

    `by` is the caller who requested a run that was not due. The task `task_id` exists if the run has
    `started`; `reason` says why it does not.
    """

    due_at: datetime
    at: datetime
    status: RunStatus
    task_id: str | None = None
    by: str | None = None
    reason: str | None = None
    count: int = 1


class ScheduleSummary(BaseModel):
    """A schedule in a list. `declared` says that it comes from mesh.toml."""

    id: str
    status: Literal["active", "paused", "ended"]
    cron: str | None = None
    every_seconds: float | None = None
    at: datetime | None = None
    zone: str
    agent_id: str | None = None
    capability: str | None = None
    next_due_at: datetime | None = None
    runs: int = 0
    last_run: RunRecord | None = None
    created_by: str
    created_at: datetime
    changed_by: str
    declared: bool = False


class ScheduleState(BaseModel):
    """The state of the actor; without a `spec` there is no schedule.

    All due times up to `position` are done. Intervals count from `anchor`. Its tasks are charged to
    `budgets`, those of the caller who changed it last. `open` are started tasks that may not have ended.
    """

    spec: ScheduleSpec | None = None
    created_by: str = ""
    created_at: datetime | None = None
    changed_by: str = ""
    budgets: tuple[Budget, ...] = ()
    declared: bool = False
    paused: bool = False
    anchor: datetime | None = None
    position: datetime | None = None
    next_due_at: datetime | None = None
    runs: int = 0
    pending: list[PendingRun] = []
    open: list[str] = []
    history: list[RunRecord] = []

    def summary(self, schedule_id: str) -> ScheduleSummary:
        """The schedule as lists show it."""
        spec, created_at = self.spec, self.created_at
        assert spec is not None and created_at is not None
        status = "paused" if self.paused else "active" if self.next_due_at or self.pending else "ended"
        return ScheduleSummary(
            id=schedule_id,
            status=status,
            **spec.model_dump(include={"cron", "every_seconds", "at", "zone"}),
            agent_id=spec.task.agent_id,
            capability=spec.task.capability,
            last_run=self.history[-1] if self.history else None,
            created_at=created_at,
            **self.model_dump(include={"next_due_at", "runs", "created_by", "changed_by", "declared"}),
        )


class Put(BaseModel):
    """Create or change a schedule. `is_new`: refused if it exists."""

    spec: ScheduleSpec
    by: str
    budgets: tuple[Budget, ...] = ()
    declared: bool = False
    paused: bool | None = None
    is_new: bool = False


class RunNow(BaseModel):
    """Run once; a repeat has the same `name`."""

    by: str
    name: str


class Report(BaseModel):
    """The result of submitting a run."""

    idempotency_key: str
    status: Literal["started", "failed"]
    reason: str | None = None


class Schedule(Actor[ScheduleState]):
    """One schedule of a tenant, from its first due time to its last."""

    @property
    def has_pending_work(self) -> bool:
        """Whether a task is to be submitted."""
        return bool(self.state.pending)

    @turn
    def put(self, turn: Turn, put: Put) -> bool:
        """Create or change it; returns whether it is new. It keeps its position while its due times stay.

        Raises Conflict if it is to be new and exists, or comes from mesh.toml.
        """
        state, is_new = self.state, self.state.spec is None
        if put.is_new and not is_new:
            raise Conflict(
                f"There is a schedule {self._name!r} already", remedy="Choose another id", field="id"
            )
        self._require_changeable(put.declared)
        if is_new:
            state.created_by, state.created_at = put.by, turn.now
        if state.spec is None or state.spec.when != put.spec.when:
            state.anchor, state.position = turn.now.replace(microsecond=0), turn.now
            state.runs = 0
        state.spec, state.changed_by, state.budgets = put.spec, put.by, put.budgets
        state.declared = put.declared
        state.paused = state.paused if put.paused is None else put.paused
        self._arm(turn)
        self._publish(turn, "schedule.created" if is_new else "schedule.changed")
        return is_new

    @turn
    def remove(self, turn: Turn, declared: bool) -> None:
        """Delete it; tasks that it has started go on. Raises NotFound, Conflict if declared."""
        self._require()
        self._require_changeable(declared)
        self._publish(turn, DELETED)
        self.state = ScheduleState()
        turn.wake_at(None)

    @turn
    def pause(self, turn: Turn, paused: bool) -> None:
        """Run nothing while it is paused; then make up for missed due times as `catch_up` says.

        Raises NotFound.
        """
        self._require()
        if self.state.paused != paused:
            self.state.paused = paused
            self._arm(turn)
            self._publish(turn, "schedule.paused" if paused else "schedule.resumed")
            self._signal(turn)

    @turn
    def run_now(self, turn: Turn, wanted: RunNow) -> str:
        """Run once more, even if a task is open; due times stay as they are. Returns the task's id.

        Raises NotFound.
        """
        self._require()
        run = self._run(turn.now, f"now:{wanted.name}", wanted.by)
        self.state.pending.append(run.model_copy(update={"starts": True}))
        self._signal(turn)
        return run.task_id

    @turn
    def decide(self, turn: Turn, ended: list[str]) -> list[PendingRun]:
        """Decide which runs start now that these tasks have ended. Returns those that are not reported."""
        state, spec = self.state, self.state.spec
        if spec is None:
            return []
        state.open = [task_id for task_id in state.open if task_id not in ended]
        undecided = [run for run in state.pending if not run.starts and not state.paused]
        for run in undecided:
            before = [*state.open, *(other.task_id for other in state.pending if other.starts)]
            if not before or spec.overlap in ("allow", "cancel_other"):
                run.starts = True
                run.cancels = before if spec.overlap == "cancel_other" else []
            elif spec.overlap == "skip":
                self._drop(turn, run, f"task {before[-1]} of the run before is still open")
            elif state.pending.index(run) >= _MAX_PENDING:
                self._drop(turn, run, f"{_MAX_PENDING} runs are queued already")
            elif not run.queued:
                run.queued = True
                self._settle(turn, "queued", run)
        self._arm(turn)
        return [run for run in state.pending if run.starts]

    @turn
    def report(self, turn: Turn, report: Report) -> None:
        """Record the result of a run; a repeat changes nothing."""
        state = self.state
        run = next((run for run in state.pending if run.idempotency_key == report.idempotency_key), None)
        if run is None:
            return
        state.pending.remove(run)
        if report.status == "started":
            state.runs += run.by is None
            if state.spec is not None and state.spec.overlap != "allow":
                state.open = [*state.open, run.task_id][-_MAX_OPEN:]
        self._arm(turn)
        self._settle(turn, report.status, run, report.reason)

    def wake(self, turn: Turn) -> None:
        """Choose the runs of the due times that have come, or passed while nothing ran."""
        state = self.state
        spec, anchor, position = state.spec, state.anchor, state.position
        if spec is None or anchor is None or position is None or state.paused:
            return
        found, earlier = last_due(spec, anchor, position, turn.now, spec.max_catch_up + 1)
        due = list(takewhile(lambda time: self._fires_at(time) <= turn.now, found))
        if due:
            state.position = due[-1]
            is_late = turn.now - self._fires_at(due[-1]) > GRACE
            counts = {"all": min(len(due), spec.max_catch_up), "last": 1, "none": 0 if is_late else 1}
            first = len(due) - counts[spec.catch_up]
            chosen = due[first : first + self._left(len(due))]
            if first:
                record = RunRecord(due_at=due[first - 1], at=turn.now, status="missed", count=earlier + first)
                self._record(turn, record)
            state.pending += [self._run(time, time.isoformat()) for time in chosen]
            self._signal(turn)
        self._arm(turn)

    def recover(self, turn: Turn) -> None:
        """Submit the runs that were not reported before the crash."""
        self._signal(turn)

    def redrive(self, turn: Turn) -> None:
        """Check again whether the run before has ended."""
        self._signal(turn)

    @property
    def _name(self) -> str:
        return ScheduleKey.of(self.ref).schedule_id

    def _require(self) -> None:
        if self.state.spec is None:
            raise unknown_schedule(self._name)

    def _require_changeable(self, declared: bool) -> None:
        if self.state.declared and not declared:
            raise Conflict(
                f"The schedule {self._name!r} is declared in mesh.toml",
                remedy="Change it there, and start the mesh again; it can be paused, resumed and run",
                field="id",
            )

    def _left(self, wanted: int) -> int:
        spec = self.state.spec
        if spec is None or spec.max_runs is None:
            return wanted
        planned = sum(run.by is None for run in self.state.pending)
        return max(0, min(wanted, spec.max_runs - self.state.runs - planned))

    def _arm(self, turn: Turn) -> None:
        state, spec = self.state, self.state.spec
        due = None
        if spec is not None and not state.paused and self._left(1) and state.anchor and state.position:
            due = next_due(spec, state.anchor, state.position)
        state.next_due_at = due
        turn.wake_at(None if due is None else self._fires_at(due))

    def _fires_at(self, due: datetime) -> datetime:
        spec, anchor = self.state.spec, self.state.anchor
        assert spec is not None and anchor is not None
        return fires_at(spec, self.ref.id, anchor, due)

    def _run(self, due_at: datetime, name: str, by: str | None = None) -> PendingRun:
        key = f"{SOURCE}:{self._name}:{name}"
        task_id = derived_id(ScheduleKey.of(self.ref).tenant_id, SOURCE, key)
        return PendingRun(due_at=due_at, idempotency_key=key, task_id=task_id, by=by)

    def _drop(self, turn: Turn, run: PendingRun, reason: str) -> None:
        self.state.pending.remove(run)
        self._settle(turn, "skipped", run, reason)

    def _settle(self, turn: Turn, status: RunStatus, run: PendingRun, reason: str | None = None) -> None:
        ids = run.model_dump(include={"due_at", "task_id", "by"})
        self._record(turn, RunRecord(**ids, at=turn.now, status=status, reason=reason))

    def _record(self, turn: Turn, record: RunRecord) -> None:
        if record.status != "queued":
            self.state.history = [*self.state.history, record][-_MAX_HISTORY:]
        run = record.model_dump(mode="json", exclude_none=True)
        task_id = record.task_id if record.status == "started" else None
        self._publish(turn, f"schedule.{record.status}", task_id, run=run)

    def _publish(self, turn: Turn, event_type: str, task_id: str | None = None, **fields: Any) -> None:
        summary = self.state.summary(self._name).model_dump(mode="json", exclude_none=True)
        turn.publish(
            topics.MESH,
            event_type,
            {"schedule": summary, **fields},
            task_id=task_id,
            agent_id=summary.get("agent_id"),
            tenant_id=ScheduleKey.of(self.ref).tenant_id,
        )

    def _signal(self, turn: Turn) -> None:
        if self.state.pending:
            turn.signal_after_commit(self.ref)


def unknown_schedule(name: str) -> NotFound:
    """The error for a schedule that its tenant does not have."""
    return NotFound(
        f"There is no schedule {name!r}", remedy="mesh schedules lists those there are", field="id"
    )
