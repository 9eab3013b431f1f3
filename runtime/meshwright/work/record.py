"""The record of a task: what its orchestrator knows of it, each attempt with its score card.

A worker that has claimed an attempt reads its task here.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from msgspec import Raw, field
from pydantic_core import from_json, to_json

from meshwright.encoding import Struct
from meshwright.messages import (
    ENDED,
    Dispatch,
    Fault,
    Outcome,
    ScoreCard,
    Task,
    TaskCarrier,
    TaskStatus,
    Usage,
)
from meshwright.money import ZERO, Amount, exact
from meshwright.work.waits import Wait

NO_TASK = Raw(b"null")


class Attempt(Struct, frozen=False):
    """One try at the task by one agent, and what its calls of models cost; None where nobody knows."""

    attempt: int
    agent_id: str
    score_card: ScoreCard
    started_at: datetime
    ended_at: datetime | None = None
    error: Fault | None = None
    usage: Usage = Usage()
    cost_usd: Amount | None = ZERO

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)


class TaskRecord(Struct, frozen=False, dict=True, omit_defaults=True):
    """All that is known of a task."""

    version: int = 1
    task_json: Raw = field(name="task", default=NO_TASK)
    request_hash: str = ""
    status: TaskStatus = "accepted"
    attempts: list[Attempt] = field(default_factory=list)
    outcome: Outcome | None = None
    cancelling: bool = False

    @cached_property
    def task(self) -> Task | None:
        """The task, once accepted. It is a copy: what is stored is its JSON."""
        return None if self.task_json == NO_TASK else Task.model_validate_json(self.task_json)

    def take(self, carrier: TaskCarrier, capability: str) -> None:
        """Set the task, as it came but for its capability."""
        self.task_json, task = carrier.task_json, carrier.task
        if task.capability != capability:
            self.task_json = Raw(to_json({**from_json(bytes(self.task_json)), "capability": capability}))
            task = task.model_copy(update={"capability": capability})
        self.__dict__["task"] = task

    @property
    def is_open(self) -> bool:
        """Whether the task is accepted and has not ended."""
        return self.task_json != NO_TASK and self.status not in ENDED

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt that has not ended, if there is one: the last."""
        last = self.attempts[-1] if self.attempts else None
        return last if last is not None and last.ended_at is None else None

    def dispatch(self, number: int) -> Dispatch | None:
        """The dispatch of an attempt; None where there is no such attempt."""
        if self.task_json == NO_TASK or not 1 <= number <= len(self.attempts):
            return None
        attempt = self.attempts[number - 1]
        return Dispatch(
            task_json=self.task_json, attempt=number, agent_id=attempt.agent_id, score_card=attempt.score_card
        )

    def open_for(self, outcome: Outcome) -> Attempt | None:
        """The open attempt that an outcome belongs to; a late or foreign one belongs to none."""
        attempt, task = self.open_attempt, self.task
        if attempt is None or task is None or outcome.generation != task.generation:
            return None
        return attempt if outcome.attempt == attempt.attempt else None

    def spent(self) -> dict[str, object]:
        """What all attempts have cost; None once of one nobody knows."""
        costs = [attempt.cost_usd for attempt in self.attempts]
        known = [cost for cost in costs if cost is not None]
        return {
            "usage": sum((attempt.usage for attempt in self.attempts), start=Usage()),
            "cost_usd": sum(known, start=Decimal(0)) if len(known) == len(costs) else None,
        }


class TaskView(Struct):
    """A task, its attempts and its outcome, as clients see them. `waits`: what its run waits for now."""

    task_id: str
    capability: str
    payload: dict[str, Any]
    status: TaskStatus
    attempts: tuple[Attempt, ...]
    waits: tuple[Wait, ...] = ()
    outcome: Outcome | None
    priority: int
    timeout: float
    deadline_at: datetime
    created_at: datetime
    requested_by: str
    tenant_id: str
    thread_id: str
    parent_task_id: str | None
    chain: tuple[str, ...]
    generation: int
    trace_id: str | None
