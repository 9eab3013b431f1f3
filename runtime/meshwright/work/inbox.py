"""What a thread stores of its tasks: those in its inbox, and the last that ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import UNSET, UnsetType, field

from meshwright.encoding import Struct
from meshwright.messages import Dispatch, Outcome, Usage
from meshwright.money import ZERO, Amount, exact
from meshwright.work.protocol import Suspend, steps_stream

_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


class Entry(Struct, frozen=False, omit_defaults=True):
    """One attempt in the inbox of its thread; one that was `redriven` may have been here before.

    Every turn of the thread writes its whole inbox, so an entry names its task and does not hold it; what
    has its default value is not written. `seconds`, `usage` and `cost_usd` are as of its last wait; the cost
    is None once a worker that is gone may have made calls since.
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
    suspended: Suspend | None = None
    seconds: float = 0.0
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO
    cancelled: str | None = None
    dispatch: dict[str, Any] | UnsetType = UNSET
    """In the place of what names the task, in an entry of the first versions."""

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)
        if self.dispatch is not UNSET:
            dispatch = Dispatch.model_validate(self.dispatch)
            task, self.attempt = dispatch.task, dispatch.attempt
            self.task_id, self.generation = task.task_id, task.generation
            self.capability, self.priority = task.capability, task.priority
            self.traceparent = task.traceparent
            self.queued_at = task.created_at if self.queued_at is _UNKNOWN_TIME else self.queued_at
            self.dispatch = UNSET

    @classmethod
    def of(cls, dispatch: Dispatch, queued_at: datetime, *, redriven: bool = False) -> Entry:
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
        """Count what a delegated task has cost; nobody knows where a person answered in its place."""
        try:
            ended = Outcome.model_validate(outcome)
        except ValueError:
            self.cost_usd = None
            return
        self.usage = self.usage + ended.usage
        before, more = self.cost_usd, ended.cost_usd
        self.cost_usd = None if before is None or more is None else before + more

    @property
    def identity(self) -> tuple[str, int, int]:
        """What tells this attempt from every other of the thread."""
        return self.task_id, self.generation, self.attempt

    @property
    def steps(self) -> str:
        """The stream of records that holds the attempt's steps."""
        return steps_stream(*self.identity)

    @property
    def child_task_id(self) -> str | None:
        """The task that it waits for, if it waits for one."""
        return self.suspended.wait.child_task_id if self.suspended is not None else None


class ThreadState(Struct, frozen=False, omit_defaults=True):
    """The inbox of a thread in order of arrival, its fence, and the last attempts that ended."""

    version: int = 1
    fence: int = 0
    history: int = 0
    inbox: list[Entry] = field(default_factory=list)
    ended: list[Outcome] = field(default_factory=list)
