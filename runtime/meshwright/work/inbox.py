"""What a thread stores of its tasks: those in its inbox, and the last that ended."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from operator import eq
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from meshwright.messages import Dispatch, Outcome, Usage
from meshwright.money import ZERO, Amount
from meshwright.work.protocol import Suspend, steps_stream

_NO_USAGE = Usage()


def _omitted(default: Any) -> Any:
    """A field that is not written while it has its default value."""
    return Field(default=default, exclude_if=partial(eq, default))


class Entry(BaseModel):
    """One attempt in the inbox of its thread; one that was `redriven` may have been here before.

    Every turn of the thread writes its whole inbox, so an entry names its task and does not hold it; what
    has its default value is not written. `seconds`, `usage` and `cost_usd` are as of its last wait; the cost
    is None once a worker that is gone may have made calls since.
    """

    task_id: str
    generation: int = _omitted(1)
    attempt: int = _omitted(1)
    capability: str = ""
    priority: int = 5
    traceparent: str | None = _omitted(None)
    queued_at: datetime
    status: Literal["queued", "running", "waiting"] = "queued"
    fence: int = _omitted(0)
    redriven: bool = _omitted(False)
    owner: str | None = _omitted(None)
    suspended: Suspend | None = _omitted(None)
    seconds: float = _omitted(0.0)
    usage: Usage = _omitted(_NO_USAGE)
    cost_usd: Amount | None = _omitted(ZERO)
    cancelled: str | None = _omitted(None)

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

    @model_validator(mode="before")
    @classmethod
    def _read_stored_dispatch(cls, stored: Any) -> Any:
        """Read an entry of the first versions, which held the whole dispatch."""
        if not isinstance(stored, dict) or "dispatch" not in stored:
            return stored
        dispatch = Dispatch.model_validate(stored["dispatch"])
        identity = cls.of(dispatch, dispatch.task.created_at).__dict__
        rest = {name: value for name, value in stored.items() if name != "dispatch"}
        return {**identity, **rest}

    def add(self, outcome: Any) -> None:
        """Count what a delegated task has cost; nobody knows where a person answered in its place."""
        try:
            ended = Outcome.model_validate(outcome)
        except ValidationError:
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


class ThreadState(BaseModel):
    """The inbox of a thread in order of arrival, its fence, and the last attempts that ended."""

    version: int = 1
    fence: int = 0
    history: int = 0
    inbox: list[Entry] = Field(default_factory=list)
    ended: list[Outcome] = Field(default_factory=list)
