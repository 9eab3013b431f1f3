"""Stored tasks: the record of the orchestrator, and how people and programs read tasks and steps.

A worker that has claimed an attempt reads its task in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, TypeVar

from msgspec import Raw, field
from pydantic_core import from_json, to_json

from meshwright.core.encoding import Struct, kept, plain
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
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work.entry import Entry, ThreadState
from meshwright.engine.work.protocol import EndedAttempt, Grant, TaskKey, Wait, Work, steps_stream

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


def journal_names(task_id: str, attempts: Sequence[Attempt | _AttemptFields], number: int) -> tuple[str, ...]:
    """The names of the steps of an attempt, and before it of those whose journals it goes on with."""
    attempt = attempts[number - 1]
    before = () if attempt.continues is None else journal_names(task_id, attempts, attempt.continues)
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
            return Work.from_grant(
                grant, dispatch, first_steps=steps_stream(task_id, grant.generation, number)
            )
        continued = journal_names(task_id, self.attempts, number)[:-1]
        return Work.from_grant(
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
            replaced = [*journal_names(task_id, self.attempts, before.attempt), *replaced]
        return tuple(dict.fromkeys(replaced))


def _is_replaced(before: _AttemptFields, attempt: _AttemptFields) -> bool:
    """Whether an attempt is made again by another, since it could not follow its journal."""
    could_not_follow = before.error is not None and before.error.type == "ReplayMismatch"
    return could_not_follow and before.agent_id == attempt.agent_id


RUN_STATE = "run.state"
"""The event of the state that a run says it is in."""
RUN_TITLE = "run.title"
"""The event of the title that a run sets."""


class TaskView(Struct, kw_only=True):
    """A task, its attempts and its outcome, as clients see them. `waits`: what its run waits for now.

    `missing_agent` is the agent of its open attempt where no process of the mesh has that loaded: the task
    waits for it.

    `state` is the last one that its run has named, such as `QA`, and `title` the last that its run has set,
    as far as the log has them.

    `limits` are those that hold for its run: each has the `limit`, its value (`most`), the `setting` that
    says so, and the type of the `event` that it is reached. `code` is the digest of its agent's code as the
    open attempt began.
    """

    task_id: Fact[str]
    capability: Fact[str]
    payload: dict[str, Any]
    status: Fact[TaskStatus]
    state: Fact[str | None] = None
    title: str | None = None
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


StepStatus = Literal["done", "failed", "waiting", "unfinished"]


class StepWait(Struct):
    """A time at which a step waited; it still waits while `ended_at` is None. `kind` is that of `Wait`."""

    kind: str
    since: datetime
    ended_at: datetime | None = None


class StepSummary(Struct):
    """One step in a list.

    `path` names it in its attempt, `number` counts the steps of the attempt. `kind` is `context`, `model`,
    `tool`, `delegate`, or `step` for one that the agent's own code names; `name` is the model, tool, agent or
    step. `cost_usd` is None if the price is unknown or no model was called; `cache_hit`: the
    answer is from the mesh's cache. `unfinished`: calls were made and the step never ended.

    `started_at` is when it began to run, for a step that was run again the last time, but for one that waited
    the first; for a call of a model, and without a journal, it is the end less the duration. `duration_ms` is
    that of the calls made in it, else all of its time. `prompt` is the version of the prompt that a `context`
    or a `model` step used.

    `has_contents` is False where what was said is not stored, or was deleted (`keep_contents_days`).
    `is_copied` is True for a step of the task that its own was forked from. `waits` are the times at which it
    waited, for a person, a model or money for example.
    """

    path: str
    number: int
    attempt: int
    agent_id: str
    kind: str
    name: str = ""
    status: StepStatus = "done"
    summary: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: float | None = None
    calls: int = 0
    model: str | None = None
    usage: Usage = Usage()
    cost_usd: Amount | None = None
    cache_hit: bool = False
    finish_reason: str | None = None
    error: str | None = None
    child_task_id: str | None = None
    prompt: str | None = None
    has_contents: bool = True
    is_copied: bool = False
    waits: tuple[StepWait, ...] = ()

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class StepView(StepSummary, kw_only=True):
    """One step with what was said. Secrets are redacted.

    Of a call of a model: `request` (model, tags, tools, limits), all `messages` that it was sent, the last
    `new_messages` of them for the first time, and its `reply`. Of a tool its `arguments`, as the model wrote
    them. `result` is that of any other step. `notes` say what of it is missing, and why.
    """

    task_id: str
    request: dict[str, Any] | None = None
    messages: tuple[dict[str, Any], ...] = ()
    new_messages: int = 0
    reply: dict[str, Any] | None = None
    arguments: Any = None
    result: Any = None
    notes: tuple[str, ...] = ()


class StepPage(Struct):
    """Steps in the order of their attempts and numbers; `cursor` asks for those that follow."""

    items: tuple[StepSummary, ...]
    cursor: str | None = None


class StepContentsPage(Struct):
    """The same, with what was said."""

    items: tuple[StepView, ...]
    cursor: str | None = None
