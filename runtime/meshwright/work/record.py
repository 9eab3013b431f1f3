"""Stored tasks: the record of the orchestrator, the entry in the inbox of a thread, and ended attempts.

A worker that has claimed an attempt reads its task in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, TypeVar

from msgspec import Raw, field
from pydantic_core import from_json, to_json

from meshwright.core.encoding import Struct, encode, kept, plain
from meshwright.core.errors import NotFound
from meshwright.core.messages import (
    ENDED,
    Dispatch,
    Fault,
    ForkedFrom,
    Outcome,
    ScoreCard,
    Task,
    TaskCarrier,
    TaskStatus,
    Usage,
)
from meshwright.core.money import ZERO, Amount, exact
from meshwright.core.payloads import Fact, redacted
from meshwright.kernel.envelope import ActorRef
from meshwright.kernel.runtime import Runtime
from meshwright.work.protocol import EndedAttempt, Enqueue, Grant, TaskKey, Wait, WaitKind, Work, steps_stream

NO_TASK = Raw(b"null")
_EndT = TypeVar("_EndT", "Attempt", Outcome)


class Attempt(Struct, frozen=False, omit_defaults=True):
    """One try at the task by one agent, and what its model calls cost; None if unknown.

    Attempts are numbered through all generations. `continues` is the attempt whose journal it goes on with:
    its cost has those of that one in it. `others` are the cards of the agents that had the capability too as
    this one was chosen by its score, at most 10, the best first. `changed` says that it may have changed
    something; with `must_ask` a person decides before it repeats what those before it may have changed.
    """

    attempt: Fact[int]
    agent_id: Fact[str]
    score_card: Fact[ScoreCard]
    started_at: Fact[datetime]
    generation: Fact[int] = kept(default=1)
    continues: Fact[int | None] = kept(default=None)
    ended_at: Fact[datetime | None] = kept(default=None)
    error: Fact[Fault | None] = kept(default=None)
    usage: Fact[Usage] = kept(default=Usage())
    cost_usd: Fact[Amount | None] = kept(default=ZERO)
    others: Fact[tuple[ScoreCard, ...]] = ()
    changed: Fact[bool] = False
    must_ask: Fact[bool] = False

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class TaskRecord(Struct, frozen=False, dict=True, omit_defaults=True):
    """All that the mesh knows of a task. `followers` are the tasks that begin when it has ended.

    `again` says that the task above waits for it again, though it was about to end. `withdrawn` are the last
    waits of tasks above that were given up: messages of different senders may overtake each other.
    """

    version: int = 1
    task_json: Raw = field(name="task", default=NO_TASK)
    request_hash: str = ""
    status: TaskStatus = "accepted"
    attempts: list[Attempt] = field(default_factory=list)
    outcome: Outcome | None = None
    cancelling: bool = False
    pauses: list[str] = field(default_factory=list)
    paused_at: datetime | None = None
    followers: list[str] = field(default_factory=list)
    again: bool = False
    withdrawn: tuple[str, ...] = ()

    @cached_property
    def task(self) -> Task | None:
        """The task, once accepted. It is a copy: its JSON is stored."""
        return None if self.task_json == NO_TASK else Task.model_validate_json(self.task_json)

    def take(self, carrier: TaskCarrier, capability: str) -> None:
        """Set the task, as it came but for its capability."""
        self.task_json = carrier.task_json
        self.__dict__["task"] = carrier.task
        if carrier.task.capability != capability:
            self.change(capability=capability)

    def change(self, **fields: Any) -> None:
        """Change fields of the task, and leave the others as they came, unknown ones too."""
        task = self.task
        if task is not None:
            # Not written from `task`, which has no field of a newer version.
            self.task_json = Raw(to_json({**from_json(bytes(self.task_json)), **fields}, fallback=plain))
            self.__dict__["task"] = task.model_copy(update=fields)

    def erase(self) -> None:
        """Keep the facts of task, attempts and outcome alone."""
        if self.task is not None:
            task = redacted(self.task)
            self.task_json = task.encode()
            self.__dict__["task"] = task
        self.attempts = [_erased(attempt) for attempt in self.attempts]
        self.outcome = None if self.outcome is None else _erased(self.outcome)

    @property
    def is_open(self) -> bool:
        """Whether the task is accepted and has not ended."""
        return self.task_json != NO_TASK and self.status not in ENDED

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt that has not ended, if there is one: the last."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.ended_at is None else None

    @property
    def tried(self) -> list[Attempt]:
        """The attempts of this generation."""
        generation = 1 if self.task is None else self.task.generation
        if generation == 1:
            return self.attempts
        return [attempt for attempt in self.attempts if attempt.generation == generation]

    def open_for(self, outcome: Outcome) -> Attempt | None:
        """The open attempt that an outcome belongs to; a late or foreign one belongs to none."""
        attempt, task = self.open_attempt, self.task
        if attempt is None or task is None or outcome.generation != task.generation:
            return None
        return attempt if outcome.attempt == attempt.attempt else None

    def spent(self) -> dict[str, object]:
        """The cost of all attempts, each call counted once; None if the cost of one is unknown."""
        if len(self.attempts) == 1:
            return {"usage": self.attempts[0].usage, "cost_usd": self.attempts[0].cost_usd}
        # The cost of an attempt includes the attempt that it continues.
        continued = {attempt.continues for attempt in self.attempts}
        counted = [attempt for attempt in self.attempts if attempt.attempt not in continued]
        costs = [attempt.cost_usd for attempt in counted]
        amounts = [cost for cost in costs if cost is not None]
        return {
            "usage": sum((attempt.usage for attempt in counted), start=Usage()),
            "cost_usd": sum(amounts, start=Decimal(0)) if len(amounts) == len(costs) else None,
        }


def _erased(end: _EndT) -> _EndT:
    error = None if end.error is None else Fault(type=end.error.type, message="[erased]")
    return redacted(end).model_copy(update={"error": error})


class _AttemptFields(Struct):
    attempt: int
    agent_id: str
    score_card: ScoreCard
    error: Fault | None = None
    generation: int = 1
    continues: int | None = None
    changed: bool = False
    must_ask: bool = False


def journals_of(task_id: str, attempts: Sequence[Attempt | _AttemptFields], number: int) -> tuple[str, ...]:
    """The names of the steps of an attempt, and before it of those whose journals it goes on with."""
    attempt = attempts[number - 1]
    before = () if attempt.continues is None else journals_of(task_id, attempts, attempt.continues)
    return *before, steps_stream(task_id, attempt.generation, number)


class DispatchedTask(Struct):
    """The fields of a task's record that a worker reads once it has claimed an attempt."""

    task_json: Raw = field(name="task", default=NO_TASK)
    status: str = ""
    attempts: list[_AttemptFields] = field(default_factory=list)

    def dispatch(self, number: int) -> Dispatch | None:
        """The dispatch of an attempt; None where there is no such attempt."""
        if self.task_json == NO_TASK or not 1 <= number <= len(self.attempts):
            return None
        attempt = self.attempts[number - 1]
        return Dispatch(
            task_json=self.task_json, attempt=number, agent_id=attempt.agent_id, score_card=attempt.score_card
        )

    def work(self, grant: Grant) -> Work | None:
        """The work of a granted attempt; None where there is no such attempt."""
        dispatch = self.dispatch(grant.attempt)
        if dispatch is None or dispatch.task.generation != grant.generation:
            return None
        task_id, number = grant.task_id, grant.attempt
        if number == 1:
            return Work.of(grant, dispatch, first_steps=steps_stream(task_id, grant.generation, number))
        continued = journals_of(task_id, self.attempts, number)[:-1]
        return Work.of(
            grant,
            dispatch,
            continued=continued,
            replaced=self._replaced(task_id, number),
            taken_over=self._taken_over(task_id, number, continued),
            first_steps=self._first_steps(task_id, number),
            must_ask=self.attempts[number - 1].must_ask,
        )

    def _first_steps(self, task_id: str, number: int) -> str:
        """The steps of the attempt with which the work began: later ones go on with it, or replace it."""
        attempt = self.attempts[number - 1]
        if attempt.continues is not None:
            return self._first_steps(task_id, attempt.continues)
        before = self.attempts[number - 2] if number > 1 else None
        if before is not None and before.generation == attempt.generation and _is_replaced(before, attempt):
            return self._first_steps(task_id, number - 1)
        return steps_stream(task_id, attempt.generation, number)

    def _taken_over(self, task_id: str, number: int, continued: Sequence[str]) -> tuple[EndedAttempt, ...]:
        before = enumerate(self.attempts[: number - 1], start=1)
        steps = [(n, steps_stream(task_id, one.generation, n), one.changed) for n, one in before]
        return tuple(
            EndedAttempt(attempt=n, agent_id=self.attempts[n - 1].agent_id, steps=name, changed=changed)
            for n, name, changed in steps
            if name not in continued
        )

    def _replaced(self, task_id: str, number: int) -> tuple[str, ...]:
        """The steps of the attempts right before one, of the same agent, that could not follow theirs."""
        attempt = self.attempts[number - 1]
        replaced: list[str] = []
        for before in reversed(self.attempts[: number - 1]):
            if not _is_replaced(before, attempt):
                break
            replaced = [*journals_of(task_id, self.attempts, before.attempt), *replaced]
        return tuple(dict.fromkeys(replaced))


def _is_replaced(before: _AttemptFields, attempt: _AttemptFields) -> bool:
    """Whether an attempt is made again by another, since it could not follow its journal."""
    could_not_follow = before.error is not None and before.error.type == "ReplayMismatch"
    return could_not_follow and before.agent_id == attempt.agent_id


RUN_STATE = "run.state"
"""The event of the state that a run says it is in."""


class TaskView(Struct, kw_only=True):
    """A task, its attempts and its outcome, as clients see them. `waits`: what its run waits for now.

    `missing_agent` is the agent of its open attempt where no process of the mesh has that loaded: the task
    waits for it.

    `state` is the last one that its run has named, such as `QA`, as far as the log has it.

    `limits` are those that hold for its run: each has the `limit`, its value (`most`), the `setting` that
    says so, and the type of the `event` that it is reached. `code` is the digest of its agent's code as the
    open attempt began.
    """

    task_id: Fact[str]
    capability: Fact[str]
    payload: dict[str, Any]
    status: Fact[TaskStatus]
    state: Fact[str | None] = None
    attempts: Fact[tuple[Attempt, ...]]
    waits: Fact[tuple[Wait, ...]] = ()
    missing_agent: Fact[str | None] = None
    limits: Fact[tuple[dict[str, Any], ...]] = ()
    code: Fact[str | None] = None
    outcome: Fact[Outcome | None]
    priority: Fact[int]
    timeout: Fact[float]
    deadline_at: Fact[datetime]
    created_at: Fact[datetime]
    requested_by: Fact[str]
    tenant_id: Fact[str]
    thread_id: Fact[str]
    parent_task_id: Fact[str | None]
    after: Fact[str | None] = None
    forked_from: Fact[ForkedFrom | None] = None
    shape: dict[str, Any] | None = None
    chain: Fact[tuple[str, ...]]
    generation: Fact[int]
    trace_id: Fact[str | None]


_HOLDING = frozenset[WaitKind]({"provider", "money", "timer"})
_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


class Entry(Struct, frozen=False, omit_defaults=True):
    """One attempt in the inbox of its thread; a `redriven` one may have been here before.

    Every turn of the thread writes its whole inbox, so an entry names its task and does not hold it;
    defaults are not written. `claims` is how often it was claimed, `code` the
    digest of its agent's code at the first of them, `waits` what it waits for,
    `answers` how many answers its journal has; `has_news` that one came while it ran, or of a task that it
    delegated, and that no run has read it. `seconds`, `usage`, `cost_usd` and `changed` are as of its last
    wait; the cost is None once a worker that is gone may have made calls since, and was open then
    (`is_cost_open`) where the ledger had estimated such calls. `stalled_claims` counts the
    claims in a row, the one that runs included, that have neither finished a step nor ended otherwise than
    with their process.
    """

    task_id: str = ""
    generation: int = 1
    attempt: int = 1
    capability: str = ""
    priority: int = 5
    traceparent: str | None = None
    queued_at: datetime = _UNKNOWN_TIME
    status: Literal["queued", "running", "waiting"] = "queued"
    fence: int = 0
    redriven: bool = False
    owner: str | None = None
    claims: int = 0
    code: str | None = None
    stalled_claims: int = 0
    waits: list[Wait] = field(default_factory=list)
    answers: int = 0
    has_news: bool = False
    is_paused: bool = False
    pauses: int = 0
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    changed: bool = False
    is_cost_open: bool = False
    cancelled: str | None = None

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)

    @classmethod
    def of(cls, dispatch: Enqueue, queued_at: datetime, *, redriven: bool = False) -> Entry:
        """The entry of an attempt that has just been dispatched."""
        task = dispatch.task
        return cls(
            task_id=task.task_id,
            generation=task.generation,
            attempt=dispatch.attempt,
            capability=task.capability,
            priority=task.priority,
            traceparent=task.traceparent,
            queued_at=queued_at,
            redriven=redriven,
        )

    def add(self, outcome: Any) -> None:
        """Count what a delegated task has cost; unknown if a person answered in its place."""
        try:
            child = Outcome.model_validate(outcome)
        except ValueError:
            self.cost_usd = None
            return
        self.changed |= child.changed
        self.usage = self.usage + child.usage
        before, more = self.cost_usd, child.cost_usd
        self.cost_usd = None if before is None or more is None else before + more

    @property
    def identity(self) -> tuple[str, int, int]:
        """The key of this attempt within the thread."""
        return self.task_id, self.generation, self.attempt

    @property
    def steps(self) -> str:
        """The stream of records that holds the attempt's steps."""
        return steps_stream(*self.identity)

    def wait(self, wait_id: str) -> Wait | None:
        """The wait of that name, if there is one."""
        return next((wait for wait in self.waits if wait.wait_id == wait_id), None)

    @property
    def holds_thread(self) -> bool:
        """Whether the tasks behind it wait: it waits itself, and for nothing but what ends without people."""
        return self.status == "waiting" and all(wait.kind in _HOLDING for wait in self.waits)

    @property
    def children(self) -> list[str]:
        """The tasks that it waits for."""
        return [wait.child_task_id for wait in self.waits if wait.child_task_id is not None]


class ThreadState(Struct, frozen=False, omit_defaults=True):
    """The inbox of a thread in order of arrival, its fence, and the last attempts that ended."""

    version: int = 1
    fence: int = 0
    inbox: list[Entry] = field(default_factory=list)
    ends: list[Outcome] = field(name="ended", default_factory=list)


def unknown_task(task_id: str) -> NotFound:
    """The error for a task that the mesh does not have."""
    return NotFound(
        f"There is no task {task_id!r}", remedy="mesh tasks lists those there are", field="task_id"
    )


async def read_task(runtime: Runtime, task_id: str, tenant_id: str) -> tuple[TaskRecord, Task]:
    """The record of a tenant's task. Raises NotFound."""
    record = await runtime.read(TaskKey(tenant_id, task_id).ref)
    if not isinstance(record, TaskRecord) or record.task is None or record.task.tenant_id != tenant_id:
        raise unknown_task(task_id)
    return record, record.task


async def read_entry(runtime: Runtime, record: TaskRecord, task: Task) -> Entry | None:
    """The task in its agent's thread, which knows best between dispatch and outcome."""
    thread = thread_ref(record, task)
    state = await runtime.read(thread, ThreadState) if thread and record.status not in ENDED else None
    inbox = state.inbox if isinstance(state, ThreadState) else ()
    return next((entry for entry in inbox if entry.task_id == task.task_id), None)


def thread_ref(record: TaskRecord, task: Task) -> ActorRef | None:
    """The thread of the last attempt; None before the first."""
    if not record.attempts:
        return None
    return ActorRef(record.attempts[-1].agent_id, f"{task.tenant_id}:{task.thread_id}")


MAX_STALLED_CLAIMS = 3  # in a row; then the task is a dead letter
PROCESS_ENDED = "its process ended (a crash in native code, too little memory, os._exit, a kill)"
MAX_REMEMBERED_ENDS = 8  # attempts whose outcome a repeated dispatch gets again
_MAX_REMEMBERED_BYTES = 32 * 1024  # of their results: the state is written with every turn


def unsuccessful(
    status: Literal["cancelled", "failed"],
    attempt: Entry | Grant,
    agent_id: str,
    fault: Fault,
    now: datetime,
) -> Outcome:
    """The outcome of an attempt that its agent did not end itself, with its cost and changes."""
    return Outcome(
        task_id=attempt.task_id,
        agent_id=agent_id,
        capability=attempt.capability,
        status=status,
        success=False,
        error=fault,
        usage=attempt.usage,
        cost_usd=attempt.cost_usd,
        changed=attempt.changed,
        completed_at=now,
        generation=attempt.generation,
        attempt=attempt.attempt,
    )


def broke_off(entry: Entry, agent_id: str, reason: str, now: datetime) -> Outcome:
    """The outcome of an attempt whose claims ended one after another without another step."""
    message = (
        f"The work broke off {entry.stalled_claims} times in a row without finishing another step, "
        f"the last time because of this: {reason or PROCESS_ENDED}. The log of the mesh says more. "
        "Repair the cause, then submit the task again"
    )
    return unsuccessful("failed", entry, agent_id, Fault(type="BrokeOff", message=message), now)


def last_ends(ends: list[Outcome]) -> list[Outcome]:
    """The last ends, as many as may be remembered, and the very last however large it is."""
    latest = ends[-MAX_REMEMBERED_ENDS:]
    if len(latest) == 1:
        return latest
    sizes = [len(encode(end.result)) for end in latest]
    while len(latest) > 1 and sum(sizes) > _MAX_REMEMBERED_BYTES:
        del latest[0], sizes[0]
    return latest


def attempt_ended(outcome: Outcome) -> tuple[str, int, int]:
    """The key of the attempt that ended within its thread."""
    return outcome.task_id, outcome.generation, outcome.attempt
