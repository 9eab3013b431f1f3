"""A schedule: decides at each due time which tasks start, and records their results.

It submits nothing itself. A run is pending until its task is submitted and reported here; after a crash it is
submitted again under the same idempotency key, which is the same task. Each change runs in the transaction
that writes the row of the schedule and the events of the change.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile
from typing import Literal, NamedTuple

from pydantic import BaseModel

from meshwright import Event
from meshwright.kit import Amount, Budget, Conflict, NotFound, TaskStatus, derived_id, new_id, topics
from meshwright.parts.schedules.event_types import ScheduleChanged, ScheduleRun
from meshwright.parts.schedules.times import ScheduleSpec, fires_at, last_due, next_due

SOURCE = "schedule"
"""The source of the idempotency keys of schedules, and how they begin."""
LEASE = timedelta(seconds=10)
"""How long a process may take to submit a run before another one does."""
_REVIEW = timedelta(seconds=30)  # between two looks at a run that is queued, where no event tells
_GRACE = timedelta(seconds=60)  # by which a run may be late without having been missed
_AGENT_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds: after a start, agents elsewhere are not known yet
_MAX_HISTORY = 20
_MAX_PENDING = 100  # runs that wait for the one before them
_MAX_OPEN = 100  # tasks that are remembered as open

RunStatus = Literal["started", "failed", "skipped", "missed", "queued"]


class ScheduleKey(NamedTuple):
    """The name of a schedule: ids are unique within a tenant."""

    tenant_id: str
    schedule_id: str

    @property
    def name(self) -> str:
        """The name in one word, by which its runs share out the jitter."""
        return f"{self.tenant_id}:{self.schedule_id}"


class PendingRun(BaseModel):
    """A run whose task is not known to be submitted. Once it is decided that it `starts`, it cancels others;
    it is `queued` while another is open. `by` is the caller who requested it; None for one that is due.

    The process that submits it has until `retry_at`. `tries` counts those that found no agent.
    """

    due_at: datetime
    idempotency_key: str
    task_id: str
    by: str | None = None
    starts: bool = False
    queued: bool = False
    cancels: list[str] = []
    retry_at: datetime | None = None
    tries: int = 0


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


class ScheduledRun(RunRecord):
    """The result of a due time with the `outcome` of its task so far, and its cost."""

    outcome: TaskStatus | None = None
    cost_usd: Amount | None = None


class ScheduleSummary(BaseModel):
    """A schedule in a list. `declared` says that it comes from mesh.toml.

    `runs` counts the due times whose task was started, since the schedule's times were last changed; `tasks`
    all tasks that it has started, those of runs by hand too.
    """

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
    tasks: int = 0
    last_run: ScheduledRun | None = None
    created_by: str
    created_at: datetime
    changed_by: str
    declared: bool = False


class Put(BaseModel):
    """Create or change a schedule. `is_new`: refused if it exists."""

    spec: ScheduleSpec
    by: str
    budgets: tuple[Budget, ...] = ()
    declared: bool = False
    paused: bool | None = None
    is_new: bool = False


class ScheduleState(BaseModel):
    """The document of a schedule's row.

    All due times up to `position` are done. Intervals count from `anchor`. Its tasks are charged to
    `budgets`, those of the caller who changed it last. `open` are started tasks that may not have ended.
    """

    spec: ScheduleSpec
    created_by: str
    created_at: datetime
    changed_by: str
    budgets: tuple[Budget, ...] = ()
    declared: bool = False
    paused: bool = False
    anchor: datetime
    position: datetime
    next_due_at: datetime | None = None
    runs: int = 0
    tasks: int = 0
    pending: list[PendingRun] = []
    open: list[str] = []
    history: list[RunRecord] = []

    @classmethod
    def new(cls, put: Put, now: datetime) -> ScheduleState:
        """The state of a schedule that is created."""
        anchor = now.replace(microsecond=0)
        by = {"created_by": put.by, "changed_by": put.by}
        return cls(spec=put.spec, created_at=now, anchor=anchor, position=now, **by)

    def summary(self, schedule_id: str) -> ScheduleSummary:
        """The schedule as lists show it."""
        spec = self.spec
        status = "paused" if self.paused else "active" if self.next_due_at or self.pending else "ended"
        return ScheduleSummary(
            id=schedule_id,
            status=status,
            **spec.model_dump(include={"cron", "every_seconds", "at", "zone"}),
            agent_id=spec.task.agent_id,
            capability=spec.task.capability,
            tasks=max(self.tasks, self.runs),  # older states do not count runs by hand
            last_run=ScheduledRun(**dict(self.history[-1])) if self.history else None,
            **self.model_dump(
                include={"next_due_at", "runs", "created_by", "created_at", "changed_by", "declared"}
            ),
        )


class Schedule:
    """The changes of one schedule at a time: its new `state`, and the `events` that tell of them."""

    def __init__(self, key: ScheduleKey, state: ScheduleState, now: datetime) -> None:
        self.key = key
        self.state = state
        self.events: list[Event] = []
        self.is_deleted = False
        self._now = now

    @property
    def wake_at(self) -> datetime | None:
        """When there is something to do next; None where nothing is."""
        state, now = self.state, self._now
        times = [run.retry_at or now for run in state.pending if run.starts]
        if not state.paused and any(not run.starts for run in state.pending):
            times.append(now + _REVIEW)
        if state.next_due_at is not None:
            times.append(self._fires_at(state.next_due_at))
        return min(times, default=None)

    def put(self, put: Put, *, is_new: bool) -> None:
        """Create or change it. It keeps its position while its due times stay.

        Raises Conflict if it comes from mesh.toml.
        """
        state = self.state
        self._require_changeable(declared=put.declared)
        if state.spec.when != put.spec.when:
            state.anchor, state.position = self._now.replace(microsecond=0), self._now
            state.runs = 0
        state.spec, state.changed_by, state.budgets = put.spec, put.by, put.budgets
        state.declared = put.declared
        state.paused = state.paused if put.paused is None else put.paused
        self._plan()
        self._publish("schedule.created" if is_new else "schedule.changed")

    def remove(self, *, declared: bool) -> None:
        """Delete it; tasks that it has started go on. Raises Conflict if it comes from mesh.toml."""
        self._require_changeable(declared=declared)
        self.is_deleted = True
        self._publish("schedule.deleted")

    def pause(self, *, paused: bool) -> None:
        """Run nothing while it is paused; then make up for missed due times as `catch_up` says."""
        if self.state.paused != paused:
            self.state.paused = paused
            self._plan()
            self._publish("schedule.paused" if paused else "schedule.resumed")

    def run_now(self, by: str, name: str) -> PendingRun:
        """Run once more, even if a task is open; due times stay as they are.

        Returns the run, which the caller is to submit and report within `LEASE`.
        """
        run = self._run(self._now, f"now:{name}", by)
        run.starts, run.retry_at = True, self._now + LEASE
        self.state.pending.append(run)
        return run

    def advance(self, ended_tasks: list[str]) -> list[PendingRun]:
        """Choose the runs of the due times that have come, and decide which start now that tasks have ended.

        Returns those that the caller is to submit and report within `LEASE`.
        """
        state, now = self.state, self._now
        state.open = [task_id for task_id in state.open if task_id not in ended_tasks]
        if not state.paused:
            self._choose_due()
            self._decide()
        self._plan()
        runs = [run for run in state.pending if run.starts and (run.retry_at or now) <= now]
        for run in runs:
            run.retry_at = now + LEASE
        return runs

    def report(self, run: PendingRun, status: Literal["started", "failed"], reason: str | None) -> None:
        """Record the result of a run. A repeat, or one from a process that took too long, changes nothing."""
        state = self.state
        if run not in state.pending:
            return
        state.pending.remove(run)
        if status == "started":
            state.tasks = max(state.tasks, state.runs) + 1
            state.runs += run.by is None
            if state.spec.overlap != "allow":
                state.open = [*state.open, run.task_id][-_MAX_OPEN:]
        self._plan()
        self._settle(status, run, reason)

    def retry(self, run: PendingRun, reason: str) -> None:
        """Submit a run that found no agent again soon; some times, and not one that a caller requested."""
        if run.by is not None or run.tries == len(_AGENT_PAUSES):
            self.report(run, "failed", reason)
        elif run in self.state.pending:
            pending = self.state.pending[self.state.pending.index(run)]
            pending.retry_at = self._now + timedelta(seconds=_AGENT_PAUSES[run.tries])
            pending.tries += 1

    def _choose_due(self) -> None:
        """Add the runs of the due times that have come, or passed while nothing ran."""
        state, spec, now = self.state, self.state.spec, self._now
        times, earlier = last_due(spec, state.anchor, state.position, now, spec.max_catch_up + 1)
        due = list(takewhile(lambda time: self._fires_at(time) <= now, times))
        if not due:
            return
        state.position = due[-1]
        is_late = now - self._fires_at(due[-1]) > _GRACE
        counts = {"all": min(len(due), spec.max_catch_up), "last": 1, "none": 0 if is_late else 1}
        first = len(due) - counts[spec.catch_up]
        chosen = due[first : first + self._left(len(due))]
        if first:
            self._record(RunRecord(due_at=due[first - 1], at=now, status="missed", count=earlier + first))
        state.pending += [self._run(time, time.isoformat()) for time in chosen]
        self._plan()

    def _decide(self) -> None:
        state, spec = self.state, self.state.spec
        for run in [run for run in state.pending if not run.starts]:
            starting = [other.task_id for other in state.pending if other.starts]
            before = [*state.open, *starting]
            if not before or spec.overlap == "allow":
                run.starts = True
            elif spec.overlap == "cancel_other":
                run.starts = not starting  # else there may be no task to cancel yet
                run.cancels = before
            elif spec.overlap == "skip":
                self._drop(run, f"task {before[-1]} of the run before is still open")
            elif state.pending.index(run) >= _MAX_PENDING:
                self._drop(run, f"{_MAX_PENDING} runs are queued already")
            elif not run.queued:
                run.queued = True
                self._settle("queued", run)

    def _require_changeable(self, *, declared: bool) -> None:
        if self.state.declared and not declared:
            raise Conflict(
                f"The schedule {self.key.schedule_id!r} is declared in mesh.toml",
                remedy="Change it there, and start the mesh again; it can be paused, resumed and run",
                field="id",
            )

    def _left(self, count: int) -> int:
        spec = self.state.spec
        if spec.max_runs is None:
            return count
        planned = sum(run.by is None for run in self.state.pending)
        return max(0, min(count, spec.max_runs - self.state.runs - planned))

    def _plan(self) -> None:
        state, is_over = self.state, self.state.paused or not self._left(1)
        state.next_due_at = None if is_over else next_due(state.spec, state.anchor, state.position)

    def _fires_at(self, due: datetime) -> datetime:
        return fires_at(self.state.spec, self.key.name, self.state.anchor, due)

    def _run(self, due_at: datetime, name: str, by: str | None = None) -> PendingRun:
        key = f"{SOURCE}:{self.key.schedule_id}:{name}"
        task_id = derived_id(self.key.tenant_id, SOURCE, key)
        return PendingRun(due_at=due_at, idempotency_key=key, task_id=task_id, by=by)

    def _drop(self, run: PendingRun, reason: str) -> None:
        self.state.pending.remove(run)
        self._settle("skipped", run, reason)

    def _settle(self, status: RunStatus, run: PendingRun, reason: str | None = None) -> None:
        ids = run.model_dump(include={"due_at", "task_id", "by"})
        self._record(RunRecord(**ids, at=self._now, status=status, reason=reason))

    def _record(self, record: RunRecord) -> None:
        if record.status != "queued":
            self.state.history = [*self.state.history, record][-_MAX_HISTORY:]
        task_id = record.task_id if record.status == "started" else None
        self._publish(f"schedule.{record.status}", record, task_id)

    def _publish(self, event_type: str, run: RunRecord | None = None, task_id: str | None = None) -> None:
        summary = self.state.summary(self.key.schedule_id).model_dump(mode="json", exclude_none=True)
        aggregate_id = f"Schedule/{self.key.name}"
        self.events.append(
            Event(
                id=f"{aggregate_id}/{new_id()}",
                event_type=event_type,
                topic=topics.MESH,
                time=self._now,
                tenant_id=self.key.tenant_id,
                task_id=task_id,
                agent_id=summary.get("agent_id"),
                aggregate_id=aggregate_id,
                payload=ScheduleChanged(schedule=summary)
                if run is None
                else ScheduleRun(schedule=summary, run=run.model_dump(mode="json", exclude_none=True)),
            )
        )


def unknown_schedule(name: str) -> NotFound:
    """The error for a schedule that its tenant does not have."""
    return NotFound(
        f"There is no schedule {name!r}", remedy="mesh schedules lists those there are", field="id"
    )
